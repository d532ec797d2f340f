"""Graphs of a text condition (LlamaGen, Sun et al. 2024).

    condition:  text_embeds [B,T,dc] -> embeds, uncond_embeds [B,T,D]
    ar_prefill: as ar_step, with embeds [B,S,D] in place of input_ids; all weights are ar_step's

Rows are those of the text without padding, T of at most ``text_tokens``. The rows that stand for no text are the last T of the
model's, since padding hides the others.
"""

from __future__ import annotations

import numpy as np

from ...models.text_llamagen import TextLlamaGen
from ...runtime.image_tensors import EMBEDS, TEXT_EMBEDS, UNCOND_EMBEDS
from .image_step import ImageStep, state_of
from .writer import GraphWriter, TensorInfo


def write_condition(writer: GraphWriter, model: TextLlamaGen, dtype: str) -> None:
    """Fill and save ``writer``."""
    w, c, state = writer, model.config, state_of(model)
    w.inputs.append(TensorInfo(TEXT_EMBEDS, "float32", ("B", "T", c.text_width)))
    w.outputs += [TensorInfo(n, "float32", ("B", "T", c.hidden_size)) for n in (EMBEDS, UNCOND_EMBEDS)]
    for name in ("cap_proj.fc1.weight", "cap_proj.fc2.weight", "uncond_embedding"):
        array = state[f"cls_embedding.{name}"]
        w.weight(name, array.shape, dtype, [array])
    for name, values in (("zero", [0]), ("tokens", [c.text_tokens])):
        w.constant(name, np.array(values, np.int64))
    _project(w, TEXT_EMBEDS, EMBEDS)
    w.node("Shape", [TEXT_EMBEDS], ["rows"], start=1, end=2)
    w.node("Sub", ["tokens", "rows"], ["first"])
    w.node("Slice", ["uncond_embedding", "first", "tokens", "zero"], ["last_rows"])
    features = "last_rows"
    if dtype == "float16":
        w.node("Cast", ["last_rows"], ["last_rows_wide"], to=1)
        features = "last_rows_wide"
    _project(w, features, "uncond_rows")
    w.node("Shape", [EMBEDS], ["shape"])
    w.node("Expand", ["uncond_rows", "shape"], [UNCOND_EMBEDS])
    w.save()


def write_ar_prefill(writer: GraphWriter, model: TextLlamaGen, step: GraphWriter, dtype: str) -> None:
    """Fill and save ``writer``; ``step`` is the finished graph of ar_step."""
    _Prefill(writer, model.config, state_of(model), model.rope, dtype, lender=step).write()


def _project(w: GraphWriter, x: str, out: str) -> None:
    w.operator("Linear", [x, "cap_proj.fc1.weight"], [out + ".up"])
    w.node("Gelu", [out + ".up"], [out + ".active"], approximate="tanh")
    w.operator("Linear", [out + ".active", "cap_proj.fc2.weight"], [out])


class _Prefill(ImageStep):
    def row_inputs(self) -> list[TensorInfo]:
        return [TensorInfo(EMBEDS, "float32", ("B", "S", self.c.hidden_size))]

    def embed(self, out: str) -> None:
        self.w.node("Identity", [EMBEDS], [out])
