"""Sizes of the dimensions that graphs of image models have: images and codes of a draw, drafts of a round, rows of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...plugins.cached_attention.visible import words
from .profiles import Range


def drawing_ranges(manifest: Mapping[str, Any], batch: int) -> dict[str, Range]:
    """Ranges of I, N (`sample`), L, L1 (`accept_*`), T (`condition`) of a model that draws; none of others.

    With order diagonal also of S and R, rows of a pass and of its logits: every pass has as many as a diagonal has codes.
    """
    image = manifest.get("image_codes")
    if image is None:
        return {}
    grid, diagonal = int(image["grid"]), image.get("order") == "diagonal"
    draws = grid if diagonal else int(image.get("per_step", 1))
    drafts = int(image.get("draft_window") or image.get("draft_length") or 1)
    # Codes of different guidance, and rows of a verification, are images of one draw each to the graph.
    most = max(batch * draws, drafts + 1)
    found: dict[str, Range] = {
        "I": (1, batch, most),
        "N": (1, draws, draws),
        "L": (1, drafts, drafts),
        "L1": (2, drafts + 1, drafts + 1),
    }
    if diagonal:
        found |= {"S": (1, grid, grid), "R": (1, grid, grid), "W": (1, words(grid), words(grid))}
    if "condition" in manifest["graphs"]:
        rows = int(manifest["model"]["max_positions"]) - grid * grid
        found["T"] = (1, rows, rows)
    return found
