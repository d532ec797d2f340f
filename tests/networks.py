"""Small ONNX files of networks that are run once per input, as others write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCAB = 50


def values(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers, scaled by the inputs of a product."""
    scale = 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def write_encoder(path: Path, *, outlier: float = 1.0) -> Path:
    """input_ids, attention_mask [B,S] -> sentence_embedding [B,64]: table, two layers of MatMul, masked mean.

    ``outlier`` multiplies one channel of the table: what SmoothQuant is for.
    """
    table = values(0, VOCAB, 64) * 8
    table[:, 5] *= outlier
    first = values(1, 64, 128)
    first[5] /= outlier
    weights = {"table": table, "first": first, "bias": values(2, 128), "second": values(3, 128, 64)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "first"], ["y"]),
        helper.make_node("Add", ["y", "bias"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["s"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["mask"]),
        helper.make_node("Mul", ["s", "mask"], ["shown"]),
        helper.make_node("ReduceMean", ["shown", "rows"], ["sentence_embedding"], keepdims=0),
    ]
    held = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    held += [numpy_helper.from_array(np.array([v], np.int64), n) for n, v in (("last", -1), ("rows", 1))]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"])
            for n in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 64])],
        held,
    )
    return _save(graph, path)


def write_vision(path: Path) -> Path:
    """image [N,3,32,32] -> scores [N,10]: two convolutions, one depthwise, and a Gemm."""
    weights = {
        "w1": values(0, 16, 3, 3, 3) * 3,
        "b1": values(1, 16),
        "w2": values(2, 16, 1, 3, 3) * 3,
        "w3": values(3, 10, 16) * 4,
        "b3": values(4, 10),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=16),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return _save(graph, path)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
