"""Tiny random folders of VLoRA, with names and fields of the authors' classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import vlm_models

import tiny
from farthing.models.clip import ClipConfig, expected_tensors
from farthing.models.vlora import VloraConfig, vlora_tensors

TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": vlm_models.SIDE,
    "patch_size": 8,
}
LAYERS, WIDTH, TOKENS = 4, 48, 9


def drawn(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Norms about 1, all else of a size that keeps its input's."""
    if "norm" in name and name.endswith("weight"):
        return (1 + 0.1 * draw.standard_normal(shape)).astype(np.float32)
    scale = 0.1 if len(shape) == 1 else 0.3 if name == "Bs" else shape[-1] ** -0.5
    return (scale * draw.standard_normal(shape)).astype(np.float32)


def write_vlora(
    folder: Path, *, types: str = "qkvom", separate: bool = True, skip: int = 2, inside: bool = True, **changes: Any
) -> Path:
    """A folder; with ``inside`` False its tower stands in ``folder``-clip. ``changes`` go to config.json, None removes a field."""
    draw = np.random.default_rng(0)
    c = VloraConfig(32, 2, 32, TOKENS, WIDTH, LAYERS, 4, types, 8.0, skip, separate)
    decoder = tiny.config("llama", num_hidden_layers=LAYERS, num_key_value_heads=4)
    config = {
        **decoder,
        "model_type": "llava_vlora",
        "vision_config": TOWER if inside else None,
        "mm_vision_tower": "some/clip",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_token_index": vlm_models.IMAGE_ID,
        "vlora_dim": c.dim,
        "vlora_depth": c.depth,
        "vlora_visual_dim": c.visual_dim,
        "vlora_pos_num": c.positions,
        "vlora_llm_dim": c.llm_dim,
        "vlora_llm_depth": c.llm_depth,
        "vlora_rank": c.rank,
        "vlora_type": c.types,
        "vlora_alpha": c.alpha,
        "weights_sep": c.separate,
        "skip_layers": c.skip_layers,
        **changes,
    }
    folder.mkdir(parents=True)
    tiny.write_json(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    tensors = tiny.weights({**decoder, "num_key_value_heads": config["num_key_value_heads"]})
    tensors |= {f"model.mm_projector.{n}": drawn(draw, n, s) for n, s in vlora_tensors(c).items()}
    tower = expected_tensors(ClipConfig(32, 48, 3, 2, vlm_models.SIDE, 8))
    tower = {n: drawn(draw, n, s) for n, s in tower.items()}
    if inside:
        tensors |= {f"model.vision_tower.vision_tower.vision_model.{n}": a for n, a in tower.items()}
    else:
        clip = folder.with_name(f"{folder.name}-clip")
        clip.mkdir()
        tiny.write_json(clip / "config.json", {"model_type": "clip", "vision_config": TOWER})
        others = {"logit_scale": np.ones((), np.float32), "text_model.x.weight": np.ones((2, 2), np.float32)}
        tiny.save_safetensors(clip / "model.safetensors", {f"vision_model.{n}": a for n, a in tower.items()} | others)
    tiny.save_safetensors(folder / "model.safetensors", tensors)
    vlm_models.write_side_files(folder, "llava", vlm_models.SIDE, {})
    return folder
