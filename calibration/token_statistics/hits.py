"""How often the next code is the likeliest, or among the 5 or 50 likeliest, by a table of n-grams that was counted on other images.

An upper bound for drafting by n-grams: no table can propose what it has not counted. Images are dealt into FOLDS; each fold is guessed by the counts of the
others. A context that was not seen falls back to a shorter one, as drafters do. Equally frequent codes: the lowest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..visual.intervals import Interval
from .grams import Grams, corner_grams, pairs
from .resample import Resampler
from .stream import Stream

FOLDS = 5
TOPS = (1, 5, 50)
CONTEXTS = {
    "1": "nothing",
    "2": "left",
    "3": "2 to the left",
    "4": "3 to the left",
    "above": "above",
    "corner": "left and above",
}
"""Name -> what of the image the table is asked with. The first four are n-grams along rows, of that n."""
_SHORTER = {"2": "1", "3": "2", "4": "3", "above": "1", "corner": "2"}


@dataclass(frozen=True)
class Hits:
    """With ``context`` (`CONTEXTS`): ``top`` k -> share of codes among the k likeliest. ``known``: share whose whole context was seen."""

    context: str
    tokens: int
    known: float
    top: dict[int, Interval]


def hits(
    stream: Stream, rows: list[Grams], resampler: Resampler, seed: int = 0, tick: Callable[[], None] | None = None
) -> list[Hits]:
    """Of all contexts that fit the grid. ``rows``: the n-grams of ``stream`` along rows, 1 on, up to 4 of which are used."""
    grams = {str(n): one for n, one in enumerate(rows[:4], 1)}
    if stream.codes.shape[1] > 1:
        grams["above"] = pairs(stream, "y")
        if stream.codes.shape[2] > 1:
            grams["corner"] = corner_grams(stream)
    units = int(stream.units.max()) + 1
    fold_of = (np.random.default_rng(seed).permutation(units) % FOLDS)[stream.units]
    size = stream.codes[0].size
    # Rank of the true code at every place, by every table: vocab = never seen after this context.
    ranks: dict[str, np.ndarray] = {}
    found = []
    for name, one in grams.items():
        rank, known = np.empty(len(one.ids), np.int64), np.empty(len(one.ids), bool)
        for fold in range(FOLDS):
            held = fold_of[one.image] == fold
            by_type, seen = table_ranks(one, one.counts((fold_of != fold).astype(np.float64)))
            rank[held] = by_type[one.ids[held]]
            known[held] = seen[one.context[one.ids[held]]]
            if tick:
                tick()
        where = one.image * size + one.place
        if name in _SHORTER:
            rank = np.where(known, rank, ranks[_SHORTER[name]][where])
        everywhere = np.full(stream.tokens, stream.vocab, np.int64)
        everywhere[where] = rank
        ranks[name] = everywhere
        found.append(_summary(name, one, rank, known, stream, resampler))
    return found


def table_ranks(grams: Grams, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a table that counted ``counts`` [K]: int64 [K] rank of each type among those of its context, 0 = likeliest and a huge number = not counted;
    bool [contexts] whether the context was counted."""
    order = np.lexsort((grams.last, -counts, grams.context))
    context = grams.context[order]
    begins = np.searchsorted(context, np.arange(grams.contexts))
    rank = np.empty(grams.types, np.int64)
    rank[order] = np.arange(grams.types) - begins[context]
    rank[counts == 0] = np.iinfo(np.int64).max
    return rank, grams.context_counts(counts) > 0


def _summary(
    name: str, grams: Grams, rank: np.ndarray, known: np.ndarray, stream: Stream, resampler: Resampler
) -> Hits:
    right = np.stack([np.bincount(grams.image, rank < k, stream.images) for k in TOPS])
    each = np.bincount(grams.image, minlength=stream.images).astype(np.float64)

    def share(weights: np.ndarray | None) -> np.ndarray:
        w = np.ones(stream.images) if weights is None else weights
        return right @ w / (each @ w)

    return Hits(
        context=name,
        tokens=len(grams.ids),
        known=float(known.mean()),
        top=dict(zip(TOPS, resampler.intervals(share), strict=True)),
    )
