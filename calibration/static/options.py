"""What can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError, found_wanted

RANGES = ("max", "percentile", "entropy", "mse")


@dataclass(frozen=True)
class StaticOptions:
    """``ranges``: how the largest code of an activation is chosen; ``smooth``: whether channels may be scaled towards the weights
    (SmoothQuant) where that lowers a layer's error; ``keep``: share of the quantisable weights that stays in float, the most
    sensitive layers first."""

    ranges: str = "mse"
    smooth: bool = True
    keep: float = 0.0

    def checked(self) -> StaticOptions:
        """Itself. Raises RequestError."""
        if self.ranges not in RANGES:
            raise RequestError(
                found_wanted("ranges", repr(self.ranges), f"one of {', '.join(RANGES)}", "correct --ranges")
            )
        if not 0 <= self.keep < 1:
            raise RequestError(found_wanted("keep", self.keep, "0 to below 1", "correct --keep"))
        return self
