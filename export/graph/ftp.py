"""The two graphs of future token prediction (Walker 2024): the encoder's step with the first step of the small decoder, and the draft.

`ftp_step` is the decoder's step, but the wanted rows go through memory and small decoder; what a draft needs of a row comes out as
`row_latents`: the embedding of its token and its memory Z. `ftp_draft_chain` unrolls the other N - 1 steps. Matrices of the small decoder
are in the data file of both, table and head once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .decoder import DecoderGraph
from .writer import GraphWriter, Progress, TensorInfo, no_progress

if TYPE_CHECKING:
    from ...models.ftp import FtpHead


def write_ftp_step(
    writer: GraphWriter, checkpoint: Checkpoint, head: FtpHead, *, dtype: str, progress: Progress = no_progress
) -> None:
    """Fill ``writer`` with the step of ``checkpoint`` and ``head``, and save it. Raises CheckpointError."""
    _StepGraph(writer, checkpoint, head, dtype, progress).write()


class _SmallDecoder:
    """Nodes of the head's layers in a graph. Rows are [X,1,D], the memory [X,m,D]."""

    def __init__(self, writer: GraphWriter, head: FtpHead, dtype: str) -> None:
        self.w, self._head, self.dtype = writer, head, dtype
        self.c = head.config

    def weights(self, lender: GraphWriter | None = None) -> None:
        """Add the matrices and vectors, or borrow them."""
        d, heads = self.c.hidden_size, self.c.heads
        self.w.constant("ftp.heads_shape", np.array([0, 0, heads, d // heads], np.int64))
        self.w.constant("ftp.row_shape", np.array([0, 0, d], np.int64))
        for name, tensor in self._head.state_dict().items():
            if lender is not None and not name.startswith(("expand", "memory_positions")):
                self.w.borrow(lender, f"ftp.{name}")
            elif lender is None:
                stored = self.dtype if tensor.ndim == 2 and name not in ("offsets", "memory_positions") else "float32"
                self.w.weight(f"ftp.{name}", tuple(tensor.shape), stored, [tensor.numpy()])

    def memory_keys(self, memory: str, p: str) -> list[tuple[str, str]]:
        """Keys and values [X,m,D] of the memory, for each layer."""
        pairs = []
        for i in range(self.c.layers):
            k, v = (self._linear(memory, f"layers.{i}.cross_{n}", f"{p}{i}.memory_{n}") for n in "kv")
            pairs.append((k, v))
        return pairs

    def step(
        self, embedded: str, place: int, keys: list[tuple[str, str]], past: list[list[tuple[str, str]]], p: str
    ) -> str:
        """Normed row [X,1,D] of the token ``embedded`` [X,1,D] at ``place``. ``past`` has each layer's keys and values so far, and grows."""
        w = self.w
        w.constant(p + "place", np.array([place], np.int64))
        w.node("Gather", ["ftp.offsets", p + "place"], [p + "offset"], axis=0)
        w.node("Add", [embedded, p + "offset"], [p + "x"])
        x = p + "x"
        for i in range(self.c.layers):
            q = f"{p}{i}."
            h = self._norm(x, f"layers.{i}.self_norm", q + "self_in")
            past[i].append(
                (self._linear(h, f"layers.{i}.self_k", q + "k"), self._linear(h, f"layers.{i}.self_v", q + "v"))
            )
            if place == 0:  # one key: its value is the result
                mixed = past[i][0][1]
            else:
                for n, column in (("keys", 0), ("values", 1)):
                    w.node("Concat", [pair[column] for pair in past[i]], [q + n], axis=1)
                mixed = self._attend(
                    self._linear(h, f"layers.{i}.self_q", q + "q"), q + "keys", q + "values", q + "mixed"
                )
            x = self._add(x, self._linear(mixed, f"layers.{i}.self_o", q + "self_out"), q + "after_self")
            h = self._norm(x, f"layers.{i}.cross_norm", q + "cross_in")
            mixed = self._attend(self._linear(h, f"layers.{i}.cross_q", q + "cross_q"), *keys[i], q + "recalled")
            x = self._add(x, self._linear(mixed, f"layers.{i}.cross_o", q + "cross_out"), q + "after_cross")
            h = self._norm(x, f"layers.{i}.mlp_norm", q + "mlp_in")
            w.operator("SwiGLU", [self._linear(h, f"layers.{i}.gate_up", q + "gate_up")], [q + "active"])
            x = self._add(x, self._linear(q + "active", f"layers.{i}.down", q + "down"), q + "out")
        return self._norm(x, "norm", p + "normed")

    def _linear(self, x: str, name: str, y: str) -> str:
        self.w.operator("Linear", [x, f"ftp.{name}.weight"], [y])
        return y

    def _norm(self, x: str, name: str, y: str) -> str:
        self.w.node("RMSNormalization", [x, f"ftp.{name}.weight"], [y], axis=-1, epsilon=self.c.norm_epsilon)
        return y

    def _add(self, a: str, b: str, y: str) -> str:
        self.w.node("Add", [a, b], [y])
        return y

    def _attend(self, q: str, k: str, v: str, y: str) -> str:
        """[X,1,D] of queries [X,1,D] over keys and values [X,n,D]. TensorRT takes heads as a dimension only."""
        for part, x in zip("qkv", (q, k, v), strict=True):
            self.w.node("Reshape", [x, "ftp.heads_shape"], [f"{y}.{part}_split"])
            self.w.node("Transpose", [f"{y}.{part}_split"], [f"{y}.{part}"], perm=[0, 2, 1, 3])
        self.w.node("Attention", [f"{y}.{part}" for part in "qkv"], [f"{y}.heads"])
        self.w.node("Transpose", [f"{y}.heads"], [f"{y}.split"], perm=[0, 2, 1, 3])
        self.w.node("Reshape", [f"{y}.split", "ftp.row_shape"], [y])
        return y


class _StepGraph(DecoderGraph):
    def __init__(
        self, writer: GraphWriter, checkpoint: Checkpoint, head: FtpHead, dtype: str, progress: Progress
    ) -> None:
        super().__init__(writer, checkpoint, dtype, progress)
        self.small = _SmallDecoder(writer, head, dtype)

    def declare_more(self) -> None:
        width = (self.small.c.memory + 1) * self.config.hidden_size
        self.w.outputs.append(TensorInfo(names.ROW_LATENTS, "float32", ("B", "R", width)))

    def head(self, normed: str) -> None:
        w, d, m = self.w, self.config.hidden_size, self.small.c.memory
        self.small.weights()
        for name, shape in (
            ("memory_shape", [-1, m, d]),
            ("row_shape", [-1, 1, d]),
            ("latent_shape", [0, 0, (m + 1) * d]),
        ):
            w.constant(name, np.array(shape, np.int64))
        w.node("Unsqueeze", [names.LOGIT_ROWS, "last_axis"], ["logit_row_index"])
        w.node("GatherND", [normed, "logit_row_index"], ["wanted_rows"], batch_dims=1)
        w.node("GatherND", [names.INPUT_IDS, "logit_row_index"], ["wanted_ids"], batch_dims=1)
        w.operator("Linear", ["wanted_rows", "ftp.expand.weight"], ["expanded_product"])
        w.node("Add", ["expanded_product", "ftp.expand.bias"], ["expanded"])
        w.node("Reshape", ["expanded", "memory_shape"], ["memory_rows"])
        w.node("Add", ["memory_rows", "ftp.memory_positions"], ["memory"])
        narrow = self.dtype == "float16"
        w.node("Gather", ["embed.weight", "wanted_ids"], ["stored_rows" if narrow else "token_rows"], axis=0)
        if narrow:
            w.node("Cast", ["stored_rows"], ["token_rows"], to=1)
        w.node("Reshape", ["token_rows", "row_shape"], ["token_row"])
        past: list[list[tuple[str, str]]] = [[] for _ in range(self.small.c.layers)]
        out = self.small.step("token_row", 0, self.small.memory_keys("memory", "step."), past, "step.")
        if not self.config.tied_head:
            self._matrix("head.weight", "head.weight")
        w.operator("Linear", [out, "embed.weight" if self.config.tied_head else "head.weight"], ["flat_logits"])
        w.node("Shape", [names.LOGIT_ROWS], ["wanted_shape"])
        w.constant("vocabulary", np.array([self.config.vocab_size], np.int64))
        w.node("Concat", ["wanted_shape", "vocabulary"], ["logits_shape"], axis=0)
        w.node("Reshape", ["flat_logits", "logits_shape"], [names.LOGITS])
        w.node("Concat", ["token_row", "memory"], ["latent_rows"], axis=1)
        w.constant("latent_width", np.array([(m + 1) * d], np.int64))
        w.node("Concat", ["wanted_shape", "latent_width"], ["latents_shape"], axis=0)
        w.node("Reshape", ["latent_rows", "latents_shape"], [names.ROW_LATENTS])


def write_ftp_draft(
    writer: GraphWriter, step: GraphWriter, checkpoint: Checkpoint, head: FtpHead, *, dtype: str
) -> None:
    """Fill ``writer`` with the draft of N - 1 tokens over the weights of ``step``, a graph in the same folder, and save it."""
    w, c, config = writer, head.config, checkpoint.config
    d, count = config.hidden_size, c.horizon - 1
    w.inputs += [
        TensorInfo(names.FIRST_TOKEN, "int64", ("B",)),
        TensorInfo(names.ROW_LATENTS, "float32", ("B", (c.memory + 1) * d)),
    ]
    w.outputs += [
        TensorInfo(names.DRAFT, "int64", ("B", count)),
        TensorInfo(names.DRAFT_CHANCE, "float32", ("B", count)),
    ]
    w.borrow(step, "embed.weight")
    matrix = "embed.weight" if config.tied_head else "head.weight"
    if not config.tied_head:
        w.borrow(step, matrix)
    small = _SmallDecoder(w, head, dtype)
    small.weights(step)
    w.constant("rows_shape", np.array([0, c.memory + 1, d], np.int64))
    w.constant("split", np.array([1, c.memory], np.int64))
    w.constant("one", np.array([1], np.int64))
    w.node("Reshape", [names.ROW_LATENTS, "rows_shape"], ["rows"])
    w.node("Split", ["rows", "split"], ["token_row", "memory"], axis=1)
    keys = small.memory_keys("memory", "draft.")
    past: list[list[tuple[str, str]]] = [[] for _ in range(c.layers)]
    small.step("token_row", 0, keys, past, "draft.0.")  # its result was the first token; its keys and values stay
    token = names.FIRST_TOKEN
    for j in range(1, c.horizon):
        p = f"draft.{j}."
        w.node("Unsqueeze", [token, "one"], [p + "column"])
        w.node("Gather", ["embed.weight", p + "column"], [p + ("stored" if dtype == "float16" else "embedded")], axis=0)
        if dtype == "float16":
            w.node("Cast", [p + "stored"], [p + "embedded"], to=1)
        out = small.step(p + "embedded", j, keys, past, p)
        w.operator("Linear", [out, matrix], [p + "logits"])
        w.node("ArgMax", [p + "logits"], [p + "token_column"], axis=-1, keepdims=0)
        w.node("Softmax", [p + "logits"], [p + "chances"], axis=-1)
        w.constant(p + "axis", np.array([2], np.int64))
        w.node("ReduceMax", [p + "chances", p + "axis"], [p + "chance"], keepdims=0)
        w.node("Squeeze", [p + "token_column", "one"], [p + "token"])
        token = p + "token"
    for name, output in (("token_column", names.DRAFT), ("chance", names.DRAFT_CHANCE)):
        w.node("Concat", [f"draft.{j}.{name}" for j in range(1, c.horizon)], [output], axis=1)
    w.save()
