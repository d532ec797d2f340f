"""preprocessor_config.json -> entry ``preprocess`` of the manifest. Only what the runtime does is accepted; nothing is silently ignored."""

from __future__ import annotations

from typing import Any

from ...models.clip import ClipConfig
from ...models.qwen_vision import QwenVisionConfig
from ..checkpoint.json_file import Fields
from ..checkpoint.vlm_folder import VlmFolder
from .native import native_entry

_RESAMPLE = {3: "bicubic", 2: "bilinear"}
"""PIL's numbers."""

_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
"""CLIP's own, the processors' defaults."""


def preprocess_entry(model: VlmFolder) -> dict[str, Any]:
    """How images become views, for the manifest. Raises CheckpointError."""
    fields = model.processor()
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if not fields.flag(key, True):
            raise fields.bad(key, False, "true", "the graphs normalise and expect views of certain sizes")
    factor = fields.number("rescale_factor", 1 / 255)
    if abs(factor * 255 - 1) > 1e-6:
        raise fields.bad("rescale_factor", factor, "1 / 255")
    resample = fields.count("resample", 3, least=0)
    if resample not in _RESAMPLE:
        raise fields.bad("resample", resample, "3 (bicubic) or 2 (bilinear)")
    entry: dict[str, Any] = {
        "resample": _RESAMPLE[resample],
        "mean": _rgb(fields, "image_mean", _MEAN),
        "std": _rgb(fields, "image_std", _STD),
    }
    tower = model.vlm.tower
    if isinstance(tower, QwenVisionConfig):
        return entry | native_entry(model, tower, fields)
    return entry | _square_entry(model, tower, fields)


def _square_entry(model: VlmFolder, tower: ClipConfig, fields: Fields) -> dict[str, Any]:
    """Of towers that take views of one size."""
    if not fields.flag("do_center_crop", True):
        raise fields.bad("do_center_crop", False, "true", "the graphs expect views of one size")
    if model.vlm.family == "llava" and fields.flag("do_pad", False):
        raise fields.bad("do_pad", True, "false", "padding to a square is not supported")
    crop = _sides(fields, "crop_size", tower.image_size)
    if crop != (tower.image_size, tower.image_size):
        raise fields.bad("crop_size", list(crop), f"{tower.image_size}, the tower's image_size")
    entry: dict[str, Any] = {
        "kind": "anyres" if model.vlm.family == "llava_next" else "clip",
        "size": _size(fields, tower.image_size),
        "crop": tower.image_size,
    }
    if entry["kind"] == "anyres":
        entry["pinpoints"] = [list(p) for p in model.vlm.pinpoints]
        own = fields.values.get("image_grid_pinpoints", entry["pinpoints"])
        if own != entry["pinpoints"]:
            raise fields.bad("image_grid_pinpoints", own, f"{entry['pinpoints']} as in config.json")
        if entry["size"] not in (tower.image_size, [tower.image_size] * 2):
            raise fields.bad("size", fields.values.get("size"), f"{tower.image_size}, the tower's image_size")
    return entry


def _size(fields: Fields, default: int) -> int | list[int]:
    value = fields.values.get("size", {"shortest_edge": default})
    if isinstance(value, dict) and set(value) == {"shortest_edge"}:
        return Fields(value, f"{fields.source}: size").count("shortest_edge")
    if isinstance(value, int) and not isinstance(value, bool):
        return fields.count("size")
    return list(_sides(fields, "size", default))


def _sides(fields: Fields, key: str, default: int) -> tuple[int, int]:
    value = fields.values.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"height": value, "width": value}
    if not isinstance(value, dict):
        raise fields.bad(key, value, "a number, or height and width")
    inner = Fields(value, f"{fields.source}: {key}")
    return inner.count("height"), inner.count("width")


def _rgb(fields: Fields, key: str, default: list[float]) -> list[float]:
    value = fields.values.get(key, default)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, (int, float)) for v in value):
        raise fields.bad(key, value, "three numbers")
    if key == "image_std" and not all(v > 0 for v in value):
        raise fields.bad(key, value, "three numbers above 0")
    return [float(v) for v in value]
