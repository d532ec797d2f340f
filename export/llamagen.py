"""Recipe of method ``llamagen``: class-conditional images, code by code (Sun et al. 2024). Exact."""

from __future__ import annotations

from pathlib import Path

from .checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from .drawing import DTYPES, DrawingMethod, export_drawing
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.llamagen import write_ar_step
from .recipe_types import ExportResult, Recipe


class LlamaGenDrawing(DrawingMethod):
    """The plain model; methods that decode it otherwise add graphs."""

    method = "llamagen"
    source: LlamaGenCheckpoint

    def write_step(self, writer: GraphWriter) -> None:
        """Fill and save the step graph."""
        write_ar_step(writer, self.source, self.dtype)


def export_llamagen(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the pair in folder ``checkpoint`` to the bundle ``out``; ``dtype`` stores the matrices of the autoregressive model.

    ``check`` compares all graphs with PyTorch before the bundle is committed; nothing is left at ``out`` on failure.
    Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    check_dtype(dtype)
    return export_drawing(LlamaGenDrawing(LlamaGenCheckpoint(checkpoint), dtype), out, check=check, progress=progress)


RECIPE = Recipe(
    method=LlamaGenDrawing.method,
    title="LlamaGen, class-conditional images token by token",
    dtypes=DTYPES,
    export=export_llamagen,
)
