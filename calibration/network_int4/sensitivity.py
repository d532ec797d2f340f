"""What each weight of a network loses alone, and widths within a number of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import onnx
import onnxruntime

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


def weight_costs(weight: Weight, options: WeightOptions) -> dict[str, int]:
    """Bytes of ``weight`` by width."""
    costs = {FLOAT: stored(4 * weight.size)}
    for width, bits in BITS.items():
        block, symmetric = options.block_of(weight.inputs) or options.block, options.is_symmetric(bits)
        costs[width] = stored_blocks(weight.outputs, weight.inputs, bits, block, symmetric=symmetric)
    return costs


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
        self._measured: dict[tuple[str, ...], float] = {}

    def items(self) -> list[Item]:
        """Each weight with its bytes and predicted losses; measured once."""
        if self._items is None:
            self._items = [self._item(weight, done) for done, weight in enumerate(self._weights)]
        return self._items

    def _item(self, weight: Weight, done: int) -> Item:
        errors = {FLOAT: 0.0} | {width: self._rounder.error(weight, bits) for width, bits in BITS.items()}
        alone = replaced(self._model, self._rounder.arrays(weight, 4))
        found = results(open_in_memory(alone, self._folder), self._feeds[:ALONE])
        loss = divergence(self._kind, self._wanted[:ALONE], found).kl.value
        self.alone[weight.name] = float(f"{loss:.6g}")
        self._progress("sensitivity", done + 1, len(self._weights))
        whole = max(errors["int4"], 1e-30)
        # The divergence is quadratic in small errors, so int8's follows from int4's by the errors of the products.
        measured = {width: loss * error / whole for width, error in errors.items()}
        size = max(self._rounder.power(weight), 1e-30)
        return Item(
            weight.name,
            weight_costs(weight, self._options),
            {"divergence": measured, "output error": {w: e / size for w, e in errors.items()}},
        )

    def session(self, widths: Mapping[str, str]) -> onnxruntime.InferenceSession:
        """The network with each weight at its width, computing in float."""
        chosen = [(w, BITS[widths[w.name]]) for w in self._weights if widths[w.name] in BITS]
        arrays = {n: a for weight, bits in chosen for n, a in self._rounder.arrays(weight, bits).items()}
        return open_in_memory(replaced(self._model, arrays), self._folder)

    def measure(self, widths: Mapping[str, str]) -> float:
        """The divergence on the calibration data with each weight at its width."""
        key = tuple(widths[w.name] for w in self._weights)
        if key not in self._measured:
            found = results(self.session(widths), self._feeds)
            self._measured[key] = divergence(self._kind, self._wanted, found).kl.value
        return self._measured[key]

    def uniforms(self) -> dict[str, dict[str, str]]:
        """Every uniform choice that rounds."""
        return {width: {w.name: width for w in self._weights} for width in BITS}

    def within(self, budget: int, fixed: int) -> Found:
        """The best widths with at most ``budget`` bytes, ``fixed`` of them of other things. Raises RequestError where there is no choice."""
        return search(self.items(), budget, fixed, self.uniforms(), self.measure, self._progress)
