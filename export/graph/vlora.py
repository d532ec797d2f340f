"""The graphs of VLoRA (Ma et al. 2024, arXiv 2405.20339): `perceive` makes an image's weights, `decoder` takes them as inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...models.vlora import EPSILON, HEADS, VloraConfig
from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .decoder import DecoderGraph
from .writer import GraphWriter, Progress, TensorInfo, no_progress

Read = Callable[[str], np.ndarray]


def write_perceive(w: GraphWriter, c: VloraConfig, read: Read, *, progress: Progress = no_progress) -> None:
    """features [B,P,dv] -> delta_<t> [B,nL,D,r] for every type; saves the graph. ``read`` gives `models.vlora.vlora_tensors` by name."""
    _PerceiveGraph(w, c, read).write(progress)


class _PerceiveGraph:
    def __init__(self, w: GraphWriter, c: VloraConfig, read: Read) -> None:
        self.w, self.c, self.read = w, c, read

    def write(self, progress: Progress) -> None:
        w, c, adapted = self.w, self.c, len(self.c.layers)
        w.inputs.append(TensorInfo(names.FEATURES, "float32", ("B", c.positions, c.visual_dim)))
        w.outputs += [TensorInfo(names.DELTA.format(t), "float32", ("B", adapted, c.llm_dim, c.rank)) for t in c.types]
        w.node("Add", [self.dense(names.FEATURES, "visual_proj", "features.narrow"), self.array("pos_embed")], ["seen"])
        w.node("Shape", [names.FEATURES], ["batch"], start=0, end=1)
        w.constant("one", np.array([1, 1], np.int64))
        w.node("Concat", ["batch", "one"], ["batch.shape"], axis=0)
        for name, parts in (("thirds", 3), ("halves", 2)):
            w.constant(name, np.array([c.dim] * parts, np.int64))
        w.constant("delta.shape", np.array([-1, adapted, c.llm_dim, c.rank], np.int64))
        for done, (p, types) in enumerate(c.generators.items()):
            made = self.generator(p)
            each = [made] if len(types) == 1 else [f"{p}{t}" for t in types]
            if len(types) > 1:
                w.node("Split", [made], each, axis=1, num_outputs=len(types))
            for t, rows in zip(types, each, strict=True):
                w.node("Reshape", [rows, "delta.shape"], [names.DELTA.format(t)])
            progress("writing the generator", done + 1, len(c.generators))
        w.save()

    def generator(self, p: str) -> str:
        """The weights of all queries of the generator with prefix ``p``, [B,queries,D*r]."""
        w, c = self.w, self.c
        w.node("Expand", [self.array(f"{p}queries"), "batch.shape"], [f"{p}0"])
        x = f"{p}0"
        for i in range(c.depth):
            q = f"{p}decoders.{i}."
            normed = self.norm(x, f"{q}norm1")
            x = self.add(x, self.attend(normed, normed, f"{q}self_attn"), f"{q}looked")
            x = self.add(x, self.attend(self.norm(x, f"{q}norm2"), "seen", f"{q}multihead_attn"), f"{q}saw")
            up = self.dense(self.norm(x, f"{q}norm3"), f"{q}linear1", f"{q}up")
            w.node("Gelu", [up], [f"{q}active"])
            x = self.add(x, self.dense(f"{q}active", f"{q}linear2", f"{q}down"), f"{p}{i + 1}")
        return self.dense(self.norm(x, f"{p}norm"), f"{p}weights_head", f"{p}weights")

    def attend(self, x: str, seen: str, name: str) -> str:
        """torch's MultiheadAttention of queries from ``x``, keys and values from ``seen``."""
        w, d = self.w, self.c.dim
        weight, bias = self.read(f"{name}.in_proj_weight"), self.read(f"{name}.in_proj_bias")
        parts = [f"{name}.{n}" for n in "qkv"]
        if x == seen:
            self.linear(x, f"{name}.in_proj", weight, bias, f"{name}.qkv")
            w.node("Split", [f"{name}.qkv", "thirds"], parts, axis=-1)
        else:
            self.linear(x, f"{name}.q_proj", weight[:d], bias[:d], parts[0])
            self.linear(seen, f"{name}.kv_proj", weight[d:], bias[d:], f"{name}.kv")
            w.node("Split", [f"{name}.kv", "halves"], parts[1:], axis=-1)
        w.node("Attention", parts, [f"{name}.mixed"], q_num_heads=HEADS, kv_num_heads=HEADS)
        return self.dense(f"{name}.mixed", f"{name}.out_proj", f"{name}.out")

    def dense(self, x: str, name: str, out: str) -> str:
        """x W^T + b."""
        return self.linear(x, name, self.read(f"{name}.weight"), self.read(f"{name}.bias"), out)

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, out: str) -> str:
        for kind, array in (("weight", weight), ("bias", bias)):
            self.w.weight(f"{name}.{kind}", array.shape, "float32", [array])
        self.w.operator("Linear", [x, f"{name}.weight"], [f"{out}.product"])
        self.w.node("Add", [f"{out}.product", f"{name}.bias"], [out])
        return out

    def norm(self, x: str, name: str) -> str:
        weights = [self.array(f"{name}.{kind}") for kind in ("weight", "bias")]
        self.w.node("LayerNormalization", [x, *weights], [f"{name}.out"], axis=-1, epsilon=EPSILON)
        return f"{name}.out"

    def add(self, x: str, y: str, out: str) -> str:
        self.w.node("Add", [x, y], [out])
        return out

    def array(self, name: str) -> str:
        found = self.read(name)
        self.w.weight(name, found.shape, "float32", [found])
        return name


