"""The step of an image model: LlamaGen's blocks over a cache of fixed capacity. Methods add their inputs and heads by hooks.

    input_ids [B,S], positions [B,S], past_len [B], visible [B,S,W], logit_rows [B,R], past_k/v.i -> logits [B,R,V], present_k/v.i

``visible`` says who sees whom, so one step serves plain, Jacobi, tree and anti-diagonal decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from ...models.image_blocks import EPSILON
from ...models.llamagen import LlamaGenConfig
from ...runtime import tensors as names
from .writer import GraphWriter, TensorInfo

State = dict[str, np.ndarray]
"""Tensors of a checkpoint by name."""


def state_of(module: Any) -> State:
    """The tensors of a torch module, not copied."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def half_split(wqkv: np.ndarray, heads: int) -> np.ndarray:
    """The fused projection with the features of each q and k head reordered from pairs (0,1), (2,3) to halves (0,2,.. | 1,3,..).

    `CachedAttention` rotates halves; scores are sums over features and do not see the order.
    """
    q, k, v = np.split(wqkv, 3)

    def reorder(part: np.ndarray) -> np.ndarray:
        byhead = part.reshape(heads, -1, part.shape[1])
        return np.concatenate([byhead[:, 0::2], byhead[:, 1::2]], axis=1).reshape(part.shape)

    return np.concatenate([reorder(q), reorder(k), v])


