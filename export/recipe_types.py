"""What a recipe is and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ExportResult:
    """What was written. ``bytes`` is the whole bundle; ``nodes_per_layer`` counts nodes as written, before any optimisation."""

    path: Path
    method: str
    parameters: int
    bytes: int
    nodes: int
    nodes_per_layer: int
    seconds: float
    check: dict[str, Any] | None
    """Comparison with the PyTorch reference: ``max_abs``, ``allowed``, ``rows``; None if it was left out."""

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Recipe:
    """How one method is exported. ``export(checkpoint, out, **options)``; ``dtypes`` are its storage types, default first."""

    method: str
    title: str
    dtypes: tuple[str, ...]
    export: Callable[..., ExportResult]