class VloraDecoderGraph(DecoderGraph):
    """A decoder step with the image's changes as inputs delta_<t>; ``outward`` [nL,D,r] by type are B, with its factor.

    A branch is two MatMul and an Add, not GatedLora: that packs its ``a`` once, when the session is made, which an input never is. Packing at
    every step costs as much as using it, and gathering all rows gains nothing: 3.4 ms a step against 2.4 ms (8 layers, D 2048, r 64, one core).
    The three of q, k and v stay apart, too: side by side, their B is block-diagonal and three times as much to read (4.1 ms).
    """

    def __init__(
        self,
        writer: GraphWriter,
        checkpoint: Checkpoint,
        config: VloraConfig,
        outward: dict[str, np.ndarray],
        *,
        dtype: str,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(writer, checkpoint, dtype, progress)
        self.vlora, self._outward = config, outward

    def declare_more(self) -> None:
        """The inputs, cut into layers once a step."""
        w, c = self.w, self.vlora
        w.constant("delta.axis", np.array([1], np.int64))
        for t in c.types:
            delta = names.DELTA.format(t)
            w.inputs.append(TensorInfo(delta, "float32", ("B", len(c.layers), c.llm_dim, c.rank)))
            if len(c.layers) > 1:
                parts = [f"{delta}.part.{i}" for i in c.layers]
                w.node("Split", [delta], parts, axis=1, num_outputs=len(c.layers))
            else:
                parts = [delta]
            for i, part in zip(c.layers, parts, strict=True):
                w.node("Squeeze", [part, "delta.axis"], [f"{delta}.{i}"])

    def adapt(self, layer: int, group: str, x: str, y: str) -> str:
        """What follows a linear; ``m`` stands beside the whole feed-forward network and joins behind its last linear."""
        types = {"qkv": "qkv", "o": "o", "down": "m"}.get(group, "")
        if layer not in self.vlora.layers or not set(types) & set(self.vlora.types):
            return y
        p = f"layers.{layer}."
        source = p + "mlp_in" if group == "down" else x
        parts = [self._branch(layer, t, source) for t in types]
        if len(parts) > 1:
            self.w.node("Concat", parts, [p + "delta"], axis=-1)
            parts = [p + "delta"]
        self.w.node("Add", [y, parts[0]], [f"{p}{group}_adapted"])
        return f"{p}{group}_adapted"

    def _branch(self, layer: int, t: str, x: str) -> str:
        """(x A) B^T [B,S,D] of type ``t``; zeros for one of q, k, v that the model does not adapt."""
        w, p, c = self.w, f"layers.{layer}.vlora_{t}", self.vlora
        if t not in c.types:
            if "nothing" not in w.constants:
                w.constant("nothing", np.zeros((), np.float32))
            w.node("Mul", [x, "nothing"], [p])
            return p
        out = self._outward[t][c.layers.index(layer)].T
        w.weight(f"{p}.b", out.shape, "float32", [np.ascontiguousarray(out)])
        w.node("MatMul", [x, f"{names.DELTA.format(t)}.{layer}"], [f"{p}.narrow"])
        w.node("MatMul", [f"{p}.narrow", f"{p}.b"], [p])
        return p
