"""Reading the data once or twice: what values the inputs of the layers have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ...errors import RequestError, found_wanted
from ...export.graph import Progress
from ..network_data import Samples
from .layers import Layer
from .ranges import BINS

ROWS = 256
"""Rows of each layer's input that are kept, to try smoothing on."""


@dataclass
class Observed:
    """Of one activation: the largest absolute value, per channel of its last axis ``channels`` [K] where it feeds matrices, the histogram of
    non-zero absolute values, some ``rows`` [n,K]. ``parts`` [n] says of which half of the texts or pictures a row is, ``part_channels`` [2,K] what ``channels`` is in
    each: what is chosen on one can be judged on the other."""

    largest: float
    channels: np.ndarray | None
    histogram: np.ndarray
    rows: np.ndarray | None
    parts: np.ndarray | None = None
    part_channels: np.ndarray | None = None


def observe(graph: Path, layers: Sequence[Layer], samples: Samples, progress: Progress) -> dict[str, Observed]:
    """By name of the activation. Raises RequestError for a value that is not finite."""
    return observe_model(onnx.load(str(graph), load_external_data=False), graph.parent, layers, samples, progress)


def observe_model(
    model: onnx.ModelProto, folder: Path, layers: Sequence[Layer], samples: Samples, progress: Progress
) -> dict[str, Observed]:
    """The same of a model whose data are in ``folder``."""
    matrices = {layer.input for layer in layers if layer.channel is not None}
    names = list(dict.fromkeys(layer.input for layer in layers))
    session, inputs = open_model(model, folder, names)
    found: dict[str, Observed] = {}
    order = {number: place for place, number in enumerate(dict.fromkeys(number for number, _ in samples.items))}
    for stage in (0, 1):
        for done, (number, feeds) in enumerate(samples):
            outside = [n for n in names if n not in inputs]
            values = dict(zip(outside, session.run(outside, feeds), strict=True)) | feeds
            for name in names:
                if stage == 0:
                    _widest(found, name, values[name], name in matrices, order[number] % 2)
                else:
                    _count(found[name], values[name])
            progress("calibrating", done + 1 + stage * samples.count, 2 * samples.count)
    return found


def open_model(
    model: onnx.ModelProto, folder: Path, names: Sequence[str]
) -> tuple[onnxruntime.InferenceSession, set[str]]:
    """A session of ``model``, whose data are in ``folder``, that gives ``names`` as well; and the names of its inputs."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    inputs = {i.name for i in copy.graph.input}
    have = {o.name for o in copy.graph.output} | inputs
    for name in dict.fromkeys(names):
        if name not in have:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return session_of(copy, folder), inputs


def session_of(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """At one thread, with exact int8 products on every x86."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _widest(found: dict[str, Observed], name: str, array: np.ndarray, matrix: bool, part: int) -> None:
    if not np.isfinite(array).all():
        raise RequestError(
            found_wanted(
                f"activation {name} on the calibration data", "not finite", "numbers", "check data and weights"
            )
        )
    absolute = np.abs(array)
    seen = found.setdefault(name, Observed(0.0, None, np.zeros(BINS, np.int64), None))
    seen.largest = max(seen.largest, float(absolute.max()))
    if matrix:
        flat = array.reshape(-1, array.shape[-1])
        widest = np.abs(flat).max(0)
        seen.channels = widest if seen.channels is None else np.maximum(seen.channels, widest)
        if seen.part_channels is None:
            seen.part_channels = np.zeros((2, len(widest)), np.float32)
        seen.part_channels[part] = np.maximum(seen.part_channels[part], widest)
        # A few of each item, until there are enough: the rows of one text look alike. The first and the last are special tokens.
        rows = flat[np.unique(np.linspace(0, len(flat) - 1, 6).astype(int))]
        parts = np.full(len(rows), part)
        if seen.rows is None or seen.parts is None:
            seen.rows, seen.parts = rows.copy(), parts
        elif len(seen.rows) < ROWS:
            seen.rows, seen.parts = np.concatenate([seen.rows, rows]), np.concatenate([seen.parts, parts])


def _count(seen: Observed, array: np.ndarray) -> None:
    if seen.largest > 0:
        absolute = np.abs(array[array != 0])
        seen.histogram += np.histogram(absolute, BINS, (0, seen.largest))[0]
