"""Recipe of method ``nar``: a diagonal of codes a pass (He et al. 2025, arXiv 2503.10696). Exact: the model's own definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint.llamagen_checkpoint import NarCheckpoint
from .drawing import DTYPES, DrawingMethod, export_drawing
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.nar import write_nar_step
from .recipe_types import ExportResult, Recipe


class _Nar(DrawingMethod):
    method = "nar"
    source: NarCheckpoint

    def write_step(self, writer: GraphWriter) -> None:
        write_nar_step(writer, self.source, self.dtype)

    @property
    def layers(self) -> int:
        return self.source.config.layers + 1

    def image_codes(self) -> dict[str, Any]:
        return {**super().image_codes(), "order": "diagonal"}

    def wanted(self, conditions: np.ndarray, drawn: list[np.ndarray]) -> list[np.ndarray]:
        """One pass over the image in raster order under the proximity mask; its logits diagonal by diagonal."""
        import torch

        from ..models.nar import diagonals

        grid = self.source.config.grid
        places = [np.array([h * grid + w for h, w in d]) for d in diagonals(grid)]
        raster = np.zeros((len(conditions), grid * grid), np.int64)
        for at, codes in zip(places, drawn, strict=True):
            raster[:, at] = codes
        ids = np.concatenate([conditions[:, None], raster], axis=1)
        with torch.no_grad():
            logits = self.source.model(torch.from_numpy(ids)).numpy()
        return [logits[:, at] for at in places]


def export_nar(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the pair in folder ``checkpoint`` to the bundle ``out``; ``dtype`` stores the matrices of the autoregressive model.

    ``check`` compares every diagonal with one masked pass of PyTorch before the bundle is committed; nothing is left at ``out`` on
    failure. Raises CheckpointError (a file without the second head is not NAR), RequestError, VerificationError, BundleError.
    """
    check_dtype(dtype)
    return export_drawing(_Nar(NarCheckpoint(checkpoint), dtype), out, check=check, progress=progress)


RECIPE = Recipe(method=_Nar.method, title="NAR, images diagonal by diagonal", dtypes=DTYPES, export=export_nar)
