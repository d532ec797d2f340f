"""Recipe of method ``matryoshka``: visual tokens pooled to a size that the request chooses (Cai et al. 2024, arXiv 2405.17430). Lossy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .decoder import DTYPES
from .graph import Progress, no_progress
from .recipe_types import ExportResult, Recipe
from .visual import export_visual
from .visual.matryoshka import Matryoshka


def export_matryoshka(
    checkpoint: str | Path,
    out: str | Path,
    *,
    scales: Sequence[int] | None = None,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the Hugging Face folder ``checkpoint`` to the bundle ``out``; ``scales`` are tokens of a view, one level each.

    The rest as in `farthing.export.visual.export_visual`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    reduction = Matryoshka(scales=scales)
    return export_visual(checkpoint, out, reduction, dtype=dtype, trees=trees, check=check, progress=progress)


RECIPE = Recipe(
    method="matryoshka",
    title="Vision-language model, visual tokens pooled to nested sizes (Matryoshka, M3)",
    dtypes=DTYPES,
    export=export_matryoshka,
)
