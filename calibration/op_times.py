"""Where time goes: the step graph profiled by ONNX Runtime, folded by operator."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError, found_wanted
from ..plugins import library_path
from ..runtime.bundle import Bundle
from ..runtime.portable import PortableEngine

ROUNDS = 5
"""Passes of each size that are measured; each operator counts with its median."""


@dataclass(frozen=True)
class OpTime:
    """One operator in a pass: ``seconds`` of all its nodes, ``nodes`` of them."""

    name: str
    seconds: float
    nodes: int


@dataclass(frozen=True)
class PassProfile:
    """A pass of ``rows`` rows over ``past`` tokens. ``seconds`` is the whole of it, operators and what lies between them."""

    rows: int
    past: int
    seconds: float
    operators: list[OpTime]

    @property
    def between(self) -> float:
        """Seconds outside of all operators: ONNX Runtime itself, and the profiler."""
        return max(self.seconds - sum(o.seconds for o in self.operators), 0.0)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "between": self.between}


def profile(bundle: Bundle, rows: Sequence[int] = (1, 8, 64), *, past: int = 64, threads: int = 1) -> list[PassProfile]:
    """Profile passes of each number of ``rows`` behind ``past`` tokens, with our kernels where they are installed.

    The profiler costs some microseconds a node, so sums are a little above what passes take without it; shares are what to read. Raises
    RequestError for rows below 1, BundleError.
    """
    for count in rows:
        if count < 1:
            raise RequestError(found_wanted("rows to profile", count, "1 or more", "correct --rows"))
    most = max(rows)
    with tempfile.TemporaryDirectory() as folder:

        def configure(options: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            if (library := library_path()) is not None:
                options.register_custom_ops_library(str(library))

        engine = PortableEngine(bundle, threads, past + most, chunk=max(most, past, 1), configure=configure)
        ids = np.random.default_rng(0).integers(0, engine.vocab_size, past + most).tolist()
        asked: list[int] = []
        for count in rows:
            for _ in range(ROUNDS + 1):  # the first of each allocates
                engine.reset()
                if past:
                    engine.prefill(ids[:past])
                    asked.append(0)
                engine.prefill(ids[past : past + count])
                asked.append(count)
        events = json.loads(Path(engine.session.end_profiling()).read_text(encoding="utf-8"))
    return _folded(events, asked, rows, past)


def _folded(events: list[dict[str, Any]], asked: list[int], rows: Sequence[int], past: int) -> list[PassProfile]:
    """Medians by operator over the passes of each size. ``asked``: rows of each run in order, 0 for those that prepare."""
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    nodes = sorted(
        (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")), key=lambda e: e["ts"]
    )
    starts = [e["ts"] for e in runs]
    sums: list[dict[str, float]] = [defaultdict(float) for _ in runs]
    counts: list[dict[str, int]] = [defaultdict(int) for _ in runs]
    for node in nodes:
        run = int(np.searchsorted(starts, node["ts"], side="right")) - 1
        name = node["args"]["op_name"]
        sums[run][name] += node["dur"] * 1e-6
        counts[run][name] += 1
    result = []
    for count in rows:
        chosen = [i for i, n in enumerate(asked) if n == count][1:]
        names = {name for i in chosen for name in sums[i]}
        operators = [
            OpTime(name, float(np.median([sums[i][name] for i in chosen])), counts[chosen[0]][name]) for name in names
        ]
        operators.sort(key=lambda o: -o.seconds)
        whole = float(np.median([runs[i]["dur"] * 1e-6 for i in chosen]))
        result.append(PassProfile(count, past, whole, operators))
    return result
