"""Where the time of a drawing goes, and the one way to run a session so that it counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...errors import FarthingError

MODEL, CHOOSING, PIXELS = "model", "choosing", "pixels"
"""Step graphs, a drafter's included; graphs that draw and judge; the decoder of pixels."""


@dataclass
class Clock:
    """Seconds by what they were spent on, since it was made."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((MODEL, CHOOSING, PIXELS), 0.0))
    _begun: float = field(default_factory=time.perf_counter)

    @contextmanager
    def running(self, kind: str) -> Iterator[None]:
        """Counts what runs inside as ``kind``. Raises FarthingError for what onnxruntime raises."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:  # onnxruntime's own classes are many and private
            raise FarthingError(f"ONNX Runtime stopped: {error}") from error
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def report(self) -> dict[str, float]:
        """All of it in seconds; ``loop`` is ours, whatever no graph took."""
        total = time.perf_counter() - self._begun
        return {**self.seconds, "loop": max(0.0, total - sum(self.seconds.values())), "total": total}
