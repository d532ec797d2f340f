"""Tiny random vision-language folders, as `save_pretrained` writes them, and what transformers says to a prompt with images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import tiny

IMAGE = "<image>"
IMAGE_ID = 298
"""The last row but one of the tiny vocabulary."""
SIDE = 24
"""Pixels of a view: 3 x 3 patches of 8."""

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}</s>{% endfor %}"
)

QWEN_MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
QWEN_TEMPLATE = TEMPLATE.replace("<image>\n", "<|vision_start|><|image_pad|><|vision_end|>")


def write_llava(folder: Path, family: str = "llava", seed: int = 0, side: int = SIDE, **changes: Any) -> Path:
    """A folder of ``llava`` or ``llava_next`` with random weights; ``changes`` go to the outer configuration."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    vision = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=side, patch_size=8
    )
    text = hf.LlamaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
    )
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llava": (hf.LlavaConfig, hf.LlavaForConditionalGeneration, {}),
        "llava_next": (
            hf.LlavaNextConfig,
            hf.LlavaNextForConditionalGeneration,
            {"image_grid_pinpoints": [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]},
        ),
    }
    config, kind, more = kinds[family]
    outer = {"vision_config": vision, "text_config": text, "image_token_id": IMAGE_ID, **more, **changes}
    model = kind(config(**outer)).eval()
    spread(model)
    model.save_pretrained(folder)
    write_side_files(folder, family, side, more)
    return folder


def spread(model: Any) -> None:
    """Make weights of a fresh model tell rows apart: drawn with a deviation of 0.02, they would make every choice a coin toss."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(8)
            elif weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))


def write_qwen(folder: Path, seed: int = 0, *, vision: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder of Qwen2.5-VL: patches of 4 pixels, tokens of 8, windows of 3 x 3 tokens. ``changes`` go to the outer configuration."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    tower = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 24,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": 48,
    }
    text = {
        "vocab_size": tiny.VOCAB,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 2, 3]},
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    ids = {
        "image_token_id": IMAGE_ID,
        "video_token_id": IMAGE_ID - 3,
        "vision_start_token_id": IMAGE_ID - 2,
        "vision_end_token_id": IMAGE_ID - 1,
    }
    config = hf.Qwen2_5_VLConfig(vision_config={**tower, **(vision or {})}, text_config=text, **{**ids, **changes})
    model = hf.Qwen2_5_VLForConditionalGeneration(config).eval()
    spread(model)
    model.save_pretrained(folder)
    write_tokenizer(folder, QWEN_MARKS, QWEN_TEMPLATE)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 4 * 64,
        "max_pixels": 48 * 64,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, marks: list[str], template: str) -> None:
    """Byte-level BPE with ``marks`` behind it, the last of which is IMAGE_ID; and a chat template."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(tiny.tokenizer_json(IMAGE_ID + 9 - len(marks)))
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    assert tokenizer.token_to_id(marks[-1]) == IMAGE_ID, tokenizer.token_to_id(marks[-1])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_side_files(folder: Path, family: str, side: int, more: dict[str, Any]) -> None:
    """Tokenizer, template and image processor."""
    write_tokenizer(folder, [IMAGE], TEMPLATE)
    processor = {
        "image_processor_type": "CLIPImageProcessor" if family == "llava" else "LlavaNextImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        **more,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def transformers_logits(folder: Path, family: str, ids: list[int], images: list[np.ndarray]) -> np.ndarray:
    """Logits float32 [len(ids),V]... of every text row, by transformers' own image processor and model.

    ``ids`` have the image token once per image; the result is of the rows behind the last image.
    """
    import torch
    import transformers as hf
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    kind = hf.LlavaForConditionalGeneration if family == "llava" else hf.LlavaNextForConditionalGeneration
    model = kind.from_pretrained(folder).eval()
    pil = CLIPImageProcessorPil if family == "llava" else LlavaNextImageProcessorPil
    processor = pil.from_pretrained(folder)
    inputs = processor([np.asarray(i) for i in images], return_tensors="pt")
    with torch.no_grad():
        found = model.get_image_features(**inputs)
        rows = [len(f.reshape(-1, f.shape[-1])) for f in getattr(found, "pooler_output", found)]
        expanded: list[int] = []
        waiting = iter(rows)
        for i in ids:
            expanded += [IMAGE_ID] * next(waiting) if i == IMAGE_ID else [i]
        out = model(input_ids=torch.tensor([expanded]), **inputs).logits[0].numpy()
    behind = len(ids) - 1 - max(i for i, t in enumerate(ids) if t == IMAGE_ID)
    return out[-behind:]


def qwen_inputs(folder: Path, ids: list[int], images: list[np.ndarray]) -> dict[str, Any]:
    """What transformers' Qwen2.5-VL takes: ``ids``, which have the image token once per image, with as many as it has rows; and pixels."""
    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    inputs = dict(Qwen2VLImageProcessorPil.from_pretrained(folder)(list(images), return_tensors="pt"))
    waiting, expanded = iter(inputs["image_grid_thw"].prod(-1).tolist()), list[int]()
    for i in ids:
        expanded += [i] * (next(waiting) // 4 if i == IMAGE_ID else 1)
    inputs["input_ids"] = torch.tensor([expanded])
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_ID).int()
    return inputs


def qwen_model(folder: Path) -> Any:
    """transformers' model in the folder."""
    import transformers as hf

    return hf.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()


def qwen_logits(folder: Path, ids: list[int], images: list[np.ndarray]) -> np.ndarray:
    """As `transformers_logits`, of Qwen2.5-VL."""
    import torch

    with torch.no_grad():
        out = qwen_model(folder)(**qwen_inputs(folder, ids, images)).logits[0].numpy()
    behind = len(ids) - 1 - max(i for i, t in enumerate(ids) if t == IMAGE_ID)
    return out[-behind:]
