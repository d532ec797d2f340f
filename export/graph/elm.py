"""The step graph of ELM: m sub-ids a row, m heads (Liu et al. 2025).

ar_step: input_ids [B,S,m] (m = 1: [B,S]) ... -> logits [B,R,m,2^c] (m = 1: [B,R,2^c]); a row whose first id is V+k is condition k.

The projection is folded into the tables, T_k = E_k proj_k^T, and all m tables with the conditions are one, so that a row is the sum
of m gathered rows. The other ids of a condition's row take a row of zeros.
"""

from __future__ import annotations

import numpy as np

from ...models.elm import ElmConfig
from ...runtime import tensors as names
from ..checkpoint.elm_checkpoint import ElmCheckpoint
from .image_step import ImageStep, state_of
from .writer import GraphWriter, TensorInfo


def write_elm_step(writer: GraphWriter, source: ElmCheckpoint, dtype: str) -> None:
    """Fill and save ``writer``."""
    step = _ElmStep(writer, source.config, state_of(source.model), source.model.rope, dtype)
    step.tables = [t.detach().numpy() for t in source.model.tables()]
    step.write()


class _ElmStep(ImageStep):
    c: ElmConfig
    tables: list[np.ndarray]

    def row_inputs(self) -> list[TensorInfo]:
        more = (self.c.parts,) if self.c.parts > 1 else ()
        return [TensorInfo(names.INPUT_IDS, "int64", ("B", "S", *more))]

    def outputs(self) -> list[TensorInfo]:
        more = (self.c.parts,) if self.c.parts > 1 else ()
        return [TensorInfo(names.LOGITS, "float32", ("B", "R", *more, self.c.codes))]

    def embed(self, out: str) -> None:
        w, m, v = self.w, self.c.parts, self.c.codes
        conditions = self.state["cls_embedding.embedding_table.weight"]
        parts = [self.tables[0], conditions, *self.tables[1:]]
        if m == 1:
            self.gather("embedding", lambda: parts, names.INPUT_IDS, out)
            return
        parts.append(np.zeros((1, self.c.hidden_size), np.float32))
        begin = [0, *(v + len(conditions) + k * v for k in range(m - 1))]
        w.constant("table_begin", np.array(begin, np.int64))
        w.constant("zero_row", np.array(begin[-1] + v, np.int64))
        w.constant("first_condition", np.array(v, np.int64))
        w.constant("zero", np.array([0], np.int64))
        w.constant("one", np.array([1], np.int64))
        w.constant("later_part", np.arange(m, dtype=np.int64))
        w.constant("parts_axis", np.array([2], np.int64))
        w.node("Slice", [names.INPUT_IDS, "zero", "one", "parts_axis"], ["first_id"])
        w.node("GreaterOrEqual", ["first_id", "first_condition"], ["is_condition"])  # [B,S,1]
        w.node("Greater", ["later_part", "zero"], ["is_later"])  # [m]
        w.node("And", ["is_condition", "is_later"], ["is_void"])
        w.node("Add", [names.INPUT_IDS, "table_begin"], ["own_rows"])
        w.node("Where", ["is_void", "zero_row", "own_rows"], ["table_rows"])
        self.gather("embedding", lambda: parts, "table_rows", "pieces")
        w.node("ReduceSum", ["pieces", "parts_axis"], [out], keepdims=0)

    def body(self) -> None:
        w, c = self.w, self.c
        self.trunk(self.layers, "norm.weight", "final")
        self.wanted("final", "wanted_rows")
        if c.parts == 1:
            w.operator("Linear", ["wanted_rows", self.matrix("output.weight")], [names.LOGITS])
            return
        heads = [self.state[f"output.{k}.weight"] for k in range(c.parts)]
        self.weight("heads.weight", (c.parts * c.codes, c.hidden_size), self.dtype, lambda: heads)
        w.operator("Linear", ["wanted_rows", "heads.weight"], ["heads"])
        w.constant("by_part", np.array([0, 0, c.parts, c.codes], np.int64))
        w.node("Reshape", ["heads", "by_part"], [names.LOGITS])
