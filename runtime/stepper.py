"""Running the step graph of a bundle for a batch of sequences, with whatever it carries from step to step.

For checks and recordings, where a few rows run once: plain feeds, no binding. Engines bind their buffers instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import tensors as names
from .cache_dtype import empty_cache
from .plain_feeds import places, plain_feeds


class Stepper:
    """``batch`` sequences over an open session. ``manifest`` says what the graph carries; ``slots`` is the cache's capacity.

    >>> stepper = Stepper(session, manifest, batch=2, slots=64)            # doctest: +SKIP
    >>> logits = stepper.step(prompts, lengths)                            # float32 [B,V], of each one's last row
    >>> logits = stepper.step(logits.argmax(-1)[:, None])
    """

    def __init__(self, session: Any, manifest: dict[str, Any], batch: int, slots: int) -> None:
        self._session = session
        self._past = np.zeros(batch, np.int64)
        self._state = manifest.get("state")
        self._names = [i.name for i in session.get_inputs()]
        if self._state:
            layers = range(self._state["layers"])
            self._inputs = [names.CONV_STATE.format(i) for i in layers]
            outputs = [names.CONV_WINDOW.format(i) for i in layers]
            shape = (batch, self._state["rows"], self._state["width"])
            self._carried = [np.zeros(shape, np.float32) for _ in self._inputs]
        else:
            kv = manifest["kv"]
            layers = range(kv["layers"])
            self._inputs = [n.format(i) for i in layers for n in (names.PAST_K, names.PAST_V)]
            outputs = [n.format(i) for i in layers for n in (names.PRESENT_K, names.PRESENT_V)]
            self._carried = [empty_cache(kv, slots, batch) for _ in self._inputs]
        self._outputs = [names.LOGITS, *outputs]

    def step(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """Logits float32 [B,V] of each sequence's last row. ``ids`` int64 [B,S], padded on the right where ``lengths`` [B] says so.

        Padding leaves nothing behind: its cache slots are overwritten by the next step, and a state is taken where each sequence ends.
        """
        if lengths is None:
            lengths = np.full(len(ids), ids.shape[1], np.int64)
        feeds = {
            names.INPUT_IDS: ids,
            names.LOGIT_ROWS: lengths[:, None] - 1,
            **places(self._session, self._past[:, None] + np.arange(ids.shape[1]), self._past),
            **dict(zip(self._inputs, self._carried, strict=True)),
        }
        feeds |= plain_feeds(self._names, len(ids), ids.shape[1])
        logits, *carried = self._session.run(self._outputs, feeds)
        if self._state:
            rows = lengths[:, None] + np.arange(self._state["rows"])
            carried = [np.take_along_axis(window, rows[:, :, None], axis=1) for window in carried]
        self._carried, self._past = carried, self._past + lengths
        return logits[:, 0]  # type: ignore[no-any-return]
