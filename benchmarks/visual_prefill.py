"""What dropping visual tokens saves: prefill CPU seconds by level, and the selector's share of them.

    python benchmarks/visual_prefill.py examples/vlm/model                      # a checkpoint: its own image prompt
    python benchmarks/visual_prefill.py --smollm2 MODEL.gguf --out build/visual # LLaVA's shape around SmolLM2, 576 tokens

One thread, the C++ core, features of the image already in the cache (the tower is the same work at every level). Levels take turns; the
median of --rounds is printed. The selector's share is what the project graph takes more than the plain projector, over the prefill.
With --smollm2 the decoder is the real one, tower (ViT-S/14 at 336 pixels) and projector are random: speed does not ask what they say.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import farthing
from farthing.export import export
from farthing.runtime.visual.images import sample_image

METHODS: dict[str, dict[str, Any]] = {"idpruner": {}, "zoo-prune": {}, "globalcom2": {}}
RATIOS = (0.5, 0.75, 0.9)


def llava_of_smollm2(gguf: Path, folder: Path, image_token: int = 7) -> Path:
    """A LLaVA-1.5 folder: SmolLM2's decoder, a random ViT-S/14 at 336 pixels (24 x 24 tokens) and projector."""
    from farthing.export.checkpoint import open_checkpoint
    from farthing.export.checkpoint.huggingface import _LAYER, _TOP
    from farthing.export.checkpoint.safetensors_file import write_safetensors
    from farthing.models.clip import ClipConfig, expected_tensors
    from farthing.models.vlm import VlmConfig, projector_tensors

    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True)
    source = open_checkpoint(gguf)
    c = source.config
    back = {v: k for k, v in _LAYER.items()}
    top = {v: k for k, v in _TOP.items()}
    tensors: dict[str, np.ndarray] = {}
    for name in source.names():
        if name.startswith("layers."):
            _, layer, part, kind = name.split(".")
            theirs = f"model.layers.{layer}.{back[part]}.{kind}"
        else:
            theirs = top[name]
        tensors[f"language_model.{theirs}"] = np.asarray(source.tensor(name), np.float32)
    tower = ClipConfig(384, 1536, 12, 6, 336, 14)
    vlm = VlmConfig("llava", tower, c.hidden_size, image_token)
    rng = np.random.default_rng(0)
    for prefix, shapes in (
        ("vision_tower.vision_model.", expected_tensors(tower)),
        ("multi_modal_projector.", projector_tensors(vlm)),
    ):
        for name, shape in shapes.items():
            scale = 0.02 if len(shape) > 1 else 0.0
            base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensors[prefix + name] = (base + scale * rng.standard_normal(shape)).astype(np.float32)
    write_safetensors(folder / "model.safetensors", tensors, {})
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12,
        "num_attention_heads": 6, "image_size": 336, "patch_size": 14,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": c.vocab_size, "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "max_position_embeddings": c.max_positions, "rms_norm_eps": c.norm_epsilon,
        "rope_theta": c.rope.theta, "tie_word_embeddings": c.tied_head,
    }  # fmt: skip
    config = {
        "model_type": "llava", "vision_config": vision, "text_config": text, "image_token_index": image_token,
        "tie_word_embeddings": c.tied_head,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    sides = {"height": 336, "width": 336}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 336}, "crop_size": sides, "resample": 3})
    )
    return folder


def measure(bundle: Path, rounds: int, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Level -> rows, prefill CPU seconds (median) and seconds of projector and selector (median)."""
    image = sample_image(1, *size)
    with farthing.load(bundle, threads=1, native=True) as model:
        spec = model.bundle.manifest["vision"]
        token, levels = spec["image_token_id"], [level["id"] for level in spec["levels"]]
        # 10 ids before and 14 behind: a system line and a short question.
        prompt = [*range(30, 40), token, *range(50, 64)]
        seen: dict[str, list[tuple[float, float, float]]] = {level: [] for level in levels}
        for turn in range(rounds + 1):
            for level in levels:
                made = model.generate(
                    prompt_ids=prompt, images=[image], level=level, greedy=True, max_new_tokens=1, ignore_eos=True
                )
                if turn:  # the first opens graphs and encodes
                    stats = made.stats
                    seen[level].append(
                        (stats["prefill_cpu_seconds"], stats["vision"]["seconds"], stats["vision"]["rows"])
                    )
    result = {}
    for level, all_of_it in seen.items():
        prefill, visual, rows = (statistics.median(x) for x in zip(*all_of_it, strict=True))
        result[level] = {"rows": rows, "prefill": prefill, "visual": visual}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a Hugging Face folder")
    parser.add_argument("--smollm2", type=Path, help="SmolLM2's GGUF file instead")
    parser.add_argument("--out", type=Path, default=Path("build/visual"))
    parser.add_argument("--methods", nargs="+", default=["idpruner", "zoo-prune"], choices=sorted(METHODS))
    parser.add_argument("--size", nargs=2, type=int, default=(336, 336), help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if (args.checkpoint is None) == (args.smollm2 is None):
        parser.error("give a checkpoint, or --smollm2")
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.checkpoint or llava_of_smollm2(args.smollm2, args.out / "llava-smollm2")
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    for method in args.methods:
        bundle = args.out / f"bundle-{checkpoint.name}-{method}"
        shutil.rmtree(bundle, ignore_errors=True)
        export(method, checkpoint, bundle, check=False, ratios=RATIOS, **METHODS[method])
        found[method] = levels = measure(bundle, args.rounds, tuple(args.size))
        full = levels["full"]
        print(f"{method}: prefill of 24 text and n visual tokens, CPU seconds at one thread")
        print(f"{'level':<8}{'rows':>6}{'prefill':>10}{'faster':>8}{'selector':>10}")
        for name, at in levels.items():
            share = max(0.0, at["visual"] - full["visual"]) / at["prefill"]
            print(
                f"{name:<8}{at['rows']:>6.0f}{at['prefill']:>10.4f}{full['prefill'] / at['prefill']:>7.2f}x{share:>9.1%}"
            )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
