"""Images of several views (AnyRes, LLaVA-NeXT): which feature of which view stands where in the sequence. Numpy only.

An image gives a thumbnail (view 0) and nh x nw tiles (views 1, 2, ... row by row), each grid x grid tokens. The tiles are stitched to a canvas
of nh*grid x nw*grid tokens; rows or columns that cover the letterbox are cut off; every row of what is left ends with a line break. The
sequence is the thumbnail, then the canvas row by row. The same as transformers' LlavaNextModel.pack_image_features, of which
tests/test_anyres.py is the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RequestError, found_wanted

NEWLINE = -2
"""Group of a line break: TokenSelect always keeps it."""


@dataclass(frozen=True)
class AnyRes:
    """How one image is laid out. ``original`` is its (height, width) in pixels, ``tiles`` = (nh, nw), ``grid`` tokens a side of a view."""

    original: tuple[int, int]
    tiles: tuple[int, int]
    grid: int
    rows: tuple[int, int]
    """Rows of the canvas that are image: from, to. Equal if none is."""
    columns: tuple[int, int]
    """Columns likewise."""
    order: np.ndarray
    """int64 [L]: row of the flattened features [T*N] for each row of the sequence; T*N for a line break."""
    group: np.ndarray
    """int64 [1,L]: view of each row; -2 for a line break."""

    @property
    def views(self) -> int:
        """T: the thumbnail and the tiles."""
        return 1 + self.tiles[0] * self.tiles[1]

    @property
    def counts(self) -> np.ndarray:
        """int64 [T]: rows of the sequence that come from each view."""
        return np.bincount(self.group[self.group >= 0], minlength=self.views).astype(np.int64)

    @property
    def candidates(self) -> int:
        """Rows that may be dropped: all but line breaks."""
        return int((self.group >= 0).sum())

    @property
    def newlines(self) -> int:
        """Line breaks."""
        return int((self.group == NEWLINE).sum())

    @property
    def empty(self) -> tuple[int, ...]:
        """Views of which nothing is left, e.g. on grids of one token, where the letterbox may take the only row."""
        return tuple(int(view) for view in np.flatnonzero(self.counts == 0))

    def taps(self) -> tuple[np.ndarray, np.ndarray]:
        """(index int64 [L,4], weight float32 [L,4]): where each row of the sequence falls on the thumbnail's grid, by bilinear interpolation.

        The thumbnail's grid is stretched over the valid part of the canvas, half pixels at the edges (align_corners=False). Zero
        weights for the thumbnail's own rows and line breaks.
        """
        index, weight = np.zeros((self.order.size, 4), np.int64), np.zeros((self.order.size, 4), np.float32)
        high, wide = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        if high > 0 and wide > 0:
            (y0, y1, fy), (x0, x1, fx) = _between(self.grid, high), _between(self.grid, wide)
            corners = [y[:, None] * self.grid + x for y in (y0, y1) for x in (x0, x1)]
            shares = [y[:, None] * x for y in (1 - fy, fy) for x in (1 - fx, fx)]
            tile_rows = self.group[0] > 0
            index[tile_rows] = np.stack(corners, -1).reshape(-1, 4)
            weight[tile_rows] = np.stack(shares, -1).reshape(-1, 4)
        return index, weight

    def regions(self) -> np.ndarray:
        """float32 [T,N]: 1 where a cell of the thumbnail's grid lies under a tile; row 0, the thumbnail's own, is zero.

        A grid that the tiles do not divide leaves its remainder to the last ones.
        """
        (high, wide), cells = self.tiles, np.arange(self.grid)
        down = np.minimum(cells // max(self.grid // high, 1), high - 1)
        across = np.minimum(cells // max(self.grid // wide, 1), wide - 1)
        view = 1 + down[:, None] * wide + across
        return (view.reshape(1, -1) == np.arange(self.views)[:, None]).astype(np.float32)


def choose_pinpoint(original: tuple[int, int], pinpoints: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size (height, width) to fit an image of ``original`` (height, width) into: most of its pixels kept, then least waste, then the first.

    Raises RequestError for an empty list or an image without pixels.
    """
    height, width = _sizes("original size", original)
    if not pinpoints:
        raise RequestError(found_wanted("pinpoints", "none", "at least one (height, width)", "take the model's own"))
    best, kept, waste = pinpoints[0], -1, 0
    for high, wide in pinpoints:
        scale = min(wide / width, high / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = high * wide - effective
        if effective > kept or (effective == kept and wasted < waste):
            best, kept, waste = (high, wide), effective, wasted
    return best


def anyres(
    original: tuple[int, int],
    tiles: tuple[int, int],
    grid: int,
    *,
    unpad: bool = True,
    newline: bool = True,
    least: int = 0,
) -> AnyRes:
    """The layout of an image of ``original`` (height, width) pixels cut into ``tiles`` = (nh, nw) views of grid x grid tokens.

    Args:
        original: size of the image before it was fitted.
        tiles: rows and columns of tiles; (0, 0) for a thumbnail alone, which gets one line break behind it.
        grid: tokens a side; after pooling, that of the pooled view.
        unpad: cut the letterbox off; false keeps the whole canvas.
        newline: whether rows end with a line break.
        least: rows and columns to keep at least where the letterbox would take more. 0 is what transformers does, and what models were
            trained on: an extreme image may then be its thumbnail and nothing else.

    Raises RequestError for sizes below 1.
    """
    _sizes("original size", original)
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 1:
        raise RequestError(found_wanted("grid", repr(grid), "1 or more tokens a side", "take the model's own"))
    if tuple(tiles) != (0, 0):
        _sizes("tiles", tiles)
    canvas = (tiles[0] * grid, tiles[1] * grid)
    rows, columns = (0, canvas[0]), (0, canvas[1])
    if unpad and tiles[0]:
        rows, columns = _valid(original, canvas, least)
    tokens, views = grid * grid, 1 + tiles[0] * tiles[1]
    y, x = np.arange(*rows)[:, None], np.arange(*columns)[None]
    view = 1 + (y // grid) * tiles[1] + x // grid
    flat = view * tokens + (y % grid) * grid + x % grid
    breaks = np.full((len(y), int(newline)), views * tokens)
    order = np.concatenate([np.arange(tokens), np.concatenate([flat, breaks], 1).reshape(-1)])
    if newline and not tiles[0]:
        order = np.append(order, tokens)
    group = np.where(order == views * tokens, NEWLINE, order // tokens)
    return AnyRes(
        (original[0], original[1]),
        (tiles[0], tiles[1]),
        grid,
        rows,
        columns,
        order.astype(np.int64),
        group.astype(np.int64)[None],
    )


def _valid(original: tuple[int, int], canvas: tuple[int, int], least: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the canvas that are not letterbox. Rounded to 7 digits before the cut, as transformers does: 23.9999999 is 24."""
    (height, width), (high, wide) = original, canvas
    if width / height > wide / high:
        inner = int(round(height * (wide / width), 7))
        return _middle(high, inner, least), (0, wide)
    inner = int(round(width * (high / height), 7))
    return (0, high), _middle(wide, inner, least)


def _middle(size: int, inner: int, least: int) -> tuple[int, int]:
    pad = (size - max(inner, min(least, size))) // 2
    return pad, size - pad


def _between(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lower neighbour, upper neighbour, share of the upper) of each of ``target`` points on a line of ``source``."""
    at = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(at.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), at - low


def _sizes(what: str, value: tuple[int, int]) -> tuple[int, int]:
    good = len(value) == 2 and all(isinstance(v, (int, np.integer)) and v >= 1 for v in value)
    if not good:
        raise RequestError(found_wanted(what, tuple(value), "two numbers of at least 1", "give height and width"))
    return int(value[0]), int(value[1])
