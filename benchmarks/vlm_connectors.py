"""Does the alignment score tell good connectors from bad ones? (Shukor and Cord 2024, arXiv 2405.16700)

    python benchmarks/vlm_fixture.py --next build/vlm-next
    python benchmarks/vlm_connectors.py --model build/vlm-next            # some six CPU minutes

Tower and language model of examples/vlm are frozen; projectors begin from noise, one for each seed, and learn the questions. Each is tried
after every number of --at steps: right answers on held-out pictures, and IMA, the mean over layers of the cosine between the mean row of the
image and that of a question with its answer. Printed: both for every connector, and Spearman's rank correlation over all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from small_llama import schedule
from torch import nn
from vlm_bench import Bench, load
from vlm_proofs import spearman
from vlm_scenes import make_scene, questions, views
from vlm_skip import closeness

RATE, BATCH, STAGE = 3e-3, 8, 7
"""STAGE: second word of the seeds, which no stage of the training has."""


def fresh(model: Any, seed: int) -> list[nn.Parameter]:
    """A projector of noise; its parameters, the only ones that learn."""
    torch.manual_seed(seed)
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector
    for layer in (projector.linear_1, projector.linear_2):
        layer.reset_parameters()
    projector.requires_grad_(True)
    return list(projector.parameters())


def loss_of_step(model: Any, seed: int, step: int) -> torch.Tensor:
    draw = np.random.default_rng([seed, STAGE, step])
    scenes = [make_scene(draw) for _ in range(BATCH)]
    seen = np.stack([views(s.image) for s in scenes])
    with torch.no_grad():
        features = vlm.see(model, seen.reshape(-1, *seen.shape[2:]))[0]
    embeds = model.model.multi_modal_projector(features)
    visual = vlm.arrange(model, embeds, len(scenes), seen.shape[1], vlm.GRID**2)
    return vlm.loss_of(*vlm.read(model, visual, vlm.ask([questions(s, draw) for s in scenes])))


def tried(model: Any, pictures: int) -> dict[str, float]:
    """``right`` answers, and ``ima`` over the layers' inputs with and without the embeddings themselves."""
    bench = Bench.small(model, pictures, 999)
    near = [row["image to text"] for row in closeness(bench, min(50, pictures)).values()]
    return {"right": bench.right().of(), "ima": float(np.mean(near)), "ima_inside": float(np.mean(near[1:]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="LLaVA-NeXT folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at", type=int, nargs="+", default=[20, 50, 100, 200], help="steps, ascending")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, began, found = load(args.model), time.process_time(), []
    for seed in range(args.seeds):
        learning = fresh(model, seed)
        optimiser = torch.optim.AdamW(learning, lr=RATE)
        for step in range(max(args.at)):
            for group in optimiser.param_groups:
                group["lr"] = RATE * schedule(step, max(args.at), 20)
            loss = loss_of_step(model, seed, step)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimiser.step()
            if step + 1 in args.at:
                row = {"seed": seed, "steps": step + 1, "loss": loss.item(), **tried(model, args.pictures)}
                found.append(row)
                print(
                    "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
                    flush=True,
                )
    right = torch.tensor([r["right"] for r in found])
    for name in ("ima", "ima_inside"):
        rank = spearman(torch.tensor([[r[name] for r in found]]), right[None])
        print(f"rank correlation of {name} with right answers over {len(found)} connectors: {rank:.3f}")
    print(f"{time.process_time() - began:.0f} CPU s")
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
