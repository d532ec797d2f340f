"""All levels of one or several bundles on a user's questions: every level answers an item before the next item comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ...errors import RequestError, found_wanted
from ...runtime.visual.images import as_rgb
from ...runtime.visual.questions import Data
from .intervals import Interval, mean_over_items, paired_loss, quartiles, wilson
from .trial import FULL, Subject, Trial

Progress = Callable[[str, int, int], None]
"""Stage, done, total."""

NEW_TOKENS = 16


@dataclass(frozen=True)
class LevelResult:
    """A level of a bundle over all items.

    ``rows``: visual tokens an image keeps, mean. ``accuracy`` over items with answers (Wilson), ``loss`` of it against level full on the same
    items (Tango), None without answers. ``kl`` nats per token from full's next-token distribution to this level's along full's greedy answer, ``same_top``
    share of its positions with the same likeliest token (bootstrap over items). ``flops`` and ``cache_bytes`` of the prefill, means;
    ``prefill_seconds`` of the CPU at one thread from features to the first logits, median and quartiles; ``selector_share`` of it that choosing
    tokens takes, median; None where the project graph is that of full: nothing is chosen, or inside the decoder.
    """

    level: str
    ratio: float
    rows: float
    accuracy: Interval | None
    loss: Interval | None
    kl: Interval
    same_top: Interval
    flops: float
    cache_bytes: float
    prefill_seconds: Interval
    selector_share: float | None


@dataclass(frozen=True)
class BundleResult:
    """Levels of a bundle in the order of its manifest. ``tower_seconds``: CPU seconds of the vision graph, the same for every level."""

    path: str
    name: str
    method: str
    current: str
    native: bool
    tower_seconds: float
    levels: tuple[LevelResult, ...]

    def level(self, name: str) -> LevelResult:
        """The level called ``name``."""
        return next(level for level in self.levels if level.level == name)


@dataclass(frozen=True)
class Sweep:
    """What was measured on ``data``; ``answered`` of its items have answers."""

    data: dict[str, Any]
    items: int
    answered: int
    max_new_tokens: int
    bundles: tuple[BundleResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def sweep(
    bundles: Sequence[str | Path],
    data: Data,
    *,
    native: bool | None = None,
    context: int | None = None,
    max_new_tokens: int = NEW_TOKENS,
    progress: Progress = lambda stage, done, total: None,
) -> Sweep:
    """Ask the questions of ``data`` at every level of ``bundles``, one bundle after another; answers are greedy, of ``max_new_tokens`` at most.

    ``native`` and ``context`` as in `farthing.load`, but room for the largest image by default. Raises RequestError, BundleError.
    """
    if not bundles or len({Path(b).resolve() for b in bundles}) != len(bundles):
        raise RequestError(
            found_wanted("bundles", [str(b) for b in bundles], "different ones, at least one", "name each once")
        )
    pictures = list(dict.fromkeys(item.image for item in data.items))
    for number, image in enumerate(pictures):
        as_rgb(image)  # a broken one is refused before minutes are spent
        progress("opening pictures", number + 1, len(pictures))
    results = []
    for place, path in enumerate(bundles):
        stage = f"{place + 1}/{len(bundles)} {Path(path).name}"
        subject = Subject(path, native=native, context=context, max_new_tokens=max_new_tokens)
        try:
            trials: dict[str, list[Trial]] = {level: [] for level in subject.spec.levels}
            for number, item in enumerate(data.items):
                for level, trial in subject.try_levels(item, number).items():
                    trials[level].append(trial)
                progress(stage, number + 1, len(data.items))
            results.append(_bundle_result(subject, str(path), trials))
        finally:
            subject.close()
    told = {"name": data.name, "sha256": data.sha256, "found": data.found, "repeated": data.repeated}
    told["pictures"] = data.pictures
    return Sweep(told, len(data.items), data.answered, max_new_tokens, tuple(results))


def _bundle_result(subject: Subject, path: str, trials: dict[str, list[Trial]]) -> BundleResult:
    manifest, spec = subject.bundle.manifest, subject.spec
    levels = [_level_result(level, spec.level(level)["ratio"], trials[level], trials[FULL]) for level in spec.levels]
    return BundleResult(
        path=path,
        name=manifest["name"],
        method=manifest["method"]["id"],
        current=spec.entry["level"],
        native=subject.runtime.native,
        tower_seconds=quartiles(subject.tower).value,
        levels=tuple(levels),
    )


def _level_result(level: str, ratio: float, trials: list[Trial], full: list[Trial]) -> LevelResult:
    pairs = [(bool(f.right), bool(t.right)) for f, t in zip(full, trials, strict=True) if t.right is not None]
    positions = [t.positions for t in trials]
    shares = [(t.selector or 0.0) / t.prefill for t in trials]
    return LevelResult(
        level=level,
        ratio=ratio,
        rows=fmean(t.rows for t in trials),
        accuracy=wilson(sum(now for _, now in pairs), len(pairs)) if pairs else None,
        loss=None if not pairs else _loss(level, pairs),
        kl=mean_over_items([t.kl for t in trials], positions),
        same_top=mean_over_items([t.same for t in trials], positions),
        flops=fmean(t.flops for t in trials),
        cache_bytes=fmean(t.cache for t in trials),
        prefill_seconds=quartiles([t.prefill for t in trials]),
        selector_share=None if all(t.selector is None for t in trials) else quartiles(shares).value,
    )


def _loss(level: str, pairs: list[tuple[bool, bool]]) -> Interval:
    """Of (right at full, right at this level). Full against itself is 0 by definition, not by measurement."""
    if level == FULL:
        return Interval(0.0, 0.0, 0.0)
    return paired_loss(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))
