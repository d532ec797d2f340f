"""Train the small vision-language model of examples/vlm, in three stages; resumable: run it again to go on.

    python benchmarks/train_vlm_fixture.py --out build/vlm                 # eyes, words, nested: the model that is kept
    python benchmarks/train_vlm_fixture.py --out build/vlm --stage plain     # model B of the Matryoshka proof, from the same `words`

eyes    the tower alone: what lies in each patch, and from CLS what the picture holds (in place of CLIP's captions)
words   everything, questions at full scale; one step in five is of large pictures (LLaVA-NeXT's packing)
nested  goes on from `words` with the Matryoshka objective (Cai et al. 2024, arXiv 2405.17430): full scale and one pooled scale a step
plain   goes on from `words` at full scale only, for as many steps

The heads that read the tower keep a small weight in all stages and are not saved with the model.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from small_llama import schedule
from torch import nn
from vlm_fixture import config, save, tokenizer
from vlm_heads import Heads
from vlm_scenes import COARSE, FINE, Scene, make_scene, questions, views

STAGES = {"eyes": 1, "words": 2, "nested": 3, "plain": 4}
BEFORE = {"words": "eyes", "nested": "words", "plain": "words"}
STEPS = {"eyes": 800, "words": 1800, "nested": 600, "plain": 600}
RATE = {"eyes": 3e-3, "words": 1.5e-3, "nested": 8e-4, "plain": 8e-4}
SCALES = (36, 16, 9, 4, 1)
BATCH, LARGE_BATCH = 16, 4
HELD_OUT = 999
"""First word of the seeds of pictures that no stage sees."""


class Student(nn.Module):
    """The model, LLaVA-NeXT's form (LLaVA's and image_newline), and the heads that help to train its tower."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlavaNextForConditionalGeneration

        self.vlm = LlavaNextForConditionalGeneration(config(tokenizer().get_vocab_size(), following=True))
        self.heads = Heads(96)
        with torch.no_grad():
            table = self.vlm.model.vision_tower.embeddings.position_embedding.weight
            table[1:] = 0.5 * waves(96)
            # Equal queries and keys look at what is alike, neighbours above all (Trockman and Kolter 2023, arXiv 2305.09828).
            for layer in self.vlm.model.vision_tower.encoder.layers:
                nn.init.normal_(layer.self_attn.q_proj.weight, std=0.15)
                layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)

    def eyes(self, scenes: list[Scene]) -> torch.Tensor:
        seen = np.stack([views(s.image) for s in scenes])
        return self.heads.loss(*vlm.see(self.vlm, seen.reshape(-1, *seen.shape[2:])), scenes)

    def words(self, scenes: list[Scene], draw: np.random.Generator, scales: list[int], kept: float) -> torch.Tensor:
        """Loss of the questions at each of ``scales``; the first has weight 1, the others 0.5; the heads have ``kept``."""
        seen = np.stack([views(s.image) for s in scenes])
        batch, count = seen.shape[:2]
        found = vlm.see(self.vlm, seen.reshape(-1, *seen.shape[2:]))
        embeds = self.vlm.model.multi_modal_projector(found[0])
        asked = vlm.ask([questions(s, draw) for s in scenes])
        total = kept * self.heads.loss(*found, scenes)
        for n, tokens in enumerate(scales):
            read = vlm.read(self.vlm, vlm.arrange(self.vlm, embeds, batch, count, tokens), asked)
            total = total + vlm.loss_of(*read) * (1.0 if n == 0 else 0.5)
        return total


