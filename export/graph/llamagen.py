"""Graphs of a LlamaGen pair.

    ar_step:   input_ids, positions [B,S]  past_len [B]  visible [B,S,W]  logit_rows [B,R]  past_k/v.i -> logits [B,R,V], present_k/v.i
    vq_decode: codes [B,g*g] -> pixels [B,3,H,W]

``visible`` says who sees whom, so the one step serves plain, Jacobi, tree and anti-diagonal decoding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...models.llamagen import EPSILON, LlamaGenConfig
from ...models.vq import EPSILON as VQ_EPSILON
from ...models.vq import GROUPS, VqConfig
from ...runtime import tensors as names
from ...runtime.image_tensors import CODES, PIXELS
from ..checkpoint.llamagen_checkpoint import LlamaGenCheckpoint, half_split
from .writer import GraphWriter, TensorInfo


def write_ar_step(writer: GraphWriter, source: LlamaGenCheckpoint, dtype: str) -> None:
    """Fill and save ``writer``; matrices are stored as ``dtype``, norms, table and arithmetic are float32."""
    _ArStep(writer, source, dtype).write()


def write_vq_decode(writer: GraphWriter, source: LlamaGenCheckpoint) -> None:
    """Fill and save ``writer``, all of it float32."""
    _VqDecode(writer, source).write()


class _ArStep:
    def __init__(self, writer: GraphWriter, source: LlamaGenCheckpoint, dtype: str) -> None:
        self.w, self.dtype = writer, dtype
        self.c: LlamaGenConfig = source.config
        self.tensors = {name: tensor.numpy() for name, tensor in source.model.state_dict().items()}
        self.rope = [t.numpy() for t in source.model.rope]

    def write(self) -> None:
        w, c = self.w, self.c
        self._declare()
        w.constant("last_axis", np.array([-1], np.int64))
        table = np.concatenate(
            [self.tensors["tok_embeddings.weight"], self.tensors["cls_embedding.embedding_table.weight"]]
        )
        w.weight("embedding", table.shape, self.dtype, [table])
        narrow = self.dtype == "float16"
        w.node("Gather", ["embedding", names.INPUT_IDS], ["embedded_narrow" if narrow else "stream.0"], axis=0)
        if narrow:
            w.node("Cast", ["embedded_narrow"], ["stream.0"], to=1)
        for name, rows in zip(("cos", "sin"), self.rope, strict=True):
            w.weight(f"rope_{name}", rows.shape, "float32", [rows])
            w.node("Gather", [f"rope_{name}", names.POSITIONS], [name], axis=0)
        first = self._vector("layers.0.attention_norm.weight")
        w.node("RMSNormalization", ["stream.0", first], ["layers.0.attn_in"], axis=-1, epsilon=EPSILON)
        for i in range(c.layers):
            self._layer(i)
        w.node("Unsqueeze", [names.LOGIT_ROWS, "last_axis"], ["logit_row_index"])
        w.node("GatherND", ["final", "logit_row_index"], ["wanted_rows"], batch_dims=1)
        w.operator("Linear", ["wanted_rows", self._matrix("output.weight")], [names.LOGITS])
        w.save()

    def _declare(self) -> None:
        w, c = self.w, self.c
        w.inputs += [
            TensorInfo(names.INPUT_IDS, "int64", ("B", "S")),
            TensorInfo(names.POSITIONS, "int64", ("B", "S")),
            TensorInfo(names.PAST_LEN, "int64", ("B",)),
            TensorInfo(names.VISIBLE, "int64", ("B", "S", "W")),
            TensorInfo(names.LOGIT_ROWS, "int64", ("B", "R")),
        ]
        w.outputs.append(TensorInfo(names.LOGITS, "float32", ("B", "R", c.codes)))
        cache = ("B", c.heads, "C", c.head_dim)
        for i in range(c.layers):
            w.inputs += [TensorInfo(n.format(i), "float32", cache) for n in (names.PAST_K, names.PAST_V)]
            w.outputs += [TensorInfo(n.format(i), "float32", cache) for n in (names.PRESENT_K, names.PRESENT_V)]

    def _layer(self, i: int) -> None:
        w, c, p = self.w, self.c, f"layers.{i}."
        wqkv = half_split(self.tensors[p + "attention.wqkv.weight"], c.heads)
        w.weight(p + "attention.wqkv.weight", wqkv.shape, self.dtype, [wqkv])
        w.operator("Linear", [p + "attn_in", p + "attention.wqkv.weight"], [p + "qkv"])
        w.operator(
            "CachedAttention",
            [
                p + "qkv",
                "cos",
                "sin",
                names.PAST_K.format(i),
                names.PAST_V.format(i),
                names.PAST_LEN,
                "",
                "",
                names.VISIBLE,
            ],
            [p + "mixed", names.PRESENT_K.format(i), names.PRESENT_V.format(i)],
            num_heads=c.heads,
            kv_num_heads=c.heads,
            scale=c.head_dim**-0.5,
            window=0,
            epsilon=EPSILON,
        )
        w.operator("Linear", [p + "mixed", self._matrix(p + "attention.wo.weight")], [p + "attended"])
        norm = self._vector(p + "ffn_norm.weight")
        w.operator("AddRMSNorm", [f"stream.{i}", p + "attended", norm], [p + "ffn_in", p + "middle"], epsilon=EPSILON)
        gate_up = [self.tensors[p + f"feed_forward.{n}.weight"] for n in ("w1", "w3")]
        w.weight(p + "gate_up.weight", (2 * c.intermediate_size, c.hidden_size), self.dtype, gate_up)
        w.operator("Linear", [p + "ffn_in", p + "gate_up.weight"], [p + "gate_up"])
        w.operator("SwiGLU", [p + "gate_up"], [p + "activation"])
        w.operator("Linear", [p + "activation", self._matrix(p + "feed_forward.w2.weight")], [p + "down"])
        last = i + 1 == c.layers
        norm = self._vector("norm.weight" if last else f"layers.{i + 1}.attention_norm.weight")
        following = "final" if last else f"layers.{i + 1}.attn_in"
        w.operator("AddRMSNorm", [p + "middle", p + "down", norm], [following, f"stream.{i + 1}"], epsilon=EPSILON)

    def _matrix(self, name: str) -> str:
        self.w.weight(name, self.tensors[name].shape, self.dtype, [self.tensors[name]])
        return name

    def _vector(self, name: str) -> str:
        self.w.weight(name, self.tensors[name].shape, "float32", [self.tensors[name]])
        return name


class _VqDecode:
    def __init__(self, writer: GraphWriter, source: LlamaGenCheckpoint) -> None:
        self.w, self.grid = writer, source.config.grid
        self.c: VqConfig = source.vq_config
        self.tensors = {name: tensor.numpy() for name, tensor in source.vq.state_dict().items()}
        self.table = source.vq.table().detach().numpy()

    def write(self) -> None:
        w, c, g = self.w, self.c, self.grid
        side = g * c.downsampling
        w.inputs.append(TensorInfo(CODES, "int64", ("B", g * g)))
        w.outputs.append(TensorInfo(PIXELS, "float32", ("B", 3, side, side)))
        w.constant("flat", np.array([0, 0, -1], np.int64))
        w.weight("codebook", self.table.shape, "float32", [self.table])  # rows of length 1, as decoding wants them
        w.node("Gather", ["codebook", CODES], ["rows"], axis=0)
        w.node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1])
        w.constant("square", np.array([0, 0, g, g], np.int64))
        w.node("Reshape", ["columns", "square"], ["latents"])
        x = self._conv("decoder.conv_in", self._conv("post_quant_conv", "latents"))
        x = self._res("decoder.mid.0", x)
        x = self._res("decoder.mid.2", self._attention("decoder.mid.1", x, side=g))
        levels = len(c.multipliers)
        for i in range(levels):
            p = f"decoder.conv_blocks.{i}."
            for j in range(c.blocks + 1):
                x = self._res(f"{p}res.{j}", x)
                if i == 0:
                    x = self._attention(f"{p}attn.{j}", x, side=g)
            if i + 1 < levels:
                x = self._up(p + "upsample", x)
        x = self._conv("decoder.conv_out", self._silu(self._norm("decoder.norm_out", x)), PIXELS)
        w.save()

    def _conv(self, name: str, x: str, out: str | None = None) -> str:
        pad = self.tensors[name + ".weight"].shape[-1] // 2
        inputs = [x, *self._pair(name)]
        self.w.node("Conv", inputs, [out or name + ".out"], pads=[pad] * 4)
        return out or name + ".out"

    def _norm(self, name: str, x: str) -> str:
        self.w.node(
            "GroupNormalization", [x, *self._pair(name)], [name + ".out"], num_groups=GROUPS, epsilon=VQ_EPSILON
        )
        return name + ".out"

    def _silu(self, x: str) -> str:
        self.w.node("Sigmoid", [x], [x + ".gate"])
        self.w.node("Mul", [x, x + ".gate"], [x + ".silu"])
        return x + ".silu"

    def _res(self, p: str, x: str) -> str:
        h = self._conv(p + ".conv1", self._silu(self._norm(p + ".norm1", x)))
        h = self._conv(p + ".conv2", self._silu(self._norm(p + ".norm2", h)))
        skip = self._conv(p + ".nin_shortcut", x) if p + ".nin_shortcut.weight" in self.tensors else x
        self.w.node("Add", [skip, h], [p + ".sum"])
        return p + ".sum"

    def _attention(self, p: str, x: str, side: int) -> str:
        w, width = self.w, self.tensors[p + ".q.weight"].shape[0]
        h = self._norm(p + ".norm", x)
        for n in "qkv":
            w.node("Reshape", [self._conv(f"{p}.{n}", h), "flat"], [f"{p}.{n}.flat"])  # [B,C,HW]
        w.node("Transpose", [p + ".q.flat"], [p + ".q.rows"], perm=[0, 2, 1])
        w.node("MatMul", [p + ".q.rows", p + ".k.flat"], [p + ".products"])
        w.constant(p + ".scale", np.array(width**-0.5, np.float32))
        w.node("Mul", [p + ".products", p + ".scale"], [p + ".scores"])
        w.node("Softmax", [p + ".scores"], [p + ".weights"], axis=-1)
        w.node("Transpose", [p + ".weights"], [p + ".spread"], perm=[0, 2, 1])
        w.node("MatMul", [p + ".v.flat", p + ".spread"], [p + ".mixed"])
        w.constant(p + ".square", np.array([0, 0, side, side], np.int64))
        w.node("Reshape", [p + ".mixed", p + ".square"], [p + ".image"])
        w.node("Add", [x, self._conv(p + ".proj_out", p + ".image")], [p + ".sum"])
        return p + ".sum"

    def _up(self, p: str, x: str) -> str:
        self.w.constant(p + ".twice", np.array([1, 1, 2, 2], np.float32))
        resized: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        self.w.node("Resize", [x, "", p + ".twice"], [p + ".wide"], **resized)
        return self._conv(p + ".conv", p + ".wide")

    def _pair(self, name: str) -> list[str]:
        for n in (f"{name}.weight", f"{name}.bias"):
            self.w.weight(n, self.tensors[n].shape, "float32", [self.tensors[n]])
        return [f"{name}.weight", f"{name}.bias"]
