"""The runtime: opens a bundle and decodes. Needs neither torch nor onnx.

    import farthing
    with farthing.load("build/smollm2") as model:
        print(model.generate("What is a farthing?").text)

`api` is what applications use. It stands on an engine: the C++ core (`_core`) or the portable loop (`portable`); `engines` chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Runtime, load
    from .request import Generation

__all__ = ["Generation", "Runtime", "load"]


def __getattr__(name: str) -> Any:
    # Late, because the exporter imports farthing.runtime.bundle and tensors, and needs no tokenizers for it.
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
