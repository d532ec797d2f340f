"""An image model through the order of its codes, as checks and recordings run it: plain feeds, one batch, every output at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import tensors as names
from .drawing.orders import order_of
from .plain_feeds import causal_rows


class CodeWalk:
    """``conditions`` int64 [B] are joint ids. `begin` gives the logits of turn 0, `step` those of each turn after it.

    >>> walk = CodeWalk(session, manifest, np.array([256, 257]))           # doctest: +SKIP
    >>> logits = walk.begin()                                              # doctest: +SKIP
    >>> logits = walk.step(logits.argmax(-1))                              # doctest: +SKIP
    """

    def __init__(self, session: Any, manifest: dict[str, Any], conditions: np.ndarray) -> None:
        self.order = order_of(manifest["image_codes"])
        self._session, self._conditions = session, conditions
        self._offset = int(manifest["model"]["max_positions"]) - sum(len(t.positions) for t in self.order.turns)
        kv = manifest["kv"]
        slots = self._offset + sum(len(t.positions) for t in self.order.turns)
        shape = (len(conditions), kv["kv_heads"], slots, kv["head_dim"])
        past = [n.format(i) for i in range(kv["layers"]) for n in (names.PAST_K, names.PAST_V)]
        self._present = {n.replace("past", "present", 1): n for n in past}
        self._caches = {n: np.zeros(shape, np.float32) for n in past}
        self._past, self._turn = 0, 0
        self.made: dict[str, np.ndarray] = {}
        """Outputs of the last pass but the caches."""

    @property
    def turns(self) -> int:
        """Turns of an image."""
        return len(self.order.turns)

    def begin(self) -> np.ndarray:
        """Logits float32 [B,draws,V] of turn 0, from the condition's pass."""
        return self._logits(self.order.condition(self._conditions), np.zeros(1, np.int64))

    def step(self, drawn: np.ndarray) -> np.ndarray:
        """Logits float32 [B,draws,V] of the next turn, this one having decided ``drawn`` int64 [B,draws]."""
        positions = self._offset + self.order.turns[self._turn].positions
        self._turn += 1
        return self._logits(self.order.rows(drawn), positions)

    def _logits(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        rows = len(positions)
        self.run(ids, positions, self.order.logit_rows(rows), self.order.visible(rows))
        return self.order.logits(self.made, self._turn)

    def run(
        self, ids: np.ndarray, positions: np.ndarray, logit_rows: np.ndarray, visible: np.ndarray | None = None
    ) -> None:
        """One pass, whose outputs are in `made`: rows ``ids`` [B,S] or [B,S,m] at ``positions`` [S]; ``logit_rows`` [R]."""
        batch = len(ids)
        sees = causal_rows(1, len(positions)) if visible is None else visible[None]
        feeds: dict[str, np.ndarray] = {
            names.INPUT_IDS: ids,
            names.POSITIONS: np.repeat(positions[None], batch, axis=0),
            names.PAST_LEN: np.full(batch, self._past, np.int64),
            names.VISIBLE: np.repeat(sees, batch, axis=0),
            names.LOGIT_ROWS: np.repeat(logit_rows[None], batch, axis=0).astype(np.int64),
            **self._caches,
        }
        outputs = [o.name for o in self._session.get_outputs()]
        made = dict(zip(outputs, self._session.run(outputs, feeds), strict=True))
        self._caches = {past: made.pop(present) for present, past in self._present.items()}
        self._past += len(positions)
        self.made = made