class ImageStep:
    """Writes one step graph. Matrices are stored as ``dtype``; norms, tables of angles and arithmetic are float32.

    ``layers``: caches of the graph. ``lender``: a graph of the same folder whose weights of the same names are used instead of copies.
    """

    def __init__(
        self,
        writer: GraphWriter,
        config: LlamaGenConfig,
        state: State,
        rope: Iterable[Any],
        dtype: str,
        *,
        layers: int | None = None,
        lender: GraphWriter | None = None,
    ) -> None:
        self.w, self.c, self.state, self.dtype = writer, config, state, dtype
        self.rope = [t.numpy() for t in rope]
        self.layers = config.layers if layers is None else layers
        self.lender = lender

    def write(self) -> None:
        """Fill and save the writer."""
        w = self.w
        self.declare()
        w.constant("last_axis", np.array([-1], np.int64))
        self.embed("stream.0")
        for name, rows in zip(("cos", "sin"), self.rope, strict=True):
            self.weight(f"rope_{name}", rows.shape, "float32", partial(list, [rows]))
            w.node("Gather", [f"rope_{name}", names.POSITIONS], [name], axis=0)
        self.body()
        w.save()

    # Hooks.

    def row_inputs(self) -> list[TensorInfo]:
        """What stands for the rows of a pass."""
        return [TensorInfo(names.INPUT_IDS, "int64", ("B", "S"))]

    def outputs(self) -> list[TensorInfo]:
        """Outputs beside the caches."""
        return [TensorInfo(names.LOGITS, "float32", ("B", "R", self.c.codes))]

    def embed(self, out: str) -> None:
        """Rows [B,S,D] of the inputs, as ``out``: by default of the joint table of codes and conditions."""
        self.gather("embedding", self.joint_table, names.INPUT_IDS, out)

    def body(self) -> None:
        """Everything between the rows and the outputs."""
        self.trunk(self.layers, "norm.weight", "final")
        self.wanted("final", "wanted_rows")
        self.w.operator("Linear", ["wanted_rows", self.matrix("output.weight")], [names.LOGITS])

    # Pieces.

    def declare(self) -> None:
        """Inputs and outputs, caches last."""
        w, c = self.w, self.c
        w.inputs += [
            *self.row_inputs(),
            TensorInfo(names.POSITIONS, "int64", ("B", "S")),
            TensorInfo(names.PAST_LEN, "int64", ("B",)),
            TensorInfo(names.VISIBLE, "int64", ("B", "S", "W")),
            TensorInfo(names.LOGIT_ROWS, "int64", ("B", "R")),
        ]
        w.outputs += self.outputs()
        cache = ("B", c.heads, "C", c.head_dim)
        for i in range(self.layers):
            w.inputs += [TensorInfo(n.format(i), "float32", cache) for n in (names.PAST_K, names.PAST_V)]
            w.outputs += [TensorInfo(n.format(i), "float32", cache) for n in (names.PRESENT_K, names.PRESENT_V)]

    def joint_table(self) -> list[np.ndarray]:
        """Rows of the codes, then of the classes; of the codes alone where a text is the condition."""
        tables = ("tok_embeddings.weight", "cls_embedding.embedding_table.weight")
        return [self.state[name] for name in tables if name in self.state]

    def gather(self, name: str, parts: Callable[[], list[np.ndarray]], index: str, out: str) -> None:
        """Rows ``index`` of the table ``name``, stored as ``dtype``, as float32 ``out``."""
        tables = parts()
        rows = sum(len(t) for t in tables)
        self.weight(name, (rows, tables[0].shape[1]), self.dtype, lambda: tables)
        narrow = self.dtype == "float16"
        self.w.node("Gather", [name, index], [out + ".narrow" if narrow else out], axis=0)
        if narrow:
            self.w.node("Cast", [out + ".narrow"], [out], to=1)

    def trunk(self, layers: int, norm: str, out: str) -> None:
        """Layers 0 to ``layers`` - 1 from ``stream.0`` to ``stream.<layers>``, and ``out``, the last through the norm of that weight."""
        first = self.vector("layers.0.attention_norm.weight")
        self.w.node("RMSNormalization", ["stream.0", first], ["layers.0.attn_in"], axis=-1, epsilon=EPSILON)
        for i in range(layers):
            last = i + 1 == layers
            following = norm if last else f"layers.{i + 1}.attention_norm.weight"
            self.layer(i, following, out if last else f"layers.{i + 1}.attn_in")

    def layer(self, i: int, norm: str, out: str) -> None:
        """Layer i from ``layers.i.attn_in`` and ``stream.i`` to ``stream.<i+1>``, and through the norm of weight ``norm`` to ``out``."""
        w, c, p = self.w, self.c, f"layers.{i}."
        name = p + "attention.wqkv.weight"
        shape = (3 * c.hidden_size, c.hidden_size)
        self.weight(name, shape, self.dtype, lambda: [half_split(self.state[name], c.heads)])
        self.attention(i, p + "attn_in", name, self.matrix(p + "attention.wo.weight"))
        gain = self.vector(p + "ffn_norm.weight")
        w.operator("AddRMSNorm", [f"stream.{i}", p + "attended", gain], [p + "ffn_in", p + "middle"], epsilon=EPSILON)
        self.feed_forward(p, [f"{p}feed_forward.{n}.weight" for n in ("w1", "w3")], p + "feed_forward.w2.weight")
        w.operator(
            "AddRMSNorm", [p + "middle", p + "down", self.vector(norm)], [out, f"stream.{i + 1}"], epsilon=EPSILON
        )

    def attention(self, i: int, x: str, wqkv: str, wo: str) -> None:
        """``layers.i.attended`` of the rows ``x`` over cache i; both weights are in the graph."""
        c, p = self.c, f"layers.{i}."
        self.w.operator("Linear", [x, wqkv], [p + "qkv"])
        past = [names.PAST_K.format(i), names.PAST_V.format(i), names.PAST_LEN]
        self.w.operator(
            "CachedAttention",
            [p + "qkv", "cos", "sin", *past, "", "", names.VISIBLE],
            [p + "mixed", names.PRESENT_K.format(i), names.PRESENT_V.format(i)],
            num_heads=c.heads,
            kv_num_heads=c.heads,
            scale=c.head_dim**-0.5,
            window=0,
            epsilon=EPSILON,
        )
        self.w.operator("Linear", [p + "mixed", wo], [p + "attended"])

    def feed_forward(self, p: str, gate_up: list[str], down: str) -> None:
        """``<p>down`` of ``<p>ffn_in``: SwiGLU by the tensors named."""
        inside, width = self.state[gate_up[0]].shape
        self.weight(p + "gate_up.weight", (2 * inside, width), self.dtype, lambda: [self.state[n] for n in gate_up])
        self.w.operator("Linear", [p + "ffn_in", p + "gate_up.weight"], [p + "gate_up"])
        self.w.operator("SwiGLU", [p + "gate_up"], [p + "activation"])
        self.w.operator("Linear", [p + "activation", self.matrix(down)], [p + "down"])

    def wanted(self, x: str, out: str) -> None:
        """The rows that ``logit_rows`` names of ``x`` [B,S,D], as ``out`` [B,R,D]."""
        if not self.w.reads(names.LOGIT_ROWS):
            self.w.node("Unsqueeze", [names.LOGIT_ROWS, "last_axis"], ["logit_row_index"])
        self.w.node("GatherND", [x, "logit_row_index"], [out], batch_dims=1)

    def dense(self, x: str, name: str, out: str) -> str:
        """x @ weight.T + bias as ``out``, of the tensors ``<name>.weight`` and ``<name>.bias``.

        The bias is a node of its own: a graph has one body of Linear, and that is the one without.
        """
        self.w.operator("Linear", [x, self.matrix(f"{name}.weight")], [out + ".product"])
        self.w.node("Add", [out + ".product", self.vector(f"{name}.bias")], [out])
        return out

    def matrix(self, name: str) -> str:
        """The tensor ``name``, stored as ``dtype``."""
        self.weight(name, self.state[name].shape, self.dtype, lambda: [self.state[name]])
        return name

    def vector(self, name: str) -> str:
        """The tensor ``name``, float32."""
        self.weight(name, self.state[name].shape, "float32", lambda: [self.state[name]])
        return name

    def weight(self, name: str, shape: tuple[int, ...], dtype: str, parts: Callable[[], Iterable[np.ndarray]]) -> None:
        """The weight ``name``, once: the lender's where it has one of that name, else of ``parts()``."""
        if name in self.w.constants:
            return
        if self.lender is not None and name in self.lender.constants:
            self.w.borrow(self.lender, name)
        else:
            self.w.weight(name, shape, dtype, parts())
