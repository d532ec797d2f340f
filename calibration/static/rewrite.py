"""Q/DQ nodes into a graph: activations int8 with one scale, weights int8 with one scale per output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .bias import shift_bias
from .layers import Layer, read_weight, round_weight
from .observe import Observed
from .ranges import BINS, limit

ALPHAS = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Of SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 4): how much of a channel's width moves to the weights; the best is taken. The paper's
0.5 is too little for a channel that is four times as wide as the others behind a GELU, which then fills all the codes."""

GAIN = 0.8
"""Smoothing costs a product per value, so it must bring a layer's squared error to this share at least."""


LEAST = 1 / 64
"""Of the widest channel: what a channel counts as at least. One that hardly fires on a few pictures does on the next, and would be cut off."""

SHARES = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the largest value, as candidates for what the largest code stands for."""


@dataclass(frozen=True)
class Plan:
    """What is done to each activation: ``scales`` of codes, ``smooth`` [K] what its channels are divided by first. To each layer, by index of
    its node: ``codes`` int8 and their scales, of the smoothed weight (else the nearest ones); ``shifts`` [outputs] of its bias."""

    scales: dict[str, float]
    smooth: dict[str, np.ndarray]
    codes: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    shifts: dict[int, np.ndarray] = field(default_factory=dict)


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
        scales[name] = _scale(seen.rows, weights, seen.largest, seen.histogram, ranges)
        factor = _smoothing(seen, weights, ranges) if smooth else None
        if factor is not None:
            rows, largest = seen.rows / factor, float((seen.channels / factor).max())
            scales[name] = _scale(
                rows, [w * factor[:, None] for w in weights], largest, _histogram(rows, largest), ranges
            )
            factors[name] = factor
    return Plan(scales, factors)


def _smoothing(seen: Observed, weights: Sequence[np.ndarray], ranges: str) -> np.ndarray | None:
    """The factors that bring most, if they bring enough; else None. They are made from one half of the texts or pictures and judged on the other, both ways, since
    widths of channels of few pictures say little of the next one."""
    if seen.channels is None or seen.rows is None or seen.parts is None or seen.part_channels is None:
        return None
    errors: dict[float | None, float] = {}
    for part in (0, 1):
        made, judged = seen.rows[seen.parts == part], seen.rows[seen.parts != part]
        if not len(made) or not len(judged) or not seen.part_channels[part].any():
            return None
        for alpha in (None, *ALPHAS):
            channels = seen.part_channels[part]
            factor = np.ones(len(channels), np.float32) if alpha is None else smoothing(channels, weights, alpha)
            moved = [w * factor[:, None] for w in weights]
            rows, largest = made / factor, float((channels / factor).max())
            scale = _scale(rows, moved, largest, _histogram(rows, largest), ranges)
            errors[alpha] = errors.get(alpha, 0.0) + _error(judged / factor, moved, scale)
    best = min(ALPHAS, key=lambda alpha: errors[alpha])
    return smoothing(seen.channels, weights, best) if errors[best] < GAIN * errors[None] else None


def _histogram(rows: np.ndarray, largest: float) -> np.ndarray:
    return np.histogram(np.abs(rows[rows != 0]), BINS, (0, largest))[0]


def smoothing(channels: np.ndarray, weights: Sequence[np.ndarray], alpha: float) -> np.ndarray:
    """What channels whose widest values are ``channels`` [K] are divided by, float32 [K], before ``weights`` [K,outputs] each."""
    channels = np.maximum(channels, LEAST * channels.max())
    widest = np.max([np.abs(w).max(1) for w in weights], axis=0)
    factor = channels**alpha / np.maximum(widest, 1e-5) ** (1 - alpha)
    # The overall size is no matter of channels.
    return np.asarray((factor / np.exp(np.log(factor).mean())).astype(np.float32))


def _scale(
    rows: np.ndarray, weights: Sequence[np.ndarray], largest: float, histogram: np.ndarray, ranges: str
) -> float:
    """The step of the codes. ``mse`` takes that with the smallest error of the products of ``rows`` [n,K] and ``weights`` [K,outputs]: an error
    of the activation itself counts outliers for little that mean much."""
    if ranges != "mse":
        return limit(histogram, largest, ranges) / 127
    return min((largest * s / 127 for s in SHARES), key=lambda step: _error(rows, weights, step))


def _error(rows: np.ndarray, weights: Sequence[np.ndarray], scale: float) -> float:
    """Squared error of the products of ``rows`` [n,K] and ``weights`` [K,outputs] with both rounded."""
    said = np.clip(np.rint(rows / scale), -127, 127) * scale
    found = 0.0
    for weight in weights:
        codes, steps = round_weight(weight, 1)
        found += float(((said @ (codes * steps) - rows @ weight) ** 2).sum())
    return found


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
        own = chosen.codes.get(layer.index)
        key = layer.weight, (x if x in chosen.smooth else "") if own is None else f"{layer.index}", layer.axis
        if key not in weights:
            name = f"{layer.weight}.int8" + (f".{len(weights)}" if any(k[0] == layer.weight for k in weights) else "")
            codes, scale = own or round_weight(smoothed_weight(model, folder, layer, chosen.smooth), layer.axis)
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
        if layer.index in chosen.shifts:
            shift_bias(model, folder, layer, chosen.shifts[layer.index])
    nodes = list(graph.node)
    for at, node in reversed(fresh):
        nodes.insert(at, node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def smoothed_weight(model: onnx.ModelProto, folder: Path, layer: Layer, smooth: Mapping[str, np.ndarray]) -> np.ndarray:
    """The layer's weight, float32, times what its inputs are divided by."""
    values = read_weight(model, folder, layer.weight)
    if layer.input in smooth:
        values = values * smooth[layer.input].reshape([-1 if a == layer.channel else 1 for a in range(values.ndim)])
    return values


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
