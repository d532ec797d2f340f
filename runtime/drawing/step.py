"""One step graph with the caches of a batch of sequences that grow together: what an image model or its drafter runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import tensors as names
from ..plain_feeds import causal_rows
from .clock import MODEL, Clock


def caches(kv: dict[str, Any], batch: int, slots: int) -> list[np.ndarray]:
    """Empty keys and values of each layer, float32 [B,Hkv,C,dh]; ``kv`` as in the manifest, C = ``slots``.

    Zeros, not empty: a masked slot must still hold numbers, since bodies multiply it by 0.
    """
    shape = (batch, kv["kv_heads"], slots, kv["head_dim"])
    return [np.zeros(shape, np.float32) for _ in range(2 * kv["layers"])]


class Step:
    """Passes over an open session. Going back is a smaller ``past``: the slots behind are overwritten.

    Caches are bound as input and output at once, so no pass copies them. ``outputs`` are the names wanted beside them: those called
    logits have a row for each of ``logit_rows``, others for each row of the pass.
    """

    def __init__(
        self, session: Any, caches: list[np.ndarray], clock: Clock, outputs: tuple[str, ...] = (names.LOGITS,)
    ) -> None:
        """``caches``: keys, values of layer 0, 1, ... as `caches` makes them; graphs that share a cache get the same list."""
        self._session, self._caches, self._clock, self._batch = session, caches, clock, len(caches[0])
        self._before: dict[int, np.ndarray] = {}
        self.past = 0
        """Filled slots."""
        self.passes = 0
        shapes = {o.name: o.shape for o in session.get_outputs()}
        self._outputs = {name: tuple(shapes[name][2:]) for name in outputs}
        self._binding = session.io_binding()
        for i, cache in enumerate(caches):
            past, present = ((names.PAST_K, names.PRESENT_K), (names.PAST_V, names.PRESENT_V))[i % 2]
            place = ("cpu", 0, np.float32, cache.shape, cache.ctypes.data)
            self._binding.bind_input(past.format(i // 2), *place)
            self._binding.bind_output(present.format(i // 2), *place)

    def run(
        self,
        feeds: dict[str, np.ndarray],
        positions: np.ndarray,
        logit_rows: np.ndarray,
        visible: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """One pass of S rows; each output by name, float32 [B,R or S,...].

        ``feeds`` are the rows themselves: input_ids int64 [B,S] or [B,S,m], or embeds, and features where the graph takes them.
        ``positions`` int64 [S] and ``logit_rows`` int64 [R] are the same for the whole batch; without ``visible`` int64 [S,W] a row
        sees those before it. Adds S to ``past``. Raises FarthingError.
        """
        rows = len(positions)
        if visible is None and rows not in self._before:
            self._before[rows] = causal_rows(1, rows)[0]
        seen = self._before[rows] if visible is None else visible
        inputs = {
            names.POSITIONS: positions[None],
            names.PAST_LEN: np.array([self.past], np.int64),
            names.VISIBLE: seen[None],
            names.LOGIT_ROWS: logit_rows[None],
        }
        inputs = {n: np.repeat(a.astype(np.int64, copy=False), self._batch, axis=0) for n, a in inputs.items()}
        inputs |= {n: np.ascontiguousarray(a) for n, a in feeds.items()}
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        made: dict[str, np.ndarray] = {}
        for name, inner in self._outputs.items():
            count = len(logit_rows) if name.endswith(names.LOGITS) else rows
            made[name] = np.empty((self._batch, count, *inner), np.float32)
            place = ("cpu", 0, np.float32, made[name].shape, made[name].ctypes.data)
            self._binding.bind_output(name, *place)
        with self._clock.running(MODEL):
            self._session.run_with_iobinding(self._binding)
        self.past += rows
        self.passes += 1
        return made
