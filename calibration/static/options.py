"""What can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError, found_wanted

RANGES = ("max", "percentile", "entropy", "mse")
ROUNDINGS = ("nearest", "gptq")
TARGET = 0.995
"""What the measure on the calibrating half must reach if nothing is said."""


@dataclass(frozen=True)
class StaticOptions:
    """``ranges``: how the largest code of an activation is chosen; ``smooth``: whether channels may be scaled towards the weights
    (SmoothQuant, and for nothing between convolutions) where that lowers a layer's error; ``rounding`` of the weights, ``nearest`` or ``gptq``; ``correct``: whether
    biases make up for the mean error; ``keep``: share of the quantisable weights that stays in float, the most sensitive layers first;
    ``target``: layers stay in float until the measure (rank correlation, same likeliest class or correlation) on the calibrating data reaches it. None is
    TARGET, or with ``keep`` no target; 0 is no target."""

    ranges: str = "mse"
    smooth: bool = True
    keep: float = 0.0
    rounding: str = "gptq"
    correct: bool = True
    target: float | None = None

    def checked(self) -> StaticOptions:
        """Itself. Raises RequestError."""
        if self.ranges not in RANGES:
            raise RequestError(
                found_wanted("ranges", repr(self.ranges), f"one of {', '.join(RANGES)}", "correct --ranges")
            )
        if not 0 <= self.keep < 1:
            raise RequestError(found_wanted("keep", self.keep, "0 to below 1", "correct --keep"))
        if self.rounding not in ROUNDINGS:
            raise RequestError(
                found_wanted("rounding", repr(self.rounding), f"one of {', '.join(ROUNDINGS)}", "correct --rounding")
            )
        if self.target is not None and not 0 <= self.target < 1:
            raise RequestError(found_wanted("target", self.target, "0 to below 1", "correct --target"))
        return self

    @property
    def wanted(self) -> float:
        """The target that holds; 0 for none."""
        return self.target if self.target is not None else 0.0 if self.keep else TARGET
