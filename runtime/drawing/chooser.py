"""The two small graphs of drawing: ``sample`` turns logits into codes, ``accept_*`` judges drafts. One operator each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FarthingError
from .. import image_tensors as names
from .clock import CHOOSING, Clock


@dataclass(frozen=True)
class Warp:
    """What logits go through before a code is drawn. ``temperature`` 0 = always the best; ``top_k`` 0, ``top_p`` 1 = off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def feeds(self) -> dict[str, np.ndarray]:
        """As inputs of the graph ``sample``."""
        return {
            names.TEMPERATURE: np.array([self.temperature], np.float32),
            names.TOP_K: np.array([self.top_k], np.int64),
            names.TOP_P: np.array([self.top_p], np.float32),
        }


BEST = Warp(0.0)


class Sampler:
    """Draws from guided logits. The first half of a pass's batch has the condition, the second is without; unguided there is one half."""

    def __init__(self, session: Any, guided: bool, clock: Clock) -> None:
        self._session, self._guided, self._clock = session, guided, clock

    def draw(self, logits: np.ndarray, scales: np.ndarray, uniforms: np.ndarray, warp: Warp) -> np.ndarray:
        """int64 [B,M] drawn from logits float32 [2B or B,M,V] by ``uniforms`` float32 [B,M]; scales float32 [M].

        Raises FarthingError where a logit is NaN.
        """
        count, wide = uniforms.shape
        if (scales != scales[0]).any():  # one scale a row of the graph's batch, so codes become rows
            return self._draw(logits, np.tile(scales, count), uniforms.reshape(-1, 1), warp, False)[0].reshape(
                count, wide
            )
        return self._draw(logits, np.repeat(scales[:1], count), uniforms, warp, False)[0]

    def distributions(self, logits: np.ndarray, scales: np.ndarray, warp: Warp) -> np.ndarray:
        """float32 [M,V]: what the codes of logits float32 [2 or 1,M,V] of one image would be drawn from. Raises FarthingError."""
        none = np.zeros((len(scales), 1), np.float32)
        return self._draw(logits, scales, none, warp, True)[1][:, 0]

    def draw_with(
        self, logits: np.ndarray, scales: np.ndarray, uniforms: np.ndarray, warp: Warp
    ) -> tuple[np.ndarray, np.ndarray]:
        """`draw` [M] and `distributions` [M,V] at once, of one image; ``uniforms`` float32 [M]."""
        ids, probs = self._draw(logits, scales, uniforms[:, None], warp, True)
        return ids[:, 0], probs[:, 0]

    def _draw(
        self, logits: np.ndarray, scales: np.ndarray, uniforms: np.ndarray, warp: Warp, probs: bool
    ) -> list[np.ndarray]:
        if np.isnan(logits).any():
            raise FarthingError("a logit is NaN, expected numbers; run `farthing verify` on the bundle")
        vocabulary = logits.shape[-1]
        cond, uncond = np.split(logits, 2) if self._guided else (logits, logits)
        shape = (*uniforms.shape, vocabulary)
        feeds = {
            names.COND: cond.reshape(shape),
            names.UNCOND: uncond.reshape(shape),
            names.SCALE: scales,
            names.UNIFORMS: uniforms,
            **warp.feeds(),
        }
        with self._clock.running(CHOOSING):
            made: list[np.ndarray] = self._session.run([names.IDS, names.PROBS] if probs else [names.IDS], feeds)
        return made


class Acceptor:
    """Judges drafts by the mode whose graph ``session`` is."""

    def __init__(self, session: Any, clock: Clock) -> None:
        self._session, self._clock = session, clock

    def judge(
        self, p: np.ndarray, q: np.ndarray, draft: np.ndarray, uniforms: np.ndarray
    ) -> tuple[int, int, np.ndarray]:
        """How many of ``draft`` int64 [L] hold, the code behind them, and each draft's chance float32 [L].

        ``p`` float32 [L+1,V] of the model, ``q`` [L,V] of the drafts, ``uniforms`` [L+1]. Raises FarthingError.
        """
        feeds = {names.P: p, names.Q: q, names.DRAFT: draft, names.UNIFORMS: uniforms}
        with self._clock.running(CHOOSING):
            accepted, following, chance = self._session.run([names.ACCEPTED, names.NEXT, names.CHANCE], feeds)
        return int(accepted[0]), int(following[0]), chance
