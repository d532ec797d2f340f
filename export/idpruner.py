"""Recipe of method ``idpruner``: visual tokens kept by importance and diversity (Tan et al. 2026, arXiv 2602.13315). Lossy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .decoder import DTYPES
from .graph import Progress, no_progress
from .recipe_types import ExportResult, Recipe
from .visual import export_visual
from .visual.pruning import IdPruner


def export_idpruner(
    checkpoint: str | Path,
    out: str | Path,
    *,
    ratios: Sequence[float] | None = None,
    selector: str | Path | None = None,
    importance: str | None = None,
    lam: float = 0.5,
    positions: str = "keep",
    prune_layer: int | None = None,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the Hugging Face folder ``checkpoint`` to the bundle ``out``; ``ratios`` of its visual tokens are dropped, one level each.

    ``selector``: folder of a learned scorer; without one ``importance`` is ``sensitivity`` or ``norm``. ``lam``: 1 = importance only, 0 = diversity
    only. ``positions``: ``keep`` or ``compact``. ``prune_layer``: drop them before this layer of the decoder instead of before the first.

    The rest as in `farthing.export.visual.export_visual`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    reduction = IdPruner(
        ratios=ratios, selector=selector, importance=importance, lam=lam, positions=positions, prune_layer=prune_layer
    )
    return export_visual(checkpoint, out, reduction, dtype=dtype, trees=trees, check=check, progress=progress)


RECIPE = Recipe(
    method="idpruner",
    title="Vision-language model, visual tokens pruned by importance and diversity (IDPruner)",
    dtypes=DTYPES,
    export=export_idpruner,
)
