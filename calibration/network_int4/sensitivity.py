"""What each weight of a network loses alone, and widths within a number of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from ...export.graph import Progress
from ..budget import Found, Item, search
from ..budget.sizes import stored, stored_blocks
from ..network_data import LEAST, Samples
from ..network_kl import divergence
from .layers import Weight
from .options import WeightOptions
from .rounding import Rounder
from .stand_in import open_in_memory, replaced, results

ALONE = 16
"""Items on which each weight is rounded alone."""

WHOLE = 64
"""Items on which candidates are compared."""

BITS = {"int4": 4, "int8": 8}
FLOAT = "float32"


class Search:
    """Widths for ``weights`` of ``model``, by what their rounding does to the outputs on the calibration ``samples``."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        weights: Sequence[Weight],
        rounder: Rounder,
        options: WeightOptions,
        samples: Samples,
        kind: str,
        progress: Progress,
    ) -> None:
        self._model, self._folder, self._weights = model, folder, list(weights)
        self._rounder, self._options, self._kind, self._progress = rounder, options, kind, progress
        self._feeds = [feeds for _, feeds in islice(samples, max(WHOLE, LEAST))]
        self._wanted = results(open_in_memory(model, folder), self._feeds)
        self.alone: dict[str, float] = {}
        self._items: list[Item] | None = None

    def items(self) -> list[Item]:
        """Each weight with its bytes and predicted losses; measured once."""
        if self._items is None:
            self._items = [self._item(weight, done) for done, weight in enumerate(self._weights)]
        return self._items

    def _item(self, weight: Weight, done: int) -> Item:
        costs, errors = {FLOAT: stored(4 * weight.size)}, {FLOAT: 0.0}
        for width, bits in BITS.items():
            symmetric = self._options.is_symmetric(bits)
            costs[width] = stored_blocks(weight.outputs, weight.inputs, bits, self._options.block, symmetric=symmetric)
            errors[width] = self._rounder.error(weight, bits)
        loss = self._loss({weight.name: self._rounder.stored(weight, 4)}, ALONE)
        self.alone[weight.name] = loss
        self._progress("sensitivity", done + 1, len(self._weights))
        whole = max(errors["int4"], 1e-30)
        # The divergence is quadratic in small errors, so int8's follows from int4's by the errors of the products.
        measured = {width: loss * error / whole for width, error in errors.items()}
        size = max(self._scale(weight), 1e-30)
        return Item(
            weight.name, costs, {"divergence": measured, "output error": {w: e / size for w, e in errors.items()}}
        )

    def _scale(self, weight: Weight) -> float:
        """The mean square of the outputs of ``weight``."""
        return self._rounder.power(weight)

    def _loss(self, arrays: dict[str, np.ndarray], count: int) -> float:
        session = open_in_memory(replaced(self._model, arrays), self._folder)
        found = results(session, self._feeds[:count])
        return divergence(self._kind, self._wanted[:count], found).kl.value

    def measure(self, widths: dict[str, str]) -> float:
        """The divergence on the calibration data with each weight at its width."""
        arrays = {
            w.name: self._rounder.stored(w, BITS[widths[w.name]]) for w in self._weights if widths[w.name] in BITS
        }
        return self._loss(arrays, len(self._feeds))

    def within(self, budget: int, fixed: int) -> Found:
        """The best widths with at most ``budget`` bytes, ``fixed`` of them of other things."""
        uniforms = {width: {w.name: width for w in self._weights} for width in BITS}
        return search(self.items(), budget, fixed, uniforms, self.measure, self._progress)
