"""The knapsack: one option for each item, the sum of costs within a limit, the sum of losses least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

UNITS = 1 << 14
"""Steps that the room is divided into. With L items the answer is optimal for a limit at most L / UNITS of the room smaller."""


def choose(
    costs: Sequence[Mapping[str, int]], losses: Sequence[Mapping[str, float]], limit: int, units: int = UNITS
) -> list[str] | None:
    """One key of each item's ``costs`` (bytes, at least 0) and ``losses`` (same keys), by dynamic programming (multiple-choice knapsack).

    None where even the cheapest options cost more than ``limit``. Costs are rounded up to steps of the room, so the limit is never passed; what
    rounding leaves over goes to the upgrades that gain most per byte.
    """
    least = [min(cost.values()) for cost in costs]
    room = limit - sum(least)
    if room < 0:
        return None
    most = sum(max(cost.values()) for cost in costs) - sum(least)
    step = max(1, -(-min(room, max(most, 1)) // units))
    width = min(room, most) // step + 1
    best = np.zeros(width)
    taken = np.zeros((len(costs), width), np.int16)
    for i, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        fresh = np.full(width, np.inf)
        for k, key in enumerate(cost):
            extra = -(-(cost[key] - least[i]) // step)
            if extra >= width:
                continue
            offered = np.full(width, np.inf)
            offered[extra:] = best[: width - extra] + loss[key]
            better = offered < fresh
            fresh[better] = offered[better]
            taken[i, better] = k
        best = fresh
    at, picked = width - 1, [""] * len(costs)
    for i in reversed(range(len(costs))):
        picked[i] = list(costs[i])[taken[i, at]]
        at -= -(-(costs[i][picked[i]] - least[i]) // step)
    return _fill(costs, losses, picked, limit)


def _fill(
    costs: Sequence[Mapping[str, int]], losses: Sequence[Mapping[str, float]], picked: list[str], limit: int
) -> list[str]:
    left = limit - sum(cost[key] for cost, key in zip(costs, picked, strict=True))
    while True:
        offers = [
            ((loss[now] - loss[key]) / max(cost[key] - cost[now], 1), i, key)
            for i, (cost, loss, now) in enumerate(zip(costs, losses, picked, strict=True))
            for key in cost
            if loss[key] < loss[now] and cost[key] - cost[now] <= left
        ]
        if not offers:
            return picked
        _, i, key = max(offers, key=lambda offer: offer[0])
        left -= costs[i][key] - costs[i][picked[i]]
        picked[i] = key
