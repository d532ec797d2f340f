"""N-grams of a stream by dense numbers, so that counting under any weights of the images is one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .stream import Stream

DIRECTIONS = {"x": (0, 1), "y": (1, 0), "diagonal": (1, -1)}
"""From a code to its neighbour, in rows and columns: right, below, and below to the left, which NAR draws at the same time."""


@dataclass(frozen=True)
class Grams:
    """``ids`` int64 [M]: type, 0 to K-1, of every occurrence; ``image`` and ``place`` int64 [M]: where its last code stands (place = row * W + column).

    ``context`` int64 [K]: type of all but the last code, numbered 0 to ``contexts`` - 1; ``last`` int64 [K]: the last code.
    """

    ids: np.ndarray
    image: np.ndarray
    place: np.ndarray
    context: np.ndarray
    contexts: int
    last: np.ndarray

    @property
    def types(self) -> int:
        """K, the different n-grams that occur."""
        return len(self.last)

    def counts(self, weights: np.ndarray | None = None) -> np.ndarray:
        """How often each type occurs [K], every image counted ``weights`` float64 [N] times (None: once)."""
        if weights is None:
            return np.bincount(self.ids, minlength=self.types)
        return np.bincount(self.ids, weights[self.image], self.types)

    def context_counts(self, counts: np.ndarray) -> np.ndarray:
        """Of the contexts [contexts], when the types have ``counts`` [K]."""
        return np.bincount(self.context, counts, self.contexts)


def row_grams(stream: Stream, longest: int) -> list[Grams]:
    """1-grams to ``longest``-grams along rows. None crosses the end of a row: the next row's first code is no neighbour of this one's last.

    Orders longer than a row are left out.
    """
    codes = stream.codes
    held = np.zeros(codes.shape, np.int64)  # type of the context that ends before a place; one for all at first
    found: list[Grams] = []
    for n in range(1, min(longest, codes.shape[2]) + 1):
        grams = joined(stream, held[:, :, n - 1 :], (slice(None), slice(n - 1, None)))
        found.append(grams)
        held = np.zeros(codes.shape, np.int64)
        held[:, :, n:] = grams.ids.reshape(len(codes), codes.shape[1], -1)[:, :, :-1]
    return found


def pairs(stream: Stream, direction: str) -> Grams:
    """Every code with its neighbour in ``direction`` (`DIRECTIONS`): the context is the code, ``last`` the neighbour."""
    first, where = _neighbours(stream, DIRECTIONS[direction])
    return joined(stream, first, where)


def corner_grams(stream: Stream) -> Grams:
    """Every code with those to the left and above, which are the context."""
    codes = stream.codes
    context = codes[:, 1:, :-1] * stream.vocab + codes[:, :-1, 1:]
    return joined(stream, context, (slice(1, None), slice(1, None)))


def _neighbours(stream: Stream, step: tuple[int, int]) -> tuple[np.ndarray, tuple[slice, slice]]:
    rows, columns = stream.codes.shape[1:]
    down, right = step
    here = (slice(0, rows - down), slice(max(0, -right), columns - max(0, right)))
    there = (slice(down, rows), slice(max(0, right), columns + min(0, right)))
    return stream.codes[:, here[0], here[1]], there


def joined(stream: Stream, context: np.ndarray, where: tuple[slice, slice]) -> Grams:
    """Contexts int [N,h,w] with the codes of the places ``where``, rows and columns [h,w] of the grid."""
    codes = stream.codes[:, where[0], where[1]]
    places = np.arange(stream.codes[0].size).reshape(stream.codes.shape[1:])[where]
    known, dense = np.unique(context, return_inverse=True)
    keys, ids = np.unique(dense.reshape(codes.shape) * stream.vocab + codes, return_inverse=True)
    return Grams(
        ids=ids.ravel(),
        image=np.repeat(np.arange(stream.images), places.size),
        place=np.tile(places.ravel(), stream.images),
        context=keys // stream.vocab,
        contexts=len(known),
        last=keys % stream.vocab,
    )
