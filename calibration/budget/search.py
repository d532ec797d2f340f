"""From sensitivities to widths: candidates by prediction, the choice by measurement.

What a layer loses alone adds up only as long as errors are small and independent (the KL divergence is quadratic in them then). So sums choose
candidates, and each candidate is measured whole. Every uniform width that fits is a candidate, which is why the result cannot be
worse than one on the data it is chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import RequestError, found_wanted
from ...export.graph import Progress, no_progress
from .choose import choose


@dataclass(frozen=True)
class Item:
    """A layer: bytes by width, and for each way of predicting the loss by width."""

    name: str
    costs: dict[str, int]
    losses: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Candidate:
    """``name`` says where it comes from; ``bytes`` of everything, ``kl`` measured, in nats."""

    name: str
    widths: dict[str, str]
    bytes: int
    kl: float


@dataclass(frozen=True)
class Found:
    """The best candidate, and all that were measured, in the order of their measuring."""

    best: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def best_uniform(self) -> Candidate | None:
        """The best of the uniform ones, if any fits."""
        fits = [c for c in self.candidates if c.name.startswith("uniform")]
        return min(fits, key=lambda c: c.kl) if fits else None

    def as_json(self) -> dict[str, Any]:
        """What a manifest keeps: the candidates without their widths, and the widths of the best."""
        rows = [{k: v for k, v in asdict(c).items() if k != "widths"} for c in self.candidates]
        return {"chosen": self.best.name, "bytes": self.best.bytes, "kl": self.best.kl, "candidates": rows}


def search(
    items: Sequence[Item],
    budget: int,
    fixed: int,
    uniforms: Mapping[str, Mapping[str, str]],
    measure: Callable[[dict[str, str]], float],
    progress: Progress = no_progress,
) -> Found:
    """The widths of ``items`` with the least ``measure`` that, with ``fixed`` bytes of other things, take at most ``budget`` bytes.

    ``uniforms``: widths by name of each uniform choice. ``measure`` gives the loss of widths by name of the item, on the calibration data.
    Raises RequestError for a budget that nothing fits into, or everything at its widest does.
    """
    check_budget([item.costs for item in items], budget, fixed)
    offered: dict[str, dict[str, str]] = {}
    for name, widths in uniforms.items():
        if fixed + _bytes(items, widths) <= budget:
            offered[f"uniform {name}"] = dict(widths)
    for way in items[0].losses:
        picked = choose([i.costs for i in items], [i.losses[way] for i in items], budget - fixed)
        assert picked is not None  # the least fits
        offered[f"search by {way}"] = {item.name: width for item, width in zip(items, picked, strict=True)}
    measured: dict[tuple[str, ...], float] = {}
    made = []
    for done, (name, widths) in enumerate(offered.items()):
        key = tuple(widths[item.name] for item in items)
        if key not in measured:
            measured[key] = measure(widths)
        made.append(Candidate(name, widths, fixed + _bytes(items, widths), measured[key]))
        progress("choosing", done + 1, len(offered))
    best = min(made, key=lambda c: (c.kl, c.bytes))
    return Found(best, tuple(made))


def check_budget(costs: Sequence[Mapping[str, int]], budget: int, fixed: int) -> None:
    """Raises RequestError for a budget that nothing fits into, or everything at its widest does."""
    least = fixed + sum(min(cost.values()) for cost in costs)
    most = fixed + sum(max(cost.values()) for cost in costs)
    if budget < least:
        raise RequestError(
            found_wanted("--budget", _mb(budget), f"at least {_mb(least)}, the smallest choice", "give more")
        )
    if budget >= most:
        raise RequestError(
            found_wanted(
                "--budget",
                _mb(budget),
                f"below {_mb(most)}, where nothing is rounded",
                "nothing to do: keep the source, or give less",
            )
        )


def _bytes(items: Sequence[Item], widths: Mapping[str, str]) -> int:
    return sum(item.costs[widths[item.name]] for item in items)


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
