"""Entropies in bits.

Plug-in: H = log2 N - sum c log2 c / N over counts c, N in all. It is too low where N is not many times the number of types K; Miller (1955) and Madow
add (K - 1) / (2 N ln 2), K counted by what occurs. Block entropy H_n: of the n-grams. Conditional entropy h_n: what the last code still holds when
the n - 1 before it are known, both entropies over the same occurrences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..visual.intervals import Interval
from .grams import Grams
from .resample import Resampler


@dataclass(frozen=True)
class Entropy:
    """Of order ``n``: ``block`` H_n and ``conditional`` h_n, both corrected (Miller-Madow), with ``plug_in`` and ``conditional_plug_in`` as counted.

    ``types`` and ``tokens`` of this order; ``coverage``: share of n-grams still to come that were seen already (Good 1953), 1 - n-grams seen once /
    tokens. Where it is low, the figures say more about the sample than about the tokenizer.
    """

    n: int
    types: int
    tokens: int
    coverage: float
    plug_in: float
    block: Interval
    conditional_plug_in: float
    conditional: Interval


def plug_in(counts: np.ndarray) -> float:
    """Bits of the shares of ``counts`` [K]."""
    seen = counts[counts > 0].astype(np.float64)
    total = seen.sum()
    return max(0.0, float(math.log2(total) - (seen * np.log2(seen)).sum() / total)) if len(seen) else 0.0


def miller_madow(counts: np.ndarray) -> float:
    """`plug_in` with the correction for the sample's size."""
    return plug_in(counts) + _missing(counts)


def _missing(counts: np.ndarray) -> float:
    return float(((counts > 0).sum() - 1) / (2 * counts.sum() * math.log(2)))


def conditional(grams: Grams, counts: np.ndarray) -> tuple[float, float]:
    """(plug-in, corrected) bits of the last code when the context is known. The correction is that of both entropies; never below 0."""
    context = grams.context_counts(counts)
    plain = max(0.0, plug_in(counts) - plug_in(context))
    return plain, max(0.0, plain + _missing(counts) - _missing(context))


def entropies(grams: list[Grams], resampler: Resampler, tick: Callable[[], None] | None = None) -> list[Entropy]:
    """Of each order, 1 on."""
    found = []
    for n, one in enumerate(grams, 1):

        def both(weights: np.ndarray | None, one: Grams = one) -> np.ndarray:
            counts = one.counts(weights)
            return np.array([miller_madow(counts), conditional(one, counts)[1]])

        block, rest = resampler.intervals(both, tick)
        counts = one.counts()
        found.append(
            Entropy(
                n=n,
                types=one.types,
                tokens=len(one.ids),
                coverage=1 - float((counts == 1).sum()) / len(one.ids),
                plug_in=plug_in(counts),
                block=block,
                conditional_plug_in=conditional(one, counts)[0],
                conditional=rest,
            )
        )
    return found
