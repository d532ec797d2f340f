"""config.json of Qwen2.5-VL -> the decoder's part of it, and `VlmConfig`.

Folders on hubs have the decoder's fields beside ``vision_config``; transformers 4.52 and later write them into ``text_config``. Defaults are
those of transformers 5, models/qwen2_5_vl/configuration_qwen2_5_vl.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...models.config import DecoderConfig
from ...models.qwen_vision import QwenVisionConfig
from ...models.vlm import VlmConfig
from .json_file import Fields
from .llava_config import inherited

_SECTION = [16, 24, 24]
"""Pairs that turn by time, row and column where the configuration does not say."""

_KINDS = ("qwen2_5_vl", "qwen2_5_vl_vision")
"""What the tower is called; the first by old folders."""


def text_fields(fields: Fields) -> Fields:
    """The part about the decoder, as Qwen2's config.json has it. Raises CheckpointError."""
    text = fields.values.get("text_config")
    if text is not None and not isinstance(text, dict):
        raise fields.bad("text_config", type(text).__name__, "the decoder's configuration", "fetch it again")
    values: dict[str, Any] = dict(fields.values if text is None else text)
    values["model_type"] = "qwen2"
    rope = values.pop("rope_scaling", None) or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise fields.bad("rope_scaling", rope, "an object or null")
    rope = {"mrope_section": _SECTION, **rope}
    if rope.get("rope_type", rope.get("type")) == "mrope":
        rope["rope_type"] = "default"  # the sections say it already
    values["rope_parameters"] = {k: v for k, v in rope.items() if k != "type"} | {
        "rope_type": rope.get("rope_type", rope.get("type", "default")),
        "rope_theta": rope.get("rope_theta", values.get("rope_theta", 1e6)),
    }
    return inherited(values, fields)


def decoder_config(config: DecoderConfig, text: Fields) -> DecoderConfig:
    """``config`` with M-RoPE. Raises CheckpointError."""
    section = text.values["rope_parameters"]["mrope_section"]
    good = isinstance(section, list) and len(section) == 3 and all(type(n) is int and n > 0 for n in section)
    if not good or 2 * sum(section) != config.head_dim:
        raise text.bad("mrope_section", section, f"three numbers above 0 with the sum {config.head_dim // 2}")
    return dataclasses.replace(config, mrope_section=tuple(section))


def read_config(fields: Fields, width: int, vocabulary: int) -> VlmConfig:
    """The part that is not the decoder's. Raises CheckpointError for options that are not supported."""
    inner = fields.values.get("vision_config")
    if not isinstance(inner, dict):
        raise fields.bad("vision_config", type(inner).__name__, "the tower's configuration", "fetch it again")
    vision = Fields(inner, f"{fields.source}: vision_config")
    if (kind := vision.text("model_type", _KINDS[0])) not in _KINDS:
        raise vision.bad("model_type", kind, repr(_KINDS[1]), "other towers are not supported")
    if (activation := vision.text("hidden_act", "silu")) != "silu":
        raise vision.bad("hidden_act", activation, "'silu'", "other activations are not supported")
    for key in ("in_channels", "in_chans"):
        if (channels := vision.count(key, 3)) != 3:
            raise vision.bad(key, channels, "3")
    if (out := vision.count("out_hidden_size", 3584)) != width:
        raise vision.bad("out_hidden_size", out, f"{width}, the decoder's hidden_size")
    image_token = fields.count("image_token_id", 151655, least=0)
    if image_token >= vocabulary:
        raise fields.bad("image_token_id", image_token, f"an id below {vocabulary}, the rows of the embedding")
    return VlmConfig(family=fields.text("model_type"), tower=_tower(vision), width=width, image_token_id=image_token)


def _tower(vision: Fields) -> QwenVisionConfig:
    layers, hidden, heads = vision.count("depth", 32), vision.count("hidden_size", 3584), vision.count("num_heads", 16)
    if hidden % heads or hidden // heads % 4:
        raise vision.bad("num_heads", heads, f"heads of a multiple of 4 that fill hidden_size {hidden}")
    full = vision.values.get("fullatt_block_indexes", [7, 15, 23, 31])
    if not isinstance(full, list) or not all(type(i) is int and i >= 0 for i in full):
        raise vision.bad("fullatt_block_indexes", full, "a list of layers")
    rope = vision.values.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "axial") != "axial":
        raise vision.bad("rope_parameters", rope, "rope_type 'axial'", "other rotations are not supported")
    tower = QwenVisionConfig(
        hidden_size=hidden,
        intermediate_size=vision.count("intermediate_size", 3420),
        layers=layers,
        heads=heads,
        patch_size=vision.count("patch_size", 14),
        merge=vision.count("spatial_merge_size", 2),
        frames=vision.count("temporal_patch_size", 2),
        window=vision.count("window_size", 112),
        full_layers=tuple(i for i in full if i < layers),
        theta=Fields(rope, f"{vision.source}: rope_parameters").number("rope_theta", 10000.0),
    )
    if tower.window % tower.unit:
        raise vision.bad("window_size", tower.window, f"a multiple of {tower.unit}, the side of a token in pixels")
    return tower
