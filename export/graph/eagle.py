"""The step graph of an EAGLE drafter.

draft_step: input_ids [B,S]  features [B,S,D]  positions, past_len, visible, logit_rows  past_k.0, past_v.0
            -> logits [B,R,V], features_out [B,S,D], present_k.0, present_v.0

Row t reads the feature at position t and the id at t+1; its position is t. The table of angles begins with the first code, so that
row t turns by the place of its id, as the released drafters do. The head is the target's: the same bytes of the same file.
"""

from __future__ import annotations

import numpy as np

from ...models.eagle import Drafter
from ...models.image_blocks import EPSILON
from ...runtime import tensors as names
from ...runtime.image_tensors import FEATURES, FEATURES_OUT
from .image_step import ImageStep, half_split, state_of
from .writer import GraphWriter, TensorInfo

_LAYER = "layers.0."


def write_draft_step(writer: GraphWriter, drafter: Drafter, target: GraphWriter, dtype: str) -> None:
    """Fill and save ``writer``; ``target`` is the finished graph of the model, which has ``output.weight``."""
    step = _DraftStep(writer, drafter.config, state_of(drafter), drafter.rope, dtype, layers=1)
    step.target = target
    step.write()


class _DraftStep(ImageStep):
    target: GraphWriter

    def row_inputs(self) -> list[TensorInfo]:
        return [*super().row_inputs(), TensorInfo(FEATURES, "float32", ("B", "S", self.c.hidden_size))]

    def outputs(self) -> list[TensorInfo]:
        return [*super().outputs(), TensorInfo(FEATURES_OUT, "float32", ("B", "S", self.c.hidden_size))]

    def joint_table(self) -> list[np.ndarray]:
        return [self.state["embed_tokens.weight"]]

    def embed(self, out: str) -> None:
        # Names of a step's weights may be those of the target's: this graph is another, with a data file of its own.
        self.gather("drafter.embedding", self.joint_table, names.INPUT_IDS, "embedded")
        self.w.node("Concat", ["embedded", FEATURES], ["both"], axis=-1)
        self.dense("both", "fc", out)

    def body(self) -> None:
        w, c, p = self.w, self.c, _LAYER
        qkv = [self.state[f"{p}self_attn.{n}_proj.weight"] for n in "qkv"]
        shape = (3 * c.hidden_size, c.hidden_size)
        self.weight(p + "wqkv.weight", shape, self.dtype, lambda: [half_split(np.concatenate(qkv), c.heads)])
        self.attention(0, "stream.0", p + "wqkv.weight", self.matrix(p + "self_attn.o_proj.weight"))
        gain = self.vector(p + "post_attention_layernorm.weight")
        w.operator("AddRMSNorm", ["stream.0", p + "attended", gain], [p + "ffn_in", p + "middle"], epsilon=EPSILON)
        self.feed_forward(p, [f"{p}mlp.{n}_proj.weight" for n in ("gate", "up")], p + "mlp.down_proj.weight")
        w.node("Add", [p + "middle", p + "down"], [FEATURES_OUT])
        self.wanted(FEATURES_OUT, "wanted_rows")
        w.borrow(self.target, "output.weight")
        w.operator("Linear", ["wanted_rows", "output.weight"], [names.LOGITS])
