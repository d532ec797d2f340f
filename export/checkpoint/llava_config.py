"""config.json of LLaVA-1.5 and LLaVA-NeXT -> the decoder's part of it, and `VlmConfig`."""

from __future__ import annotations

from typing import Any

from ...models.clip import ACTIVATIONS, ClipConfig
from ...models.config import DecoderConfig
from ...models.vlm import VlmConfig
from .json_file import Fields

_LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
"""LlamaConfig's own defaults: folders on hubs leave these out of text_config."""


def text_fields(fields: Fields) -> Fields:
    """The part about the decoder, as a text model's config.json has it. Raises CheckpointError."""
    text = fields.values.get("text_config")
    if not isinstance(text, dict):
        raise fields.bad("text_config", type(text).__name__, "the decoder's configuration", "fetch it again")
    values: dict[str, Any] = dict(text)
    if values.get("model_type") == "llama":
        values = {**_LLAMA, **values}
    return inherited(values, fields)


def inherited(values: dict[str, Any], fields: Fields) -> Fields:
    """``values`` of the decoder with what only the outer ``fields`` say."""
    # A head is tied by the outer field in files of version 5, by the inner one before.
    values.setdefault("tie_word_embeddings", fields.values.get("tie_word_embeddings", False))
    for key in ("eos_token_id", "bos_token_id"):
        if values.get(key) is None and fields.values.get(key) is not None:
            values[key] = fields.values[key]
    return Fields(values, f"{fields.source}: text_config")


def decoder_config(config: DecoderConfig, text: Fields) -> DecoderConfig:
    """What a text model's configuration does not say: nothing here."""
    return config


def read_config(fields: Fields, width: int, vocabulary: int) -> VlmConfig:
    """The part that is not the decoder's. Raises CheckpointError for towers and options that are not supported."""
    family = fields.text("model_type")
    inner = fields.values.get("vision_config")
    if not isinstance(inner, dict):
        raise fields.bad("vision_config", type(inner).__name__, "the tower's configuration", "fetch it again")
    vision = Fields(inner, f"{fields.source}: vision_config")
    if (kind := vision.text("model_type", "clip_vision_model")) != "clip_vision_model":
        raise vision.bad("model_type", kind, "'clip_vision_model'", "other towers are not supported")
    activation = vision.text("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS:
        raise vision.bad("hidden_act", activation, f"one of {', '.join(ACTIVATIONS)}")
    if (act := fields.text("projector_hidden_act", "gelu")) != "gelu":
        raise fields.bad("projector_hidden_act", act, "'gelu'", "other projectors are not supported")
    size, patch = vision.count("image_size", 224), vision.count("patch_size", 32)
    if size % patch:
        raise vision.bad("patch_size", patch, f"a divisor of image_size {size}")
    layers = vision.count("num_hidden_layers", 12)
    strategy = fields.text("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise fields.bad("vision_feature_select_strategy", strategy, "'default' or 'full'")
    if family == "llava_next" and strategy == "full":
        raise fields.bad("vision_feature_select_strategy", strategy, "'default' where views are stitched together")
    heads, hidden = vision.count("num_attention_heads", 12), vision.count("hidden_size", 768)
    if hidden % heads:
        raise vision.bad("num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
    tower = ClipConfig(
        hidden_size=hidden,
        intermediate_size=vision.count("intermediate_size", 3072),
        layers=layers,
        heads=heads,
        image_size=size,
        patch_size=patch,
        epsilon=vision.number("layer_norm_eps", 1e-5),
        activation=activation,
        feature_layers=_feature_layers(fields, layers),
        class_token=strategy == "full",
    )
    image_token = fields.count("image_token_index" if fields.has("image_token_index") else "image_token_id", least=0)
    if image_token >= vocabulary:
        raise fields.bad("image_token_index", image_token, f"an id below {vocabulary}, the rows of the embedding")
    return VlmConfig(
        family=family,
        tower=tower,
        width=width,
        image_token_id=image_token,
        projector_bias=fields.flag("multimodal_projector_bias", True),
        pinpoints=_pinpoints(fields, size) if family == "llava_next" else (),
    )


def _feature_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    value = fields.values.get("vision_feature_layer", -2)
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(type(v) is int and -layers - 1 <= v <= layers for v in listed):
        raise fields.bad("vision_feature_layer", value, f"hidden states from {-layers - 1} to {layers}")
    return tuple(listed)


def _pinpoints(fields: Fields, size: int) -> tuple[tuple[int, int], ...]:
    value = fields.values.get("image_grid_pinpoints")
    if (
        not isinstance(value, list)
        or not value
        or not all(
            isinstance(p, list) and len(p) == 2 and all(type(x) is int and x > 0 and x % size == 0 for x in p)
            for p in value
        )
    ):
        raise fields.bad("image_grid_pinpoints", value, f"a list of [height, width], multiples of image_size {size}")
    return tuple((int(h), int(w)) for h, w in value)
