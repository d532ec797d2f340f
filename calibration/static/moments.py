"""What the inputs of the layers are like together: their means and covariances, of the values themselves and as int8 codes say them.

A product of a convolution is one of a patch [channels of a group x height x width of the kernel], so both kinds of layers are matrices here,
one for each group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...export.graph import Progress
from ..network_data import Samples
from .layers import Layer, attributes_of, read_weight
from .observe import open_model

ROWS = 8192
"""Rows of inputs that are looked at, over all items: some for each of up to 4608 inputs."""

LARGEST = 4608
"""Inputs of one output beyond which nothing is collected: 3 x 3 x 512, whose matrix takes 85 MB."""

BYTES = 1 << 29
"""Of matrices that are collected in one pass over the data."""


class Moments:
    """Of one layer's G groups with K inputs each, over the ``rows`` that were added: ``mean`` [G,K] of the inputs, ``said`` [G,K] of what their
    codes say, ``covariance`` and ``second`` moments [G,K,K] of the latter."""

    def __init__(self, groups: int, inputs: int) -> None:
        self.rows = 0
        self._mean, self._said = np.zeros((groups, inputs)), np.zeros((groups, inputs))
        self._products = np.zeros((groups, inputs, inputs), np.float32)
        self._near: np.ndarray | None = None

    def add(self, inputs: np.ndarray, said: np.ndarray) -> None:
        """``inputs``, ``said`` [n,G,K]."""
        if self._near is None:
            # Products are of the distance from here: of an input that hardly varies float32 would hold nothing but the mean's square.
            self._near = said.mean(0)
        self._mean += inputs.sum(0, dtype=np.float64)
        self._said += said.sum(0, dtype=np.float64)
        turned = np.ascontiguousarray((said - self._near).transpose(1, 0, 2))
        self._products += turned.transpose(0, 2, 1) @ turned
        self.rows += len(inputs)

    @property
    def mean(self) -> np.ndarray:
        """[G,K]."""
        return self._mean / self.rows

    @property
    def said(self) -> np.ndarray:
        """[G,K]."""
        return self._said / self.rows

    @property
    def covariance(self) -> np.ndarray:
        """[G,K,K] of what the codes say."""
        off = self.said - self._near
        return np.asarray(self._products / self.rows - off[:, :, None] * off[:, None, :])

    @property
    def second(self) -> np.ndarray:
        """[G,K,K]: mean products of what the codes say."""
        return np.asarray(self.covariance + self.said[:, :, None] * self.said[:, None, :])


def matrices(weight: np.ndarray, layer: Layer, groups: int) -> np.ndarray:
    """The weight as [G, outputs of a group, K]."""
    if layer.channel is None:
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return (weight if layer.axis == 0 else weight.T)[None]


def from_matrices(matrix: np.ndarray, layer: Layer, shape: tuple[int, ...]) -> np.ndarray:
    """The reverse of `matrices`, to a weight of ``shape``."""
    if layer.channel is None:
        return matrix.reshape(shape)
    return np.ascontiguousarray(matrix[0] if layer.axis == 0 else matrix[0].T)


def collect(
    model: onnx.ModelProto,
    folder: Path,
    layers: Sequence[Layer],
    scales: Mapping[str, float],
    smooth: Mapping[str, np.ndarray],
    samples: Samples,
    progress: Progress,
) -> Iterator[tuple[Layer, Moments]]:
    """(layer, its `Moments`), in the order of the graph, for those with at most LARGEST inputs; ``scales`` and ``smooth`` by activation, as
    in `farthing.calibration.static.rewrite.Plan`. Reads the data once for every BYTES of matrices."""
    shapes = {
        layer.index: matrices(read_weight(model, folder, layer.weight), layer, groups(model, layer)).shape
        for layer in layers
    }
    wanted = [layer for layer in layers if shapes[layer.index][2] <= LARGEST]
    passes: list[list[Layer]] = []
    room = 0
    for layer in wanted:
        g, _, k = shapes[layer.index]
        if not passes or room < 4 * g * k * k:
            passes.append([])
            room = BYTES
        passes[-1].append(layer)
        room -= 4 * g * k * k
    for number, some in enumerate(passes):
        found = {}
        for layer in some:
            g, _, k = shapes[layer.index]
            found[layer.index] = Moments(g, k)
        session, inputs = open_model(model, folder, [layer.input for layer in some])
        outside = [n for n in dict.fromkeys(layer.input for layer in some) if n not in inputs]
        rng = np.random.default_rng(number)
        for done, (_, feeds) in enumerate(samples):
            values = dict(zip(outside, session.run(outside, feeds), strict=True)) | feeds
            for layer in some:
                rows = rows_of(model, layer, values[layer.input], shapes[layer.index], -(-ROWS // samples.count), rng)
                if layer.input in smooth:
                    rows = rows / smooth[layer.input]
                scale = np.float32(scales[layer.input])
                found[layer.index].add(rows, np.clip(np.rint(rows / scale), -127, 127) * scale)
            progress("moments", done + 1 + number * samples.count, len(passes) * samples.count)
        for layer in some:
            yield layer, found.pop(layer.index)


def groups(model: onnx.ModelProto, layer: Layer) -> int:
    """Of a convolution; 1 of others."""
    return int(attributes_of(model.graph.node[layer.index]).get("group", 1)) if layer.channel is None else 1


def rows_of(
    model: onnx.ModelProto, layer: Layer, x: np.ndarray, shape: tuple[int, ...], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Up to ``count`` rows [n,G,K] of the activation ``x``, drawn."""
    if layer.channel is not None:
        flat = x.reshape(-1, 1, x.shape[-1])
        return flat[rng.choice(len(flat), min(count, len(flat)), replace=False)]
    node = model.graph.node[layer.index]
    kernel = next(tuple(t.dims)[2:] for t in model.graph.initializer if t.name == layer.weight)
    return _patches(x, attributes_of(node), shape, kernel, count, rng)


def _patches(
    x: np.ndarray,
    attributes: Mapping[str, Any],
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Patches [n,G,K] of ``x`` [N,C,*places] that a convolution with these attributes sees, at drawn places of its output."""
    space = len(kernel)
    strides, dilations = (tuple(attributes.get(n, (1,) * space)) for n in ("strides", "dilations"))
    pads = padding(attributes, x.shape[2:], kernel, strides, dilations)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + space)))
    every = (slice(None),) * 2
    windows = windows[
        every + tuple(slice(None, None, s) for s in strides) + tuple(slice(None, None, d) for d in dilations)
    ]
    places = (windows.shape[0], *windows.shape[2 : 2 + space])
    drawn = rng.choice(int(np.prod(places)), min(count, int(np.prod(places))), replace=False)
    item, *where = np.unravel_index(drawn, places)
    rows = np.moveaxis(windows, 1, 1 + space)[(item, *where)]
    return np.asarray(rows.reshape(len(drawn), shape[0], shape[2]))


def padding(
    attributes: Mapping[str, Any],
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """Zeros before and behind each axis, as ONNX has them: `pads`, or what `auto_pad` says."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        pads = list(attributes.get("pads", [0] * (2 * len(kernel)))) if auto == "NOTSET" else [0] * (2 * len(kernel))
        return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    found = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        whole = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = whole // 2, whole - whole // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found
