"""Matryoshka (Cai et al. 2024, arXiv 2405.17430): fewer rows as means over squares of each view, for models trained to read them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ...errors import RequestError, found_wanted
from ..checkpoint.vlm_folder import VlmFolder
from ..graph.project import ProjectGraph
from ..graph.token_reduction.pooling import add_pooling, scale_pool
from .reduction import FULL, Level, Reduction

MARK = "matryoshka_vis_token_scale"
"""Field of config.json that trained checkpoints carry."""


class Matryoshka(Reduction):
    """Levels s144, s36, ...: rows of a view. ``scales`` None = the pools 2, 4, 8 and the whole view, as far as they divide the grid."""

    method = "matryoshka"
    guarantee = "lossy"
    positions = "compact"

    def __init__(self, *, scales: Sequence[int] | None = None) -> None:
        self._asked = scales
        self.scales: tuple[int, ...] = ()
        self.marked = False

    def check(self, model: VlmFolder) -> None:
        """Scales that divide the grid; warns where the checkpoint does not say that it was trained for them. Raises RequestError."""
        if model.config.mrope_section or model.vlm.clip.class_token:
            raise RequestError(
                found_wanted("rows of a view", "not a square grid of patches", "one, as LLaVA has", "use idpruner")
            )
        grid = model.vlm.clip.grid
        asked = self._asked
        if asked is None:
            asked = [(grid // p) ** 2 for p in (2, 4, 8, grid) if grid % p == 0]
        for scale in asked:
            scale_pool(grid, scale)
        self.scales = tuple(sorted({int(s) for s in asked if s != grid * grid}, reverse=True))
        if not self.scales:
            raise RequestError(found_wanted("scales", list(asked), f"some below {grid * grid}", "leave --scales out"))
        self.marked = model.outer.has(MARK)
        if not self.marked:
            warnings.warn(
                f"{model.path} has no field {MARK}: a model that was not trained on pooled rows answers poorly from few of them",
                RuntimeWarning,
                stacklevel=2,
            )

    def levels(self, model: VlmFolder, rows: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
        """One for each scale."""
        grid = model.vlm.clip.grid
        return tuple(Level(f"s{s}", 1.0 - s / grid**2, pool=scale_pool(grid, s)) for s in self.scales)

    def default_level(self) -> str:
        """All rows: a request says how few are enough for it."""
        return FULL

    def project(self, graph: ProjectGraph, model: VlmFolder, level: Level, tokens: int | str) -> None:
        """Pooled views, then in order."""
        grid, width = model.vlm.clip.grid, model.vlm.width
        graph.begin(
            lambda views: (
                add_pooling(graph.w, views, "pooled", grid=(grid, grid), pool=level.pool, width=width) or "pooled"
            )
        )
        graph.finish(graph.rows, "", tokens)

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        return {"scales": list(self.scales), "trained": self.marked}
