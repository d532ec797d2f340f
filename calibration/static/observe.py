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
    non-zero absolute values, some ``rows`` [n,K]."""

    largest: float
    channels: np.ndarray | None
    histogram: np.ndarray
    rows: np.ndarray | None


def observe(graph: Path, layers: Sequence[Layer], samples: Samples, progress: Progress) -> dict[str, Observed]:
    """By name of the activation. Raises RequestError for a value that is not finite."""
    matrices = {layer.input for layer in layers if layer.channel is not None}
    names = list(dict.fromkeys(layer.input for layer in layers))
    session, inputs = _open(graph, names)
    found: dict[str, Observed] = {}
    for stage in (0, 1):
        for done, (_, feeds) in enumerate(samples):
            outside = [n for n in names if n not in inputs]
            values = dict(zip(outside, session.run(outside, feeds), strict=True)) | feeds
            for name in names:
                (_widest if stage == 0 else _count)(found, name, values[name], name in matrices)
            progress("calibrating", done + 1 + stage * samples.count, 2 * samples.count)
    return found


def _open(graph: Path, names: Sequence[str]) -> tuple[onnxruntime.InferenceSession, set[str]]:
    """A session of ``graph`` that gives ``names`` as well."""
    model = onnx.load(str(graph), load_external_data=False)
    inputs = {i.name for i in model.graph.input}
    have = {o.name for o in model.graph.output} | inputs
    for name in names:
        if name not in have:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.parent.resolve())
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, inputs


def _widest(found: dict[str, Observed], name: str, array: np.ndarray, matrix: bool) -> None:
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
        # A few of each item, until there are enough: the rows of one text look alike. The first and the last are special tokens.
        rows = flat[np.unique(np.linspace(0, len(flat) - 1, 6).astype(int))]
        if seen.rows is None or len(seen.rows) < ROWS:
            seen.rows = rows.copy() if seen.rows is None else np.concatenate([seen.rows, rows])


def _count(found: dict[str, Observed], name: str, array: np.ndarray, matrix: bool) -> None:
    seen = found[name]
    if seen.largest > 0:
        absolute = np.abs(array[array != 0])
        seen.histogram += np.histogram(absolute, BINS, (0, seen.largest))[0]
