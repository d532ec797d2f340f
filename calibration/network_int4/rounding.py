"""The weights of one network, rounded as they are asked for, each once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from ...errors import BundleError, found_wanted
from ..budget.sizes import product_error
from ..quantize.awq import scaled_moments
from ..quantize.blocks import Blocks, round_blocks
from ..quantize.gptq import round_gptq
from ..static.layers import read_weight
from .layers import Weight
from .moments import NetworkMoments
from .options import WeightOptions

_NOISE = 1e-6
"""Share of the moments that a covariance is uncertain by, since products are summed in float32."""


class Rounder:
    """Rounds weights of ``model`` by ``options``; ``moments`` of their inputs, where rounding or a search needs them. ``factors``: by name
    of the weight, what its columns were multiplied by (the model is the one that has them so). ``biases``: by name of the weight, those that make up for
    what rounding does to the mean."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        options: WeightOptions,
        moments: NetworkMoments | None,
        factors: Mapping[str, np.ndarray] | None = None,
        biases: Mapping[str, str] | None = None,
    ) -> None:
        self._model, self._folder, self._options, self._moments = model, folder, options, moments
        self._factors = factors or {}
        self._biases = {} if biases is None else biases
        self._made: dict[tuple[str, int], Blocks] = {}
        self._errors: dict[tuple[str, int], float] = {}

    def matrix(self, weight: Weight) -> np.ndarray:
        """Float32 [outputs, inputs]. Raises BundleError where it is not finite."""
        matrix = weight.matrix(self._model, self._folder)
        if not np.isfinite(matrix).all():
            raise BundleError(
                found_wanted(f"weight {weight.name}", "not finite", "numbers", "import a sound model again")
            )
        return matrix

    def blocks(self, weight: Weight, bits: int) -> Blocks:
        """Codes and scales of ``weight``."""
        key = weight.name, bits
        if key not in self._made:
            matrix, symmetric = self.matrix(weight), self._options.is_symmetric(bits)
            block = self._options.block_of(weight.inputs) or self._options.block
            if self._options.rounding.endswith("gptq"):
                made = round_gptq(matrix, self._moments_of(weight), bits, block, symmetric=symmetric)
            else:
                made = round_blocks(matrix, bits, block, symmetric=symmetric)
            self._made[key] = made
        return self._made[key]

    def arrays(self, weight: Weight, bits: int) -> dict[str, np.ndarray]:
        """What its codes stand for, float32 in the layout of the initializer, and its bias, by their names."""
        dense = self.blocks(weight, bits).dense()
        return {weight.name: weight.stored(dense), **self.bias(weight, bits)}

    def bias(self, weight: Weight, bits: int) -> dict[str, np.ndarray]:
        """Its bias [outputs], by name, where it has one that makes up for rounding."""
        name = self._biases.get(weight.name)
        if name is None or self._moments is None:
            return {}
        mean = self._moments.mean(weight)
        if weight.name in self._factors:
            mean = mean / self._factors[weight.name]
        wrong = self.matrix(weight) - self.blocks(weight, bits).dense()
        return {name: (read_weight(self._model, self._folder, name) + wrong @ mean).astype(np.float32)}

    def error(self, weight: Weight, bits: int) -> float:
        """Mean squared error of its outputs on the calibration data, with its bias."""
        key = weight.name, bits
        if key not in self._errors:
            dense = self.blocks(weight, bits).dense()
            self._errors[key] = product_error(self.matrix(weight), dense, self._moments_of(weight))
        return self._errors[key]

    def power(self, weight: Weight) -> float:
        """Mean square of its outputs on the calibration data (their variance where a bias takes the mean), summed over outputs."""
        matrix = self.matrix(weight)
        return product_error(matrix, np.zeros_like(matrix), self._moments_of(weight))

    def _moments_of(self, weight: Weight) -> np.ndarray:
        if self._moments is None:
            raise ValueError(f"moments of {weight.name} are needed, and were not collected")
        found = self._moments.of(weight)
        if weight.name in self._biases:
            mean = self._moments.mean(weight)
            found = found - np.outer(mean, mean) + _NOISE * np.diag(np.diag(found))
        factors = self._factors.get(weight.name)
        return found if factors is None else scaled_moments(found, factors)
