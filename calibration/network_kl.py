"""The divergence between two networks that are run once per input, in nats, whatever their outputs are.

A decoder's KL divergence is between distributions of the next token. Other networks have other outputs, so what "KL" is has to be said:

- ``classes``: KL of the softmax over an output of C scores, or of the output itself where it sums to 1.
- ``similarities``: for texts. Each text's softmax over its cosines with all other texts of the set, at temperature 0.05: what retrieval by the
  embeddings would choose. A different set of texts gives another figure, so compare only on one.
- ``pixels``: for a map of probabilities (all within 0 to 1): the mean over positions of the KL of Bernoulli distributions.
- ``places``: for any other map: KL of the softmax over all of its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .evaluate import RESAMPLES, Interval

TEMPERATURE = 0.05
"""Of similarities: sentence embeddings are trained with scales of 20 and thereabouts."""

_LEAST = 1e-7
"""Probabilities are kept this far from 0 and 1: float32 has no smaller distance from 1."""


@dataclass(frozen=True)
class Divergence:
    """``kl`` in nats, a mean over ``items`` with the 95 % interval of a bootstrap over texts or pictures; ``kind`` as the module says;
    ``relative_error``: squared error of the outputs over their square."""

    kind: str
    items: int
    kl: Interval
    relative_error: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def kind_of(wanted: Sequence[np.ndarray], *, text: bool) -> str:
    """The kind of a network by the outputs ``wanted`` of its items, and whether its input is text."""
    if text:
        return "similarities"
    if wanted[0].ndim == 1 and wanted[0].size > 1:
        return "classes"
    low, high = min(float(a.min()) for a in wanted), max(float(a.max()) for a in wanted)
    return "pixels" if low >= 0 and high <= 1 else "places"


def item_divergences(kind: str, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> np.ndarray:
    """KL(wanted || found) of each item, float64 [items], at least 0. Raises ValueError for an unknown kind."""
    if kind == "similarities":
        p, q = (_similarities(np.stack([a.reshape(-1) for a in side])) for side in (wanted, found))
        return np.asarray(_kl(p, q))
    pairs = [
        (a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)) for a, b in zip(wanted, found, strict=True)
    ]
    if kind in ("classes", "places"):
        made = [_kl(_log_distribution(a, kind == "classes"), _log_distribution(b, kind == "classes")) for a, b in pairs]
    elif kind == "pixels":
        made = [_bernoulli(a, b) for a, b in pairs]
    else:
        raise ValueError(f"kind is {kind!r}, expected classes, similarities, pixels or places")
    return np.array(made, np.float64)


def divergence(
    kind: str, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], groups: Sequence[int] | None = None
) -> Divergence:
    """The divergence of outputs ``found`` from ``wanted``, one array an item. ``groups``: numbers of the texts or pictures, of which
    an item is a view."""
    each = item_divergences(kind, wanted, found)
    wrong = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(wanted, found, strict=True))
    size = sum(float((a.astype(np.float64) ** 2).sum()) for a in wanted)
    numbers = np.arange(len(each)) if groups is None else np.asarray(groups)
    return Divergence(kind, len(each), _interval(each, numbers), wrong / max(size, 1e-30))


def _kl(p: np.ndarray, q: np.ndarray) -> Any:
    """Over the last axis of log-probabilities."""
    return np.maximum((np.exp(p) * (p - q)).sum(-1), 0)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    moved = scores - scores.max(-1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(-1, keepdims=True)))


def _log_distribution(values: np.ndarray, maybe_probabilities: bool) -> np.ndarray:
    """Scores become a softmax; what is a distribution already stays one."""
    if maybe_probabilities and values.min() >= 0 and abs(values.sum() - 1) < 1e-3:
        kept = np.maximum(values, _LEAST)
        return np.asarray(np.log(kept / kept.sum()))
    return _log_softmax(values)


def _similarities(vectors: np.ndarray) -> np.ndarray:
    """Log-probabilities [N,N-1] of all other texts, by the cosines of ``vectors`` [N,D]."""
    wide = vectors.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
    count = len(unit)
    others = (unit @ unit.T)[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return _log_softmax(others / TEMPERATURE)


def _bernoulli(p: np.ndarray, q: np.ndarray) -> float:
    p, q = np.clip(p, _LEAST, 1 - _LEAST), np.clip(q, _LEAST, 1 - _LEAST)
    return float(np.maximum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)), 0).mean())


def _interval(values: np.ndarray, groups: np.ndarray) -> Interval:
    numbers, place = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(0).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
