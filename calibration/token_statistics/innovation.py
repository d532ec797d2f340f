"""How fast new codes and n-grams turn up.

Heaps (1978): after t tokens U(t) = K t^beta types have been seen. First sightings are taken for a Poisson process whose rate falls as K beta t^(beta-1);
its likelihood is largest at beta = U / sum ln(T / t_i) over the times t_i of the first sightings (Crow 1974). Yule-Simon rate: U(T) / T, the share of
tokens that were new (Simon 1955).

The order of the images is ours, so everything is a mean over random orders; intervals tell how much orders differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..visual.intervals import Interval
from .grams import Grams
from .stream import Stream

ORDERS, ORDERS_OF_LONGER = 100, 10
"""Random orders for single codes, and for 2-grams on, whose curves hardly depend on it."""
LAST = 0.2
"""Part of the data whose news decide whether the sample is large enough."""
POINTS = 48
"""Of the curve U(t)."""
SHARES = (0.9, 0.99)


@dataclass(frozen=True)
class Innovation:
    """Of order ``n``. ``beta``, ``k``: Heaps' law. ``new_share``: Yule-Simon rate; ``last_growth``: growth of U over the last fifth of the images.

    ``images_to`` and ``tokens_to``: share -> images, tokens until that share of all types that occur was seen. ``curve``: [(t, U)].
    """

    n: int
    types: int
    tokens: int
    beta: Interval
    k: float
    new_share: float
    last_growth: float
    images_to: dict[str, Interval]
    tokens_to: dict[str, Interval]
    curve: list[tuple[int, float]]


def heaps(first: np.ndarray, tokens: int) -> tuple[float, float]:
    """(beta, K) of the times ``first`` [U], 1 to ``tokens``, at which types were first seen."""
    logs = np.log(tokens / first).sum()
    beta = 1.0 if logs <= 0 else float(len(first) / logs)
    return beta, float(len(first) / tokens**beta)


def innovations(
    stream: Stream, grams: list[Grams], seed: int = 0, tick: Callable[[], None] | None = None
) -> list[Innovation]:
    """Of each order, 1 on."""
    random = np.random.default_rng(seed)
    size = stream.codes[0].size
    found = []
    for n, one in enumerate(grams, 1):
        # n-grams of an image, so that time counts them and not the places where none ends.
        each = len(one.ids) // stream.images
        place = np.arange(len(one.ids)) % each
        tokens = len(one.ids)
        at = np.unique(np.geomspace(max(1, each // 8), tokens, POINTS).astype(np.int64))
        betas, curves, reached, growth, constants = [], [], [], [], []
        for _ in range(ORDERS if n == 1 else ORDERS_OF_LONGER):
            turn = random.permutation(stream.images)
            first = np.full(one.types, tokens, np.int64)
            np.minimum.at(first, one.ids, turn[one.image] * each + place + 1)
            first.sort()
            beta, k = heaps(first, tokens)
            betas.append(beta)
            constants.append(k)
            curves.append(np.searchsorted(first, at, "right"))
            reached.append([first[int(np.ceil(share * one.types)) - 1] for share in SHARES])
            growth.append(one.types / np.searchsorted(first, (1 - LAST) * tokens, "right") - 1)
            if tick:
                tick()
        times = np.array(reached).T
        found.append(
            Innovation(
                n=n,
                types=one.types,
                tokens=tokens,
                beta=_over_orders(np.array(betas)),
                k=float(np.mean(constants)),
                new_share=one.types / tokens,
                last_growth=float(np.mean(growth)),
                images_to={f"{s:g}": _over_orders(np.ceil(t / each)) for s, t in zip(SHARES, times, strict=True)},
                tokens_to={f"{s:g}": _over_orders(t * size / each) for s, t in zip(SHARES, times, strict=True)},
                curve=list(zip(at.tolist(), np.mean(curves, 0).tolist(), strict=True)),
            )
        )
    return found


def _over_orders(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
