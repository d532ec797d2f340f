"""Hugging Face folders of vision-language models: LLaVA-1.5 and LLaVA-NeXT, tower, projector and decoder in one set of shards.

The same tensor is called differently by transformers before 4.52 (``language_model.model.layers.0...``), since (``model.language_model.
layers.0...``), and again as version 5 saves it (``vision_tower.embeddings...``); `part_of` knows all of them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, found_wanted
from ...models import clip
from ...models.clip import ACTIVATIONS, ClipConfig
from ...models.vlm import VlmConfig, projector_tensors
from .hf_config import unknown_architecture
from .huggingface import HuggingFaceCheckpoint, canonical
from .json_file import Fields
from .safetensors_file import SafetensorsFile

FAMILIES = ("llava", "llava_next")

_LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
"""LlamaConfig's own defaults: folders on hubs leave these out of text_config."""

_TOP = ("language_model.", "vision_tower.", "multi_modal_projector.", "image_newline", "visual.")


def part_of(name: str) -> tuple[str, str]:
    """(``text``, ``tower``, ``projector`` or ``other``; the name inside it) of a tensor, whatever wrote the file."""
    if name == "lm_head.weight":
        return "text", name
    if name.startswith("model.") and name.removeprefix("model.").startswith(_TOP):
        name = name.removeprefix("model.")
    if name == "image_newline":
        return "projector", name
    if name.startswith("multi_modal_projector."):
        return "projector", name.removeprefix("multi_modal_projector.")
    if name.startswith("vision_tower."):
        return "tower", name.removeprefix("vision_tower.").removeprefix("vision_model.")
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.")
        return "text", inner if inner.startswith(("model.", "lm_head.")) else f"model.{inner}"
    return "other", name


class VlmFolder(HuggingFaceCheckpoint):
    """The decoder of a vision-language folder, as any `Checkpoint`; ``vlm`` describes the rest and `visual` reads it."""

    vlm: VlmConfig

    def __init__(self, path: Path) -> None:
        self._others: dict[str, tuple[SafetensorsFile, str]] = {}
        super().__init__(path)
        self.vlm = read_vlm_config(self._outer, self.config.hidden_size, self.config.vocab_size)

    def _text_fields(self, fields: Fields) -> Fields:
        """config.json's part about the decoder."""
        self._outer = fields
        family = fields.text("model_type")
        if family not in FAMILIES:
            raise unknown_architecture(family, FAMILIES, fields.source, "model_type")
        text = fields.values.get("text_config")
        if not isinstance(text, dict):
            raise fields.bad("text_config", type(text).__name__, "the decoder's configuration", "fetch it again")
        values: dict[str, Any] = dict(text)
        if values.get("model_type") == "llama":
            values = {**_LLAMA, **values}
        # A head is tied by the outer field in files of version 5, by the inner one before.
        values.setdefault("tie_word_embeddings", fields.values.get("tie_word_embeddings", False))
        for key in ("eos_token_id", "bos_token_id"):
            if values.get(key) is None and fields.values.get(key) is not None:
                values[key] = fields.values[key]
        return Fields(values, f"{fields.source}: text_config")

    def _own_name(self, file: SafetensorsFile, name: str) -> str | None:
        part, inner = part_of(name)
        if part == "text":
            return canonical(inner)
        key = f"{part}.{inner}"
        if inner.endswith("position_ids"):
            return None  # a buffer that old transformers saved
        if key in self._others:
            raise CheckpointError(
                found_wanted(
                    f"tensor {name} of {self.path}", "in two shards", "in one", "remove the stale weight files"
                )
            )
        self._others[key] = (file, name)
        return None

    def check(self) -> None:
        """The decoder as always, tower and projector the same way. Raises CheckpointError."""
        super().check()
        wanted = {f"tower.{n}": s for n, s in clip.expected_tensors(self.vlm.tower).items()}
        wanted |= {f"projector.{n}": s for n, s in projector_tensors(self.vlm).items()}
        self._refuse_list(
            "missing", (n for n in wanted if n not in self._others), "every tensor of tower and projector"
        )
        self._refuse_list("unexpected", (n for n in self._others if n not in wanted), "only tensors the model uses")
        for name, shape in wanted.items():
            file, theirs = self._others[name]
            if file.shape(theirs) != shape:
                raise CheckpointError(
                    found_wanted(
                        f"shape of tensor {file.path}: {theirs}",
                        list(file.shape(theirs)),
                        f"{list(shape)} by the configuration",
                        "configuration and weights belong to different models; fetch both from one place",
                    )
                )

    def visual(self, name: str) -> np.ndarray:
        """float32 tensor ``tower.<name>`` or ``projector.<name>``. Raises CheckpointError where it is not finite, KeyError."""
        file, theirs = self._others[name]
        array = np.asarray(file.read(theirs), np.float32)
        if not np.isfinite(array).all():
            raise CheckpointError(
                found_wanted(
                    f"tensor {file.path}: {theirs}",
                    "not finite",
                    "finite weights",
                    "fetch or train the checkpoint again",
                )
            )
        return array

    @property
    def visual_parameters(self) -> int:
        """Weights of tower and projector."""
        return sum(math.prod(f.shape(n)) for f, n in self._others.values())

    def processor(self) -> Fields:
        """preprocessor_config.json, or the image part of processor_config.json. Raises CheckpointError where there is neither."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (self.path / name).is_file():
                fields = Fields.load(self.path / name)
                inner = fields.values.get("image_processor")
                return Fields(inner, f"{fields.source}: image_processor") if isinstance(inner, dict) else fields
        raise CheckpointError(
            found_wanted(
                f"{self.path / 'preprocessor_config.json'}", "missing", "how images are prepared", "fetch it too"
            )
        )


def read_vlm_config(fields: Fields, width: int, vocabulary: int) -> VlmConfig:
    """The part of config.json that is not the decoder's. Raises CheckpointError for towers and options that are not supported."""
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
    good = isinstance(value, list) and value
    if not good or not all(
        isinstance(p, list) and len(p) == 2 and all(type(x) is int and x > 0 and x % size == 0 for x in p)
        for p in value
    ):
        raise fields.bad("image_grid_pinpoints", value, f"a list of [height, width], multiples of image_size {size}")
    return tuple((int(h), int(w)) for h, w in value)
