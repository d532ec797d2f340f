"""Recipe of method ``vlm``: a vision-language model (LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL) with all of its visual tokens. Exact."""

from __future__ import annotations

from pathlib import Path

from .decoder import DTYPES
from .graph import Progress, no_progress
from .recipe_types import ExportResult, Recipe
from .visual import Reduction, export_visual


def export_vlm(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the Hugging Face folder ``checkpoint`` to the bundle ``out``; see `farthing.export.visual.export_visual`."""
    return export_visual(checkpoint, out, Reduction(), dtype=dtype, trees=trees, check=check, progress=progress)


RECIPE = Recipe(
    method="vlm",
    title="Vision-language model (LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL) with all visual tokens",
    dtypes=DTYPES,
    export=export_vlm,
)
