"""`refine`: rounding of every layer by its inputs' moments, and its bias by their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from ...export.graph import Progress
from ..network_data import Samples
from .bias import has_bias
from .layers import Layer, round_weight
from .moments import collect, from_matrices, groups, matrices
from .rewrite import Plan, smoothed_weight
from .rounding import DAMPING, bias_shift, round_by_error


def refine(
    model: onnx.ModelProto,
    folder: Path,
    layers: Sequence[Layer],
    chosen: Plan,
    samples: Samples,
    progress: Progress,
    *,
    rounding: str = "gptq",
    correct: bool = True,
) -> Plan:
    """``chosen`` with codes and shifts of ``layers``. Every layer is looked at by itself, behind the float network, so any choice among
    the layers may be quantised afterwards."""
    codes, shifts = dict(chosen.codes), dict(chosen.shifts)
    if rounding == "nearest" and not correct:
        return chosen
    for layer, moments in collect(model, folder, layers, chosen.scales, chosen.smooth, samples, progress):
        weight = smoothed_weight(model, folder, layer, chosen.smooth)
        nearest, scale = round_weight(weight, layer.axis)
        count = groups(model, layer)
        exact, steps = matrices(weight, layer, count), scale.reshape(count, -1)
        shifted = correct and has_bias(model, layer)
        rounded = matrices(nearest, layer, count)
        # Fewer rows than inputs leave directions that nothing is known of, in which errors would gather.
        if rounding == "gptq" and moments.rows >= exact.shape[2]:
            # The covariance of K inputs is known the worse the more they are: patches of one picture are alike.
            damping = DAMPING + exact.shape[2] / moments.rows
            rounded = round_by_error(exact, moments.covariance if shifted else moments.second, steps, damping)
        codes[layer.index] = from_matrices(rounded, layer, weight.shape), scale
        if shifted:
            shifts[layer.index] = bias_shift(exact, rounded * steps[:, :, None], moments.mean, moments.said)
    return replace(chosen, codes=codes, shifts=shifts)
