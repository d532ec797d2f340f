"""DequantizeLinear nodes into a graph: weights in blocks, tables of vectors in int8 with one scale a row; activations stay float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..quantize.blocks import Blocks, pack_nibbles, round_blocks
from .layers import Weight

_CODES = {
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
}


def rewrite(model: onnx.ModelProto, weights: Sequence[Weight], rounded: Mapping[str, tuple[int, Blocks]]) -> None:
    """Change ``model`` in place: every weight of ``rounded`` (name -> bits, blocks) becomes codes, scales and perhaps zero points.

    Of a matrix they are [inputs, outputs], with blocks along axis 0, as ONNX Runtime fuses them into MatMulNBits and TensorRT reads them;
    a Gemm becomes MatMul and Add where nothing speaks against it. Of a convolution they are [outputs, inputs], and reshaped.
    """
    graph = model.graph
    fresh: dict[int, list[onnx.NodeProto]] = {}
    behind: dict[int, onnx.NodeProto] = {}
    for weight in weights:
        if weight.name not in rounded:
            continue
        bits, blocks = rounded[weight.name]
        convolution = weight.is_convolution
        parts = _tensors(graph, weight.name, bits, blocks, turned=not convolution)
        for number, use in enumerate(weight.uses):
            node = graph.node[use.index]
            # A node of its own for each use: ONNX Runtime fuses a DequantizeLinear only with its one reader.
            wide = f"{weight.name}.wide" + (f".{number}" if number else "")
            made = [_node("DequantizeLinear", parts, wide, axis=int(convolution), block_size=blocks.block)]
            if convolution:
                shape = f"{weight.name}.shape"
                if not number:
                    graph.initializer.append(
                        numpy_helper.from_array(np.array([weight.outputs, weight.inputs, 1, 1], np.int64), shape)
                    )
                made.append(_node("Reshape", [wide, shape], f"{wide}.filter"))
            fresh[use.index] = made
            node.input[1] = made[-1].output[0]
            if use.kind == "Gemm":
                add = _as_product(node)
                if add is not None:
                    behind[use.index] = add
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        nodes += [*fresh.get(index, []), node, *([behind[index]] if index in behind else [])]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop(graph, set(rounded))


def _tensors(graph: onnx.GraphProto, name: str, bits: int, blocks: Blocks, *, turned: bool) -> list[str]:
    """Add the initializers of a rounded weight; returns their names."""

    def add(part: str, kind: int, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array.T if turned else array)
        raw = pack_nibbles(array) if kind in (TensorProto.INT4, TensorProto.UINT4) else array
        graph.initializer.append(
            TensorProto(name=f"{name}.{part}", data_type=kind, dims=array.shape, raw_data=raw.tobytes())
        )
        return f"{name}.{part}"

    kind = _CODES[bits, blocks.zeros is None]
    parts = [add("codes", kind, blocks.codes), add("scales", TensorProto.FLOAT, blocks.scales)]
    return parts if blocks.zeros is None else [*parts, add("zeros", kind, blocks.zeros)]


def _as_product(node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Make a Gemm a MatMul; returns the Add that belongs behind it, if any. One that scales its operands stays a Gemm."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    bias = node.input[2] if len(node.input) > 2 else ""
    plain = attributes.get("alpha", 1.0) == 1.0 and (not bias or attributes.get("beta", 1.0) == 1.0)
    kept = [a for a in node.attribute if a.name not in ("transB", "transA")]
    del node.attribute[:]
    if not plain:
        node.attribute.extend(kept)
        return None
    y = node.output[0]
    node.op_type = "MatMul"
    del node.input[2:]
    if not bias:
        return None
    node.output[0] = f"{y}.product"
    return _node("Add", [node.output[0], bias], y)


def find_tables(model: onnx.ModelProto, *, least: int = 1 << 16) -> list[tuple[str, list[int]]]:
    """(name, indices of the Gather nodes) of float32 matrices of ``least`` values and more that are only looked up by row."""
    graph = model.graph
    shapes = {t.name: list(t.dims) for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    found: dict[str, list[int]] = {}
    other = {o.name for o in graph.output}
    for index, node in enumerate(graph.node):
        for place, name in enumerate(node.input):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if node.op_type == "Gather" and place == 0 and axis == 0 and len(shapes.get(name, [])) == 2:
                found.setdefault(name, []).append(index)
            else:
                other.add(name)
        other |= {n for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for x in a.g.node for n in x.input}
    return [(n, at) for n, at in found.items() if n not in other and np.prod(shapes[n]) >= least]


def rewrite_tables(model: onnx.ModelProto, tables: Mapping[str, np.ndarray]) -> None:
    """Change ``model`` in place: tables (name -> float32 [rows, width]) become int8 with a scale a row, looked up beside the codes."""
    graph = model.graph
    where = dict(find_tables(model, least=0))
    nodes: dict[int, list[onnx.NodeProto]] = {}
    for name, table in tables.items():
        blocks = round_blocks(table, 8, table.shape[1])
        for part, array in (("codes", blocks.codes), ("scales", blocks.scales)):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}.{part}"))
        for index in where[name]:
            ids, out = graph.node[index].input[1], graph.node[index].output[0]
            # Gathered before it is widened: the table is never dequantised as a whole.
            nodes[index] = [
                _node("Gather", [f"{name}.codes", ids], f"{out}.codes", axis=0),
                _node("Gather", [f"{name}.scales", ids], f"{out}.scale", axis=0),
                _node("Cast", [f"{out}.codes"], f"{out}.wide", to=TensorProto.FLOAT),
                _node("Mul", [f"{out}.wide", f"{out}.scale"], out),
            ]
    made = [one for index, node in enumerate(graph.node) for one in nodes.get(index, [node])]
    del graph.node[:]
    graph.node.extend(made)
    _drop(graph, set(tables))


def _node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes)


def _drop(graph: onnx.GraphProto, names: set[str]) -> None:
    """Initializers of ``names``, and their entries among the inputs where an old graph lists them there."""
    kept = [t for t in graph.initializer if t.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = [i for i in graph.input if i.name not in names]
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
