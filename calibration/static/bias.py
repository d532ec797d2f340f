"""Where a layer's bias is, and how it is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from .layers import Layer, attributes_of, read_weight


def has_bias(model: onnx.ModelProto, layer: Layer) -> bool:
    """Whether the layer's outputs can be shifted for nothing: by an input that the node has or may have, or by the constant that is added
    to a matrix product."""
    node = model.graph.node[layer.index]
    if layer.kind == "MatMul":
        return _added(model, layer) is not None
    constants = {t.name for t in model.graph.initializer}
    given = len(node.input) > 2 and node.input[2] != ""
    # Of a Gemm, C is also scaled and may be of any shape: only the plain one is changed.
    attributes = attributes_of(node)
    plain = layer.kind == "Conv" or (attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0)
    return plain and (not given or node.input[2] in constants)


def shift_bias(model: onnx.ModelProto, folder: Path, layer: Layer, shift: np.ndarray) -> None:
    """Add ``shift`` [outputs] to the bias, in a constant of the layer's own. Does nothing where `has_bias` says no."""
    if not has_bias(model, layer):
        return
    node, at = model.graph.node[layer.index], 2
    if layer.kind == "MatMul":
        found = _added(model, layer)
        assert found is not None
        node, at = found
    name = f"{layer.weight}.bias.{layer.index}"
    old = read_weight(model, folder, node.input[at]) if len(node.input) > at and node.input[at] else np.float32(0)
    if len(node.input) > at and node.input[at] == name:  # shifted before
        held = next(t for t in model.graph.initializer if t.name == name)
        held.CopyFrom(numpy_helper.from_array(np.asarray(old + shift, np.float32), name))
        return
    if len(node.input) <= at:
        node.input.append(name)
    node.input[at] = name
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(old + shift, np.float32), name))


def _added(model: onnx.ModelProto, layer: Layer) -> tuple[onnx.NodeProto, int] | None:
    """The Add of a constant vector behind a matrix product that nobody else reads, and which input the constant is."""
    if any(o.name == layer.output for o in model.graph.output):
        return None
    users = [node for node in model.graph.node if layer.output in node.input]
    if len(users) != 1 or users[0].op_type != "Add" or users[0].domain not in ("", "ai.onnx"):
        return None
    at = 1 - list(users[0].input).index(layer.output)
    for tensor in model.graph.initializer:
        if tensor.name == users[0].input[at]:
            shape = list(tensor.dims)
            plain = tensor.data_type == onnx.TensorProto.FLOAT and shape and int(np.prod(shape)) == shape[-1]
            return (users[0], at) if plain else None
    return None
