"""Recipe of method ``elm``: codes of bits, split into sub-codes with heads of their own (Liu et al. 2025). Exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runtime import image_tensors as names
from .checkpoint.elm_checkpoint import ElmCheckpoint
from .drawing import DTYPES, export_drawing
from .drawing.method import NewGraph, WideDrawing
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.bae import write_bae_decode, write_bae_encode
from .graph.elm import write_elm_step
from .recipe_types import ExportResult, Recipe


class _Elm(WideDrawing):
    method = "elm"
    source: ElmCheckpoint

    def write_step(self, writer: GraphWriter) -> None:
        write_elm_step(writer, self.source, self.dtype)

    def write_tokenizer(self, new: NewGraph) -> None:
        grid = self.source.config.grid
        write_bae_decode(new(names.VQ_DECODE), self.source.tokenizer, grid)
        write_bae_encode(new(names.VQ_ENCODE), self.source.tokenizer, grid)

    @property
    def code_values(self) -> int:
        return int(2**self.source.bae_config.bits)

    def image_codes(self) -> dict[str, Any]:
        c = self.source.config
        return {**super().image_codes(), "per_step": c.parts, "sub_bits": c.bits, "pixel_range": [0, 1]}


def export_elm(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the pair in folder ``checkpoint`` to the bundle ``out``; ``dtype`` stores the matrices of the language model.

    ``check`` compares the cached steps with one pass of PyTorch without a cache before the bundle is committed; nothing is left at
    ``out`` on failure. Raises CheckpointError (sub-codes that do not make the autoencoder's bits), RequestError, VerificationError,
    BundleError.
    """
    check_dtype(dtype)
    return export_drawing(_Elm(ElmCheckpoint(checkpoint), dtype), out, check=check, progress=progress)


RECIPE = Recipe(method=_Elm.method, title="ELM, images by sub-codes of bits", dtypes=DTYPES, export=export_elm)
