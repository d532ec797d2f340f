"""Running a prompt with images through the graphs of a bundle, for recordings and checks: plain feeds, no binding.

A prompt is text passes and visual passes in turn. Cache slots and rotary positions are counted apart: dropped rows leave no slot, but with
policy ``keep`` their positions stay taken. Behind a pruning inside the decoder the later layers have a third count, ``late``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from .. import tensors as names
from ..plain_feeds import plain_feeds
from .encoder import Open, Rows, VisualEncoder
from .perception import Perception
from .spec import VisionSpec


@dataclass
class Counts:
    """Where the next row goes: its cache slot, its slot in the layers behind a pruning, its rotary position."""

    slot: int = 0
    late: int = 0
    position: int = 0

    def text(self, rows: int) -> None:
        """``rows`` rows of text were run."""
        self.slot += rows
        self.late += rows
        self.position += rows


class PromptStepper:
    """One sequence over the open graphs of a bundle. ``slots`` is the cache's capacity.

    >>> stepper = PromptStepper(manifest, open_graph, slots=64)                  # doctest: +SKIP
    >>> logits = stepper.prompt([5, 2, 7], [pixels], level="r50")                # float32 [V], of the last row
    >>> logits = stepper.text([int(logits.argmax())])
    """

    def __init__(self, manifest: dict[str, Any], open_graph: Open, slots: int) -> None:
        self.spec = VisionSpec(manifest["vision"])
        self.encoder = VisualEncoder(self.spec, open_graph)
        self.counts = Counts()
        self._perception = Perception(self.encoder, manifest) if self.spec.perceive else None
        self._deltas = {} if self._perception is None else self._perception.nothing()
        self.kept: list[np.ndarray] = []
        """Of each image so far, the numbers of the rows that were kept, int64 [K]."""
        kv, layers = manifest["kv"], range(manifest["kv"]["layers"])
        self._past = [n.format(i) for i in layers for n in (names.PAST_K, names.PAST_V)]
        self._present = [n.format(i) for i in layers for n in (names.PRESENT_K, names.PRESENT_V)]
        self._cache = [np.zeros((1, kv["kv_heads"], slots, kv["head_dim"]), np.float32) for _ in self._past]

    def prompt(self, ids: Sequence[int], images: Sequence[np.ndarray], level: str | None = None) -> np.ndarray:
        """Logits float32 [V] of the last id, which must be text; each image token takes the next of ``images`` uint8 [H,W,3]."""
        token = self.spec.image_token_id
        check_markers(ids, len(images), token)
        waiting, text = iter(images), list[int]()
        if self._perception is not None and images:
            if len(images) > 1 or self.counts.position:
                raise RequestError(
                    found_wanted("images", len(images), "one for a sequence", "ask about each on its own")
                )
            self._deltas = self._perception.deltas(images[0])
        for i in ids:
            if i == token and self._perception is not None:
                if text:
                    self.text(text)
                    text = []
                self.counts.position += 1
                self.kept.append(np.zeros(0, np.int64))
            elif i == token:
                if text:
                    self.text(text)
                    text = []
                self.image(self.encoder.rows(next(waiting), level))
            else:
                text.append(i)
        return self.text(text)

    def text(self, ids: Sequence[int]) -> np.ndarray:
        """A pass over text; logits float32 [V] of its last row."""
        session = self.encoder.session(names.DECODER)
        rows = len(ids)
        positions = self.counts.position + np.arange(rows, dtype=np.int64)
        feeds = {
            names.INPUT_IDS: np.array([ids], np.int64),
            names.POSITIONS: self.spec.spread(positions[None]),
            names.LOGIT_ROWS: np.array([[rows - 1]], np.int64),
            **self._deltas,
        }
        feeds |= plain_feeds([i.name for i in session.get_inputs()], 1, rows)
        made = self._run(session, feeds, [names.LOGITS])
        self.counts.text(rows)
        return made[0][0, 0]  # type: ignore[no-any-return]

    def image(self, rows: Rows) -> None:
        """A visual pass."""
        session = self.encoder.session(rows.route.step)
        positions, following = rows.positions(self.counts.position, self.spec.compact)
        feeds = {names.VISUAL_EMBEDS: rows.embeds, names.POSITIONS: self.spec.spread(positions)}
        inside = [names.KEPT] if names.KEPT in {o.name for o in session.get_outputs()} else []
        made = self._run(session, feeds, inside)
        kept = made[0][0] if inside else rows.kept
        self.kept.append(kept)
        self.counts.slot += rows.embeds.shape[1]
        self.counts.late += len(kept)
        self.counts.position = following

    def _run(self, session: Any, feeds: dict[str, np.ndarray], wanted: list[str]) -> list[np.ndarray]:
        feeds[names.PAST_LEN] = np.array([self.counts.slot], np.int64)
        feeds |= dict(zip(self._past, self._cache, strict=True))
        if names.LATE_LEN in {i.name for i in session.get_inputs()}:
            feeds[names.LATE_LEN] = np.array([self.counts.late], np.int64)
        made = session.run([*wanted, *self._present], feeds)
        self._cache = made[len(wanted) :]
        return made[: len(wanted)]  # type: ignore[no-any-return]


def check_markers(ids: Sequence[int], images: int, token: int) -> None:
    """Raise RequestError unless ``ids`` have as many image tokens as there are images, and end with text."""
    found = sum(i == token for i in ids)
    if found != images:
        raise RequestError(
            found_wanted(
                "image markers of the prompt",
                found,
                f"{images}, one for each image",
                "write one <image> for each, or leave them out: then images come first",
            )
        )
    if not ids or ids[-1] == token:
        raise RequestError(found_wanted("end of the prompt", "an image", "text", "ask something behind the image"))
