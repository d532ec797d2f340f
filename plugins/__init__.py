"""The custom operators of farthing: one folder each, all faces of an operator side by side.

Importing this package costs nothing (no torch, no onnx): the runtime needs only `library_path`. The exporter and the
tests ask for `operator(name)` or `operators()`, which import the faces on demand.

A new operator is a new folder with an ``operator.py`` that defines ``OPERATOR``; nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contract import Operator

DOMAIN = "farthing"
"""ONNX domain of every operator, and the namespace of the TensorRT plugins."""

DOMAIN_VERSION = 1


def library_path() -> Path | None:
    """Path of the native operator library for ONNX Runtime, or None when the package was installed without it."""
    path = Path(__file__).parent / "libfarthing_ops.so"
    return path if path.is_file() else None


@cache
def operators() -> dict[str, Operator]:
    """All operators by ONNX name, sorted; found by listing the folders of this package."""
    found: dict[str, Operator] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            operator = importlib.import_module(f"{__name__}.{module.name}.operator").OPERATOR
            found[operator.name] = operator
    return dict(sorted(found.items()))


def operator(name: str) -> Operator:
    """The operator called ``name``. Raises KeyError, naming the known ones."""
    known = operators()
    if name not in known:
        raise KeyError(f"operator is {name!r}, expected one of {', '.join(known)}; see `farthing ops list`")
    return known[name]
