"""farthing: compile token-efficient models to ONNX bundles and run them on small devices.

    farthing.export("decoder", CHECKPOINT, BUNDLE)      # needs farthing[export]
    farthing.compile(BUNDLE, "tensorrt-rtx")            # engines; optional
    farthing.load(BUNDLE).generate("...").text          # needs neither torch nor onnx

Importing farthing imports none of its parts; each comes with its first use.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .export.compile import compile_bundle as compile
    from .runtime.api import Runtime, load
    from .runtime.request import Generation

__all__ = ["Generation", "Runtime", "__version__", "compile", "export", "load"]

_RUNTIME = ("Generation", "Runtime", "load")


def __getattr__(name: str) -> Any:
    if name in _RUNTIME:
        return getattr(importlib.import_module(".runtime.api", __name__), name)
    if name == "compile":
        return importlib.import_module(".export.compile", __name__).compile_bundle
    if name == "export":
        return importlib.import_module(".export", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Export(ModuleType):
    """``farthing.export`` is a package and, since people expect it of the name, can be called as its function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.export(*args, **options)


class _Farthing(ModuleType):
    # The import system sets a subpackage as attribute of its parent: the one moment that no way of importing it passes by.
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "export" and type(value) is ModuleType:
            value.__class__ = _Export
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Farthing
