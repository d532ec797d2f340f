"""Where images lie in the cache of a sequence, and how slots, late slots and positions differ behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import RequestError, found_wanted
from .encoder import digest


@dataclass(frozen=True)
class AskedImage:
    """An image of a prompt: ``pixels`` uint8 [H,W,3] at a ``level``; ``key`` tells two of them apart."""

    pixels: np.ndarray
    level: str

    @property
    def key(self) -> str:
        """SHA-256 of the pixels, and the level."""
        return f"{digest(self.pixels)}@{self.level}"


Item = int | AskedImage
"""A token of a prompt, or an image in its place."""


@dataclass(frozen=True)
class Span:
    """An image in the cache: slots ``begin`` to ``begin + rows``. Behind it, position = slot + ``shift`` and late slot = slot - ``gap``."""

    begin: int
    rows: int
    key: str
    shift: int
    gap: int


@dataclass
class Spans:
    """The images of a sequence, in order."""

    spans: list[Span] = field(default_factory=list)

    @property
    def shift(self) -> int:
        """Position of the next row minus its slot."""
        return self.spans[-1].shift if self.spans else 0

    @property
    def gap(self) -> int:
        """Slots that layers behind a pruning have fewer."""
        return self.spans[-1].gap if self.spans else 0

    def add(self, begin: int, rows: int, key: str, *, positions: int, dropped_late: int) -> None:
        """An image of ``rows`` slots that took ``positions`` positions, of whose rows ``dropped_late`` are missing in late layers."""
        self.spans.append(Span(begin, rows, key, self.shift + positions - rows, self.gap + dropped_late))

    def rewind(self, length: int) -> None:
        """Forget the images behind ``length``. Raises RequestError for a length inside an image."""
        for span in self.spans:
            if span.begin < length < span.begin + span.rows:
                raise RequestError(
                    found_wanted(
                        "length to rewind to",
                        f"{length}, inside an image",
                        f"{span.begin} or {span.begin + span.rows}",
                        "go back to before or behind it",
                    )
                )
        self.spans = [s for s in self.spans if s.begin + s.rows <= length]

    def common(self, cached: Sequence[int], items: Sequence[Item]) -> tuple[int, int]:
        """(slots, items) that the cache and a prompt begin with; the last item is never among them, since its logits are needed."""
        slots = 0
        for used, item in enumerate(items[:-1]):
            if slots >= len(cached):
                return slots, used
            span = next((s for s in self.spans if s.begin == slots), None)
            if isinstance(item, AskedImage):
                if span is None or span.key != item.key:
                    return slots, used
                slots += span.rows
            elif span is not None or cached[slots] != item:
                return slots, used
            else:
                slots += 1
        return slots, max(len(items) - 1, 0)


def items_of(ids: Sequence[int], images: Sequence[AskedImage], token: int | None) -> list[Item]:
    """``ids`` with each image token replaced by the next image; their numbers must agree (`stepper.check_markers`)."""
    waiting = iter(images)
    return [next(waiting) if i == token else i for i in ids]


def runs_of(items: Sequence[Item]) -> Iterator[list[int] | AskedImage]:
    """Text in runs, images one by one."""
    text: list[int] = []
    for item in items:
        if isinstance(item, AskedImage):
            if text:
                yield text
                text = []
            yield item
        else:
            text.append(item)
    if text:
        yield text
