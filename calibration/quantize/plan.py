"""What is decided of each matrix of a decoder before its graph is written: widths, factors, and roundings that are made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .awq import scaled_moments
from .blocks import Blocks
from .folding import Factors

HEAD = "head.weight"
"""Name of the output matrix here, whatever tensor it is: a tied one is also the table of token vectors."""


@dataclass
class LayerPlan:
    """``widths`` int4, int8 or float16 by name of the weight (`HEAD` for the output matrix); weights it does not name are as the options say.
    ``factors`` of AWQ. ``rounded``: blocks by (name, bits), filled as they are made, if ``keep``: a search asks for them again."""

    widths: Mapping[str, str] = field(default_factory=dict)
    factors: Factors | None = None
    keep: bool = False
    rounded: dict[tuple[str, int], Blocks] = field(default_factory=dict)

    def blocks(self, name: str, bits: int, make: Callable[[], Blocks]) -> Blocks:
        """Those of weight ``name``, by ``make`` where they are not there yet."""
        found = self.rounded.get((name, bits))
        if found is None:
            found = make()
            if self.keep:
                self.rounded[name, bits] = found
        return found

    def moments(self, weight: str, moments: np.ndarray) -> np.ndarray:
        """Moments of the inputs of ``weight`` as its factors leave them."""
        factors = None if self.factors is None else self.factors.columns.get(weight)
        return moments if factors is None else scaled_moments(moments, factors)
