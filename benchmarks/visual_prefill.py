"""What dropping visual tokens saves: prefill CPU seconds by level, and the selector's share of them.

    python benchmarks/visual_prefill.py examples/vlm/model                      # a checkpoint: its own image prompt
    python benchmarks/visual_prefill.py examples/vlm/deep --size 192 192 --gate # the same of 744 visual tokens; exit code 1 if a bar is missed
    python benchmarks/visual_prefill.py --smollm2 MODEL.gguf --out build/visual # LLaVA's shape around SmolLM2, 576 tokens

One thread, the C++ core, features of the image already in the cache (the tower is the same work at every level). Levels take turns; the
median of --rounds is printed, all of it CPU seconds. The selector's share is what the project graph takes more than the plain projector,
over the prefill. Pictures are made scenes (vlm_scenes.py) where the model's views are 96 pixels wide, else ramps and blocks.
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
BARS: dict[str, tuple[float, float]] = {"r50": (1.8, 0.03), "r75": (3.0, 0.03)}
"""Level -> the prefill at least so many times faster, and choosing at most this part of it."""


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


def picture(size: tuple[int, int], side: int) -> np.ndarray:
    """uint8 [H,W,3]: what a selector meets decides how long it takes, so a scene like those that the small models know."""
    from vlm_scenes import SIDE, make_scene

    if side == SIDE and size in ((SIDE, SIDE), (2 * SIDE, 2 * SIDE)):
        return make_scene(np.random.default_rng([5, size[0]]), large=size[0] > SIDE).image
    return sample_image(1, *size)


class Timed:
    """A session that adds the CPU seconds of its runs to ``spent``."""

    def __init__(self, session: Any, spent: list[float]) -> None:
        self.session, self.spent = session, spent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, *args: Any) -> Any:
        began = time.thread_time()
        made = self.session.run(*args)
        self.spent.append(time.thread_time() - began)
        return made


def choosing(bundle: Path, image: np.ndarray, levels: list[str], rounds: int) -> dict[str, float]:
    """CPU seconds of the project graph of each level (median), features given; our kernels, one thread."""
    import onnxruntime

    from farthing.plugins import library_path
    from farthing.runtime.bundle import open_bundle
    from farthing.runtime.visual.encoder import VisualEncoder, opener
    from farthing.runtime.visual.spec import VisionSpec

    def options() -> Any:
        made = onnxruntime.SessionOptions()
        made.intra_op_num_threads = made.inter_op_num_threads = 1
        made.register_custom_ops_library(str(library_path()))
        return made

    opened = open_bundle(bundle)
    spent: list[float] = []
    open_graph = opener(opened.graph, options)
    encoder = VisualEncoder(VisionSpec(opened.manifest["vision"]), lambda name: Timed(open_graph(name), spent))
    given = encoder.features(image)
    seen: dict[str, list[float]] = {level: [] for level in levels}
    for turn in range(rounds + 1):
        for level in levels:
            encoder.rows_of(*given, level)
            if turn:  # the first opens graphs
                seen[level].append(spent[-1])
    return {level: statistics.median(times) for level, times in seen.items()}


def measure(bundle: Path, rounds: int, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Level -> rows, prefill CPU seconds, and CPU seconds of projector and selector: medians."""
    with farthing.load(bundle, threads=1, native=True) as model:
        spec = model.bundle.manifest["vision"]
        token, levels = spec["image_token_id"], [level["id"] for level in spec["levels"]]
        image = picture(size, 8 * spec.get("grid", 0))
        # 10 ids before and 14 behind: a system line and a short question.
        prompt = [*range(30, 40), token, *range(50, 64)]
        seen: dict[str, list[tuple[float, float]]] = {level: [] for level in levels}
        for turn in range(rounds + 1):
            for level in levels:
                made = model.generate(
                    prompt_ids=prompt, images=[image], level=level, greedy=True, max_new_tokens=1, ignore_eos=True
                )
                if turn:  # the first opens graphs and encodes
                    seen[level].append((made.stats["prefill_cpu_seconds"], made.stats["vision"]["rows"]))
    visual = choosing(bundle, image, levels, 10 * rounds)
    result = {}
    for level, all_of_it in seen.items():
        prefill, rows = (statistics.median(x) for x in zip(*all_of_it, strict=True))
        result[level] = {"rows": rows, "prefill": prefill, "visual": visual[level]}
    return result


def missed(found: dict[str, dict[str, float]]) -> list[str]:
    """The bars that are not reached, as sentences."""
    said, full = [], found["full"]
    for level, (factor, most) in BARS.items():
        faster, share = full["prefill"] / found[level]["prefill"], selector_share(found, level)
        if faster < factor:
            said.append(f"prefill at {level} is {faster:.2f} times faster, expected {factor} or more")
        if share > most:
            said.append(f"choosing at {level} is {share:.1%} of prefill, expected {most:.0%} or less")
    return said


def selector_share(found: dict[str, dict[str, float]], level: str) -> float:
    """What choosing takes, over the prefill."""
    return max(0.0, found[level]["visual"] - found["full"]["visual"]) / found[level]["prefill"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a Hugging Face folder")
    parser.add_argument("--smollm2", type=Path, help="SmolLM2's GGUF file instead")
    parser.add_argument("--out", type=Path, default=Path("build/visual"))
    parser.add_argument("--methods", nargs="+", default=["idpruner", "zoo-prune"], choices=sorted(METHODS))
    parser.add_argument("--size", nargs=2, type=int, default=(336, 336), help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--gate", action="store_true", help="exit code 1 if a bar of BARS is missed")
    args = parser.parse_args()
    if (args.checkpoint is None) == (args.smollm2 is None):
        parser.error("give a checkpoint, or --smollm2")
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.checkpoint or llava_of_smollm2(args.smollm2, args.out / "llava-smollm2")
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    short: list[str] = []
    for method in args.methods:
        bundle = args.out / f"bundle-{checkpoint.name}-{method}"
        shutil.rmtree(bundle, ignore_errors=True)
        export(method, checkpoint, bundle, check=False, ratios=RATIOS, **METHODS[method])
        found[method] = levels = measure(bundle, args.rounds, tuple(args.size))
        full = levels["full"]
        print(f"{method}: prefill of 24 text and n visual tokens, CPU seconds at one thread")
        print(f"{'level':<8}{'rows':>6}{'prefill':>10}{'faster':>8}{'selector':>10}")
        for name, at in levels.items():
            faster, share = full["prefill"] / at["prefill"], selector_share(levels, name)
            print(f"{name:<8}{at['rows']:>6.0f}{at['prefill']:>10.4f}{faster:>7.2f}x{share:>9.1%}")
        short += [f"{method}: {sentence}" for sentence in missed(levels)]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    if args.gate:
        for sentence in short:
            print(f"MISSED: {sentence}")
        raise SystemExit(1 if short else 0)


if __name__ == "__main__":
    main()
