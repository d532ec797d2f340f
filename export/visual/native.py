"""Images of any size: how they are prepared, and how many rows they can have."""

from __future__ import annotations

import math
from typing import Any

from ...models.qwen_vision import QwenVisionConfig
from ...runtime.visual.prepare import MOST_STRETCH
from ..checkpoint.json_file import Fields
from ..checkpoint.vlm_folder import VlmFolder

LEAST, MOST = 56 * 56, 28 * 28 * 1280
"""Pixels where the processor's file does not say: the defaults of transformers' Qwen2VLImageProcessor."""

SIZES = tuple(1.125**-i for i in range(8)) + tuple(1.125**-7 / 2**i for i in range(1, 5))
"""Images for which a reduction has graphs, as parts of the largest: an eighth apart down to 0.44 of its rows, then halves down to 0.027.

Twelve graphs for a level: an image keeps up to an eighth more rows than it must, a small one up to twice as many, and one that is smaller
still keeps as many as the smallest of them, or all."""


def native_entry(model: VlmFolder, tower: QwenVisionConfig, fields: Fields) -> dict[str, Any]:
    """What ``preprocess`` of the manifest says besides normalisation. ``fields``: the processor's file. Raises CheckpointError.

    ``max_pixels`` is cut to what the decoder's context can hold.
    """
    for key, own in (
        ("patch_size", tower.patch_size),
        ("merge_size", tower.merge),
        ("temporal_patch_size", tower.frames),
    ):
        if (value := fields.count(key, own)) != own:
            raise fields.bad(key, value, f"{own} as in config.json")
    size = fields.values.get("size")
    if size is not None and not (isinstance(size, dict) and set(size) == {"shortest_edge", "longest_edge"}):
        # Old files of hubs say {"min_pixels", "max_pixels"} here too.
        if not (isinstance(size, dict) and set(size) == {"min_pixels", "max_pixels"}):
            raise fields.bad("size", size, "shortest_edge and longest_edge, in pixels of the whole image")
        size = {"shortest_edge": size["min_pixels"], "longest_edge": size["max_pixels"]}
    inner = Fields(size or {}, f"{fields.source}: size")
    least = fields.count("min_pixels", inner.count("shortest_edge", LEAST))
    most = fields.count("max_pixels", inner.count("longest_edge", MOST))
    if least > most:
        raise fields.bad("max_pixels", most, f"at least min_pixels {least}")
    most = min(most, model.config.max_positions * tower.unit**2)
    if least > most:
        raise fields.bad(
            "min_pixels", least, f"at most {most}, the pixels of {model.config.max_positions} rows of context"
        )
    return {
        "kind": "qwen2_vl",
        "patch": tower.patch_size,
        "merge": tower.merge,
        "window": tower.window,
        "min_pixels": least,
        "max_pixels": most,
    }


def native_counts(entry: dict[str, Any]) -> list[tuple[int, int]]:
    """(rows, 0) of the images for which a reduction has graphs, ascending; the last are the largest there can be.

    A side is at least one token, so a strip may have more pixels than ``max_pixels``: it is then sqrt(max_pixels * stretch) long. Sides of
    small images are rounded up, which adds up to a row and a column.
    """
    unit, least, most = _limits(entry)
    area, strip = most / unit**2, math.sqrt(most * MOST_STRETCH) / unit
    rounded = (math.sqrt(least / MOST_STRETCH) / unit + 1) * (math.sqrt(least * MOST_STRETCH) / unit + 1)
    largest = math.floor(max(area, strip, rounded))
    smallest = math.ceil(least / unit**2)
    return [(n, 0) for n in sorted({max(smallest, round(largest * part)) for part in SIZES})]


def longest_side(entry: dict[str, Any]) -> int:
    """Tokens along the longest side that there can be."""
    unit, least, most = _limits(entry)
    return max(1, math.floor(max(math.sqrt(most * MOST_STRETCH) / unit, math.sqrt(least * MOST_STRETCH) / unit + 1)))


def _limits(entry: dict[str, Any]) -> tuple[int, int, int]:
    return entry["patch"] * entry["merge"], entry["min_pixels"], entry["max_pixels"]
