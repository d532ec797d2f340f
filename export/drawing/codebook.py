"""What speculative decoding needs to know of a codebook: which codes look alike. All of it from rows of length 1, once, when exporting."""

from __future__ import annotations

import numpy as np

from ...runtime.drawing.uniforms import uniforms

ROUNDS = 10
"""Of Lloyd's iteration; assignments hardly move after five."""

_CHUNK = 1 << 24
"""Distances held at a time: 64 MB."""


def distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared L2 float32 [n,k] between rows float32 [n,E] and [k,E]."""
    squares = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * rows @ others.T
    return np.maximum(squares, 0)  # type: ignore[no-any-return]


def nearest_codes(rows: np.ndarray, k: int) -> np.ndarray:
    """int64 [V,k]: of each of the codes with embeddings float32 [V,E] the k nearest others, nearest first, ties by lower number."""
    codes = len(rows)
    table = np.empty((codes, k), np.int64)
    step = max(1, _CHUNK // codes)
    for first in range(0, codes, step):
        block = distances(rows[first : first + step], rows)
        own = np.arange(len(block))
        block[own, first + own] = np.inf  # itself, which duplicates could displace
        farthest = np.partition(block, k - 1, axis=1)[:, k - 1]
        for i, row in enumerate(block):  # a sort of all V distances would take four times as long
            near = np.flatnonzero(row <= farthest[i])
            table[first + i] = near[np.argsort(row[near], kind="stable")][:k]
    return table


def balanced_clusters(rows: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """int64 [V,1]: the cluster of each code, 0 to clusters-1, none larger than ceil(V / clusters). Same input, same clusters.

    Centres by Lloyd's iteration from k-means++ (Arthur and Vassilvitskii 2007); then pairs of code and centre are taken by rising
    distance, a code at the first centre that still has room.
    """
    codes = len(rows)
    centres = _seeds(rows, clusters, seed)
    for _ in range(ROUNDS):
        own = distances(rows, centres).argmin(1)
        sums = np.zeros_like(centres, np.float64)
        np.add.at(sums, own, rows.astype(np.float64))
        sizes = np.bincount(own, minlength=clusters)[:, None]
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres).astype(np.float32)
    away = distances(rows, centres)
    room = np.full(clusters, -(-codes // clusters))
    found = np.full(codes, -1, np.int64)
    left = codes
    for pair in np.argsort(away, axis=None, kind="stable"):
        code, cluster = divmod(int(pair), clusters)
        if found[code] < 0 and room[cluster]:
            found[code] = cluster
            room[cluster] -= 1
            left -= 1
            if not left:
                break
    return found[:, None]


def _seeds(rows: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """k-means++: each centre is a row drawn by its squared distance to the nearest centre so far."""
    numbers = uniforms(seed, 0, clusters).astype(np.float64)
    chosen = [int(numbers[0] * len(rows))]
    nearest = distances(rows, rows[chosen])[:, 0].astype(np.float64)
    for number in numbers[1:]:
        nearest[chosen] = 0
        running = nearest.cumsum()
        if running[-1] > 0:
            chosen.append(int(np.searchsorted(running, number * running[-1], side="right")))
        else:  # only duplicates are left
            chosen.append(min(set(range(len(rows))) - set(chosen)))
        nearest = np.minimum(nearest, distances(rows, rows[chosen[-1:]])[:, 0])
    return rows[chosen].astype(np.float32)
