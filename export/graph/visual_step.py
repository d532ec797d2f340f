"""The pass that puts an image into the cache: its rows in, keys and values out, no logits.

Causal attention makes it the same to run a prompt as text, image, text: so text passes are the plain decoder's, and what a method does to
visual rows only (skipping layers, pruning on the way) is a graph of its own and not a gather in every pass. The last layer ends with its
keys and values, since nothing reads its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .decoder import DecoderGraph, add_angles
from .writer import GraphWriter, Progress, TensorInfo, no_progress

Select = Callable[[GraphWriter, str], str]
"""(graph, stream [B,N,D]) -> name of the rows to keep, int64 [B,K], ascending."""

FFN, ATTENTION, BLOCK = "ffn", "attention", "block"
"""What rows of images can leave out of a layer. Its keys and values are written whatever they leave out: text attends to them."""
SKIPS = (FFN, ATTENTION, BLOCK)


class VisualStepGraph(DecoderGraph):
    """Writes a visual pass that borrows every weight of the decoder's graph ``lender``.

    ``skip``: what visual rows leave out of a layer, one of SKIPS; their residual stays as it is. ``prune_layer`` k: the layers from k on have fewer filled slots, ``late_len``; ``select`` names the rows that they get, all where it is None.
    """

    def __init__(
        self,
        writer: GraphWriter,
        checkpoint: Checkpoint,
        lender: GraphWriter,
        *,
        dtype: str,
        skip: Mapping[int, str] | None = None,
        prune_layer: int | None = None,
        select: Select | None = None,
        kept_tokens: int | str = "K",
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(writer, checkpoint, dtype, progress)
        self._lender = lender
        self.prune_layer = prune_layer
        self._skip, self._select = dict(skip or {}), select
        self._kept_tokens = kept_tokens

    def write(self) -> None:
        """Fill the writer and save it."""
        c, w = self.config, self.w
        w.inputs += [
            TensorInfo(names.VISUAL_EMBEDS, "float32", ("B", "N", c.hidden_size)),
            TensorInfo(names.POSITIONS, "int64", (3, "B", "N") if c.mrope_section else ("B", "N")),
            TensorInfo(names.PAST_LEN, "int64", ("B",)),
        ]
        if self.prune_layer is not None:
            w.inputs.append(TensorInfo(names.LATE_LEN, "int64", ("B",)))
        self.declare_cache()
        w.inner.clear()  # streams of skipped layers have no node of their own
        normed = self._begin()
        for layer in range(c.layers):
            if layer == self.prune_layer and self._select is not None:
                normed = self._prune(layer)
            if layer + 1 == c.layers:
                # `_write_cache` would save half a per cent of 32 layers, but its keys differ from the kernel's in the last bit.
                self._attend(layer, self.projections(layer, normed))
            elif self._skip.get(layer) in (ATTENTION, BLOCK):
                self._write_cache(layer, normed)
                normed = self._unattended(layer, normed)
            else:
                normed = self._layer(layer, normed)
        if self._select is not None:
            w.outputs.append(TensorInfo(names.KEPT, "int64", ("B", self._kept_tokens)))
        w.save()

    def embed(self, stream: str) -> None:
        """The rows come as they are."""
        self.w.node("Identity", [names.VISUAL_EMBEDS], [stream])

    def turn(self, layer: int) -> list[str]:
        """Layers behind the pruning have the kept rows' angles and slots of their own."""
        cos, sin, past = super().turn(layer)
        pruned = self._select is not None and past == names.LATE_LEN
        return ["kept.cos", "kept.sin", past] if pruned else [cos, sin, past]

    def _behind_attention(self, i: int, attended: str) -> str:
        if self._skip.get(i) != FFN:
            return super()._behind_attention(i, attended)
        following = self._vector(f"layers.{i + 1}.attn_norm.weight")
        return self._add_norm(
            self.stream(i), attended, following, f"layers.{i + 1}.attn_in", names.HIDDEN.format(i + 1)
        )

    def _write_cache(self, i: int, normed: str) -> None:
        """Keys and values of layer i into the cache, and nothing else: no queries, so of the fused projection only its last rows."""
        w, c, p = self.w, self.config, f"layers.{i}."
        w.borrow_rows(self._lender, p + "qkv.weight", c.q_width, p + "kv.weight")
        w.operator("Linear", [normed, p + "kv.weight"], [p + "kv_product" if c.qkv_bias else p + "kv"])
        if c.qkv_bias:
            w.borrow_rows(self._lender, p + "qkv.bias", c.q_width, p + "kv.bias")
            w.node("Add", [p + "kv_product", p + "kv.bias"], [p + "kv"])
        if "kv.heads" not in w.constants:
            w.constant("kv.heads", np.array([0, 0, 2 * c.kv_heads, c.head_dim], np.int64))
            w.constant("kv.each", np.array([c.kv_heads, c.kv_heads], np.int64))
        w.node("Reshape", [p + "kv", "kv.heads"], [p + "kv_heads"])
        w.node("Transpose", [p + "kv_heads"], [p + "kv_first"], perm=[0, 2, 1, 3])
        w.node("Split", [p + "kv_first", "kv.each"], [p + "k", p + "v"], axis=1)
        key = p + "k"
        if c.qk_norm:
            gain = self._vector(p + "k_norm.weight")
            w.node("RMSNormalization", [key, gain], [p + "k_normed"], axis=-1, epsilon=c.norm_epsilon)
            key = p + "k_normed"
        cos, sin, past = self.turn(i)
        w.node("RotaryEmbedding", [key, cos, sin], [p + "k_turned"])
        for part, old, new in (
            (p + "k_turned", names.PAST_K, names.PRESENT_K),
            (p + "v", names.PAST_V, names.PRESENT_V),
        ):
            w.node("TensorScatter", [old.format(i), part, past], [new.format(i)], axis=2)

    def _unattended(self, i: int, normed: str) -> str:
        """Layer i without attention, and as a block without its feed-forward network; returns the normed input of what follows."""
        w, stream = self.w, self.stream(i)
        if self._skip[i] == BLOCK:
            self._streams[i + 1] = stream
            return self._norm(stream, f"layers.{i + 1}.attn_norm.weight", f"layers.{i + 1}.attn_in")
        w.node("Identity", [stream], [f"layers.{i}.attended_stream"])
        return self._feed_forward(i, self._norm(stream, f"layers.{i}.mlp_norm.weight", f"layers.{i}.mlp_in"))

    def _norm(self, stream: str, weight: str, normed: str) -> str:
        self.w.node(
            "RMSNormalization", [stream, self._vector(weight)], [normed], axis=-1, epsilon=self.config.norm_epsilon
        )
        return normed

    def _prune(self, layer: int) -> str:
        """Choose rows of the stream that ``layer`` reads; stream, norm, angles and positions of those rows."""
        assert self._select is not None
        w, stream = self.w, self.stream(layer)
        kept = self._select(w, stream)
        w.node("Identity", [kept], [names.KEPT])
        w.node("Unsqueeze", [names.KEPT, "last_axis"], ["kept.rows"])
        w.node("GatherND", [stream, "kept.rows"], ["kept.stream"], batch_dims=1)
        if self.config.mrope_section:
            w.constant("kept.position_rows", np.array([3, 1, 1], np.int64))
            w.node("Expand", [names.KEPT, "kept.position_rows"], ["kept.index"])
        else:
            w.node("Identity", [names.KEPT], ["kept.index"])
        w.node("GatherElements", [names.POSITIONS, "kept.index"], ["kept.positions"], axis=-1)
        add_angles(w, self.config, "kept.positions", "kept.")
        norm = f"layers.{layer}.attn_norm.weight"
        w.node("RMSNormalization", ["kept.stream", norm], ["kept.attn_in"], axis=-1, epsilon=self.config.norm_epsilon)
        self._streams[layer] = "kept.stream"
        return "kept.attn_in"

    def _parts(self, name: str, dtype: str, parts: list[str]) -> None:
        self.w.borrow(self._lender, name)
