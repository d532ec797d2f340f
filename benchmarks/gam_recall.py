"""The negative control of GAM: can a token far back be recalled? Only within the receptive field L(k-1)+1; attention can, at any distance.

    python benchmarks/gam_recall.py --steps 250

A sequence of random filler (16 symbols) holds one marked symbol, ``distance`` tokens before a question mark, after which it must be said.
Chance is 1/16. Trained from scratch for every distance, the same way for GAM (L = 4, k = 3: 9 tokens in sight) and a Transformer of
the same width, depth and feed-forward.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import nn
from train_gam import Transformer

from farthing.models.gam import Gam, GamConfig

SYMBOLS, MARK, ASK = 16, 16, 17
CONFIG = GamConfig(
    vocab_size=18, hidden_size=64, intermediate_size=256, layers=4, slots=64, kernel_size=3, max_positions=64
)


def batch(size: int, distance: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [size,T], answers [size]): the answer stands ``distance`` tokens before the last, with a mark in front of it."""
    length = distance + 8
    ids = torch.randint(SYMBOLS, (size, length), generator=generator)
    answers = ids[:, length - 1 - distance].clone()
    ids[:, length - 2 - distance] = MARK
    ids[:, -1] = ASK
    return ids, answers


def accuracy(model: nn.Module, distance: int, steps: int, seed: int) -> float:
    """Share of right answers over 2048 fresh sequences after ``steps`` batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 30)
        ids, answers = batch(64, distance, generator)
        loss = nn.functional.cross_entropy(model(ids)[0][:, -1, :SYMBOLS], answers)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    ids, answers = batch(2048, distance, generator)
    with torch.no_grad():
        return float((model(ids)[0][:, -1, :SYMBOLS].argmax(-1) == answers).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--distances", default="5,8,9,25")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for distance in map(int, args.distances.split(",")):
        row: dict[str, object] = {"distance": distance, "steps": args.steps, "chance": 1 / SYMBOLS}
        for name, kind in (("gam", Gam), ("transformer", Transformer)):
            torch.manual_seed(args.seed)
            start = time.process_time()
            row[name] = round(accuracy(kind(CONFIG), distance, args.steps, args.seed), 4)
            row[f"{name}_cpu_seconds"] = round(time.process_time() - start, 1)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
