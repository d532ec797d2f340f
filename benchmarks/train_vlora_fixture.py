"""Does a language model see through its weights as well as through rows of its prompt? (Ma et al. 2024, arXiv 2405.20339)

    python benchmarks/train_vlora_fixture.py --out build/vlora

A toy, on one core: pictures of 32 x 32 with up to four coloured shapes, questions with one-word answers, one small vision tower that all share,
and one small language model trained three times for equal steps on equal data: with weights made from the picture, with 64 rows
of the picture in its prompt, and blind. Prints accuracies, and writes the first as a checkpoint folder that `farthing export vlora` reads.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_llama import schedule
from torch import nn
from torch.nn import functional as F
from vlora_toy import EYES, ID, LLM, PATCH, SIDE, VLORA, WORDS, Eyes, Student, batch, pictures

from farthing.export.checkpoint.safetensors_file import write_safetensors


@torch.no_grad()
def accuracy(student: Student, eyes: Eyes, count: int = 2000) -> dict[str, float]:
    """Share of right answers on pictures that nobody was trained on, by sort and of all."""
    right: dict[str, list[bool]] = {}
    for step in range(count // 100):
        images, ids, where, answers, sorts = batch(7, step, 100)
        logits = student(eyes(images), ids)[torch.arange(100), where]
        for sort, good in zip(sorts, (logits.argmax(-1) == answers).tolist()):
            right.setdefault(sort, []).append(good)
            right.setdefault("all", []).append(good)
    return {sort: float(np.mean(good)) for sort, good in sorted(right.items())}


def train_eyes(steps: int) -> Eyes:
    torch.manual_seed(1)
    eyes = Eyes()
    optimiser = torch.optim.AdamW(eyes.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * schedule(step, steps, 50)
        images, kinds, colours = pictures(np.random.default_rng([2, step]), 64)
        kind, colour = eyes.corners(torch.from_numpy(images))
        there = torch.from_numpy(kinds < 4)
        loss = F.cross_entropy(kind.flatten(0, 1), torch.from_numpy(kinds).flatten())
        loss = loss + F.cross_entropy(colour[there], torch.from_numpy(colours)[there])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"eyes: loss {loss.item():.3f} after {steps} steps, {time.process_time():.0f} CPU s", flush=True)
    return eyes.requires_grad_(False)


def train_student(way: str, eyes: Eyes, steps: int, size: int, rate: float) -> tuple[Student, dict[str, Any]]:
    torch.manual_seed(3)
    student, began, losses = Student(way), time.process_time(), []
    optimiser = torch.optim.AdamW(student.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step, steps, 100)
        images, ids, where, answers, _ = batch(4, step, size)
        logits = student(eyes(images), ids)[torch.arange(size), where]
        loss = F.cross_entropy(logits, answers)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(
                f"{way} {step + 1}: loss {np.mean(losses[-200:]):.3f}, {time.process_time() - began:.0f} CPU s",
                flush=True,
            )
    student.eval()
    return student, {
        "accuracy": accuracy(student, eyes),
        "cpu_seconds": round(time.process_time() - began),
        "loss": float(np.mean(losses[-100:])),
    }


def save(student: Student, eyes: Eyes, out: Path) -> None:
    """A folder as the authors' classes save it, its tower included."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = (
        {f"model.mm_projector.{n.replace('/', '.')}": p for n, p in student.made.items()}
        if student.way == "vlora"
        else {}
    )
    for name, p in student.named_parameters():
        if name.startswith(("layers.", "norm.", "embed_tokens.")):
            tensors[f"model.{name}"] = p
    tensors["lm_head.weight"] = student.head.weight
    tower = "model.vision_tower.vision_tower.vision_model."
    tensors[f"{tower}embeddings.class_embedding"] = eyes.class_row
    tensors[f"{tower}embeddings.patch_embedding.weight"] = eyes.patch.weight.unflatten(1, (3, PATCH, PATCH))
    tensors[f"{tower}embeddings.position_embedding.weight"] = eyes.places
    # Read by nobody: features are those before the last norm.
    tensors |= {f"{tower}post_layernorm.weight": torch.ones(EYES), f"{tower}post_layernorm.bias": torch.zeros(EYES)}
    tensors |= {f"{tower}pre_layrnorm.{k}": p for k, p in eyes.first.named_parameters()}
    for i, layer in enumerate(eyes.layers):
        p = f"{tower}encoder.layers.{i}."
        for k in ("weight", "bias"):
            for name, part in zip("qkv", getattr(layer["qkv"], k).chunk(3)):
                tensors[f"{p}self_attn.{name}_proj.{k}"] = part
            for ours, theirs in (
                ("out", "self_attn.out_proj"),
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
                ("up", "mlp.fc1"),
                ("down", "mlp.fc2"),
            ):
                tensors[f"{p}{theirs}.{k}"] = getattr(layer[ours], k)
    write_safetensors(
        out / "model.safetensors", {n: p.detach().numpy().astype(np.float32).copy() for n, p in tensors.items()}, {}
    )
    c = VLORA
    config = {"model_type": "llava_vlora", "architectures": ["LlavaLlamaVLoRAForCausalLM"], **LLM, "hidden_act": "silu", "tie_word_embeddings": False,
              "bos_token_id": 0, "eos_token_id": 1, "image_token_index": ID["<image>"], "mm_vision_select_layer": -1, "mm_vision_select_feature": "patch",
              "vlora_dim": c.dim, "vlora_depth": c.depth, "vlora_visual_dim": c.visual_dim, "vlora_pos_num": c.positions, "vlora_llm_dim": c.llm_dim,
              "vlora_llm_depth": c.llm_depth, "vlora_rank": c.rank, "vlora_type": c.types, "vlora_alpha": c.alpha, "weights_sep": c.separate,
              "skip_layers": c.skip_layers, "pretraining_tp": 1,
              "vision_config": {"model_type": "clip_vision_model", "hidden_size": EYES, "intermediate_size": 4 * EYES, "num_hidden_layers": 2,
                                "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH, "hidden_act": "quick_gelu"}}  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(w, special=True) for w in WORDS[:4]])
    tokenizer.save(str(out / "tokenizer.json"))
    processor = {
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/vlora"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--size", type=int, default=48, help="Pictures a step.")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--ways", nargs="+", default=["vlora", "blind", "prefix"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "eyes.pt").exists():
        eyes = Eyes().requires_grad_(False)
        eyes.load_state_dict(torch.load(args.out / "eyes.pt", weights_only=True))
    else:
        eyes = train_eyes(500)
        torch.save(eyes.state_dict(), args.out / "eyes.pt")
    found = {}
    for way in args.ways:
        student, found[way] = train_student(way, eyes, args.steps, args.size, args.rate)
        print(way, json.dumps(found[way]), flush=True)
        (args.out / "accuracy.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if way == "vlora":
            save(student, eyes, args.out / "model")


if __name__ == "__main__":
    main()
