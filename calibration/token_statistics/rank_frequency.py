"""Laws of rank and frequency, fitted by discrete maximum likelihood over the ranks 1 to R of the types that occur.

    Zipf              p(r) ~ r^-a
    Zipf-Mandelbrot   p(r) ~ (r + b)^-a, b >= 0                         (Mandelbrot 1953)
    lognormal         p(r) ~ exp(-(ln r - mu)^2 / (2 s^2)) / r          (of which Zipf is the limit of a large s)

Every token is an observation of its type's rank. Least squares on a log-log plot, which weighs a type seen once like the most frequent one, is not
used (Clauset, Shalizi and Newman 2009). KS: largest difference between the share of tokens up to a rank and the law's. Likelihood ratio: nats per
token by which the second law is likelier than the first.

Zipf and lognormal are one exponential family, p(r) ~ exp(-a x - g x^2) with x = ln r, so that their likelihood is concave and Newton finds its top.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..visual.intervals import Interval
from .grams import Grams
from .resample import Resampler

EXACT, STEP = 2048, 5e-4
"""Ranks up to EXACT are summed one by one; later ones in groups of ln r within STEP, where the laws are flat to STEP^2 a^2 / 24, 1e-8 of a probability."""
LEAST_TYPES = 10
"""Fewer ranks than this fit anything."""
HEAD = 0.5
"""Zipf's law from a minimum rank on may leave out this share of the tokens at most."""
MOST_ONCE = 0.1
"""Share of tokens whose type occurs once, above which no minimum is chosen: the tail is then a plateau of ones, which an exponent of 0 fits best."""


@dataclass(frozen=True)
class Ranks:
    """Tokens by rank, grouped: ``middle`` ln of the group's middle rank, ``size`` ranks in it, ``tokens`` of them; float64 [G], most frequent first."""

    middle: np.ndarray
    size: np.ndarray
    tokens: np.ndarray

    @property
    def total(self) -> float:
        """All tokens."""
        return float(self.tokens.sum())

    def since(self, group: int) -> Ranks:
        """Without the first ``group`` groups."""
        return Ranks(self.middle[group:], self.size[group:], self.tokens[group:])


@dataclass(frozen=True)
class Law:
    """A fitted law: its ``parameters`` by name, ``likelihood`` in nats per token, ``ks``."""

    parameters: dict[str, float]
    likelihood: float
    ks: float


@dataclass(frozen=True)
class RankFit:
    """Of order ``n``. ``exponent``: Zipf's a with its interval. ``zipf_from``: Zipf's law from the rank ``from`` on that fits best by KS; None where
    too many types occur once (MOST_ONCE).

    ``lognormal_gain``, ``mandelbrot_gain``: nats per token over Zipf. Both laws contain Zipf's, so a gain is never negative; one whose interval
    touches 0 is none.
    """

    n: int
    types: int
    tokens: int
    exponent: Interval
    zipf: Law
    zipf_from: Law | None
    mandelbrot: Law
    lognormal: Law
    mandelbrot_gain: float
    lognormal_gain: Interval


def ranks_of(counts: np.ndarray) -> Ranks:
    """Ranks of the types that occur in ``counts`` [K], the most frequent first."""
    falling = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    last = len(falling)
    edges = np.arange(1, min(last, EXACT) + 1)
    if last > EXACT:
        far = np.exp(np.arange(math.log(EXACT), math.log(last) + STEP, STEP)).astype(np.int64)
        edges = np.union1d(edges, far[far <= last])
    bounds = np.append(edges, last + 1)
    size = np.diff(bounds).astype(np.float64)
    # The middle in ln r: the mean of ln over the group, to second order.
    middle = np.log((bounds[:-1] + bounds[1:] - 1) / 2)
    return Ranks(middle, size, np.add.reduceat(falling, edges - 1))


def fit_zipf(ranks: Ranks) -> Law:
    """a by maximum likelihood."""
    (a,), likelihood = _newton(ranks, ranks.middle[None])
    return _law(ranks, {"a": a}, ranks.middle[None] * a, likelihood)


def fit_lognormal(ranks: Ranks) -> Law:
    """mu and s; where the curve bends the other way, the fit is Zipf's, with s infinite and mu minus infinity or undefined: then ``parameters`` has a only."""
    features = np.stack([ranks.middle, ranks.middle**2])
    (a, g), likelihood = _newton(ranks, features)
    if g <= 1e-9:
        return fit_zipf(ranks)
    energy = (features * np.array([[a], [g]])).sum(0, keepdims=True)
    return _law(ranks, {"mu": (1 - a) / (2 * g), "s": math.sqrt(1 / (2 * g))}, energy, likelihood)


