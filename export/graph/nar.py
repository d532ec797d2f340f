"""The step graph of NAR: two heads, of the code to the right and of the code below (He et al. 2025).

ar_step as LlamaGen's, with ``below_logits`` [B,R,V] beside ``logits`` and a cache more: the extra block feeds the second head only.
Which logits speak of which place is the decode loop's: each pass wants every row of both.
"""

from __future__ import annotations

from ...models.image_blocks import EPSILON
from ...runtime import tensors as names
from ...runtime.image_tensors import BELOW_LOGITS
from ..checkpoint.llamagen_checkpoint import NarCheckpoint
from .image_step import ImageStep, state_of
from .writer import GraphWriter, TensorInfo


def write_nar_step(writer: GraphWriter, source: NarCheckpoint, dtype: str) -> None:
    """Fill and save ``writer``."""
    blocks = source.config.layers + 1
    _NarStep(writer, source.config, state_of(source.model), source.model.rope, dtype, layers=blocks).write()


class _NarStep(ImageStep):
    def outputs(self) -> list[TensorInfo]:
        return [TensorInfo(n, "float32", ("B", "R", self.c.codes)) for n in (names.LOGITS, BELOW_LOGITS)]

    def body(self) -> None:
        n = self.c.layers
        self.trunk(n, "norm.weight", "final")
        gain = self.vector(f"layers.{n}.attention_norm.weight")
        self.w.node("RMSNormalization", [f"stream.{n}", gain], [f"layers.{n}.attn_in"], axis=-1, epsilon=EPSILON)
        self.layer(n, "medusa_norm.weight", "final_below")
        for rows, head, out in (
            ("final", "output.weight", names.LOGITS),
            ("final_below", "medusa_output.weight", BELOW_LOGITS),
        ):
            self.wanted(rows, rows + ".wanted")
            self.w.operator("Linear", [rows + ".wanted", self.matrix(head)], [out])