def waves(width: int) -> torch.Tensor:
    """[144,width]: sines and cosines of row and column. From noise, a tower this small learns neither neighbours nor places."""
    angle = torch.arange(vlm.GRID)[:, None] * 3.0 ** -torch.arange(width // 4).mul(12 / width)
    one = torch.cat([angle.sin(), angle.cos()], -1)
    both = torch.cat([one[:, None].expand(-1, vlm.GRID, -1), one[None].expand(vlm.GRID, -1, -1)], -1)
    return both.flatten(0, 1)


def step_loss(student: Student, stage: str, draw: np.random.Generator) -> torch.Tensor:
    large = bool(draw.random() < 0.2)
    scenes = [make_scene(draw, large=large) for _ in range(LARGE_BATCH if large else BATCH)]
    if stage == "eyes":
        return student.eyes(scenes)
    scales = [144]
    if stage == "nested":
        scales.append(int(draw.choice(SCALES)))
    return student.words(scenes, draw, scales, 0.2)


@torch.no_grad()
def accuracy(
    model: Any, count: int, *, large: bool = False, tokens: int = 144, seed: int = HELD_OUT
) -> dict[str, tuple[int, int]]:
    """Kind of question -> (right, asked) on ``count`` held-out pictures."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    size = 10 if large else 25
    for start in range(0, count, size):
        draws = [np.random.default_rng([seed, int(large), n]) for n in range(start, min(start + size, count))]
        scenes = [make_scene(d, large=large) for d in draws]
        asked = vlm.ask([questions(s, d) for s, d in zip(scenes, draws)])
        first, _, right = vlm.read(
            model, vlm.embed(model, np.stack([views(s.image) for s in scenes]), tokens=tokens), asked
        )
        good = (first.argmax(-1) == right).tolist()
        for kind, ok in zip((k for kinds in asked.kinds for k in kinds), good):
            found[kind][0] += ok
            found[kind][1] += 1
    return {k: (a, b) for k, (a, b) in found.items()}


def share(found: dict[str, tuple[int, int]], kinds: tuple[str, ...]) -> float:
    return sum(found[k][0] for k in kinds) / sum(found[k][1] for k in kinds)


def report(model: Any, count: int, *, scales: tuple[int, ...] = (144,)) -> str:
    """One line: coarse and fine accuracy, small and large pictures."""
    parts = []
    for tokens in scales:
        for large in (False, True):
            found = accuracy(model, count // (2 if large else 1), large=large, tokens=tokens, seed=HELD_OUT - 1)
            each = " ".join(f"{k} {found[k][0] / found[k][1]:.2f}" for k in (*COARSE, *FINE))
            parts.append(
                f"{'large' if large else 'small'}@{tokens} coarse {share(found, COARSE):.3f} fine {share(found, FINE):.3f} ({each})"
            )
    return "; ".join(parts)


def train(out: Path, stage: str, *, seed: int, steps: int, save_every: int = 100) -> Student:
    """One stage, from the end of the one before it. Its state is ``out``/<stage>.pt, half-way and at the end."""
    torch.manual_seed(seed)
    student = Student()
    path, first = out / f"{stage}.pt", 0
    optimiser = torch.optim.AdamW(student.parameters(), lr=RATE[stage], betas=(0.9, 0.98), weight_decay=0.05)
    if path.exists():
        state = torch.load(path, weights_only=True)
        student.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    elif stage in BEFORE:
        student.load_state_dict(torch.load(out / f"{BEFORE[stage]}.pt", weights_only=True)["model"])
    began, total = time.process_time(), 0.0
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE[stage] * schedule(step, steps, 50)
        draw = np.random.default_rng([seed, STAGES[stage], step])
        with torch.autocast("cpu", torch.bfloat16, enabled=stage != "eyes"):  # twice as fast, where rows are many
            loss = step_loss(student, stage, draw)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        total += loss.item()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            print(
                f"{stage} {step + 1}: loss {total / save_every:.3f}, {time.process_time() - began:.0f} CPU s",
                flush=True,
            )
            total = 0.0
            held = {"model": student.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            torch.save(held, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
            if stage != "eyes" and (step + 1) % (4 * save_every) == 0:
                student.eval()
                print("   ", report(student.vlm, 50, scales=(144,) if stage != "nested" else (144, 9)), flush=True)
                save(student.vlm, out / f"{stage}-next")
                student.train()
    return student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/vlm"))
    parser.add_argument("--stage", choices=list(STAGES), help="Only this one; default: eyes, words, nested.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in [args.stage] if args.stage else ["eyes", "words", "nested"]:
        student = train(args.out, stage, seed=args.seed, steps=args.steps or STEPS[stage])
        save(student.vlm, args.out / f"{stage}-next")


if __name__ == "__main__":
    main()
