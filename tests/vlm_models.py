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
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(8)  # drawn with a deviation of 0.02, which would make every choice a coin toss
            elif ("norm" in name and name.endswith("weight")) or name.endswith("bias") or "newline" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    write_side_files(folder, family, side, more)
    return folder


def write_side_files(folder: Path, family: str, side: int, more: dict[str, Any]) -> None:
    """Tokenizer, template and image processor."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(tiny.tokenizer_json(IMAGE_ID + 8))
    tokenizer.add_special_tokens([AddedToken(IMAGE, special=True)])
    assert tokenizer.token_to_id(IMAGE) == IMAGE_ID, tokenizer.token_to_id(IMAGE)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
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
