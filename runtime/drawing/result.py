"""What a drawing gives: codes, pixels, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .speculate import Account


@dataclass(frozen=True)
class Speculation:
    """How guessing went, over all images of a request."""

    judged: int
    """Drafts that were looked at: the accepted ones, and the refused one of each round."""
    accepted: int
    mean_chance: float
    """Mean chance of acceptance of the judged drafts."""
    total_variation: float
    """Estimate, a judged draft: how far the code is from being drawn from the model's distribution, 0 to 1, given what it was drawn from.

    Acceptance above the exact rule's chance moves exactly as much probability, so the mean excess estimates it without bias for
    ``grouped``, and for ``neighbourhood`` with certain guesses; for ``partition``, and ``neighbourhood`` with drawn guesses, it is less.
    Over all that a draft may be drawn from, a code is off by less than the mean.
    """
    passes: tuple[int, ...]
    """Of each image."""

    @staticmethod
    def of(account: Account, mode: str) -> Speculation:
        """The figures of an account."""
        judged = max(1, account.judged)
        moved = 0.0 if mode == "exact" else max(account.above, account.below) / judged
        return Speculation(account.judged, account.accepted, account.chance / judged, moved, tuple(account.passes))


@dataclass(frozen=True)
class Drawn:
    """``codes`` int64 [B,g*g]; ``pixels`` uint8 [B,H,W,3]; ``passes`` of the model over all images, the condition's included."""

    codes: np.ndarray
    pixels: np.ndarray
    passes: int
    decode: str
    """How it was decoded: plain, or a mode of acceptance."""
    seconds: dict[str, float]
    """In the ``model`` (a drafter included), in ``choosing`` (the graphs that draw and judge), in ``pixels``, in our own ``loop``, ``total``."""
    speculation: Speculation | None = None

    def as_json(self) -> dict[str, Any]:
        """Codes and figures as plain data."""
        made: dict[str, Any] = {"codes": self.codes.tolist(), "passes": self.passes, "decode": self.decode}
        if self.speculation:
            s = self.speculation
            made["speculation"] = {
                "judged": s.judged,
                "accepted": s.accepted,
                "acceptance": s.accepted / max(1, s.judged),
                "mean_chance": s.mean_chance,
                "total_variation": s.total_variation,
                "passes": list(s.passes),
            }
        return {**made, "seconds": {name: round(value, 6) for name, value in self.seconds.items()}}
