"""Who guesses the next codes: the model itself a pass ago (Jacobi), or a drafter of one layer (EAGLE)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .. import image_tensors, tensors
from .chooser import BEST, Sampler, Warp
from .guidance import Guidance
from .step import Step
from .uniforms import Stream, draw


class Drafter(Protocol):
    """Guesses codes of one image and says what they were drawn from."""

    def begin(self, made: dict[str, np.ndarray], code: int) -> None:
        """The condition pass gave ``made``, and code 0 is ``code``."""

    def propose(self, length: int, number: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """``length`` codes int64 [L] from code ``number`` on, and the distributions float32 [L,V] they are drawn from."""

    def hear(self, made: dict[str, np.ndarray], p: np.ndarray, accepted: int, new: list[int], stream: Stream) -> None:
        """The pass over the last code and the drafts gave ``made`` and distributions ``p`` float32 [L+1,V]; ``new`` were committed."""


class Jacobi:
    """Speculative Jacobi decoding (Teng et al. 2025): a place's draft is drawn from what the last pass said there.

    That pass saw drafts before it which may have been refused since, so its distribution is q and no more than that. A place that no
    pass has seen gets any code, as a certain guess.
    """

    def __init__(self, codes: int) -> None:
        self._codes = codes
        self._draft = np.zeros(0, np.int64)
        self._q = np.zeros((0, codes), np.float32)

    def begin(self, made: dict[str, np.ndarray], code: int) -> None:
        """Nothing is known of any place."""
        self._draft, self._q = self._draft[:0], self._q[:0]

    def propose(self, length: int, number: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """What is left of the window, filled up by uniform codes."""
        fresh = length - len(self._draft)
        any_code = np.floor(stream.take(fresh).astype(np.float64) * self._codes).astype(np.int64)
        certain = np.zeros((fresh, self._codes), np.float32)
        certain[np.arange(fresh), any_code] = 1
        return np.concatenate([self._draft, any_code]), np.concatenate([self._q, certain])

    def hear(self, made: dict[str, np.ndarray], p: np.ndarray, accepted: int, new: list[int], stream: Stream) -> None:
        """Draw the places behind the refused one again, from what this pass said there."""
        self._q = p[accepted + 1 : -1]
        numbers = stream.take(len(self._q))
        self._draft = np.array([draw(q, u) for q, u in zip(self._q, numbers, strict=True)], np.int64)


class Eagle:
    """EAGLE's drafter (Li et al. 2024) on an image model (Jang et al. 2025): one layer over the model's features and the code behind each.

    ``point``: always its best code, as a certain guess; else drawn from what it says. Both halves of the batch run, and are guided.
    """

    def __init__(
        self, step: Step, sampler: Sampler, batch: int, tokens: int, guidance: Guidance, warp: Warp, point: bool
    ) -> None:
        self._step, self._sampler, self._batch, self._tokens = step, sampler, batch, tokens
        self._guidance, self._warp, self._point = guidance, BEST if point else warp, point
        self._ids: list[int] = []
        self._features = np.zeros(0, np.float32)

    def begin(self, made: dict[str, np.ndarray], code: int) -> None:
        """Its first row: the condition's last feature and code 0."""
        self._step.past = 0
        self._ids, self._features = [code], made[image_tensors.FEATURES][:, -1:]

    def propose(self, length: int, number: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """First a pass over what the model has said since, then over its own features one by one."""
        numbers = np.zeros(length, np.float32) if self._point else stream.take(length)
        scales = self._guidance.scales(number + np.arange(length), self._tokens)
        made = self._run(self._ids, self._features)
        known = self._step.past
        draft = np.zeros(length, np.int64)
        q: list[np.ndarray] = []
        for j in range(length):
            if j:
                made = self._run(draft[j - 1 : j], made[image_tensors.FEATURES_OUT][:, -1:])
            drawn, probs = self._sampler.draw_with(
                made[tensors.LOGITS], scales[j : j + 1], numbers[j : j + 1], self._warp
            )
            draft[j] = drawn[0]
            q.append(probs)
        self._step.past = known  # its own features make way for the model's
        return draft, np.concatenate(q)

    def hear(self, made: dict[str, np.ndarray], p: np.ndarray, accepted: int, new: list[int], stream: Stream) -> None:
        """The model's features of the last code and the accepted drafts, each with the code behind it."""
        self._ids, self._features = new, made[image_tensors.FEATURES][:, : accepted + 1]

    def _run(self, ids: list[int] | np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:
        rows = len(ids)
        feeds = {
            tensors.INPUT_IDS: np.tile(np.asarray(ids, np.int64), (self._batch, 1)),
            image_tensors.FEATURES: features,
        }
        return self._step.run(feeds, self._step.past + np.arange(rows), np.array([rows - 1]))
