"""The graph of a BERT encoder in standard operators: post-norm layers, one product for q, k and v."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...models.bert import BertConfig
from ...runtime.network_tensors import ATTENTION_MASK, SENTENCE_EMBEDDING, TOKEN_STATES
from ...runtime.tensors import INPUT_IDS
from .dense import DenseLayers
from .writer import GraphWriter, TensorInfo

TYPE_IDS = "token_type_ids"
"""int64 [B,S]: which of two texts a token is of; 0 for one text."""


def write_encoder(graph: GraphWriter, c: BertConfig, read: Callable[[str], np.ndarray]) -> None:
    """input_ids, attention_mask, token_type_ids [B,S] -> token_states [B,S,D] and, if ``c.pooled``, sentence_embedding [B,D].

    ``read`` gives the tensors of `farthing.models.bert.expected_tensors`. Matrices are stored [inputs, outputs], as MatMul takes them.
    """
    d = c.hidden_size
    graph.inputs = [TensorInfo(n, "int64", ("B", "S")) for n in (INPUT_IDS, ATTENTION_MASK, TYPE_IDS)]
    graph.outputs = [TensorInfo(TOKEN_STATES, "float32", ("B", "S", d))]
    if c.pooled:
        graph.outputs.append(TensorInfo(SENTENCE_EMBEDDING, "float32", ("B", d)))

    layers = DenseLayers(graph, read, c.epsilon)
    weight, dense, norm = layers.weight, layers.dense, layers.norm

    for name, values in (("axis.last", [-1]), ("axis.heads", [1, 2]), ("axis.rows", [1]), ("zero", [0])):
        graph.constant(name, np.array(values, np.int64))
    graph.constant("split", np.array([d, d, d], np.int64))
    for part in ("word", "position", "token_type"):
        weight(f"embeddings.{part}", read(f"embeddings.{part}_embeddings.weight"))
    graph.node("Gather", ["embeddings.word", INPUT_IDS], ["words"], axis=0)
    graph.node("Gather", ["embeddings.token_type", TYPE_IDS], ["types"], axis=0)
    graph.node("Shape", [INPUT_IDS], ["length"], start=1, end=2)
    graph.node("Slice", ["embeddings.position", "zero", "length", "zero"], ["places"])
    graph.node("Add", ["words", "places"], ["words.placed"])
    graph.node("Add", ["words.placed", "types"], ["embedded"])
    x = norm("embedded", "embeddings.LayerNorm", "hidden")
    # One mask for all layers: [B,1,S,S], since not every runtime widens one row for all.
    graph.node("Cast", [ATTENTION_MASK], ["shown"], to=9)
    graph.node("Unsqueeze", ["shown", "axis.heads"], ["shown.row"])
    graph.node("Shape", [INPUT_IDS], ["batch"], start=0, end=1)
    graph.node("Concat", ["batch", "axis.rows", "length", "length"], ["mask.shape"], axis=0)
    graph.node("Expand", ["shown.row", "mask.shape"], ["mask"])
    for i in range(c.layers):
        p, name = f"layers.{i}", f"encoder.layer.{i}."
        qkv = dense(x, f"{p}.qkv", *(f"{name}attention.self.{n}" for n in ("query", "key", "value")))
        graph.node("Split", [qkv, "split"], [f"{p}.q", f"{p}.k", f"{p}.v"], axis=-1)
        graph.node(
            "Attention",
            [f"{p}.q", f"{p}.k", f"{p}.v", "mask"],
            [f"{p}.mixed"],
            q_num_heads=c.heads,
            kv_num_heads=c.heads,
        )
        out = dense(f"{p}.mixed", f"{p}.o", f"{name}attention.output.dense")
        graph.node("Add", [x, out], [f"{p}.o.sum"])
        x = norm(f"{p}.o.sum", f"{name}attention.output.LayerNorm", f"{p}.attended")
        up = dense(x, f"{p}.up", f"{name}intermediate.dense")
        graph.node("Gelu", [up], [f"{p}.gelu"])
        down = dense(f"{p}.gelu", f"{p}.down", f"{name}output.dense")
        graph.node("Add", [x, down], [f"{p}.down.sum"])
        x = norm(f"{p}.down.sum", f"{name}output.LayerNorm", f"hidden.{i}" if i < c.layers - 1 else TOKEN_STATES)
    if c.pooled:
        # The mean's divisor falls away when the length becomes 1; only the sum is needed.
        graph.node("Cast", [ATTENTION_MASK], ["shown.number"], to=1)
        graph.node("Unsqueeze", ["shown.number", "axis.last"], ["shown.column"])
        graph.node("Mul", [x, "shown.column"], ["states.shown"])
        graph.node("ReduceSum", ["states.shown", "axis.rows"], ["sum"], keepdims=0)
        graph.node("LpNormalization", ["sum"], [SENTENCE_EMBEDDING], axis=-1, p=2)
    graph.save()
