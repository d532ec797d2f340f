"""Recipe of method ``globalcom2``: tokens of an image's tiles kept as its thumbnail commands (Liu et al. 2025, arXiv 2501.05179). Lossy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .decoder import DTYPES
from .graph import Progress, no_progress
from .recipe_types import ExportResult, Recipe
from .visual import export_visual
from .visual.pruning import GlobalCom2


def export_globalcom2(
    checkpoint: str | Path,
    out: str | Path,
    *,
    ratios: Sequence[float] | None = None,
    scores: str = "logits",
    positions: str = "compact",
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the Hugging Face folder ``checkpoint`` to the bundle ``out``; ``ratios`` of its visual tokens are dropped, one level each.

    ``scores``: ``logits`` of the class token's attention, or ``probs``. ``positions``: ``keep`` or ``compact``.

    The rest as in `farthing.export.visual.export_visual`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    reduction = GlobalCom2(ratios=ratios, scores=scores, positions=positions)
    return export_visual(checkpoint, out, reduction, dtype=dtype, trees=trees, check=check, progress=progress)


RECIPE = Recipe(
    method="globalcom2",
    title="Vision-language model with several views, pruned as the thumbnail commands (GlobalCom2)",
    dtypes=DTYPES,
    export=export_globalcom2,
)
