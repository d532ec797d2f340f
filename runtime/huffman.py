"""Canonical Huffman codes (Huffman 1952; canonical form: Schwartz and Kallick 1964) over the symbols 0 to V-1, in numpy.

A code is its lengths alone: among equal lengths codewords rise with the symbol, and longer codewords follow shorter ones. Bits are read from the
highest of a byte to the lowest.
"""

from __future__ import annotations

import heapq

import numpy as np

LONGEST = 24
"""Bits of the longest codeword. A codeword is then read from four bytes wherever it begins: 7 + 24 <= 32."""
MOST_SYMBOLS = 1 << LONGEST


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """uint8 [V] bits of each symbol of ``counts`` int [V]; 0 for those that do not occur, 1 where a single one occurs.

    Lengths beyond LONGEST, which need counts as uneven as Fibonacci's numbers, are shortened by flattening the counts, as bzip2 does: the code is
    then the best for slightly wrong counts.
    """
    counts = np.asarray(counts, np.int64)
    used = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.uint8)
    weights = counts[used]
    if len(used) == 1:
        lengths[used] = 1
    elif len(used):
        found = _depths(weights)
        while found.max() > LONGEST:
            weights = (weights + 1) // 2
            found = _depths(weights)
        lengths[used] = found
    return lengths


def _depths(weights: np.ndarray) -> np.ndarray:
    """Depth of every leaf of a Huffman tree; ties are decided by number, so that the same counts give the same code."""
    leaves = len(weights)
    parent = np.zeros(2 * leaves - 1, np.int64)
    heap = [(int(w), i) for i, w in enumerate(weights)]
    heapq.heapify(heap)
    for node in range(leaves, 2 * leaves - 1):
        (a, i), (b, j) = heapq.heappop(heap), heapq.heappop(heap)
        parent[i] = parent[j] = node
        heapq.heappush(heap, (a + b, node))
    depth = np.zeros(2 * leaves - 1, np.int64)
    for node in range(2 * leaves - 3, -1, -1):  # parents have higher numbers
        depth[node] = depth[parent[node]] + 1
    return depth[:leaves]


class Canonical:
    """The code of ``lengths`` uint8 [V]. Raises ValueError unless they are those of a whole prefix code, or of a single symbol with one bit."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        used = np.flatnonzero(self.lengths)
        if not len(used) or self.lengths.max() > LONGEST or self.lengths.min() < 0:
            raise ValueError(f"lengths from 1 to {LONGEST}")
        self.symbols = used[np.lexsort((used, self.lengths[used]))]
        sizes = self.lengths[self.symbols]
        steps = np.int64(1) << (LONGEST - sizes)
        total = int(steps.sum())
        if total != 1 << LONGEST and not (len(used) == 1 and sizes[0] == 1):
            raise ValueError("lengths whose 2^-length sum to 1")
        starts = np.concatenate([[0], np.cumsum(steps)])
        self.words = np.zeros(len(self.lengths), np.int64)
        self.words[self.symbols] = starts[:-1] >> (LONGEST - sizes)
        # Of each length that occurs: the first codeword, its place among the symbols, and where the next length begins.
        self._sizes, self._first = np.unique(sizes, return_index=True)
        self._starts = starts[:-1][self._first]
        self._ends = np.append(self._starts[1:], total)

    def encode(self, symbols: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Bits of ``symbols`` int [n], filled up with zeros to whole bytes, and int64 [n] the number of bits of each."""
        sizes = self.lengths[symbols]
        places = np.cumsum(sizes) - sizes
        bits = np.zeros(int(sizes.sum()), np.uint8)
        for bit in range(int(sizes.max(initial=0))):
            longer = sizes > bit
            bits[places[longer] + bit] = (self.words[symbols[longer]] >> (sizes[longer] - 1 - bit)) & 1
        return np.packbits(bits).tobytes(), sizes

    def decode(self, payload: bytes, places: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """``steps`` symbols from each bit of ``places`` int64 [lanes] on: int64 [lanes,steps], and the places behind them.

        Lanes are decoded side by side, one symbol of all of them at a time. Beyond the payload zeros are read. Raises ValueError for bits that are no
        codeword, which only the code of a single symbol can meet.
        """
        data = np.frombuffer(payload + bytes(4), np.uint8).astype(np.int64)
        places = places.astype(np.int64)
        out = np.empty((len(places), steps), np.int64)
        for step in range(steps):
            byte = np.minimum(places >> 3, len(payload))
            window = data[byte] << 24 | data[byte + 1] << 16 | data[byte + 2] << 8 | data[byte + 3]
            window = (window >> (8 - (places & 7))) & ((1 << LONGEST) - 1)
            kind = np.searchsorted(self._ends, window, side="right")
            if kind.max(initial=0) >= len(self._sizes):
                raise ValueError("bits that are codewords")
            size = self._sizes[kind]
            offset = (window - self._starts[kind]) >> (LONGEST - size)
            out[:, step] = self.symbols[self._first[kind] + offset]
            places = places + size
        return out, places
