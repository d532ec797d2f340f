"""Centring: outputs of ReLU and ReLU6 use all codes of symmetric int8, at no cost.

A value from 0 to 6 uses half of the codes -127 to 127, and TensorRT takes no zero points. But min(max(y, 0), 6) - 3 is
min(max(y - 3, -3), 3): the bias of the layer before takes the -3, the bounds of the clip move, and the layers behind take
3 times the sum of their weights into their biases. The network computes the same in float, and the step of the codes is half as wide. (The zero
point of Jacob et al., arXiv 1712.05877, eq. 7, with its cross terms paid for at export.) It needs layers behind without padding, whose zeros would be values of another size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .bias import has_bias, shift_bias
from .layers import Layer, attributes_of, read_weight
from .observe import Observed

PASSING = ("GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Identity")
"""Of these every output is a mean of inputs, or one of them."""


def center(
    model: onnx.ModelProto, folder: Path, layers: Sequence[Layer], observed: Mapping[str, Observed]
) -> list[str]:
    """Change ``model`` in place, whose ``layers`` have inputs as ``observed``; the names of the activations that were moved, by half of their
    largest value. Indices of nodes stay as they are."""
    graph, moved = model.graph, []
    outputs = {o.name for o in graph.output}
    users: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            users.setdefault(name, []).append(index)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    by_index = {layer.index: layer for layer in layers}
    for name in dict.fromkeys(layer.input for layer in layers):
        bent = _source(graph, makers, users, outputs, name)
        bend = graph.node[makers[bent]] if bent in makers else None
        if bend is None or bend.op_type not in ("Relu", "Clip") or not observed[name].largest:
            continue
        before = makers.get(bend.input[0], -1)
        behind = [by_index[i] for i in users[name] if i in by_index and by_index[i].input == name]
        bounds = _bounds(model, bend)
        if (
            before not in by_index
            or by_index[before].kind == "MatMul"  # its bias is an Add behind it, so it is not what the ReLU reads
            or bend.input[0] in outputs
            or len(users[bend.input[0]]) != 1
            or bounds is None
            or len(behind) != len(users[name])
            or {bent, name} & outputs
            or not has_bias(model, by_index[before])
            or not all(has_bias(model, layer) and not _padded(model, layer) for layer in behind)
        ):
            continue
        middle = np.float32(observed[name].largest / 2)
        first = by_index[before]
        count = next(t.dims[first.axis] for t in graph.initializer if t.name == first.weight)
        shift_bias(model, folder, first, np.full(count, -middle, np.float32))
        _move(graph, bend, bounds, float(middle))
        for layer in behind:
            weight = read_weight(model, folder, layer.weight).astype(np.float64)
            total = weight.sum(axis=tuple(a for a in range(weight.ndim) if a != layer.axis))
            shift_bias(model, folder, layer, (middle * total).astype(np.float32))
        moved.append(name)
    return moved


def _source(
    graph: onnx.GraphProto, makers: Mapping[str, int], users: Mapping[str, list[int]], outputs: set[str], name: str
) -> str:
    """Where the activation ``name`` comes from, behind nodes that a shift of all values passes through."""
    while name in makers and graph.node[makers[name]].op_type in PASSING:
        before = graph.node[makers[name]].input[0]
        if before in outputs or len(users[before]) != 1:
            break
        name = before
    return name


def _bounds(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[float, float | None] | None:
    """(lowest, highest) of a ReLU, or of a Clip from 0 up to a constant; None for any other."""
    if node.op_type == "Relu":
        return 0.0, None
    found: list[float | None] = []
    for name in [*node.input[1:], "", ""][:2]:
        tensor = next((t for t in model.graph.initializer if t.name == name), None)
        for other in model.graph.node:
            if tensor is None and name and name in other.output and other.op_type == "Constant":
                tensor = attributes_of(other).get("value")
        if name and (tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) != 1):
            return None
        found.append(float(numpy_helper.to_array(tensor).reshape(-1)[0]) if name else None)
    return (0.0, found[1]) if found[0] == 0 and "max" not in attributes_of(node) else None


def _move(graph: onnx.GraphProto, node: onnx.NodeProto, bounds: tuple[float, float | None], middle: float) -> None:
    """Make ``node`` a Clip whose bounds are lower by ``middle``."""
    x, y = node.input[0], node.output[0]
    inputs = [x]
    for word, bound in zip(("low", "high"), bounds, strict=True):
        if bound is not None:
            inputs.append(f"{y}.{word}")
            graph.initializer.append(numpy_helper.from_array(np.float32(bound - middle), inputs[-1]))
    node.CopyFrom(helper.make_node("Clip", inputs, [y], name=node.name))


def _padded(model: onnx.ModelProto, layer: Layer) -> bool:
    if layer.kind != "Conv":
        return False
    attributes = attributes_of(model.graph.node[layer.index])
    return any(attributes.get("pads", [0])) or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
