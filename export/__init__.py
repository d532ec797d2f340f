"""The exporter: checkpoint + method -> bundle.

    from farthing.export import export
    export("decoder", "path/to/checkpoint", "path/to/bundle")

Every plain module of this package is the recipe of one method: it defines ``RECIPE``, and its name, with dashes for
underscores, is the method's id. A new method is one new file; helpers live in the subpackages.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, found_wanted

if TYPE_CHECKING:
    from .recipe_types import ExportResult, Recipe

_NOT_RECIPES = ("recipe_types",)

_OLD_NAMES = {"gated-lora-mtp": "mtp"}
"""Ids that a method had before it worked."""


def methods() -> list[str]:
    """Ids of the methods that can be exported. Imports none of them."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg and m.name not in _NOT_RECIPES)
    return sorted(name.replace("_", "-") for name in modules)


def recipe(method: str) -> Recipe:
    """The recipe of ``method``. Raises RequestError listing the known ones and the nearest."""
    known, method = methods(), _OLD_NAMES.get(method, method)
    if method not in known:
        nearest = difflib.get_close_matches(method, known, n=1, cutoff=0.0)[0]
        raise RequestError(
            found_wanted("method", repr(method), f"one of {', '.join(known)}", f"the nearest is {nearest!r}")
        )
    module = importlib.import_module(f"{__name__}.{method.replace('-', '_')}")
    return module.RECIPE  # type: ignore[no-any-return]


def export(method: str, checkpoint: str | Path, out: str | Path, **options: Any) -> ExportResult:
    """Export ``checkpoint`` with ``method`` to the bundle ``out``; ``options`` are those of the recipe's function.

    Raises RequestError (unknown method, bad option, ``out`` in use), CheckpointError, VerificationError, BundleError.
    """
    chosen = recipe(method)
    known = inspect.signature(chosen.export).parameters
    for name in options:
        if name not in known:
            others = ", ".join(n for n in known if n not in ("checkpoint", "out"))
            raise RequestError(found_wanted(f"option of method {method}", name, f"one of {others}", "leave it out"))
    return chosen.export(checkpoint, out, **options)
