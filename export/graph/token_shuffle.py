"""The step graph of Token-Shuffle: s x s codes a row (Ma et al. 2025).

ar_step: input_ids [B,S,s*s] (s = 1: [B,S]) ... -> logits [B,R,s*s,V] (s = 1: [B,R,V]); a row whose first id is V+k is condition k.

An embedding is read only through gelu(compress(E)), so that is what the graph stores: a table of V short rows, exact, s^2 times
smaller than E. Windows are rows of ids already; nothing is permuted here.
"""

from __future__ import annotations

import numpy as np

from ...models.image_blocks import EPSILON
from ...models.token_shuffle import TokenShuffleConfig
from ...runtime import tensors as names
from ..checkpoint.token_shuffle_checkpoint import TokenShuffleCheckpoint
from .image_step import ImageStep, state_of
from .writer import GraphWriter, TensorInfo


def write_token_shuffle_step(writer: GraphWriter, source: TokenShuffleCheckpoint, dtype: str) -> None:
    """Fill and save ``writer``."""
    step = _ShuffleStep(writer, source.config, state_of(source.model), source.model.rope, dtype)
    step.table = source.model.table().detach().numpy()
    step.write()


class _ShuffleStep(ImageStep):
    c: TokenShuffleConfig
    table: np.ndarray

    def row_inputs(self) -> list[TensorInfo]:
        return [TensorInfo(names.INPUT_IDS, "int64", ("B", "S", *self._wide()))]

    def outputs(self) -> list[TensorInfo]:
        return [TensorInfo(names.LOGITS, "float32", ("B", "R", *self._wide(), self.c.codes))]

    def embed(self, out: str) -> None:
        w, c = self.w, self.c
        w.constant("first_condition", np.array(c.codes, np.int64))
        w.constant("no_id", np.array(0, np.int64))
        ids = names.INPUT_IDS
        if not self._wide():
            w.node("Unsqueeze", [ids, "last_axis"], ["ids"])
            ids = "ids"
        w.constant("zero", np.array([0], np.int64))
        w.constant("one", np.array([1], np.int64))
        w.constant("window_axis", np.array([2], np.int64))
        w.node("Slice", [ids, "zero", "one", "window_axis"], ["first_id"])  # [B,S,1]
        w.node("GreaterOrEqual", ["first_id", "first_condition"], ["is_condition"])
        w.node("Where", ["is_condition", "no_id", ids], ["codes"])
        self.gather("table", lambda: [self.table], "codes", "pieces")  # [B,S,s*s,D/s^2]
        w.constant("side_by_side", np.array([0, 0, c.hidden_size], np.int64))
        w.node("Reshape", ["pieces", "side_by_side"], ["shuffle.0"])
        x = self._mlps("shuffle", "shuffle.0")
        w.node("Sub", ["first_id", "first_condition"], ["condition_number"])
        w.node("Where", ["is_condition", "condition_number", "no_id"], ["condition_row"])
        w.node("Squeeze", ["condition_row", "window_axis"], ["condition_index"])
        self.gather(
            "conditions", lambda: [self.state["cls_embedding.embedding_table.weight"]], "condition_index", "condition"
        )
        w.node("Where", ["is_condition", "condition", x], [out])

    def body(self) -> None:
        w, c = self.w, self.c
        self.trunk(self.layers, "norm.weight", "final")
        self.wanted("final", "unshuffle.0")
        x = self._mlps("unshuffle", "unshuffle.0")
        if self._wide():
            w.constant("by_code", np.array([0, 0, c.per_step, c.hidden_size // c.per_step], np.int64))
            w.node("Reshape", [x, "by_code"], ["unshuffled"])
            x = "unshuffled"
        if c.expand:
            w.node("Gelu", [self.dense(x, "unshuffle.expand", "expanded")], ["expanded.active"])
            x = "expanded.active"
        w.operator("Linear", [x, self.matrix("visual_head.weight")], [names.LOGITS])

    def _wide(self) -> tuple[int, ...]:
        return (self.c.per_step,) if self.c.per_step > 1 else ()

    def _mlps(self, half: str, x: str) -> str:
        """``x`` through the residual MLPs of ``half``."""
        w = self.w
        for i in range(self.c.mlps):
            p = f"{half}.blocks.{i}"
            gain = self.vector(f"{p}.norm.weight")
            w.node("RMSNormalization", [x, gain], [f"{p}.in"], axis=-1, epsilon=EPSILON)
            w.node("Gelu", [self.dense(f"{p}.in", f"{p}.fc1", f"{p}.up")], [f"{p}.active"])
            w.node("Add", [x, self.dense(f"{p}.active", f"{p}.fc2", f"{p}.down")], [f"{p}.out"])
            x = f"{p}.out"
        return x
