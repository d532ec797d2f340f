"""Step graphs of LlamaGen, plain and with what a drafter reads.

ar_step: input_ids, positions [B,S]  past_len [B]  visible [B,S,W]  logit_rows [B,R]  past_k/v.i -> logits [B,R,V], present_k/v.i
"""

from __future__ import annotations

from ...runtime.image_tensors import FEATURES
from ..checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from .image_step import ImageStep, state_of
from .writer import GraphWriter, TensorInfo


def write_ar_step(writer: GraphWriter, source: LlamaGenCheckpoint, dtype: str, *, features: bool = False) -> None:
    """Fill and save ``writer``; ``features`` adds that output: all rows after the last norm, float32 [B,S,D]."""
    step = _WithFeatures if features else ImageStep
    step(writer, source.config, state_of(source.model), source.model.rope, dtype).write()


class _WithFeatures(ImageStep):
    def outputs(self) -> list[TensorInfo]:
        return [*super().outputs(), TensorInfo(FEATURES, "float32", ("B", "S", self.c.hidden_size))]

    def body(self) -> None:
        super().body()
        self.w.node("Identity", ["final"], [FEATURES])
