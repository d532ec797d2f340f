"""Common-subexpression elimination: bodies repeat per layer what does not differ between layers (masks, indices)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

_NEVER = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def merge_equal(graph: onnx.GraphProto) -> int:
    """Drop nodes that compute what an earlier one computed, and Identities; returns how many went.

    Outputs of the graph keep their producers. Nodes with graphs inside are left alone.
    """
    outputs = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    seen: dict[bytes, list[str]] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        if inner:
            _rename(node, renamed)
        elif not outputs & set(node.output) and node.op_type not in _NEVER:
            if node.op_type == "Identity" and not node.domain:
                renamed[node.output[0]] = node.input[0]
                continue
            key = _key(node)
            if key in seen:
                renamed.update(zip(node.output, seen[key], strict=True))
                continue
            seen[key] = list(node.output)
        kept.append(node)
    gone = len(graph.node) - len(kept)
    copies = []
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    graph.ClearField("node")
    graph.node.extend(copies)
    return gone


def share_sizes(graph: onnx.GraphProto, types: Mapping[str, onnx.TypeProto.Tensor]) -> int:
    """Let every question for one size of a value go to a graph input with that symbol, or become a constant; returns how many.

    Bodies ask each layer's own tensors for rows and capacity. Without this no two layers could share a mask.
    """
    places: dict[str, tuple[str, int]] = {}
    for value in reversed(graph.input):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                places[dim.dim_param] = (value.name, axis)
    count = 0
    for node in graph.node:
        if node.op_type != "Shape" or node.domain or node.input[0] not in types:
            continue
        dims = types[node.input[0]].shape.dim
        found = {a.name: a.i for a in node.attribute}
        start, end = found.get("start", 0), found.get("end", len(dims))
        start, end = (i + len(dims) if i < 0 else i for i in (start, end))
        if end - start != 1 or start >= len(dims):
            continue
        dim = dims[start]
        if dim.HasField("dim_value"):
            new = helper.make_node("Constant", [], list(node.output), name=node.name)
            new.attribute.append(
                helper.make_attribute("value", helper.make_tensor("", TensorProto.INT64, [1], [dim.dim_value]))
            )
        elif dim.dim_param in places:
            name, axis = places[dim.dim_param]
            new = helper.make_node("Shape", [name], list(node.output), name=node.name, start=axis, end=axis + 1)
        else:
            continue
        node.CopyFrom(new)
        count += 1
    return count


def _key(node: onnx.NodeProto) -> bytes:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    copy.ClearField("doc_string")
    copy.ClearField("output")
    attributes = sorted(copy.attribute, key=lambda a: a.name)
    copy.ClearField("attribute")
    copy.attribute.extend(attributes)
    return len(node.output).to_bytes(4, "little") + copy.SerializeToString(deterministic=True)


def _rename(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    """Values of the outer graph that the graphs inside ``node`` read."""
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            for child in inner.node:
                for i, name in enumerate(child.input):
                    child.input[i] = renamed.get(name, name)
                _rename(child, renamed)
            for output in inner.output:
                output.name = renamed.get(output.name, output.name)
