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
from .ranges import limit

ALPHA = 0.5
"""Of SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 4): how much of a channel's width moves to the weights."""

GAIN = 0.8
"""Smoothing costs a product per value, so it must bring a layer's squared error to this share at least."""


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
        scales[name] = limit(seen.histogram, seen.largest, ranges) / 127
        users = [layer for layer in layers if layer.input == name]
        if not smooth or seen.channels is None or seen.rows is None or any(u.channel is None for u in users):
            continue
        weights = [np.moveaxis(read_weight(model, folder, u.weight), u.axis, 1) for u in users]  # [K, outputs]
        widest = np.max([np.abs(w).max(1) for w in weights], axis=0)
        factor = np.sqrt(np.maximum(seen.channels, 1e-5) / np.maximum(widest, 1e-5)).astype(np.float32)
        factor /= np.exp(np.log(factor).mean())  # the overall size is no matter of channels
        rows = seen.rows / factor
        scale = float(limit(_histogram(rows), float(np.abs(rows).max()), ranges)) / 127
        plain = sum(_error(seen.rows, w, w, scales[name]) for w in weights)
        moved = sum(_error(rows, w * factor[:, None], w, scale, seen.rows) for w in weights)
        if moved < GAIN * plain:
            factors[name], scales[name] = factor, scale
    return Plan(scales, factors)


def _histogram(rows: np.ndarray) -> np.ndarray:
    from .ranges import BINS

    absolute = np.abs(rows[rows != 0])
    return np.histogram(absolute, BINS, (0, float(np.abs(rows).max())))[0]


def _error(
    rows: np.ndarray, weight: np.ndarray, exact: np.ndarray, scale: float, original: np.ndarray | None = None
) -> float:
    """Squared error of the product with both sides rounded. ``exact`` and ``original`` are both sides unsmoothed."""
    codes, steps = round_weight(weight, 1)
    said = np.clip(np.rint(rows / scale), -127, 127) * scale
    wanted = (rows if original is None else original) @ exact
    return float(((said @ (codes * steps) - wanted) ** 2).sum())


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
