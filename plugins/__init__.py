"""The custom operators of farthing: one folder each, all faces of an operator side by side.

Importing this package costs nothing (no torch, no onnx): the runtime needs only `library_path`. The exporter and the
tests ask for `operator(name)` or `operators()`, which import the faces on demand.

A new operator is a new folder with an ``operator.py`` that defines ``OPERATOR`` and a ``cases.py`` that defines ``cases()``;
nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .case import Case
    from .contract import Operator

DOMAIN = "farthing"
"""ONNX domain of every operator, and the namespace of the TensorRT plugins."""

DOMAIN_VERSION = 1


def library_path() -> Path | None:
    """Path of the native operator library for ONNX Runtime, or None when the package was installed without it."""
    path = Path(__file__).parent / "libfarthing_ops.so"
    return path if path.is_file() else None


def _folders() -> list[str]:
    """Names of the operators' folders: the packages in here that have an ``operator.py``."""
    here = Path(__file__).parent
    return [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg and (here / m.name / "operator.py").is_file()]


@cache
def operators() -> dict[str, Operator]:
    """All operators by ONNX name, sorted; found by listing the folders of this package."""
    found = [importlib.import_module(f"{__name__}.{name}.operator").OPERATOR for name in _folders()]
    return {o.name: o for o in sorted(found, key=lambda o: o.name)}


@cache
def folders() -> dict[str, Path]:
    """The folder of each operator, by ONNX name."""
    here = Path(__file__).parent
    return {importlib.import_module(f"{__name__}.{n}.operator").OPERATOR.name: here / n for n in _folders()}


def cases(name: str | None = None) -> list[Case]:
    """The rows of the parity table: of operator ``name``, or of all operators."""
    wanted = operators() if name is None else {name: operator(name)}
    return [
        case
        for folder in (folders()[n] for n in wanted)
        for case in importlib.import_module(f"{__name__}.{folder.name}.cases").cases()
    ]


def operator(name: str) -> Operator:
    """The operator called ``name``. Raises KeyError, naming the known ones."""
    known = operators()
    if name not in known:
        raise KeyError(f"operator is {name!r}, expected one of {', '.join(known)}; see `farthing ops list`")
    return known[name]
