"""Train a small byte-level GAM, and a Transformer of the same size beside it, on Python's own standard library.

    python benchmarks/train_gam.py --out build/gam --steps 1500            # both, resumable: run it again to go on
    python benchmarks/train_gam.py --out build/gam --only gam --modes gate,local

Recipe of the paper where it says one: next-byte cross-entropy on whole blocks, AdamW (0.9, 0.95), weight decay 0.1, clip 1.0, linear
warm-up of 100 steps, then cosine to 0. Ours: learning rate 1e-3 and embeddings N(0, 0.02), since a few hundred steps must do.

Writes ``<arm>.safetensors`` (official names), ``<arm>.resume.pt`` and ``report.json`` with the loss of every arm. The text is what this
Python ships, so losses of different Python versions differ a little; its hash is in the report.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from farthing.models.gam import Gam, GamConfig

CONFIG = GamConfig(
    vocab_size=256, hidden_size=128, intermediate_size=512, layers=4, slots=128, kernel_size=3, max_positions=256
)
WARM_UP, RATE, DECAY, CLIP = 100, 1e-3, 0.1, 1.0
TRAIN_BYTES, VALID_BYTES = 2 << 20, 128 << 10
SAVE_EVERY = 100


class Attention(nn.Module):
    """A pre-norm GPT-2 block's mixer, 4 heads: what GAM replaces."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B,T,C] -> [B,T,C]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """GAM with its mixer replaced by attention; everything else the same."""

    def __init__(self, config: GamConfig) -> None:
        super().__init__()
        c = config.hidden_size
        self.token_embedding, self.pos_embedding = (
            nn.Embedding(config.vocab_size, c),
            nn.Embedding(config.max_positions, c),
        )
        for table in (self.token_embedding, self.pos_embedding):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln1": nn.LayerNorm(c),
                    "mixer": Attention(c),
                    "ln2": nn.LayerNorm(c),
                    "ffn": nn.Sequential(
                        nn.Linear(c, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, c)
                    ),
                }
            )
            for _ in range(config.layers)
        )
        self.ln_f = nn.LayerNorm(c)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Logits [B,T,V] of ids [B,T]; the second value is for symmetry with Gam."""
        h = self.token_embedding(ids) + self.pos_embedding(torch.arange(ids.shape[1]))
        for block in self.blocks:
            h = h + block["mixer"](block["ln1"](h))
            h = h + block["ffn"](block["ln2"](h))
        return nn.functional.linear(self.ln_f(h), self.token_embedding.weight), None


def text() -> tuple[torch.Tensor, torch.Tensor, str]:
    """(training bytes, validation bytes, SHA-256 of both) as int64: modules of the standard library in order of name.

    Every sixteenth module is held out whole, so that nothing of a file is on both sides.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(p for p in root.rglob("*.py") if not {"site-packages", "test", "tests", "idlelib"} & set(p.parts))
    order = np.random.default_rng(0).permutation(len(files))
    train, valid = bytearray(), bytearray()
    for place, index in enumerate(order):
        target, limit = (valid, VALID_BYTES) if place % 16 == 0 else (train, TRAIN_BYTES)
        if len(target) < limit:
            target += files[index].read_bytes()
    both = bytes(train[:TRAIN_BYTES]), bytes(valid[:VALID_BYTES])
    digest = hashlib.sha256(both[0] + both[1]).hexdigest()
    return (*(torch.from_numpy(np.frombuffer(b, np.uint8).astype(np.int64)) for b in both), digest)  # type: ignore[return-value]


@torch.no_grad()
def loss_of(model: nn.Module, data: torch.Tensor, length: int) -> float:
    """Mean cross-entropy in nats per byte over all whole blocks of ``data``."""
    blocks = data[: (len(data) - 1) // length * length + 1]
    inputs, targets = blocks[:-1].view(-1, length), blocks[1:].view(-1, length)
    total = 0.0
    model.eval()
    for at in range(0, len(inputs), 64):
        logits, _ = model(inputs[at : at + 64])
        total += nn.functional.cross_entropy(
            logits.flatten(0, 1), targets[at : at + 64].flatten(), reduction="sum"
        ).item()
    model.train()
    return total / targets.numel()


def train(
    arm: str, model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], args: argparse.Namespace
) -> dict[str, Any]:
    """Train to ``args.steps``, from where an earlier run stopped; returns the row of the report."""
    resume = args.out / f"{arm}.resume.pt"
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY)
    generator = torch.Generator().manual_seed(args.seed)
    step, curve, seconds = 0, [], 0.0
    if resume.exists():
        kept = torch.load(resume, weights_only=True)
        if kept["steps"] != args.steps:
            sys.exit(
                f"steps of {resume} is {kept['steps']}, expected {args.steps}; the schedule depends on it: choose another --out"
            )
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        generator.set_state(kept["generator"])
        step, curve, seconds = kept["step"], kept["curve"], kept["seconds"]
    offsets = torch.arange(args.length + 1)
    began = time.process_time()
    while step < args.steps:
        warm = min(1.0, (step + 1) / WARM_UP)
        for group in optimiser.param_groups:
            group["lr"] = RATE * warm * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        starts = torch.randint(len(data[0]) - args.length - 1, (args.batch, 1), generator=generator)
        block = data[0][starts + offsets]
        logits, _ = model(block[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        step += 1
        if step % SAVE_EVERY == 0 or step == args.steps:
            curve.append([step, loss_of(model, data[1], args.length)])
            spent = seconds + time.process_time() - began
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
            }
            partial = resume.with_suffix(".partial")
            torch.save({**state, "step": step, "steps": args.steps, "curve": curve, "seconds": spent}, partial)
            partial.replace(resume)
            print(
                f"{arm}: step {step} of {args.steps}, training loss {loss.item():.3f}, validation {curve[-1][1]:.4f}, {spent:.0f} CPU s",
                flush=True,
            )
    spent = seconds + time.process_time() - began
    return {
        "arm": arm,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation_nats_per_byte": curve[-1][1],
        "curve": curve,
        "cpu_seconds": round(spent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens of a block; positions beyond it stay untrained")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("gam", "transformer"), help="train this one only")
    parser.add_argument("--modes", default="gate", help="arms of GAM, separated by commas: gate, sum, global, local")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    config = GamConfig(**{**vars(CONFIG), "max_positions": args.length})
    *data, digest = text()
    arms: list[tuple[str, Any]] = []
    if args.only != "transformer":
        arms += [(f"gam-{mode}", lambda mode=mode: Gam(config, mode)) for mode in args.modes.split(",")]
    if args.only != "gam":
        arms.append(("transformer", lambda: Transformer(config)))
    rows = []
    for arm, make in arms:
        torch.manual_seed(args.seed)
        model = make()
        rows.append(train(arm, model, (data[0], data[1]), args))
        from safetensors.torch import save_file

        save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, args.out / f"{arm}.safetensors")
        report = {
            "config": vars(config),
            "recipe": {"batch": args.batch, "length": args.length, "rate": RATE, "seed": args.seed, "steps": args.steps},
            "text": {"source": f"standard library of Python {sys.version.split()[0]}", "sha256": digest,
                     "train_bytes": len(data[0]), "validation_bytes": len(data[1])},
            "arms": rows,
        }  # fmt: skip
        (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(
            f"{row['arm']:<14}{row['parameters']:>10} parameters {row['validation_nats_per_byte']:>8.4f} nats per byte"
        )


if __name__ == "__main__":
    main()
