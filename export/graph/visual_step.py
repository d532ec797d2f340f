"""The pass that puts an image into the cache: its rows in, keys and values out, no logits.

Causal attention makes it the same to run a prompt as text, image, text: so text passes are the plain decoder's, and what a method does to
visual rows only (skipping layers, pruning on the way) is a graph of its own and not a gather in every pass. The last layer ends with its
keys and values, since nothing reads its output.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .decoder import DecoderGraph, add_angles
from .writer import GraphWriter, Progress, TensorInfo, no_progress

Select = Callable[[GraphWriter, str], str]
"""(graph, stream [B,N,D]) -> name of the rows to keep, int64 [B,K], ascending."""


class VisualStepGraph(DecoderGraph):
    """Writes a visual pass that borrows every weight of the decoder's graph ``lender``.

    ``skip_ffn``: layers whose feed-forward network visual rows leave out (their residual stays as it is). ``prune_layer`` k: the layers
    from k on have fewer filled slots, ``late_len``; ``select`` names the rows that they get, all where it is None.
    """

    def __init__(
        self,
        writer: GraphWriter,
        checkpoint: Checkpoint,
        lender: GraphWriter,
        *,
        dtype: str,
        skip_ffn: frozenset[int] = frozenset(),
        prune_layer: int | None = None,
        select: Select | None = None,
        kept_tokens: int | str = "K",
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(writer, checkpoint, dtype, progress)
        self._lender = lender
        self.prune_layer = prune_layer
        self._skip_ffn, self._select = skip_ffn, select
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
                self._attend(layer, self.projections(layer, normed))
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
        if i not in self._skip_ffn:
            return super()._behind_attention(i, attended)
        following = self._vector(f"layers.{i + 1}.attn_norm.weight")
        return self._add_norm(
            self.stream(i), attended, following, f"layers.{i + 1}.attn_in", names.HIDDEN.format(i + 1)
        )

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
