"""The input ``visible`` of ``CachedAttention``: which rows of a pass each row sees, one bit each. numpy only.

    visible[b,i,w] >> j & 1   row i sees row 64*w + j of the same pass

Rows may stand in any order as long as a row sees the rows of its path in the order of their positions. Two orders matter:
a tree with its nodes anywhere behind their parents, and a block-mask pass with the real rows first. With the real rows first they
are in their final cache slots, and see what they see in plain decoding: they are the same bit for bit, and nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def words(rows: int) -> int:
    """How many int64 a row needs for a pass of ``rows`` rows."""
    return (rows + 63) // 64


def pack_rows(sees: np.ndarray) -> np.ndarray:
    """int64 [...,S,W] of a bool array ``sees`` [...,S,S]: sees[...,i,j] when row i sees row j."""
    rows = sees.shape[-1]
    wide = np.zeros((*sees.shape[:-1], words(rows) * 64), np.uint8)
    wide[..., :rows] = sees
    packed = np.packbits(wide, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<i8").astype(np.int64)


def unpack_rows(visible: np.ndarray) -> np.ndarray:
    """The bool array [...,S,S] of ``visible`` [...,S,W]."""
    flat = np.ascontiguousarray(visible.astype("<i8")).view(np.uint8)
    return np.unpackbits(flat, axis=-1, bitorder="little")[..., : visible.shape[-2]].astype(bool)


def tree_sees(parents: Sequence[int]) -> np.ndarray:
    """bool [S,S] of a tree: parents[i] < i is the row before row i, -1 for a root. A row sees its ancestors and itself.

    Raises ValueError.
    """
    sees = np.eye(len(parents), dtype=bool)
    for row, parent in enumerate(parents):
        if not -1 <= parent < row:
            raise ValueError(
                f"parent of row {row} is {parent}, expected -1 to {row - 1}; put every node behind its parent"
            )
        if parent >= 0:
            sees[row] |= sees[parent]
    return sees


def block_sees(real: int, masks: int) -> np.ndarray:
    """bool [S,S], S = real * (1 + masks), of quadratic decoding (Samragh et al. 2025) with the real rows first.

    Row g < real is a real token; row real + g * masks + i is mask i of the block behind it. A real row sees the real rows up to
    itself, a mask what its real row sees, the masks before it in its block, and itself.
    """
    sees = np.eye(real * (1 + masks), dtype=bool)
    for g in range(real):
        sees[g, : g + 1] = True
        for i in range(masks):
            row = real + g * masks + i
            sees[row, : g + 1] = True
            sees[row, row - i : row + 1] = True
    return sees


def block_positions(real: int, masks: int) -> np.ndarray:
    """int64 [S]: position of each row of `block_sees`, relative to the first real row."""
    first = np.arange(real)
    return np.concatenate([first, (first[:, None] + 1 + np.arange(masks)).ravel()]).astype(np.int64)
