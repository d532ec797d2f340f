"""What a method does to the rows of an image: the levels it offers, and the nodes that it adds to the graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...errors import RequestError, found_wanted
from ...runtime.keep import keep_count
from ..checkpoint.vlm_folder import VlmFolder
from ..graph.clip import BeforeLast
from ..graph.project import ProjectGraph
from ..graph.visual_step import Select

FULL = "full"
"""Level that keeps every row."""
SKIP = "skip"
"""Level whose rows leave parts of layers out."""


@dataclass(frozen=True)
class Level:
    """One of the sizes that an image can have in a bundle.

    ``ratio`` of the candidates is dropped; ``buckets`` are the numbers of rows for which graphs are built, ascending. ``pool`` above 1: rows are
    means over pool x pool squares, and there is one graph whatever the number of views. ``skip``: what
    visual rows leave out of a layer (`graph.visual_step`); empty is the full pass under another name, None no such level.
    """

    id: str
    ratio: float
    buckets: tuple[int, ...] = ()
    pool: int = 1
    skip: Mapping[int, str] | None = None


class Reduction:
    """No reduction, and the base of all: what `export_visual` asks of a method."""

    method = "vlm"
    guarantee = "exact"
    positions = "keep"
    """Rotary positions of kept rows: ``keep`` those of the whole image, or ``compact`` (0, 1, 2, ... behind the text before)."""
    prune_layer: int | None = None
    """Layer of the decoder before which rows are dropped; None = before the first, in the project graphs."""

    def levels(self, model: VlmFolder, rows: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
        """Levels besides FULL. ``rows``: (rows, line breaks among them) of the images that there can be."""
        return ()

    def default_level(self) -> str:
        """The level of a request that names none."""
        return FULL

    def check(self, model: VlmFolder) -> None:
        """Raise RequestError or CheckpointError where the method does not fit the model. Called before anything is written."""

    def extend_tower(self, model: VlmFolder) -> BeforeLast | None:
        """What is added to the vision graph, with its outputs."""
        return None

    def project(self, graph: ProjectGraph, model: VlmFolder, level: Level, tokens: int | str) -> None:
        """Write the reduction behind the rows of ``graph`` and end with its ``finish``. ``tokens``: the bucket, or ``L`` with pooling."""
        raise RequestError(found_wanted("method", self.method, "one that reduces rows", "report this"))

    def select(self, model: VlmFolder, level: Level, tokens: int) -> Select | None:
        """With ``prune_layer``: what chooses the rows inside the decoder."""
        return None

    def about(self) -> dict[str, Any]:
        """Numbers of the method for the manifest, for people."""
        return {}


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """``ratios`` ascending, each above 0 and below 1. Raises RequestError."""
    for ratio in ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
            raise RequestError(
                found_wanted(
                    "ratio of dropped tokens",
                    repr(ratio),
                    "a number above 0 and below 1",
                    "level full, which every bundle has, keeps all tokens",
                )
            )
    if not ratios or len(set(ratios)) != len(ratios):
        raise RequestError(found_wanted("ratios", list(ratios), "different numbers, at least one", "correct --ratio"))
    return tuple(sorted(float(r) for r in ratios))


def level_id(ratio: float) -> str:
    """``r50`` for 0.5, ``r88.9`` for 0.889."""
    return f"r{round(ratio * 100, 2):g}"


def ratio_levels(ratios: Sequence[float], row_counts: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """A level for each ratio, with a bucket for every (rows, line breaks among them) in ``row_counts`` and some between.

    Line breaks are always kept, so they are no candidates. Between the least and the most, buckets stand at most an eighth apart: an image
    of another shape keeps up to that much more than it must. Where there are no line breaks ``row_counts`` has all sizes, and there are none
    between.
    """
    levels = []
    for ratio in check_ratios(ratios):
        exact = sorted({keep_count(n - breaks, ratio) + breaks for n, breaks in row_counts})
        buckets = {exact[0]}
        for low, high in pairwise(exact):
            steps = 1
            while any(breaks for _, breaks in row_counts) and low * (high / low) ** (1 / steps) - low > low / 8:
                steps += 1
            buckets |= {round(low * (high / low) ** (i / steps)) for i in range(1, steps + 1)}
        levels.append(Level(level_id(ratio), ratio, tuple(sorted(buckets))))
    return tuple(levels)
