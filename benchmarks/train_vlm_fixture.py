"""Train the small vision-language models of examples/vlm, in stages; resumable: run it again to go on.

    python benchmarks/train_vlm_fixture.py --out build/vlm                 # eyes, align, words, nested, gaze: the model that is kept
    python benchmarks/train_vlm_fixture.py --out build/vlm --stage plain     # model B of the Matryoshka proof, from the same `words`
    python benchmarks/train_vlm_fixture.py --out build/vlm-deep --shape deep --tower build/vlm/gaze.pt   # the deeper one

eyes    the tower alone: what lies in each patch, and from CLS what the picture holds (in place of CLIP's captions)
align   the projector alone: each patch becomes the sum of the words for what lies in it (in place of LLaVA's captions)
words   projector and language model, questions at full scale; one step in five is of large pictures (LLaVA-NeXT's packing)
nested  goes on from `words` with the Matryoshka objective (Cai et al. 2024, arXiv 2405.17430): full scale and one pooled scale a step
plain   goes on from `words` at full scale only, for as many steps
gaze    the tower's last layer alone, which only CLS scores come from: what the picture holds, as in `eyes`

The heads that read the tower are not saved with the model.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from small_llama import schedule
from torch import nn
from torch.nn import functional as F
from vlm_fixture import SHAPES, config, save, tokenizer
from vlm_heads import Heads, patch_words
from vlm_pointer import Pointer, where
from vlm_scenes import COARSE, FINE, Scene, make_scene, questions, views

STAGES = {"eyes": 1, "words": 2, "nested": 3, "plain": 4, "gaze": 5, "align": 6}
BEFORE = {"align": "eyes", "words": "align", "nested": "words", "plain": "words", "gaze": "nested"}
STEPS = {"eyes": 800, "align": 200, "words": 1200, "nested": 400, "plain": 400, "gaze": 1600}
RATE = {"eyes": 3e-3, "align": 3e-3, "words": 2e-3, "nested": 1e-3, "plain": 1e-3, "gaze": 2e-3}
ALONE = ("eyes", "align", "gaze")
"""Stages without questions."""
USUAL = {"small": ["eyes", "align", "words", "nested", "gaze"], "deep": ["align", "words", "nested"]}
DEEP: dict[str, tuple[int, float]] = {"words": (550, 1.5e-3), "nested": (120, 6e-4)}
"""Steps and learning rate of the deeper decoder where they differ."""
FIRST, GROWN = 4, 350
"""Layers of a deeper decoder that `words` begins with, and the step at which the others come in. They begin as nothing, so leaving them out
until then changes no result and costs a third. All twelve at once (branches scaled by 1 / sqrt(2L), told where to look at layer 4) stood still at a
loss of 1.85 from step 200 to 350."""
POINTING = 2
"""The layer that is told where to look: the question has been read by then, and what is found there still needs an answer."""
SCALES = (36, 16, 9, 4, 1)
BATCH, LARGE_BATCH = 8, 2
HELD_OUT = 999
"""First word of the seeds of pictures that no stage sees."""


class Student(nn.Module):
    """The model, LLaVA-NeXT's form (LLaVA's and image_newline), and the heads that help to train its tower."""

    def __init__(self, shape: str = "small") -> None:
        super().__init__()
        from transformers import LlavaNextForConditionalGeneration

        whole = config(tokenizer().get_vocab_size(), following=True, shape=shape)
        self.vlm = LlavaNextForConditionalGeneration(whole)
        self.heads = Heads(96)
        with torch.no_grad():
            table = self.vlm.model.vision_tower.embeddings.position_embedding.weight
            table[1:] = 0.5 * waves(96)
            # Equal queries and keys look at what is alike, neighbours above all (Trockman and Kolter 2023, arXiv 2305.09828).
            for layer in self.vlm.model.vision_tower.encoder.layers:
                nn.init.normal_(layer.self_attn.q_proj.weight, std=0.15)
                layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
            # Words must not drown in what the first layers add to them.
            nn.init.normal_(self.vlm.get_input_embeddings().weight, std=0.3)
            for block in self.vlm.model.language_model.layers[FIRST:]:  # see FIRST
                block.self_attn.o_proj.weight.zero_()
                block.mlp.down_proj.weight.zero_()

    def learning(self, stage: str) -> list[nn.Parameter]:
        """The parameters that a stage trains; the others are frozen."""
        tower, model = self.vlm.model.vision_tower, self.vlm.model
        parts: dict[str, list[nn.Module]] = {
            "eyes": [tower, self.heads],
            "align": [model.multi_modal_projector],
            "gaze": [tower.encoder.layers[-1], tower.post_layernorm, self.heads],
        }
        others: list[nn.Module] = [model.multi_modal_projector, model.language_model, self.vlm.lm_head]
        self.requires_grad_(False)
        for part in parts.get(stage, others):
            part.requires_grad_(True)
        if stage not in parts:
            model.image_newline.requires_grad_(True)
        return [p for p in self.parameters() if p.requires_grad]

    def eyes(self, scenes: list[Scene]) -> torch.Tensor:
        seen = np.stack([views(s.image) for s in scenes])
        return self.heads.loss(*vlm.see(self.vlm, seen.reshape(-1, *seen.shape[2:])), scenes)

    def align(self, scenes: list[Scene]) -> torch.Tensor:
        seen = np.stack([views(s.image) for s in scenes])
        with torch.no_grad():
            features = vlm.see(self.vlm, seen.reshape(-1, *seen.shape[2:]))[0]
        return self.naming(self.vlm.model.multi_modal_projector(features), scenes)

    def naming(self, embeds: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        """Loss of each projected patch's distance to the embeddings of the words of what lies in it, in direction and length.

        It stands in for LLaVA's first stage, which aligns images with captions.
        """
        wanted = torch.from_numpy(np.concatenate([patch_words(s) for s in scenes])).flatten(0, 1)
        known = wanted[:, 0] >= 0
        table, rows = self.vlm.get_input_embeddings().weight.float(), embeds.flatten(0, 1)[known].float()
        logits = (15 * F.normalize(rows, dim=-1) @ F.normalize(table, dim=-1).T).log_softmax(-1)
        wanted = wanted[known]
        ids = torch.tensor(vlm.word_ids())[wanted]
        longer = rows.norm(dim=-1).log() - table.norm(dim=-1).mean().log()
        each = -(logits.gather(1, ids) * (wanted > 0)).sum(1) / (wanted > 0).sum(1)
        weight = torch.where(wanted[:, 1] > 0, 5.0, 1.0)
        return (each * weight).sum() / weight.sum() + longer.square().mean()

    def words(self, scenes: list[Scene], draw: np.random.Generator, scales: list[int], point: bool) -> torch.Tensor:
        """Loss of the questions at each of ``scales``; the first has weight 1, the others 0.5. ``point``: also of where it looks."""
        seen = np.stack([views(s.image) for s in scenes])
        batch, count = seen.shape[:2]
        with torch.no_grad():
            features = vlm.see(self.vlm, seen.reshape(-1, *seen.shape[2:]))[0]
        embeds = self.vlm.model.multi_modal_projector(features)
        named = [questions(s, draw) for s in scenes]
        asked = vlm.ask(named)
        total = 0.2 * self.naming(embeds, scenes)
        for n, tokens in enumerate(scales):
            visual = vlm.arrange(self.vlm, embeds, batch, count, tokens)
            if point and n == 0:
                with Pointer(self.vlm.model.language_model.layers[POINTING].self_attn) as pointer:
                    read = vlm.read(self.vlm, visual, asked)
                total = total + 0.5 * pointer.loss(asked, visual.shape[1], where(scenes, named))
            else:
                read = vlm.read(self.vlm, visual, asked)
            total = total + vlm.loss_of(*read) * (1.0 if n == 0 else 0.5)
        return total


@contextmanager
def layers(student: Student, count: int) -> Iterator[None]:
    """While entered, the decoder is its first ``count`` layers."""
    config = student.vlm.model.language_model.config
    whole, config.num_hidden_layers = config.num_hidden_layers, min(count, config.num_hidden_layers)
    try:
        yield
    finally:
        config.num_hidden_layers = whole


def waves(width: int) -> torch.Tensor:
    """[144,width]: sines and cosines of row and column. From noise, a tower this small learns neither neighbours nor places."""
    angle = torch.arange(vlm.GRID)[:, None] * 3.0 ** -torch.arange(width // 4).mul(12 / width)
    one = torch.cat([angle.sin(), angle.cos()], -1)
    both = torch.cat([one[:, None].expand(-1, vlm.GRID, -1), one[None].expand(vlm.GRID, -1, -1)], -1)
    return both.flatten(0, 1)


def step_loss(student: Student, stage: str, draw: np.random.Generator) -> torch.Tensor:
    large = bool(draw.random() < 0.2)
    count = (LARGE_BATCH if large else BATCH) * (2 if stage in ALONE else 1)
    scenes = [make_scene(draw, large=large) for _ in range(count)]
    if stage in ("eyes", "gaze"):
        return student.eyes(scenes)
    if stage == "align":
        return student.align(scenes)
    scales = [144]
    if stage == "nested":
        scales.append(int(draw.choice(SCALES)))
    return student.words(scenes, draw, scales, stage == "words")


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


def train(
    out: Path,
    stage: str,
    *,
    seed: int,
    steps: int,
    shape: str = "small",
    tower: Path | None = None,
    rate: float | None = None,
    save_every: int = 100,
) -> Student:
    """One stage, from the end of the one before it. Its state is ``out``/<stage>.pt, half-way and at the end.

    ``tower``: the state whose tower and readers stage `align` begins with; by default that of `eyes`. ``rate``: of the stage, else RATE.
    """
    torch.manual_seed(seed)
    student, rate = Student(shape), rate or RATE[stage]
    path, first = out / f"{stage}.pt", 0
    trained = student.learning(stage)
    optimiser = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    if path.exists():
        state = torch.load(path, weights_only=True)
        student.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    elif stage in BEFORE:
        source = tower if tower is not None and stage == "align" else out / f"{BEFORE[stage]}.pt"
        before = torch.load(source, weights_only=True)["model"]
        seeing = {n: t for n, t in before.items() if "vision_tower" in n or n.startswith("heads")}
        student.load_state_dict(seeing if stage == "align" else before, strict=stage != "align")
    began, total = time.process_time(), 0.0
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step, steps, 50)
        draw = np.random.default_rng([seed, STAGES[stage], step])
        active = FIRST if stage == "words" and step < GROWN and shape != "small" else 1000
        half = torch.autocast("cpu", torch.bfloat16, enabled=stage not in ALONE)  # twice as fast, where rows are many
        with half, layers(student, active):
            loss = step_loss(student, stage, draw)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
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
            if stage not in ALONE and (step + 1) % (4 * save_every) == 0:
                student.eval()
                print("   ", report(student.vlm, 50, scales=(144,) if stage != "nested" else (144, 9)), flush=True)
                save(student.vlm, out / f"{stage}-next")
                student.train()
    return student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/vlm"))
    parser.add_argument("--stage", choices=list(STAGES), help="Only this one; default: all that the shape needs.")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument(
        "--tower", type=Path, help="State whose trained tower stage align begins with, instead of eyes."
    )
    parser.add_argument("--rate", type=float, help="Learning rate.")
    parser.add_argument("--every", type=int, default=100, help="Steps between two savings.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in [args.stage] if args.stage else USUAL[args.shape]:
        own = DEEP.get(stage) if args.shape == "deep" else None
        steps, rate = own or (STEPS[stage], RATE[stage])
        steps, rate = args.steps or steps, args.rate or rate
        student = train(
            args.out,
            stage,
            seed=args.seed,
            steps=steps,
            shape=args.shape,
            tower=args.tower,
            rate=rate,
            save_every=args.every,
        )
        save(student.vlm, args.out / f"{stage}-next")


if __name__ == "__main__":
    main()
