"""Guessing ahead: what the names mean, and the classes for drafters and acceptors of one's own.

    with farthing.load("build/smollm2", draft="auto") as model: ...

A drafter guesses what comes next, one pass runs the guesses beside the newest token, an acceptor says where the text goes on. The
drafters that ship are C++ (``runtime/core/speculation``); a subclass of `Drafter` or `Acceptor` is for experiments: it is called
with the interpreter's lock held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RequestError, found_wanted

DRAFTS = ("none", "tuned", "auto", "lookup", "aded", "mtp", "ftp", "model")
"""Names for ``draft``: plain decoding; ``auto`` where `farthing tune` has measured this machine, else none; the best guess of all that
the bundle can make; prompt lookup; the tri-gram table of ADED; mask tokens and sampler head of a bundle of `farthing export mtp`; the further steps of one of `farthing export ftp`;
a second, small bundle of the same vocabulary (``draft_bundle``)."""

Draft = tuple[list[int], list[int], list[float]]
"""(ids, parents, chances) of the nodes: parents[i] < i, or -1 for the newest token; chances in [0, 1]."""


class Drafter:
    """Guesses from the text so far. A node's chance is the estimate that it is right, given that its parent is."""

    def begin(self, tokens: list[int]) -> None:
        """A text begins with ``tokens``, which have run; `observe` follows."""

    def observe(self, tokens: list[int]) -> None:
        """``tokens`` were added to the text; the last of them has not run yet."""

    def propose(self, nodes: int, depth: int, tree: bool) -> Draft:
        """At most ``nodes`` nodes, no path longer than ``depth``; a chain unless ``tree``."""
        raise NotImplementedError

    def verified(self, ids: list[int], nodes: list[int], path: list[int]) -> None:
        """Of the draft's ``ids``, the nodes numbered ``nodes`` ran, and those of ``path`` were accepted."""


class Acceptor:
    """Says which drafted token the text goes on with. The default is exact: the text is that of plain decoding, greedy or sampled."""

    guarantee = "exact"
    """``exact`` or ``lossy``."""

    def begin(self) -> None:
        """A text begins."""

    def accept(self, logits: np.ndarray, drawn: int, children: dict[int, int]) -> int | None:
        """The id of ``children`` (id -> row) that is said, or None: ``drawn`` is, and the pass ends.

        ``logits`` float32 [V] of the row; ``drawn`` is what plain decoding says here.
        """
        return drawn if drawn in children else None


@dataclass(frozen=True)
class PassCosts:
    """Seconds of a pass by its rows and the past length: what `farthing tune` measures. ``seconds`` float64 [past, rows]."""

    rows: list[int]
    past: list[int]
    seconds: np.ndarray

    @classmethod
    def of_grid(cls, grid: tuple[Sequence[int], Sequence[int], Sequence[float]]) -> PassCosts:
        """From the core's flat form."""
        rows, past, seconds = grid
        return cls(list(rows), list(past), np.array(seconds).reshape(len(past), len(rows)))

    def grid(self) -> tuple[list[int], list[int], list[float]]:
        """The core's flat form."""
        return self.rows, self.past, [float(s) for s in self.seconds.ravel()]


def check_draft(draft: Any, rows: int) -> None:
    """Raise RequestError unless ``draft`` is a known name or a `Drafter`, and ``rows`` a possible number of drafted rows."""
    if not isinstance(draft, Drafter) and draft not in DRAFTS:
        raise RequestError(
            found_wanted("draft", repr(draft)[:60], f"one of {', '.join(DRAFTS)}, or a Drafter", "choose one")
        )
    if not 1 <= rows <= 63:
        raise RequestError(found_wanted("draft_rows", rows, "1 to 63", "choose another number"))


def check_judge(judge: bool | float) -> float | None:
    """The threshold that ``judge`` asks for; None = the bundle's, or none at all. Raises RequestError."""
    if isinstance(judge, bool):
        return None
    if not isinstance(judge, (int, float)) or not 0 <= judge <= 1:
        raise RequestError(
            found_wanted("judge", repr(judge)[:60], "True, False or a threshold from 0 to 1", "choose another")
        )
    return float(judge)
