"""What `image_codes` of a manifest and the rest of it say of each other; ``core/drawing/image_codes.cc`` checks the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import BundleError, found_wanted
from ..image_tensors import ACCEPT, AR_PREFILL, AR_STEP, CONDITION, DRAFT_STEP, SAMPLE, VQ_DECODE

Finding = tuple[str, object, bool, object]
"""(field, value, whether it is right, what it should be)."""


def check_drawing(path: Path, manifest: dict[str, Any]) -> None:
    """Raise BundleError, naming ``path``, where the fields of a model that draws contradict each other."""
    if "image_codes" not in manifest:
        return
    image = {"order": "raster", "per_step": 1, "window": 1, "sub_bits": 0, "drafts": "none", **manifest["image_codes"]}
    for field, found, right, wanted in (*_order(image), *_drafts(image), *_model(image, manifest)):
        if not right:
            raise BundleError(found_wanted(f"{field} of {path}", found, wanted, "export the bundle again"))
    graphs = manifest["graphs"]
    needed = [AR_STEP, SAMPLE, VQ_DECODE]
    if CONDITION in graphs:
        needed.append(AR_PREFILL)
    if image["drafts"] != "none":
        needed += [ACCEPT.format(mode) for mode in image["accept"]]
    if image["drafts"] == "eagle":
        needed.append(DRAFT_STEP)
    for name in needed:
        if name not in graphs:
            raise BundleError(found_wanted(f"graph {name} of {path}", "missing", "present", "export the bundle again"))


def _order(image: dict[str, Any]) -> Iterator[Finding]:
    order, per_step, window, bits = image["order"], image["per_step"], image["window"], image["sub_bits"]
    windows = order == "window"
    yield (
        "image_codes.window",
        window,
        not image["grid"] % window and (windows or window == 1),
        "a divisor of the grid, with order window",
    )
    if windows:
        yield "image_codes.per_step", per_step, per_step == window * window, f"{window * window}, the codes of a window"
    else:
        parts = per_step == 1 or (bits > 0 and order == "raster")
        yield "image_codes.per_step", per_step, parts, "1, or the number of sub-ids of sub_bits each in order raster"
    if bits:
        right = order == "raster" and bits * per_step <= 62 and image["codes"] == 2**bits
        yield "image_codes.sub_bits", bits, right, "those of codes, with order raster, at most 62 together"
    low, high = image.get("pixel_range", (-1, 1))
    yield "image_codes.pixel_range", [low, high], low < high, "two ascending numbers"


def _drafts(image: dict[str, Any]) -> Iterator[Finding]:
    drafts = image["drafts"]
    if drafts == "none":
        return
    alone = image["order"] == "raster" and image["per_step"] == 1
    yield "image_codes.drafts", drafts, alone, "none for a model with several codes a pass"
    accept = image.get("accept", [])
    yield "image_codes.accept", accept, bool(accept), "a list of modes"
    default = image.get("default_accept", accept[0] if accept else None)
    yield "image_codes.default_accept", default, default in accept, f"one of {', '.join(accept)}"
    certain = image.get("certain_drafts", [])
    yield "image_codes.certain_drafts", certain, set(certain) <= set(accept), f"some of {', '.join(accept)}"


def _model(image: dict[str, Any], manifest: dict[str, Any]) -> Iterator[Finding]:
    model = manifest["model"]
    places = image["grid"] ** 2 // image["window"] ** 2
    positions, vocabulary = model["max_positions"], model["vocab_size"]
    if CONDITION in manifest["graphs"]:
        yield "model.max_positions", positions, positions > places, f"above {places} by image_codes"
        return
    yield "image_codes.classes", image["classes"], image["classes"] > 0, "1 or more without a text condition"
    yield "model.max_positions", positions, positions == 1 + places, f"{1 + places} by image_codes"
    whole = image["codes"] + image["classes"] + 1
    yield "model.vocab_size", vocabulary, vocabulary in (whole, whole - 1), f"{whole} by image_codes"
