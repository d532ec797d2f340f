"""Factors of AWQ folded into a decoder: exact in float, and without a node more.

The inputs of a matrix are divided by factors where they are made:

- of the joint query, key and value, and of gate and up: in the gain of the norm before them;
- of down: in the rows of up, since SwiGLU is linear in up;
- of the attention's output matrix: in the rows of values. The heads that share a key/value head share its factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...export.graph import Progress, no_progress
from ...plugins import DOMAIN
from .awq import awq_factors
from .blocks import round_blocks
from .moments import InputMoments
from .options import BITS, Options
from .tensors import SourceTensors

_NORMS = {"RMSNormalization": 1, "AddRMSNorm": 2}
"""Operators whose first output is a norm, with the place of its gain among the inputs."""


@dataclass
class Factors:
    """By name of the tensor: ``columns`` [K] that a matrix is multiplied by, ``rows`` [N] that a matrix or bias is divided by, ``gains`` [K]
    that a norm's gain is divided by."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    gains: dict[str, np.ndarray] = field(default_factory=dict)

    def apply(self, name: str, array: np.ndarray) -> np.ndarray:
        """The tensor ``name`` as it is with the factors, in its own dtype."""
        columns, rows, gains = self.columns.get(name), self.rows.get(name), self.gains.get(name)
        if columns is None and rows is None and gains is None:
            return array
        wide = array.astype(np.float32)
        if columns is not None:
            wide *= columns
        if rows is not None:
            wide /= rows[:, None] if wide.ndim == 2 else rows
        if gains is not None:
            wide /= gains
        return wide.astype(array.dtype)


class ScaledTensors(SourceTensors):
    """The initializers of a graph with the factors in."""

    def __init__(self, path: Path, model: onnx.ModelProto, factors: Factors) -> None:
        super().__init__(path, model)
        self._factors = factors

    def array(self, name: str) -> np.ndarray:
        """The tensor, read-only; see `SourceTensors.array`."""
        return self._factors.apply(name, super().array(name))


def find_factors(
    path: Path,
    manifest: Mapping[str, Any],
    options: Options,
    moments: InputMoments,
    *,
    progress: Progress = no_progress,
) -> Factors:
    """Search factors for all matrices of the decoder graph in file ``path`` whose inputs can take them."""
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    source = SourceTensors(path, model)
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}
    bits = BITS[options.weights]
    symmetric = options.is_symmetric(bits)
    found = Factors()

    def single(name: str) -> bool:
        return name not in outputs and len(readers.get(name, [])) == 1

    def owned(name: str) -> bool:
        """A tensor that one node alone reads."""
        return name in source and single(name)

    linears = [n for n in graph.node if n.domain == DOMAIN and n.op_type == "Linear" and owned(n.input[1])]
    for done, node in enumerate(linears):
        progress("scaling", done + 1, len(linears))
        x, weight = node.input[0], node.input[1]
        maker = makers.get(x)
        if maker is None or not single(x):
            continue
        target = _target(maker, makers, owned, single, manifest)
        if target is None:
            continue
        names, place, groups, whole = target
        factors = awq_factors(
            [source.array(weight)],
            moments.of(x),
            lambda matrix, _: round_blocks(matrix, bits, options.block, symmetric=symmetric).dense(),
            groups,
        )
        if factors is None:
            continue
        found.columns[weight] = factors
        if whole == 0:
            found.gains[names[0]] = factors
            continue
        rows = np.ones(whole, np.float32)
        if groups is None:
            rows[place:] = factors
        else:
            rows[place + groups] = factors
        for name in names:
            found.rows[name] = rows
    return found


def _target(
    maker: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    owned: Any,
    single: Any,
    manifest: Mapping[str, Any],
) -> tuple[list[str], int, np.ndarray | None, int] | None:
    """Where the inputs that ``maker`` makes can be divided: (tensors, their first row, number of the row of each input or None for one each,
    rows in all; 0 for a gain), or None."""
    if maker.op_type in _NORMS:
        gain = maker.input[_NORMS[maker.op_type]]
        return ([gain], 0, None, 0) if owned(gain) else None
    value = maker.input[0]
    before = makers.get(value)
    if before is None or not single(value):
        return None
    names = []
    if before.op_type == "Add":  # of a bias
        names, value = [before.input[1]], before.input[0]
        before = makers.get(value)
        if before is None or not single(value):
            return None
    if before.op_type != "Linear":
        return None
    names = [*before.input[1:], *names]
    if not all(owned(name) for name in names):
        return None
    model, kv = manifest["model"], manifest["kv"]
    if maker.op_type == "SwiGLU":
        width = model.get("intermediate_size")
        return None if width is None else (names, width, None, 2 * width)
    if maker.op_type == "CachedAttention":
        heads, shared, size = model["heads"], kv["kv_heads"], kv["head_dim"]
        place = np.arange(heads * size)
        groups = place // size // (heads // shared) * size + place % size
        return names, (heads + shared) * size, groups, (heads + 2 * shared) * size
    return None
