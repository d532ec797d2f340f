"""Which layers lose most in int8: each is quantised alone, and the outputs compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from ...export.graph import Progress
from ..network_data import Samples
from .layers import Layer
from .observe import session_of
from .rewrite import Plan, rewrite

ITEMS = 12
"""Samples per layer: an order of layers is wanted, not a figure."""


def losses(
    model: onnx.ModelProto, folder: Path, layers: Sequence[Layer], chosen: Plan, samples: Samples, progress: Progress
) -> dict[int, float]:
    """Relative squared error of all outputs of ``model``, whose data are in ``folder``, by index of the layer's node."""
    feeds = [f for _, f in zip(range(ITEMS), (f for _, f in samples), strict=False)]
    wanted = _run(model, folder, feeds)
    found = {}
    for done, layer in enumerate(layers):
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        rewrite(copy, folder, [layer], chosen)
        errors = [
            float(((a - b) ** 2).sum() / max(float((b**2).sum()), 1e-30))
            for a, b in zip(_run(copy, folder, feeds), wanted, strict=True)
        ]
        found[layer.index] = float(np.mean(errors))
        progress("sensitivity", done + 1, len(layers))
    return found


def keep(layers: Sequence[Layer], loss: dict[int, float], share: float) -> list[Layer]:
    """Layers that stay in float: by loss per byte, while they are no more than ``share`` of all weights."""
    room = share * sum(layer.size for layer in layers)
    kept = []
    for layer in ranked(layers, loss):
        if layer.size <= room:
            kept.append(layer)
            room -= layer.size
    return kept


def ranked(layers: Sequence[Layer], loss: dict[int, float]) -> list[Layer]:
    """By loss per weight, the largest first."""
    return sorted(layers, key=lambda one: -loss[one.index] / one.size)


def _run(model: onnx.ModelProto, folder: Path, feeds: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
    session = session_of(model, folder)
    return [np.asarray(a, np.float64) for f in feeds for a in session.run(None, f)]
