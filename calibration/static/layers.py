"""The layers of a graph that can run in int8: products with constant weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


@dataclass(frozen=True)
class Layer:
    """Node ``index`` with the activation ``input`` and constant ``weight``; ``axis`` of the weight counts outputs, ``channel`` (of a matrix,
    else None) its inputs."""

    index: int
    kind: str
    input: str
    weight: str
    output: str
    axis: int
    channel: int | None
    size: int


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Conv, MatMul and Gemm nodes of the graph with float32 weights, in its order."""
    shapes = {t.name: list(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    layers = []
    for index, node in enumerate(model.graph.node):
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            continue
        x, weight = node.input[0], node.input[1]
        attributes = attributes_of(node)
        shape = shapes.get(weight, [])
        if x in shapes or len(shape) < 2 or (node.op_type != "Conv" and len(shape) != 2) or attributes.get("transA"):
            continue
        axis = 0 if node.op_type == "Conv" or attributes.get("transB") else 1
        channel = None if node.op_type == "Conv" else 1 - axis
        layers.append(Layer(index, node.op_type, x, weight, node.output[0], axis, channel, int(np.prod(shape))))
    return layers


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def read_weight(model: onnx.ModelProto, folder: Path, name: str) -> np.ndarray:
    """The initializer ``name``, float32."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor, str(folder)))


def round_weight(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes int8, scale float32 [shape[axis]]), symmetric; a channel of zeros has scale 1."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    wide = scale.reshape([-1 if a == axis else 1 for a in range(weight.ndim)])
    return np.clip(np.rint(weight / wide), -127, 127).astype(np.int8), scale
