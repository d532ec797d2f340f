"""Factors of AWQ folded into a network: exact in float, and without a node more.

Inputs of matrices can be divided by factors for nothing where they come out of a normalisation's gain and bias, and feed those matrices alone:
then gain and bias are divided instead. So it is in networks that normalise before each block (ViT), and not in BERT, whose normalised
states also go around the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ..quantize.awq import awq_factors
from ..quantize.blocks import round_blocks
from .layers import Weight
from .moments import NetworkMoments
from .options import WeightOptions


@dataclass(frozen=True)
class Fold:
    """Matrices ``weights`` whose inputs are made of ``vectors`` [K] (initializers used for nothing else): dividing those divides these."""

    weights: tuple[Weight, ...]
    vectors: tuple[str, ...]


def find_folds(model: onnx.ModelProto, weights: Sequence[Weight]) -> list[Fold]:
    """All places where factors can be folded in, in the order of the graph."""
    graph = model.graph
    arrays = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    outputs = {o.name for o in graph.output}
    by_input: dict[str, list[Weight]] = {}
    for weight in weights:
        if not weight.is_convolution:
            for name in {use.input for use in weight.uses}:
                by_input.setdefault(name, []).append(weight)

    def vector(name: str, width: int) -> bool:
        return name in arrays and list(arrays[name].dims) == [width] and len(readers[name]) == 1

    def alone(name: str) -> bool:
        return name not in outputs and len(readers.get(name, [])) == 1

    def made_of(name: str, width: int) -> tuple[str, ...] | None:
        """The gain, and the bias where there is one, that end the computation of ``name``."""
        node = makers.get(name)
        if node is None:
            return None
        if node.op_type == "LayerNormalization" and all(vector(n, width) for n in node.input[1:]):
            return tuple(node.input[1:])
        for place in (0, 1):
            if node.op_type in ("Add", "Mul") and vector(node.input[place], width):
                if node.op_type == "Mul":
                    return (node.input[place],)
                inner = node.input[1 - place]
                gain = made_of(inner, width) if alone(inner) else None
                return None if gain is None else (*gain, node.input[place])
        return None

    folds = []
    for name, users in by_input.items():
        if any({use.input for use in w.uses} != {name} for w in users) or name in outputs:
            continue
        if sorted(readers[name]) != sorted(use.index for w in users for use in w.uses):
            continue
        vectors = made_of(name, users[0].inputs)
        if vectors:
            folds.append(Fold(tuple(users), vectors))
    return folds


def fold_factors(
    model: onnx.ModelProto, folder: Path, weights: Sequence[Weight], moments: NetworkMoments, options: WeightOptions
) -> dict[str, np.ndarray]:
    """Change ``model`` in place so that each foldable weight has its columns multiplied by AWQ's factors, and what makes its inputs divided
    by them; returns the factors by name of the weight. In float the network computes what it did."""
    found: dict[str, np.ndarray] = {}
    changed: dict[str, np.ndarray] = {}
    bits = 4 if options.weights == "int4" else 8
    symmetric = options.is_symmetric(bits)
    held = {t.name: t for t in model.graph.initializer}
    for fold in find_folds(model, weights):
        factors = awq_factors(
            [w.matrix(model, folder) for w in fold.weights],
            moments.of(fold.weights[0]),
            lambda matrix, _: round_blocks(
                matrix, bits, options.block_of(matrix.shape[1]) or options.block, symmetric=symmetric
            ).dense(),
        )
        if factors is None:
            continue
        for weight in fold.weights:
            changed[weight.name] = weight.stored(weight.matrix(model, folder) * factors)
            found[weight.name] = factors
        for name in fold.vectors:
            changed[name] = np.asarray(numpy_helper.to_array(held[name], str(folder))) / factors
    for name, array in changed.items():
        held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
    return found
