"""The weights of a network that can be stored in blocks of small integers, and those that cannot, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ..static.layers import Layer, find_layers, read_weight


@dataclass(frozen=True)
class Weight:
    """An initializer ``name`` that is a matrix of ``outputs`` rows and ``inputs`` columns in every node of ``uses``, and used by nothing
    else. ``turned``: it is stored as [inputs, outputs]."""

    name: str
    outputs: int
    inputs: int
    turned: bool
    uses: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Values."""
        return self.outputs * self.inputs

    @property
    def is_convolution(self) -> bool:
        """Whether a convolution uses it: then its shape has two more dimensions of 1."""
        return any(layer.kind == "Conv" for layer in self.uses)

    def matrix(self, model: onnx.ModelProto, folder: Path) -> np.ndarray:
        """Its values as float32 [outputs, inputs]."""
        array = read_weight(model, folder, self.name)
        return array.T if self.turned else array.reshape(self.outputs, self.inputs)

    def stored(self, matrix: np.ndarray) -> np.ndarray:
        """``matrix`` [outputs, inputs] in the layout of the initializer."""
        if self.turned:
            return np.ascontiguousarray(matrix.T)
        shape = (self.outputs, self.inputs, 1, 1) if self.is_convolution else (self.outputs, self.inputs)
        return np.ascontiguousarray(matrix).reshape(shape)


def find_weights(model: onnx.ModelProto) -> tuple[list[Weight], dict[str, str]]:
    """(what can be stored in blocks, in the order of the graph; why each other weight of a layer stays as it is).

    Matrices of MatMul and Gemm, and of convolutions of 1 x 1 without groups. Other convolutions are no products of a matrix with
    neighbouring inputs, and depthwise ones have fewer values than a block for each output.
    """
    by_name: dict[str, list[Layer]] = {}
    for layer in find_layers(model):
        by_name.setdefault(layer.weight, []).append(layer)
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    readers = count_readers(model)
    weights, left = [], {}
    for name, uses in by_name.items():
        reason = _reason(model, shapes[name], uses, readers[name])
        if reason is not None:
            left[name] = reason
            continue
        first, shape = uses[0], shapes[name]
        turned = first.kind != "Conv" and first.axis == 1
        outputs, inputs = (shape[1], shape[0]) if turned else (shape[0], shape[1])
        weights.append(Weight(name, outputs, inputs, turned, tuple(uses)))
    return weights, left


def _reason(model: onnx.ModelProto, shape: list[int], uses: list[Layer], readers: int) -> str | None:
    if readers != len(uses):
        return "used by other nodes, too"
    if len({(u.kind == "Conv", u.axis) for u in uses}) > 1:
        return "used in both directions"
    for use in uses:
        if use.kind == "Conv":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[use.index].attribute}
            if attributes.get("group", 1) != 1:
                return "grouped convolution" if shape[1] > 1 else "depthwise convolution"
            if len(shape) != 4 or shape[2:] != [1, 1]:
                return f"convolution of {' x '.join(map(str, shape[2:]))}"
            if any(attributes.get("pads", ())):
                return "padded convolution"
    return None


def count_readers(model: onnx.ModelProto) -> dict[str, int]:
    """How often each name is read, by nodes, subgraphs or as an output."""
    counts: dict[str, int] = {}
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        for output in graph.output:
            counts[output.name] = counts.get(output.name, 0) + 1
        for node in graph.node:
            for name in node.input:
                counts[name] = counts.get(name, 0) + 1
            waiting += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
            waiting += [g for a in node.attribute for g in a.graphs]
    return counts
