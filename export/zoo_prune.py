"""Recipe of method ``zoo-prune``: visual tokens kept by the projector's sensitivity and diversity (Kim, Zhang et al. 2025, arXiv 2509.24837). Lossy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .decoder import DTYPES
from .graph import Progress, no_progress
from .recipe_types import ExportResult, Recipe
from .visual import export_visual
from .visual.pruning import ZooPrune


def export_zoo_prune(
    checkpoint: str | Path,
    out: str | Path,
    *,
    ratios: Sequence[float] | None = None,
    estimator: str = "exact",
    positions: str | None = None,
    seed: int = 0,
    rank: int = 0,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the Hugging Face folder ``checkpoint`` to the bundle ``out``; ``ratios`` of its visual tokens are dropped, one level each.

    ``estimator``: ``exact``, or ``zo`` over 64 directions frozen by ``seed``, with the second layer cut to ``rank`` (0 = whole). ``positions``: ``keep`` or ``compact``; None = compact,
    with M-RoPE keep.

    The rest as in `farthing.export.visual.export_visual`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    reduction = ZooPrune(ratios=ratios, estimator=estimator, positions=positions, seed=seed, rank=rank)
    return export_visual(checkpoint, out, reduction, dtype=dtype, trees=trees, check=check, progress=progress)


RECIPE = Recipe(
    method="zoo-prune",
    title="Vision-language model, visual tokens pruned by sensitivity of the projector (ZOO-Prune)",
    dtypes=DTYPES,
    export=export_zoo_prune,
)
