"""What TensorRT asks of quantised weights: a check before its parser does (whose message names no remedy), and one rewrite."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import BundleError, found_wanted

_FLOAT4_OPSET = 23
_UNSIGNED = (TensorProto.UINT4, TensorProto.UINT8)


def check_quantization(graph: onnx.GraphProto, opset: int) -> None:
    """``opset``: that of the lowered graph. Raises BundleError for a DequantizeLinear with zero points other than 0, or with a last block that is not whole."""
    tensors = {t.name: t for t in graph.initializer}
    tensors |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        codes = tensors.get(node.input[0])
        zero = tensors.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        unsigned = any(t is not None and t.data_type in _UNSIGNED for t in (codes, zero))
        # Int8 activations say their type by a zero point of 0, which TensorRT reads.
        shifted = len(node.input) > 2 and node.input[2] and (zero is None or numpy_helper.to_array(zero).any())
        if unsigned or shifted:
            raise BundleError(
                found_wanted(
                    f"zero point of DequantizeLinear node {node.name}",
                    "given",
                    "absent or 0: TensorRT takes signed codes only",
                    "farthing quantize --symmetric",
                )
            )
        if codes is not None and codes.data_type == TensorProto.FLOAT4E2M1 and opset < _FLOAT4_OPSET:
            raise BundleError(
                found_wanted(
                    f"weights of DequantizeLinear node {node.name}",
                    "4-bit floats",
                    "another format for a TensorRT before 10.15",
                    "compile for 10.15 or later; or quantize with --weights int4 --symmetric",
                )
            )
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        block, axis = found.get("block_size", 0), found.get("axis", 1)
        if codes is not None and block and codes.dims[axis] % block:
            raise BundleError(
                found_wanted(
                    f"block of DequantizeLinear node {node.name}",
                    f"{block} over {codes.dims[axis]} inputs",
                    "a divisor: TensorRT takes whole blocks only",
                    "farthing quantize with a smaller --block, e.g. 16",
                )
            )


def dequantize_before_gather(graph: onnx.GraphProto) -> int:
    """Turn Gather of an int8 table + Cast into DequantizeLinear (scale 1) + Gather; returns how many.

    TensorRT allows an int8 constant in front of DequantizeLinear only. The numbers are the same: the row's scale is still multiplied
    after the Gather. Whether the table stays int8 in the engine is for the builder to choose.
    """
    tables = {t.name for t in graph.initializer if t.data_type == TensorProto.INT8}
    gathers = {n.output[0]: n for n in graph.node if n.op_type == "Gather" and n.input[0] in tables}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in gathers and readers[node.input[0]] == 1:
            gather = gathers[node.input[0]]
            wide, one = f"{gather.input[0]}.wide", f"{gather.input[0]}.one"
            if one not in {t.name for t in graph.initializer}:
                graph.initializer.append(helper.make_tensor(one, TensorProto.FLOAT, [], [1.0]))
                nodes.append(
                    helper.make_node(
                        "DequantizeLinear", [gather.input[0], one], [wide], name=f"{wide}/DequantizeLinear"
                    )
                )
            nodes.append(
                helper.make_node("Gather", [wide, gather.input[1]], [node.output[0]], name=gather.name, axis=0)
            )
            count += 1
        elif node.output[0] in gathers and _cast_only(graph, node.output[0]):
            continue
        else:
            nodes.append(node)
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    graph.ClearField("node")
    graph.node.extend(copies)
    return count


def _cast_only(graph: onnx.GraphProto, value: str) -> bool:
    users = [n for n in graph.node if value in n.input]
    return len(users) == 1 and users[0].op_type == "Cast"
