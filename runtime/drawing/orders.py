"""Orders of decoding: which codes a pass decides, what the next pass is fed, and how its logits are read.

    raster    code by code, row by row                                g*g passes
    diagonal  all codes of one distance to the top left corner (NAR)  2g-1
    window    s x s codes at once (Token-Shuffle)                     (g/s)^2

A code of ELM has several sub-ids, all drawn from one row; its order is raster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plugins.cached_attention.visible import pack_rows
from .. import image_tensors, tensors


@dataclass(frozen=True)
class Turn:
    """One pass's worth of codes. ``places`` int64 [M] in the raster, in the order of their random numbers."""

    places: np.ndarray
    numbers: np.ndarray
    """int64 [draws]: which code of the image each draw counts as for the guidance."""
    positions: np.ndarray
    """int64 [rows]: positions, from the first code's on, of the rows that carry these codes in the next pass."""


class Order:
    """How an image of ``grid`` x ``grid`` codes is decoded. ``per_step`` ids a row; ``sub_bits`` bits of each where they make one code."""

    def __init__(self, order: str, grid: int, per_step: int = 1, window: int = 1, sub_bits: int = 0) -> None:
        self.name, self.grid, self.per_step, self.window, self.sub_bits = order, grid, per_step, window, sub_bits
        self.turns = {"raster": self._raster, "diagonal": self._diagonals, "window": self._windows}[order]()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of the step graph that the logits are made of."""
        below = (image_tensors.BELOW_LOGITS,) if self.name == "diagonal" else ()
        return (tensors.LOGITS, *below)

    def condition(self, ids: np.ndarray) -> np.ndarray:
        """``ids`` int64 [B] of conditions as rows int64 [B,1] or [B,1,m]: the first id says which, the others are 0."""
        if self.per_step == 1:
            return ids[:, None]
        rows = np.zeros((len(ids), 1, self.per_step), np.int64)
        rows[:, 0, 0] = ids
        return rows

    def rows(self, drawn: np.ndarray) -> np.ndarray:
        """Drawn ids int64 [B,draws] as input rows of the next pass."""
        return drawn if self.per_step == 1 else drawn[:, None]

    def codes(self, drawn: np.ndarray) -> np.ndarray:
        """Drawn ids int64 [B,draws] as codes [B,M]. Sub-ids are joined, the first in the highest bits."""
        if not self.sub_bits:
            return drawn
        return (drawn << self._shifts()).sum(-1, keepdims=True)

    def split(self, codes: np.ndarray) -> np.ndarray:
        """Codes int64 [B,n] of a raster as input rows [B,n] or [B,n,m]."""
        if not self.sub_bits:
            return codes
        return (codes[:, :, None] >> self._shifts()) & ((1 << self.sub_bits) - 1)

    def visible(self, rows: int) -> np.ndarray | None:
        """Who sees whom in a pass: int64 [S,W], or None for the rows before."""
        return pack_rows(np.ones((rows, rows), bool)) if self.name == "diagonal" else None

    def logit_rows(self, rows: int) -> np.ndarray:
        """int64 [R]: the rows of a pass whose logits say the next codes."""
        return np.arange(rows) if self.name == "diagonal" else np.array([rows - 1])

    def logits(self, made: dict[str, np.ndarray], turn: int) -> np.ndarray:
        """float32 [B,draws,V] of turn number ``turn``, from the outputs of the pass before it."""
        logits = made[tensors.LOGITS]
        if self.name == "diagonal":
            return mixed(logits, made[image_tensors.BELOW_LOGITS], turn, self.grid)
        return logits if self.per_step == 1 else logits[:, 0]

    def _shifts(self) -> np.ndarray:
        return self.sub_bits * np.arange(self.per_step - 1, -1, -1)

    def _raster(self) -> list[Turn]:
        draws = self.per_step
        return [
            Turn(np.array([i]), np.full(draws, i, np.int64), np.array([i], np.int64))
            for i in range(self.grid * self.grid)
        ]

    def _diagonals(self) -> list[Turn]:
        turns, done = [], 0
        for c in range(2 * self.grid - 1):
            h = np.arange(max(0, c - self.grid + 1), min(c, self.grid - 1) + 1)
            places = h * self.grid + (c - h)
            turns.append(Turn(places, done + np.arange(len(h)), places))
            done += len(h)
        return turns

    def _windows(self) -> list[Turn]:
        side, s = self.grid // self.window, self.window
        inside = (np.arange(s)[:, None] * self.grid + np.arange(s)).ravel()
        turns = []
        for i in range(side * side):
            y, x = divmod(i, side)
            first = y * s * self.grid + x * s
            turns.append(Turn(first + inside, np.full(s * s, i * s * s, np.int64), np.array([i], np.int64)))
        return turns


def mixed(right: np.ndarray, below: np.ndarray, diagonal: int, grid: int) -> np.ndarray:
    """Logits float32 [B,n,V] of diagonal number ``diagonal`` from both heads [B,m,V] of the one before (He et al. 2025).

    A code has up to two neighbours that say it: the one to its left by the right head, the one above by the below head; their logits
    are averaged. Code 0 is the mean of both heads at the condition.
    """
    half = np.float32(0.5)
    if diagonal == 0:
        return (right + below) * half  # type: ignore[no-any-return]
    middle = (below[:, :-1] + right[:, 1:]) * half
    if diagonal >= grid:
        return middle  # type: ignore[no-any-return]
    return np.concatenate([right[:, :1], middle, below[:, -1:]], axis=1)


def order_of(image: dict[str, Any]) -> Order:
    """The order that ``image_codes`` of a manifest names."""
    return Order(
        image.get("order", "raster"),
        int(image["grid"]),
        int(image.get("per_step", 1)),
        int(image.get("window", 1)),
        int(image.get("sub_bits", 0)),
    )