def fit_mandelbrot(ranks: Ranks) -> Law:
    """a and b: for every b the likeliest a, and b by golden section over ln(1 + b) up to the number of ranks."""
    rank = np.exp(ranks.middle)

    def at(u: float) -> tuple[float, float]:
        (a,), likelihood = _newton(ranks, np.log(rank + math.expm1(u))[None])
        return likelihood, a

    grid = np.linspace(0, math.log1p(float(ranks.size.sum())), 16)
    best = int(np.argmax([at(u)[0] for u in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    u = _golden(lambda u: at(u)[0], low, high)
    if at(0)[0] >= at(u)[0]:
        u = 0.0
    likelihood, a = at(u)
    b = math.expm1(u)
    return _law(ranks, {"a": a, "b": b}, a * np.log(rank + b)[None], likelihood)


def fit_zipf_from(ranks: Ranks) -> Law:
    """Zipf's law over the ranks from a minimum on, which is chosen by KS as Clauset, Shalizi and Newman do, among those that keep HEAD of the tokens."""
    kept = 1 - np.concatenate([[0.0], np.cumsum(ranks.tokens)[:-1]]) / ranks.total
    most = max(1, min(int((kept >= HEAD).sum()), len(ranks.middle) - LEAST_TYPES))
    tried = np.unique(np.geomspace(1, most, 24).astype(np.int64)) - 1
    fits = [(fit_zipf(ranks.since(group)), group) for group in tried]
    law, group = min(fits, key=lambda f: f[0].ks)
    first = float(ranks.size[:group].sum()) + 1
    return Law({**law.parameters, "from": first, "kept": float(kept[group])}, law.likelihood, law.ks)


def rank_fits(grams: list[Grams], resampler: Resampler, tick: Callable[[], None] | None = None) -> list[RankFit]:
    """Of each order, 1 on. Orders with fewer than LEAST_TYPES types are left out."""
    found = []
    for n, one in enumerate(grams, 1):
        if one.types < LEAST_TYPES:
            continue
        counts = one.counts()
        ranks, once = ranks_of(counts), float((counts == 1).sum() / counts.sum())
        zipf, lognormal, mandelbrot = fit_zipf(ranks), fit_lognormal(ranks), fit_mandelbrot(ranks)

        def drawn(weights: np.ndarray | None, one: Grams = one) -> np.ndarray:
            again = ranks_of(one.counts(weights))
            plain = fit_zipf(again)
            return np.array([plain.parameters["a"], fit_lognormal(again).likelihood - plain.likelihood])

        exponent, gain = resampler.intervals(drawn, tick)
        found.append(
            RankFit(
                n=n,
                types=one.types,
                tokens=len(one.ids),
                exponent=exponent,
                zipf=zipf,
                zipf_from=fit_zipf_from(ranks) if once <= MOST_ONCE else None,
                mandelbrot=mandelbrot,
                lognormal=lognormal,
                mandelbrot_gain=mandelbrot.likelihood - zipf.likelihood,
                lognormal_gain=gain,
            )
        )
    return found


def _newton(ranks: Ranks, features: np.ndarray) -> tuple[np.ndarray, float]:
    """The likeliest theta [F] of p ~ exp(-theta . features [F,G]), and its nats per token."""
    share = ranks.tokens / ranks.total
    seen = features @ share
    theta = np.zeros(len(features))

    def likelihood(theta: np.ndarray) -> tuple[float, np.ndarray]:
        energy = -theta @ features
        top = energy.max()
        weight = ranks.size * np.exp(energy - top)
        total = weight.sum()
        return float(-theta @ seen - top - math.log(total)), weight / total

    value, p = likelihood(theta)
    for _ in range(100):
        mean = features @ p
        spread = (features * p) @ features.T - np.outer(mean, mean)
        step = np.linalg.lstsq(spread, mean - seen, rcond=None)[0]  # upwards: the gradient is mean - seen
        size = 1.0
        while True:
            value_next, p_next = likelihood(theta + size * step)
            if value_next >= value - 1e-15 or size < 1e-9:
                break
            size /= 2
        theta = theta + size * step
        gain, value, p = value_next - value, value_next, p_next
        if abs(gain) < 1e-13:
            break
    return theta, value


def _law(ranks: Ranks, parameters: dict[str, float], energy: np.ndarray, likelihood: float) -> Law:
    weight = ranks.size * np.exp(energy.min() - energy[0])
    difference = np.cumsum(ranks.tokens) / ranks.total - np.cumsum(weight) / weight.sum()
    return Law({k: float(v) for k, v in parameters.items()}, likelihood, float(np.abs(difference).max()))


def _golden(f: Callable[[float], float], low: float, high: float) -> float:
    """Where ``f`` is largest between ``low`` and ``high``, to 1e-6 of them."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = f(a), f(b)
    while high - low > 1e-6:
        if at_a >= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = f(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = f(b)
    return (low + high) / 2
