"""The decoder's step with a judge: one more output that says of every wanted row how good the token is which it read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .decoder import DecoderGraph
from .writer import GraphWriter, Progress, TensorInfo, no_progress

if TYPE_CHECKING:
    from ...models.judge import Judge


def write_judge_decoder(
    writer: GraphWriter, checkpoint: Checkpoint, judge: Judge, *, dtype: str, progress: Progress = no_progress
) -> None:
    """Fill ``writer`` with the decoder of ``checkpoint`` and ``judge``, and save it. Raises CheckpointError."""
    _JudgeGraph(writer, checkpoint, judge, dtype, progress).write()


class _JudgeGraph(DecoderGraph):
    def __init__(
        self, writer: GraphWriter, checkpoint: Checkpoint, judge: Judge, dtype: str, progress: Progress
    ) -> None:
        super().__init__(writer, checkpoint, dtype, progress)
        self.judge = judge

    def declare_more(self) -> None:
        super().declare_more()
        self.w.outputs.append(TensorInfo(names.JUDGE, "float32", ("B", "R")))

    def finish(self, normed: str) -> None:
        """sigmoid(rows . w' + b'), 1 = good whatever the file's polarity; float32 also where matrices are float16."""
        weight, bias = self.judge.folded()
        self.w.constant("judge.weight", weight[:, None])
        self.w.constant("judge.bias", np.array([bias], np.float32))
        self.w.node("MatMul", ["wanted_rows", "judge.weight"], ["judge.product"])
        self.w.node("Add", ["judge.product", "judge.bias"], ["judge.column_logit"])
        self.w.node("Squeeze", ["judge.column_logit", "last_axis"], ["judge.logit"])
        self.w.node("Sigmoid", ["judge.logit"], [names.JUDGE])
