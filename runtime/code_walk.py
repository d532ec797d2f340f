"""An image model through the order of its codes, as checks and recordings run it: plain feeds, one batch, every output at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import image_tensors
from . import tensors as names
from .cache_dtype import empty_cache
from .drawing.orders import order_of
from .drawing.uniforms import uniforms
from .plain_feeds import causal_rows


@dataclass(frozen=True)
class MadeText:
    """A text condition that nobody wrote: ``rows`` rows of features in -1 to 1 by ``seed``, or as many that stand for no text."""

    rows: int
    seed: int
    unconditional: bool = False

    def features(self, width: int) -> np.ndarray:
        """float32 [1,rows,width]."""
        return (2 * uniforms(self.seed, 0, self.rows * width) - 1).reshape(1, self.rows, width)

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


Conditions = np.ndarray | MadeText
"""Joint ids int64 [B], or one text."""


class CodeWalk:
    """``conditions`` int64 [B] are joint ids. `begin` gives the logits of turn 0, `step` those of each turn after it.

    >>> walk = CodeWalk(session, manifest, np.array([256, 257]))           # doctest: +SKIP
    >>> logits = walk.begin()                                              # doctest: +SKIP
    >>> logits = walk.step(logits.argmax(-1))                              # doctest: +SKIP
    """

    def __init__(self, session: Any, manifest: dict[str, Any], conditions: np.ndarray, rows: int = 1) -> None:
        self.order = order_of(manifest["image_codes"])
        self._session, self._conditions, self._rows = session, conditions, rows
        self._offset = int(manifest["model"]["max_positions"]) - sum(len(t.positions) for t in self.order.turns)
        kv = manifest["kv"]
        slots = rows + sum(len(t.positions) for t in self.order.turns)
        past = [n.format(i) for i in range(kv["layers"]) for n in (names.PAST_K, names.PAST_V)]
        self._present = {n.replace("past", "present", 1): n for n in past}
        self._caches = {n: empty_cache(kv, slots, len(conditions)) for n in past}
        self._past, self._turn = 0, 0
        self.made: dict[str, np.ndarray] = {}
        """Outputs of the last pass but the caches."""

    @property
    def turns(self) -> int:
        """Turns of an image."""
        return len(self.order.turns)

    def begin(self) -> np.ndarray:
        """Logits float32 [B,draws,V] of turn 0, from the condition's pass."""
        return self._logits({names.INPUT_IDS: self.order.condition(self._conditions)}, np.zeros(1, np.int64))

    def step(self, drawn: np.ndarray) -> np.ndarray:
        """Logits float32 [B,draws,V] of the next turn, this one having decided ``drawn`` int64 [B,draws]."""
        positions = self._offset + self.order.turns[self._turn].positions
        self._turn += 1
        return self._logits({names.INPUT_IDS: self.order.rows(drawn)}, positions)

    def together(self, drawn: list[np.ndarray]) -> np.ndarray:
        """Logits float32 [B,turns,draws,V] of the turns behind those that decided ``drawn``, in one pass over the rows of all of them.

        Not for orders whose passes have several rows already.
        """
        positions = self._offset + np.concatenate([t.positions for t in self.order.turns[: len(drawn)]])
        rows = {names.INPUT_IDS: np.concatenate([self.order.rows(d) for d in drawn], axis=1)}
        self._run(self._session, rows, positions, np.arange(len(drawn)), None)
        return self.made[names.LOGITS].reshape(len(drawn[0]), len(drawn), drawn[0].shape[1], -1)

    def _logits(self, rows: dict[str, np.ndarray], positions: np.ndarray, session: Any = None) -> np.ndarray:
        count = len(positions)
        wanted = np.array([count - 1]) if session else self.order.logit_rows(count)
        self._run(session or self._session, rows, positions, wanted, self.order.visible(count))
        return self.order.logits(self.made, self._turn)

    def _run(
        self,
        session: Any,
        rows: dict[str, np.ndarray],
        positions: np.ndarray,
        logit_rows: np.ndarray,
        visible: np.ndarray | None,
    ) -> None:
        batch = len(next(iter(rows.values())))
        sees = causal_rows(1, len(positions)) if visible is None else visible[None]
        feeds: dict[str, np.ndarray] = {
            **rows,
            names.POSITIONS: np.repeat(positions[None], batch, axis=0),
            names.PAST_LEN: np.full(batch, self._past, np.int64),
            names.VISIBLE: np.repeat(sees, batch, axis=0),
            names.LOGIT_ROWS: np.repeat(logit_rows[None], batch, axis=0).astype(np.int64),
            **self._caches,
        }
        outputs = [o.name for o in session.get_outputs()]
        made = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        self._caches = {past: made.pop(present) for present, past in self._present.items()}
        self._past += len(positions)
        self.made = made


class TextWalk(CodeWalk):
    """The same from a text. ``condition`` and ``prefill`` are open sessions of those graphs."""

    def __init__(self, session: Any, condition: Any, prefill: Any, manifest: dict[str, Any], text: MadeText) -> None:
        super().__init__(session, manifest, np.zeros(1, np.int64), text.rows)
        self._condition, self._prefill, self._text = condition, prefill, text

    def begin(self) -> np.ndarray:
        """Logits float32 [1,draws,V] of turn 0, from the pass over all rows of the text."""
        width = self._condition.get_inputs()[0].shape[-1]
        wanted = image_tensors.UNCOND_EMBEDS if self._text.unconditional else image_tensors.EMBEDS
        embeds = self._condition.run([wanted], {image_tensors.TEXT_EMBEDS: self._text.features(width)})[0]
        positions = self._offset - self._rows + np.arange(self._rows)
        return self._logits({image_tensors.EMBEDS: embeds}, positions, self._prefill)


def open_walk(opened: Callable[[str], Any], manifest: dict[str, Any], conditions: Conditions) -> CodeWalk:
    """A walk from ``conditions``; ``opened`` gives the session of a graph by its name."""
    session = opened(image_tensors.AR_STEP)
    if isinstance(conditions, np.ndarray):
        return CodeWalk(session, manifest, conditions)
    condition, prefill = (opened(n) for n in (image_tensors.CONDITION, image_tensors.AR_PREFILL))
    return TextWalk(session, condition, prefill, manifest, conditions)
