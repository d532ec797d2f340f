"""Sizes of the dimensions that graphs of images have: how many views, and how many rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import RequestError, found_wanted
from ...runtime.anyres import anyres, choose_pinpoint
from .profiles import Range


def visual_ranges(manifest: Mapping[str, Any], capacity: int) -> dict[str, Range]:
    """Ranges of T (views), L and N (rows of an image), height and width of a vision-language manifest; none of others.

    ``capacity``: cache slots. Raises RequestError where a level that is pruned inside the decoder does not fit into them.
    """
    vision = manifest.get("vision")
    if vision is None:
        return {}
    grid, how = int(vision["grid"]), vision["preprocess"]
    kept = max((b["tokens"] for level in vision["levels"] for b in level.get("buckets", ())), default=0)
    if "prune_layer" in vision and kept > capacity:
        raise RequestError(
            found_wanted(
                "context",
                capacity,
                f"at least {kept}, the rows that a level keeps inside the decoder",
                "give a longer --context, or export higher ratios",
            )
        )
    if how["kind"] == "qwen2_vl":
        return _native(how, capacity)
    if how["kind"] != "anyres":
        rows = min(grid * grid, capacity)
        return {"T": (1, 1, 1), "L": (1, rows, rows), "N": (1, rows, rows)}
    views = rows = 1
    for high, wide in how["pinpoints"]:
        chosen = choose_pinpoint((high, wide), [tuple(p) for p in how["pinpoints"]])
        tiles = (chosen[0] // how["crop"], chosen[1] // how["crop"])
        views = max(views, 1 + tiles[0] * tiles[1])
        rows = max(rows, anyres((high, wide), tiles, grid).order.size)
    # What does not fit into the cache can be projected and pruned, but not run.
    return {"T": (1, views, views), "L": (1, rows, rows), "N": (1, min(rows, capacity), min(rows, capacity))}


def _native(how: Mapping[str, Any], capacity: int) -> dict[str, Range]:
    """Images of any size up to ``max_pixels``, and of shapes up to 1 : 2: an engine reserves memory for the largest height and width at once.

    Longer ones would multiply that; who has them gives a range with ``--dim``.
    """
    unit, most = how["patch"] * how["merge"], how["max_pixels"]
    rows, usual = most // unit**2, max(1, math.isqrt(most) // unit) * unit
    side = (unit, usual, max(usual, math.isqrt(2 * most) // unit * unit))
    fit = min(rows, capacity)
    return {"L": (1, rows, max(rows, side[2] ** 2 // unit**2)), "N": (1, fit, fit), "height": side, "width": side}
