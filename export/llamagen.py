"""Recipe of method ``llamagen``: images of a class or a text, code by code (Sun et al. 2024). Exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.code_walk import Conditions, MadeText
from ..runtime.image_tensors import AR_PREFILL, CONDITION
from .checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from .drawing import DTYPES, DrawingMethod, export_drawing
from .drawing.method import NewGraph
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.llamagen import write_ar_step
from .graph.text_condition import write_ar_prefill, write_condition
from .recipe_types import ExportResult, Recipe

SHORT = 7
"""Rows of a short text."""


class LlamaGenDrawing(DrawingMethod):
    """The plain model; methods that decode it otherwise add graphs."""

    method = "llamagen"
    source: LlamaGenCheckpoint

    def write_step(self, writer: GraphWriter) -> None:
        """Fill and save the step graph."""
        write_ar_step(writer, self.source, self.dtype)

    def write_more(self, new: NewGraph, step: GraphWriter) -> None:
        """The graphs of a text condition."""
        if self.source.text:
            write_condition(new(CONDITION), self.source.text, self.dtype)
            write_ar_prefill(new(AR_PREFILL), self.source.text, step, self.dtype)

    def conditions(self) -> list[Conditions]:
        """Classes; or a text as long as may be, a short one, and as many rows that stand for none."""
        if not self.source.text:
            return super().conditions()
        longest = self.source.text.config.text_tokens
        short = min(SHORT, longest)
        return [MadeText(longest, 1), MadeText(short, 2), MadeText(short, 2, unconditional=True)]

    def wanted(self, conditions: Any, drawn: list[np.ndarray]) -> list[np.ndarray]:
        """With a text: all its rows are there, padded on the left and masked, as the released model runs."""
        if not isinstance(conditions, MadeText):
            return super().wanted(conditions, drawn)
        import torch

        model = self.source.text
        assert model is not None
        ids = np.concatenate([drawn[0][:, :0], *drawn[:-1]], axis=1)
        with torch.no_grad():
            text, valid = model.padded(torch.from_numpy(conditions.features(model.config.text_width)))
            if conditions.unconditional:
                text = model.cls_embedding.uncond_embedding[None]
            logits = model(text, valid, torch.from_numpy(ids)).numpy()
        return [logits[:, i : i + 1] for i in range(len(drawn))]


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
    title="LlamaGen, images of a class or a text token by token",
    dtypes=DTYPES,
    export=export_llamagen,
)
