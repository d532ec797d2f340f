"""The graph of a plain decoder: one step over S new rows with a KV cache of fixed capacity.

Nine nodes prepare a step (embedding, rotary angles, first norm, picking the rows that need logits), each layer adds eight (nine
or more with biases), the head is one. The hidden state between layers is never written twice: AddRMSNorm adds and norms at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...models.config import DecoderConfig
from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .writer import GraphWriter, Progress, TensorInfo, no_progress


def write_decoder(
    writer: GraphWriter,
    checkpoint: Checkpoint,
    *,
    dtype: str,
    trees: bool = False,
    prune_layer: int | None = None,
    progress: Progress = no_progress,
) -> None:
    """Fill ``writer`` with the decoder of ``checkpoint`` and save it.

    ``dtype`` (``float32`` or ``float16``) is how matrices are stored; norms and biases stay float32 and so does all arithmetic.
    ``trees`` adds the input ``visible``, so that a pass may hold a tree of drafts. ``prune_layer`` adds ``late_len``, the filled slots of the
    layers from there on, where images have fewer rows. Inputs and outputs are those of
    `farthing.runtime.tensors`. Raises CheckpointError.
    """
    graph = (TreeDecoderGraph if trees else DecoderGraph)(writer, checkpoint, dtype, progress)
    graph.prune_layer = prune_layer
    graph.write()


def add_angles(writer: GraphWriter, config: DecoderConfig, positions: str, prefix: str) -> None:
    """``<prefix>cos`` and ``<prefix>sin`` [B,S,head_dim/2] of ``positions`` [B,S], with M-RoPE [3,B,S]. Needs the constant ``last_axis``.

    Computed once per step, not looked up: no table that ends at some context length.
    """
    w, p = writer, prefix
    freq = config.mrope_freq() if config.mrope_section else config.rope.inv_freq(config.head_dim)
    if "inv_freq" not in w.constants:
        w.constant("inv_freq", freq)
    w.node("Cast", [positions], [p + "positions_float"], to=1)
    w.node("Unsqueeze", [p + "positions_float", "last_axis"], [p + "positions_column"])
    if config.mrope_section:
        if "first_axis" not in w.constants:
            w.constant("first_axis", np.array([0], np.int64))
        w.node("Mul", [p + "positions_column", "inv_freq"], [p + "angles_of_each"])
        w.node("ReduceSum", [p + "angles_of_each", "first_axis"], [p + "angles"], keepdims=0)
    else:
        w.node("Mul", [p + "positions_column", "inv_freq"], [p + "angles"])
    w.node("Cos", [p + "angles"], [p + "cos"])
    w.node("Sin", [p + "angles"], [p + "sin"])


class DecoderGraph:
    """Writes a decoder step. A method that adds to it overrides the hooks: `declare_more`, `embed`, `attention_extras`, `adapt`, `head`, `finish`."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, dtype: str, progress: Progress) -> None:
        self.w = writer
        self.checkpoint = checkpoint
        self.config: DecoderConfig = checkpoint.config
        self.dtype = dtype
        self._progress = progress
        self._done = 0
        self.prune_layer: int | None = None
        """First layer whose cache holds the kept rows of images only."""
        self._streams: dict[int, str] = {}
        """Names of residual streams that are not `tensors.HIDDEN`: what a layer reads after some of its rows were dropped."""

    def write(self) -> None:
        """Fill the writer and save it. Raises CheckpointError."""
        self._declare()
        self.declare_more()
        normed = self._begin()
        for layer in range(self.config.layers):
            normed = self._layer(layer, normed)
        self.head(normed)
        self.finish(normed)
        self.w.save()

    def declare_more(self) -> None:
        """Hook: add inputs, outputs and constants."""

    def embed(self, stream: str) -> None:
        """Hook: the rows of the first hidden state, float32 [B,S,D], as ``stream``."""
        narrow = self.dtype == "float16"
        self._matrix("embed.weight", "embed.weight")
        self.w.node("Gather", ["embed.weight", names.INPUT_IDS], ["embedded" if narrow else stream], axis=0)
        if narrow:
            self.w.node("Cast", ["embedded"], [stream], to=1)

    def attention_extras(self) -> list[str]:
        """Hook: inputs of CachedAttention behind the norms of q and k."""
        return []

    def adapt(self, layer: int, group: str, x: str, y: str) -> str:
        """Hook: what follows the fused linear ``group`` (qkv, o, gate_up or down) of input x and output y; returns the new output."""
        return y

    def finish(self, normed: str) -> None:
        """Hook: outputs made from the normed rows [B,S,D] behind the last layer."""

    def _declare(self) -> None:
        c = self.config
        self.w.inputs += [
            TensorInfo(names.INPUT_IDS, "int64", ("B", "S")),
            TensorInfo(names.POSITIONS, "int64", (3, "B", "S") if c.mrope_section else ("B", "S")),
            TensorInfo(names.PAST_LEN, "int64", ("B",)),
            TensorInfo(names.LOGIT_ROWS, "int64", ("B", "R")),
        ]
        self.w.outputs.append(TensorInfo(names.LOGITS, "float32", ("B", "R", c.vocab_size)))
        if self.prune_layer is not None:
            self.w.inputs.append(TensorInfo(names.LATE_LEN, "int64", ("B",)))
        self.declare_cache()

    def declare_cache(self) -> None:
        """Caches in and out, and the residual streams between."""
        c = self.config
        cache = ("B", c.kv_heads, "C", c.head_dim)
        for i in range(c.layers):
            self.w.inputs += [TensorInfo(n.format(i), "float32", cache) for n in (names.PAST_K, names.PAST_V)]
            self.w.outputs += [TensorInfo(n.format(i), "float32", cache) for n in (names.PRESENT_K, names.PRESENT_V)]
        self.w.inner += [
            TensorInfo(names.HIDDEN.format(i), "float32", ("B", "S", c.hidden_size)) for i in range(c.layers + 1)
        ]

    def _begin(self) -> str:
        """Embedding, rotary angles and the norm before the first layer; returns the normed rows."""
        w, c = self.w, self.config
        stream = names.HIDDEN.format(0)
        self.embed(stream)
        w.constant("last_axis", np.array([-1], np.int64))
        add_angles(w, c, names.POSITIONS, "")
        self._vector("layers.0.attn_norm.weight")
        w.node(
            "RMSNormalization",
            [stream, "layers.0.attn_norm.weight"],
            ["layers.0.attn_in"],
            axis=-1,
            epsilon=c.norm_epsilon,
        )
        return "layers.0.attn_in"

    def _layer(self, i: int, normed: str) -> str:
        """One layer from its normed input; returns the normed input of what follows."""
        p = f"layers.{i}."
        self._attend(i, self.projections(i, normed))
        return self._behind_attention(i, self._output(i, p + "mixed"))

    def projections(self, i: int, normed: str) -> str:
        """Queries, keys and values of layer i, side by side."""
        p = f"layers.{i}."
        qkv = self._linear(normed, p + "qkv", [p + "q", p + "k", p + "v"], bias=self.config.qkv_bias)
        return self.adapt(i, "qkv", normed, qkv)

    def turn(self, layer: int) -> list[str]:
        """Hook: cos, sin and the number of filled slots for a layer."""
        late = self.prune_layer is not None and layer >= self.prune_layer
        return ["cos", "sin", names.LATE_LEN if late else names.PAST_LEN]

    def stream(self, layer: int) -> str:
        """Name of the residual stream that a layer reads."""
        return self._streams.get(layer, names.HIDDEN.format(layer))

    def _attend(self, i: int, qkv: str) -> None:
        """Attention of layer i over its cache, from the fused projections; makes ``layers.<i>.mixed``."""
        w, c, p = self.w, self.config, f"layers.{i}."
        cos, sin, past = self.turn(i)
        inputs = [qkv, cos, sin, names.PAST_K.format(i), names.PAST_V.format(i), past]
        if c.qk_norm:
            inputs += [self._vector(p + "q_norm.weight"), self._vector(p + "k_norm.weight")]
        if extras := self.attention_extras():
            inputs += ["", ""] * (not c.qk_norm) + extras
        w.operator(
            "CachedAttention",
            inputs,
            [p + "mixed", names.PRESENT_K.format(i), names.PRESENT_V.format(i)],
            num_heads=c.heads,
            kv_num_heads=c.kv_heads,
            scale=c.scale,
            window=c.sliding_window,
            epsilon=c.norm_epsilon,
        )

    def _output(self, i: int, mixed: str) -> str:
        """The output projection of layer i."""
        p = f"layers.{i}."
        attended = self._linear(mixed, p + "o", [p + "o"], bias=self.config.o_bias)
        return self.adapt(i, "o", mixed, attended)

    def _behind_attention(self, i: int, attended: str) -> str:
        """The rest of layer i; returns the normed input of what follows."""
        p = f"layers.{i}."
        norm = self._vector(p + "mlp_norm.weight")
        return self._feed_forward(
            i, self._add_norm(self.stream(i), attended, norm, p + "mlp_in", p + "attended_stream")
        )

    def _feed_forward(self, i: int, mlp_in: str) -> str:
        """The feed-forward network of layer i on top of ``layers.<i>.attended_stream``; returns the normed input of what follows."""
        w, c, p = self.w, self.config, f"layers.{i}."
        gate_up = self._linear(mlp_in, p + "gate_up", [p + "gate", p + "up"], bias=c.mlp_bias)
        w.operator("SwiGLU", [self.adapt(i, "gate_up", mlp_in, gate_up)], [p + "activation"])
        down = self._linear(p + "activation", p + "down", [p + "down"], bias=c.mlp_bias)
        down = self.adapt(i, "down", p + "activation", down)
        last = i + 1 == c.layers
        norm = self._vector("norm.weight" if last else f"layers.{i + 1}.attn_norm.weight")
        following = "final" if last else f"layers.{i + 1}.attn_in"
        return self._add_norm(p + "attended_stream", down, norm, following, names.HIDDEN.format(i + 1))

    def head(self, normed: str) -> None:
        """Hook: logits of the wanted rows only: the head is the largest matrix, and prefill wants one row of it."""
        self.w.node("Unsqueeze", [names.LOGIT_ROWS, "last_axis"], ["logit_row_index"])
        self.w.node("GatherND", [normed, "logit_row_index"], ["wanted_rows"], batch_dims=1)
        if not self.config.tied_head:
            self._matrix("head.weight", "head.weight")
        weight = "embed.weight" if self.config.tied_head else "head.weight"
        self.w.operator("Linear", ["wanted_rows", weight], [names.LOGITS])

    def _linear(self, x: str, name: str, parts: list[str], *, bias: bool) -> str:
        """A fused linear of the rows of ``parts``; returns its output.

        A bias is a standard Add, not Linear's third input: a graph carries one body per operator, which has its number of inputs
        built in, and no model has a bias everywhere (the head never has one).
        """
        self._matrix(name + ".weight", *[p + ".weight" for p in parts])
        self.w.operator("Linear", [x, name + ".weight"], [name + "_product" if bias else name])
        if bias:
            self._parts(name + ".bias", "float32", [p + ".bias" for p in parts])
            self.w.node("Add", [name + "_product", name + ".bias"], [name])
        return name

    def _add_norm(self, stream: str, addend: str, norm: str, normed: str, total: str) -> str:
        self.w.operator("AddRMSNorm", [stream, addend, norm], [normed, total], epsilon=self.config.norm_epsilon)
        return normed

    def _matrix(self, name: str, *parts: str) -> None:
        self._parts(name, self.dtype, list(parts))

    def _vector(self, name: str) -> str:
        self._parts(name, "float32", [name])
        return name

    def _parts(self, name: str, dtype: str, parts: list[str]) -> None:
        shapes = [self.checkpoint.shape(p) for p in parts]
        rows = sum(s[0] for s in shapes)
        self.w.weight(name, (rows, *shapes[0][1:]), dtype, self._read(parts))

    def _read(self, parts: list[str]) -> Iterator[np.ndarray]:
        for part in parts:
            array = self.checkpoint.tensor(part)
            yield array
            self._done += array.size
            self._progress("writing weights", self._done, self.config.parameters)


class TreeDecoderGraph(DecoderGraph):
    """A decoder step whose rows see the rows that their bits name."""

    def declare_more(self) -> None:
        """The bits of the rows that each row sees."""
        self.w.inputs.append(TensorInfo(names.VISIBLE, "int64", ("B", "S", "W")))

    def attention_extras(self) -> list[str]:
        """They go to every layer."""
        return [names.VISIBLE]
