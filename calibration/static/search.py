"""How few layers must stay in float for the network to reach a target on the calibrating data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .layers import Layer


@dataclass(frozen=True)
class Found:
    """``kept`` layers stay in float, most sensitive first; ``value`` of the measure with them, None if it was not asked for; ``tried``:
    {number of layers kept for the target: value}."""

    kept: list[Layer]
    value: float | None
    tried: dict[int, float]

    def as_json(self, target: float, measure: str) -> dict[str, Any]:
        """For the manifest; empty if there was no target."""
        if self.value is None:
            return {}
        return {
            "measure": measure,
            "target": target,
            "value": self.value,
            "tried": {str(k): v for k, v in self.tried.items()},
        }


def search(
    order: Callable[[], Sequence[Layer]], value: Callable[[Sequence[Layer]], float], count: int, target: float
) -> Found:
    """The shortest beginning of ``order()`` with ``value(kept)`` >= ``target``, found by doubling and halving; of ``count`` layers one at
    least is quantised.

    ``order`` is asked only if quantising all is not enough. Where nothing reaches the target the best that was tried is taken: never worse on these
    data than quantising everything.
    """
    tried = {0: value([])}
    if tried[0] >= target:
        return Found([], tried[0], tried)
    layers = list(order())

    def enough(kept: int) -> bool:
        if kept not in tried:
            tried[kept] = value(layers[:kept])
        return tried[kept] >= target

    low, high = 0, min(1, count - 1)
    while high < count - 1 and not enough(high):
        low, high = high, min(2 * high, count - 1)
    if high > low and enough(high):
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        best = high
    else:
        best = max(tried, key=lambda kept: (tried[kept], -kept))
    return Found(layers[:best], tried[best], tried)
