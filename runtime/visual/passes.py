"""The visual passes of the portable engine: an image's rows into the cache that the engine's sequence has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import tensors as names
from ..bundle import Bundle
from ..memory import Memory
from .encoder import Open, Rows, VisualEncoder
from .spans import AskedImage, Item, Spans
from .spec import VisionSpec, vision_spec


class VisualPasses:
    """Encodes images and runs visual_step graphs over ``memory``, in place."""

    def __init__(self, spec: VisionSpec, memory: Memory, open_graph: Open) -> None:
        self.spec = spec
        self._encoder = VisualEncoder(spec, open_graph)
        self._memory = memory
        self._rows = self._total = 0
        self._seconds = 0.0

    @classmethod
    def of(cls, bundle: Bundle, memory: Memory, open_graph: Open) -> VisualPasses | None:
        """None for a bundle that reads text only. Raises BundleError."""
        spec = vision_spec(bundle)
        if spec is not None and spec.perceive:
            from .perception import Perceiver

            return Perceiver(spec, memory, open_graph, bundle.manifest)
        return None if spec is None else cls(spec, memory, open_graph)

    def inputs(self) -> dict[str, np.ndarray]:
        """Further inputs of every step, by name; what they hold is changed in place."""
        return {}

    def spans(self) -> Spans:
        """The images of a fresh sequence."""
        return Spans()

    def look(self, items: Sequence[Item], spans: Spans, length: int) -> None:
        """Called before ``items`` are run behind ``length`` slots: time to make what all of them need."""

    def counts(self) -> dict[str, float]:
        """So far: images encoded and found in the cache, rows of images before and after reduction, seconds in tower and projector."""
        return {
            "encoded": self._encoder.encoded,
            "cache_hits": self._encoder.hits,
            "rows": self._rows,
            "rows_unreduced": self._total,
            "seconds": self._seconds,
        }

    def encode(self, image: AskedImage, room: int) -> Rows:
        """Rows of an image at its level, ``room`` slots being left. Raises RequestError."""
        start = time.perf_counter()
        rows = self._encoder.rows(image.pixels, image.level, room)
        self._seconds += time.perf_counter() - start
        return rows

    def run(self, rows: Rows, past: int, spans: Spans) -> tuple[int, int]:
        """Put ``rows`` behind ``past`` slots; (rows in the late layers, position of the row behind)."""
        session = self._encoder.session(rows.route.step)
        positions, following = rows.positions(past + spans.shift, self.spec.compact)
        binding, inputs = session.io_binding(), {i.name for i in session.get_inputs()}
        feeds: dict[str, np.ndarray] = {
            names.VISUAL_EMBEDS: np.ascontiguousarray(rows.embeds),
            names.POSITIONS: np.ascontiguousarray(self.spec.spread(positions), np.int64),
            names.PAST_LEN: np.array([past], np.int64),
        }
        if names.LATE_LEN in inputs:
            feeds[names.LATE_LEN] = np.array([past - spans.gap], np.int64)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        self._memory.bind(binding, rows.embeds.shape[1])
        late = len(rows.kept)
        found: Any = None
        if names.KEPT in {o.name for o in session.get_outputs()}:
            binding.bind_output(names.KEPT)
            session.run_with_iobinding(binding)
            found = next(o for o in binding.get_outputs() if "int64" in o.data_type())
            late = found.shape()[1]
        else:
            session.run_with_iobinding(binding)
        self._memory.ran(past, rows.embeds.shape[1])
        self._rows += late
        self._total += rows.total
        return late, following
