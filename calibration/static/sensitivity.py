"""Which layers lose most in int8: each is quantised alone, and the outputs compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ...export.graph import Progress
from ..network_data import Samples
from .layers import Layer
from .rewrite import Plan, rewrite

ITEMS = 12
"""Samples per layer: an order of layers is wanted, not a figure."""


def losses(
    graph: Path, layers: Sequence[Layer], chosen: Plan, samples: Samples, progress: Progress
) -> dict[int, float]:
    """Relative squared error of all outputs, by index of the layer's node."""
    feeds = [f for _, f in zip(range(ITEMS), (f for _, f in samples), strict=False)]
    wanted = _run(onnx.load(str(graph), load_external_data=False), graph.parent, feeds)
    found = {}
    for done, layer in enumerate(layers):
        model = onnx.load(str(graph), load_external_data=False)
        rewrite(model, graph.parent, [layer], chosen)
        errors = [
            float(((a - b) ** 2).sum() / max(float((b**2).sum()), 1e-30))
            for a, b in zip(_run(model, graph.parent, feeds), wanted, strict=True)
        ]
        found[layer.index] = float(np.mean(errors))
        progress("sensitivity", done + 1, len(layers))
    return found


def keep(layers: Sequence[Layer], loss: dict[int, float], share: float) -> list[Layer]:
    """Layers that stay in float: by loss per byte, while they are no more than ``share`` of all weights."""
    room = share * sum(layer.size for layer in layers)
    kept = []
    for layer in sorted(layers, key=lambda one: -loss[one.index] / one.size):
        if layer.size <= room:
            kept.append(layer)
            room -= layer.size
    return kept


def _run(model: onnx.ModelProto, folder: Path, feeds: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a, np.float64) for f in feeds for a in session.run(None, f)]
