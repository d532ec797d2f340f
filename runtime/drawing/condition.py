"""Where an image begins: a class, one row by its id, or a text, one row for each of its features.

Rows of a text are not padded: released models mask padding for everybody, and rows of the condition have no rotary angle, so leaving
padding out changes nothing. With guidance the second half of the batch begins without the condition.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ...errors import RequestError, found_wanted
from .. import image_tensors, tensors
from .orders import Order
from .step import Step


class Start(Protocol):
    """The condition of a batch. ``position`` is that of code 0; ``passes`` counts those of every graph."""

    position: int

    def begin(self) -> tuple[Step, dict[str, np.ndarray]]:
        """The step behind the condition, and what its pass gave. Again from the beginning at each call."""

    def for_all_rows(self, ids: np.ndarray) -> np.ndarray:
        """Input rows of the images, once for each half of the batch."""

    @property
    def passes(self) -> int:
        """Passes since `begin`."""


class _Halves:
    def __init__(self, step: Step, order: Order, guided: bool, position: int) -> None:
        self.position = position
        self._step, self._order, self._halves = step, order, 2 if guided else 1

    def for_all_rows(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([ids] * self._halves)


class ClassStart(_Halves):
    """``classes`` int64 [B] as joint ids; ``unconditional`` is the joint id of no class."""

    def __init__(self, step: Step, order: Order, classes: np.ndarray, unconditional: int, guided: bool) -> None:
        super().__init__(step, order, guided, position=1)
        self._ids = np.concatenate([classes, np.full_like(classes, unconditional)]) if guided else classes

    @property
    def passes(self) -> int:
        """Passes since `begin`."""
        return self._step.passes

    def begin(self) -> tuple[Step, dict[str, np.ndarray]]:
        """One row."""
        self._step.past = self._step.passes = 0
        zero = np.zeros(1, np.int64)
        return self._step, self._step.run({tensors.INPUT_IDS: self._order.condition(self._ids)}, zero, zero)


class TextStart(_Halves):
    """``embeds`` float32 [B or 2B,T,D]: rows of `text_rows`. ``prefill`` shares the caches of ``step``; ``position`` as in `Start`."""

    def __init__(
        self, prefill: Step, step: Step, order: Order, embeds: np.ndarray, guided: bool, position: int
    ) -> None:
        super().__init__(step, order, guided, position)
        self._prefill, self._embeds = prefill, embeds

    @property
    def passes(self) -> int:
        """Passes since `begin`."""
        return self._prefill.passes + self._step.passes

    def begin(self) -> tuple[Step, dict[str, np.ndarray]]:
        """All rows in one pass, at the last positions before code 0."""
        rows = self._embeds.shape[1]
        self._prefill.past = self._prefill.passes = self._step.passes = 0
        made = self._prefill.run(
            {image_tensors.EMBEDS: self._embeds}, self.position - rows + np.arange(rows), np.array([rows - 1])
        )
        self._step.past = rows
        return self._step, made


def text_rows(session: Any, features: np.ndarray, guided: bool) -> np.ndarray:
    """Condition rows float32 [B or 2B,T,D] of text features float32 [B,T,dc], by the graph ``condition``. Raises RequestError."""
    outputs = [o.name for o in session.get_outputs()]
    if not guided:
        return session.run([image_tensors.EMBEDS], {image_tensors.TEXT_EMBEDS: features})[0]  # type: ignore[no-any-return]
    if image_tensors.UNCOND_EMBEDS not in outputs:
        raise no_unconditional()
    both = session.run([image_tensors.EMBEDS, image_tensors.UNCOND_EMBEDS], {image_tensors.TEXT_EMBEDS: features})
    return np.concatenate(both)


def no_unconditional() -> RequestError:
    """The refusal of guidance where a model was trained without dropping its condition."""
    return RequestError(
        found_wanted("guidance scale", "other than 1", "1: the model has no unconditional rows", "use --cfg 1")
    )
