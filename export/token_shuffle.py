"""Recipe of method ``token-shuffle``: a window of codes a pass (Ma et al. 2025, arXiv 2504.17789). Exact: the model's own definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint.token_shuffle_checkpoint import TokenShuffleCheckpoint
from .drawing import DTYPES, export_drawing
from .drawing.method import WideDrawing
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.token_shuffle import write_token_shuffle_step
from .recipe_types import ExportResult, Recipe


class _TokenShuffle(WideDrawing):
    method = "token-shuffle"
    source: TokenShuffleCheckpoint

    def write_step(self, writer: GraphWriter) -> None:
        write_token_shuffle_step(writer, self.source, self.dtype)

    def image_codes(self) -> dict[str, Any]:
        c = self.source.config
        return {**super().image_codes(), "order": "window", "per_step": c.per_step, "window": c.window}


def export_token_shuffle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the pair in folder ``checkpoint`` to the bundle ``out``; ``dtype`` stores the matrices of the autoregressive model.

    ``check`` compares the cached steps with one pass of PyTorch without a cache before the bundle is committed; nothing is left at
    ``out`` on failure. Raises CheckpointError (a grid that the window does not divide), RequestError, VerificationError, BundleError.
    """
    check_dtype(dtype)
    return export_drawing(_TokenShuffle(TokenShuffleCheckpoint(checkpoint), dtype), out, check=check, progress=progress)


RECIPE = Recipe(
    method=_TokenShuffle.method,
    title="Token-Shuffle, images window by window",
    dtypes=DTYPES,
    export=export_token_shuffle,
)
