"""Second moments of what enters each weight of a network, over texts or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ...errors import RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ..network_data import Samples
from ..quantize.moments import LIMIT
from .layers import Weight
from .stand_in import open_in_memory


class NetworkMoments:
    """Means of x x^T, float64 [inputs,inputs], and of x, of the rows x that enter each weight of ``model`` while it is fed ``samples``. Tensors
    outside the model lie in ``folder``.

    A row is what one place of a text, or one pixel of a convolution, has. Asked for in the order of the graph, they are collected in groups of
    at most LIMIT bytes, each by a pass over the data.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        weights: Sequence[Weight],
        samples: Samples,
        progress: Progress = no_progress,
    ) -> None:
        self._model, self._folder = onnx.ModelProto(), folder
        self._model.CopyFrom(model)  # the caller may change its own before the last group is collected
        self._weights, self._samples, self._progress = list(weights), samples, progress
        self._held: dict[str, np.ndarray] = {}
        self._means: dict[str, np.ndarray] = {}
        self.rows: dict[str, int] = {}
        """Of each weight collected so far: how many rows it saw."""

    def of(self, weight: Weight) -> np.ndarray:
        """Of the inputs of ``weight``. Raises RequestError where they are not finite."""
        if weight.name not in self._held:
            self._collect(weight)
        return self._held[weight.name]

    def mean(self, weight: Weight) -> np.ndarray:
        """Mean input of ``weight``, float64 [inputs]."""
        if weight.name not in self._means:
            self._collect(weight)
        return self._means[weight.name]

    def _collect(self, weight: Weight) -> None:
        group: list[Weight] = []
        size = 0
        for one in self._weights[self._weights.index(weight) :]:
            size += 8 * one.inputs**2
            if group and size > LIMIT:
                break
            group.append(one)
        self._held = {}  # before the next ones need the memory
        sums = {w.name: np.zeros((w.inputs, w.inputs)) for w in group}
        means = {w.name: np.zeros(w.inputs) for w in group}
        counts = dict.fromkeys(sums, 0)
        values = list(dict.fromkeys(use.input for w in group for use in w.uses))
        session, strides = _open(self._model, self._folder, values)
        outside = {i.name for i in session.get_inputs()}
        asked = [v for v in values if v not in outside]
        for done, (_, feeds) in enumerate(self._samples):
            found = dict(zip(asked, session.run(asked, feeds), strict=True)) | feeds
            shared: dict[tuple[str, int, int], np.ndarray] = {}
            for one in group:
                for use in one.uses:
                    key = use.input, *strides.get(use.index, (1, 1))
                    if key not in shared:
                        shared[key] = rows_of(found[use.input], use.kind, key[1:])
                    rows = shared[key]
                    sums[one.name] += rows.T @ rows
                    means[one.name] += rows.sum(0, dtype=np.float64)
                    counts[one.name] += len(rows)
            self._progress("reading", done + 1, self._samples.count)
        for name, total in sums.items():
            if not np.isfinite(total).all():
                raise RequestError(
                    found_wanted(
                        f"input of weight {name} on the calibration data",
                        "not finite",
                        "numbers",
                        "check data and weights",
                    )
                )
            self._held[name] = total / max(counts[name], 1)
            self._means[name] = means[name] / max(counts[name], 1)
            self.rows[name] = counts[name]


def rows_of(array: np.ndarray, kind: str, stride: Sequence[int] = (1, 1)) -> np.ndarray:
    """Rows [n,K] of the input of a layer: of [...,K] for a matrix, of [B,K,H,W], every stride-th place, for a convolution."""
    if kind == "Conv":
        array = array[:, :, :: stride[0], :: stride[1]].transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]), np.float32)


def _open(
    model: onnx.ModelProto, folder: Path, names: Sequence[str]
) -> tuple[onnxruntime.InferenceSession, dict[int, tuple[int, int]]]:
    """(a session of ``model`` that gives ``names`` as well, the strides of its convolutions by index)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {v.name for v in (*copy.graph.output, *copy.graph.input)}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    strides = {}
    for index, node in enumerate(copy.graph.node):
        if node.op_type == "Conv":
            found = [list(a.ints) for a in node.attribute if a.name == "strides"]
            if found and len(found[0]) == 2:
                strides[index] = found[0][0], found[0][1]
    return open_in_memory(copy, folder), strides
