"""Images that keep their shape (Qwen2.5-VL): the size they are brought to, and where their rows stand.

`runtime/core/vision/geometry_qwen.cc` is the C++ twin of `fitted`.
"""

from __future__ import annotations

import math

import numpy as np

Size = tuple[int, int]
"""(height, width)."""


def fitted(size: Size, unit: int, least: int, most: int) -> Size:
    """The size nearest to ``size`` whose sides are multiples of ``unit`` and whose area is ``least`` to ``most`` pixels.

    As transformers' smart_resize: a side is never below one unit, so a long strip may have more than ``most``.
    """
    height, width = size
    high, wide = round(height / unit) * unit, round(width / unit) * unit
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        return max(unit, math.floor(height / shrink / unit) * unit), max(unit, math.floor(width / shrink / unit) * unit)
    if high * wide < least:
        grow = math.sqrt(least / (height * width))
        return math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit
    return high, wide


def positions(start: int, kept: np.ndarray, grid: Size) -> tuple[np.ndarray, int]:
    """Rotary positions int64 [3,1,K] (time, row, column) of rows ``kept`` [K] of an image that begins at ``start``; that of the text behind.

    Rows of the image are numbered along its ``grid`` (rows, columns) of tokens; dropped ones leave the others where they are. A still image
    has one time. The text goes on behind the larger side, as `get_rope_index` of transformers.
    """
    row, column = kept // grid[1], kept % grid[1]
    return start + np.stack([np.zeros_like(row), row, column]).astype(np.int64)[:, None], start + max(grid)
