"""Q/DQ nodes into a graph: activations int8 with one scale, weights int8 with one scale per output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .layers import Layer, read_weight, round_weight
from .observe import Observed
from .ranges import BINS, limit

ALPHA = 0.5
"""Of SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 4): how much of a channel's width moves to the weights."""

GAIN = 0.8
"""Smoothing costs a product per value, so it must bring a layer's squared error to this share at least."""


SHARES = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the largest value, as candidates for what the largest code stands for."""


@dataclass(frozen=True)
class Plan:
    """What is done to each activation: ``scales`` of codes, ``smooth`` [K] what its channels are divided by first."""

    scales: dict[str, float]
    smooth: dict[str, np.ndarray]


def plan(
    model: onnx.ModelProto,
    folder: Path,
    layers: Sequence[Layer],
    observed: Mapping[str, Observed],
    ranges: str,
    smooth: bool,
) -> Plan:
    """Choose scales, and where smoothing brings enough, its factors. Activations that are always 0 are left out."""
    scales, factors = {}, {}
    for name in dict.fromkeys(layer.input for layer in layers):
        seen = observed[name]
        if seen.largest == 0:
            continue
        users = [layer for layer in layers if layer.input == name]
        if seen.channels is None or seen.rows is None or any(u.channel is None for u in users):
            scales[name] = limit(seen.histogram, seen.largest, ranges) / 127
            continue
        weights = [np.moveaxis(read_weight(model, folder, u.weight), u.axis, 1) for u in users]  # [K, outputs]
        scales[name], plain = _scale(seen.rows, weights, seen.largest, seen.histogram, ranges)
        if not smooth:
            continue
        widest = np.max([np.abs(w).max(1) for w in weights], axis=0)
        factor = np.sqrt(np.maximum(seen.channels, 1e-5) / np.maximum(widest, 1e-5)).astype(np.float32)
        factor /= np.exp(np.log(factor).mean())  # the overall size is no matter of channels
        rows, largest = seen.rows / factor, float((seen.channels / factor).max())
        histogram = np.histogram(np.abs(rows[rows != 0]), BINS, (0, largest))[0]
        scale, moved = _scale(rows, [w * factor[:, None] for w in weights], largest, histogram, ranges)
        if moved < GAIN * plain:
            factors[name], scales[name] = factor, scale
    return Plan(scales, factors)


def _scale(
    rows: np.ndarray, weights: Sequence[np.ndarray], largest: float, histogram: np.ndarray, ranges: str
) -> tuple[float, float]:
    """(step of the codes, squared error of the products of ``rows`` [n,K] and ``weights`` [K,outputs] with both rounded).

    ``mse`` takes the step with the smallest such error: an error of the activation itself counts outliers for little that mean much.
    """
    rounded = [(codes * steps, rows @ w) for w in weights for codes, steps in [round_weight(w, 1)]]

    def error(scale: float) -> float:
        said = np.clip(np.rint(rows / scale), -127, 127) * scale
        return float(sum(((said @ w - wanted) ** 2).sum() for w, wanted in rounded))

    steps = [largest * s / 127 for s in SHARES] if ranges == "mse" else [limit(histogram, largest, ranges) / 127]
    return min(((step, error(step)) for step in steps), key=lambda pair: pair[1])


def rewrite(model: onnx.ModelProto, folder: Path, layers: Collection[Layer], chosen: Plan) -> None:
    """Change ``model`` in place. A weight that other nodes use as well keeps its float values for them."""
    graph = model.graph
    fresh: list[tuple[int, onnx.NodeProto]] = []
    activations: dict[str, str] = {}
    weights: dict[tuple[str, str, int], str] = {}
    for layer in sorted(layers, key=lambda one: one.index):
        node, x = graph.node[layer.index], layer.input
        if x not in activations:
            activations[x] = _activation(graph, fresh, layer.index, x, chosen)
        # The same weight may be used behind activations that are smoothed differently.
        key = layer.weight, x if x in chosen.smooth else "", layer.axis
        if key not in weights:
            values = read_weight(model, folder, layer.weight)
            if x in chosen.smooth:
                shape = [-1 if a == layer.channel else 1 for a in range(values.ndim)]
                values = values * chosen.smooth[x].reshape(shape)
            name = f"{layer.weight}.int8" + (f".{len(weights)}" if any(k[0] == layer.weight for k in weights) else "")
            codes, scale = round_weight(values, layer.axis)
            for part, array in (("codes", codes), ("scale", scale), ("zero", np.zeros(scale.shape, np.int8))):
                graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
            dequantize = helper.make_node(
                "DequantizeLinear",
                [f"{name}.codes", f"{name}.scale", f"{name}.zero"],
                [name],
                name=f"{name}/DequantizeLinear",
                axis=layer.axis,
            )
            fresh.append((layer.index, dequantize))
            weights[key] = name
        node.input[0], node.input[1] = activations[x], weights[key]
    nodes = list(graph.node)
    for at, node in reversed(fresh):
        nodes.insert(at, node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _activation(
    graph: onnx.GraphProto, fresh: list[tuple[int, onnx.NodeProto]], index: int, name: str, chosen: Plan
) -> str:
    """Q and DQ of the activation, before node ``index``; returns the name of the result."""
    x = name
    if name in chosen.smooth:
        graph.initializer.append(numpy_helper.from_array(1 / chosen.smooth[name], f"{name}.smooth"))
        fresh.append(
            (index, helper.make_node("Mul", [name, f"{name}.smooth"], [f"{name}.smoothed"], name=f"{name}/Mul"))
        )
        x = f"{name}.smoothed"
    graph.initializer.append(numpy_helper.from_array(np.float32(chosen.scales[name]), f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), f"{name}.zero"))
    for op, source, target in (
        ("QuantizeLinear", x, f"{name}.codes"),
        ("DequantizeLinear", f"{name}.codes", f"{name}.said"),
    ):
        fresh.append(
            (index, helper.make_node(op, [source, f"{name}.scale", f"{name}.zero"], [target], name=f"{name}/{op}"))
        )
    return f"{name}.said"
