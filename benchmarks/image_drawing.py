"""Draw the same number of images of every class by one method, time them, and say how good they are.

A `Way` is a bundle and how it is asked to draw. Its codes are kept (`<out>/<label>.npz`), so that a stopped run goes on and a new measure
needs no new images. CPU seconds are those of drawing one image at a time at one thread; quality is of images drawn in batches where
the loop is plain: an image is the same in a batch as alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_data import CLASSES, grey, load, pixels
from image_scores import Classifier, batched, bootstrap, frechet, nearest, wilson
from safetensors.torch import load_file

from farthing.export import export
from farthing.runtime.drawing import Drawer, Guidance

TIMED = 20
"""Images that are drawn one at a time, after one that is not counted."""


@dataclass(frozen=True)
class Way:
    """``method`` of export with ``options`` on the checkpoint ``model``; the rest goes to `Drawer.draw`."""

    label: str
    model: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    scale: float = 2.0
    schedule: str = "constant"
    draw: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle(self) -> str:
        """A name that says what is inside."""
        return "-".join([self.model, self.method, *(f"{k}={v}" for k, v in sorted(self.options.items()))])


class Bench:
    """Checkpoints in ``examples``, bundles and drawn codes in ``out``."""

    def __init__(self, examples: Path, out: Path) -> None:
        self.examples, self.out = examples, out
        out.mkdir(parents=True, exist_ok=True)
        self.judge = Classifier()
        self.judge.load_state_dict(load_file(examples / "judge" / "classifier.safetensors"))
        self.judge.eval()
        self.test, self.labels = load("test")
        self._kept: dict[str, np.ndarray] = {}
        self._open: tuple[str, Drawer] | None = None

    def open(self, way: Way) -> Drawer:
        """The bundle of ``way`` at one thread, exported first where it is not there."""
        path = self.out / "bundles" / way.bundle
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            export(way.method, self.examples / way.model, path, **way.options)
        return Drawer(path, threads=1)

    def drawer(self, way: Way) -> Drawer:
        """`open`; the one opened last is kept."""
        if self._open is None or self._open[0] != way.bundle:
            self._open = way.bundle, self.open(way)
        return self._open[1]

    def ask(self, way: Way, classes: list[int], seed: int, drawer: Drawer | None = None) -> Any:
        """`Drawn` for ``classes``."""
        guidance = Guidance(way.scale, schedule=way.schedule)
        return (drawer or self.drawer(way)).draw(classes, seed=seed, guidance=guidance, **way.draw)

    def drawn(self, way: Way, count: int, *, batch: int = 50) -> dict[str, np.ndarray]:
        """``codes`` [count,g*g], ``pixels`` uint8 [count,H,W,3] of classes 0, 1, ..., 9, 0, ... under seeds 0, 1, ...; and how it went.

        ``passes`` and ``seconds`` (CPU) an image, of TIMED images alone; ``passes`` [count] of all where the way is speculative;
        ``tv`` and ``judged``, ``accepted`` of speculation.
        """
        file = self.out / f"{way.label}.npz"
        if file.exists():
            kept = dict(np.load(file))
            if len(kept["codes"]) >= count:
                return {n: v[:count] if n in ("codes", "pixels", "passes") else v for n, v in kept.items()}
        self.ask(way, [0], 0)
        began = time.process_time()
        alone = [self.ask(way, [i % 10], i) for i in range(TIMED)]
        seconds = (time.process_time() - began) / TIMED
        found = [self.ask(way, [i % 10 for i in range(a, min(a + batch, count))], a) for a in range(0, count, batch)]
        spec = [f.speculation for f in found]
        kept = {
            "codes": np.concatenate([f.codes for f in found]),
            "pixels": np.concatenate([f.pixels for f in found]),
            "seconds": np.array(seconds),
            "passes": np.concatenate([s.passes for s in spec]) if spec[0] else np.full(count, alone[0].passes),
            "judged": np.array(sum(s.judged for s in spec) if spec[0] else 0),
            "accepted": np.array(sum(s.accepted for s in spec) if spec[0] else 0),
            "tv": np.array(
                sum(s.total_variation * s.judged for s in spec) / sum(s.judged for s in spec) if spec[0] else 0.0
            ),
        }
        for i, one in enumerate(alone[: min(TIMED, count)]):
            if (one.codes[0] != kept["codes"][i]).any():
                raise SystemExit(f"{way.label}: image {i} alone differs from itself in a batch")
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]
        return kept

    def real(self, images: np.ndarray) -> np.ndarray:
        """Features float64 [N,64] of grey uint8 images."""
        return batched(self.judge.features, pixels(images))

    def quality(self, images: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
        """How grey ``images`` uint8 [N,32,32] look: right classes, Frechet distance to the test images, distance to the train set."""
        if "test" not in self._kept:
            self._kept["test"] = self.real(self.test)
        features = self.real(images)
        right = int((batched(self.judge.out, torch.from_numpy(features).float()).argmax(1) == classes).sum())
        near = nearest(images, load("train")[0])
        return {
            "count": len(images),
            "right": right,
            "accuracy": right / len(images),
            "accuracy95": wilson(right, len(images)),
            "frechet": frechet(features, self._kept["test"]),
            "frechet95": bootstrap(features, self._kept["test"]),
            "nearest": float(np.median(near)),
            "nearest05": float(np.quantile(near, 0.05)),
        }

    def measure(self, way: Way, count: int) -> dict[str, Any]:
        """A row of the table; kept in `<out>/<label>.json`."""
        file = self.out / f"{way.label}.json"
        if file.exists() and json.loads(file.read_text())["count"] == count:
            return json.loads(file.read_text())  # type: ignore[no-any-return]
        kept = self.drawn(way, count)
        row = {
            "label": way.label,
            "passes": float(kept["passes"].mean()),
            "seconds": float(kept["seconds"]),
            "acceptance": float(kept["accepted"] / max(1, kept["judged"])),
            "tv": float(kept["tv"]),
            **self.quality(grey(kept["pixels"]), np.arange(count) % len(CLASSES)),
        }
        file.write_text(json.dumps(row))
        return row
