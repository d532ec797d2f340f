"""Training of the autoregressive image models on codes that a tokenizer made beforehand, and their held-out likelihood.

Kinds: plain (LlamaGen), nar (Neighbouring AR), shuffle (Token-Shuffle), elm (sub-codes), drafter (EAGLE's layer, which LANTERN relaxes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from image_data import load
from image_training import Plan
from torch import nn
from torch.nn import functional as F

from farthing.models.eagle import Drafter
from farthing.models.elm import Elm, ElmConfig, split_codes
from farthing.models.llamagen import LlamaGen, LlamaGenConfig
from farthing.models.nar import Nar
from farthing.models.token_shuffle import TokenShuffle, TokenShuffleConfig, to_windows

CLASSES, DROPPED = 10, 0.1
"""One image in ten is learnt without its class, as LlamaGen does: the unconditional row of guidance."""

SIZES = {"hidden_size": 128, "intermediate_size": 384, "heads": 4, "classes": CLASSES}
HELD_OUT = 2000
"""Test images that likelihoods are of."""


@dataclass(frozen=True)
class Kind:
    """A model and the tokenizer of its codes. ``parts``: codes or sub-codes a row of the transformer stands for."""

    name: str
    tokenizer: str
    grid: int
    layers: int
    parts: int = 1
    bits: int = 8
    """Bits of an entry that a head chooses from."""

    @property
    def codes(self) -> int:
        return 1 << self.bits


KINDS = {
    "plain8": Kind("plain", "vq8", 8, 4),
    "elm8": Kind("elm", "bae8", 8, 4, parts=2, bits=4),
    "elm8-1x8": Kind("elm", "bae8", 8, 4, parts=1, bits=8),
    "elm8-4x2": Kind("elm", "bae8", 8, 4, parts=4, bits=2),
    "plain16": Kind("plain", "vq16", 16, 3),
    "nar16": Kind("nar", "vq16", 16, 3),
    "shuffle16": Kind("shuffle", "vq16", 16, 3, parts=4),
    "shuffle16-4": Kind("shuffle", "vq16", 16, 3, parts=16),
    "pool16": Kind("pool", "vq16", 16, 3, parts=4),
}


class Pooled(TokenShuffle):
    """The control of Token-Shuffle: a window's row is the mean of its codes' embeddings, in place of their compressed pieces."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        v = self.config.codes
        condition = ids[..., 0] >= v
        x = self.tok_embeddings(torch.where(condition[..., None], 0, ids)).mean(2)
        for block in self.shuffle.blocks:
            x = block(x)
        classes = self.cls_embedding.embedding_table(torch.where(condition, ids[..., 0] - v, 0))
        return torch.where(condition[..., None], classes, x)


def build(kind: Kind) -> nn.Module:
    """An untrained model; embeddings are small, so that the layers' part in a row is seen from the start."""
    sizes = dict(SIZES, codes=kind.codes, layers=kind.layers, grid=kind.grid)
    model: nn.Module
    if kind.name in ("plain", "nar"):
        model = (Nar if kind.name == "nar" else LlamaGen)(LlamaGenConfig(**sizes))
    elif kind.name == "elm":
        model = Elm(ElmConfig(**sizes, parts=kind.parts))
    else:
        model = (Pooled if kind.name == "pool" else TokenShuffle)(
            TokenShuffleConfig(**sizes, window=round(kind.parts**0.5))
        )
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.2)
    return model


def rows_of(kind: Kind, codes: torch.Tensor) -> torch.Tensor:
    """What the transformer reads and predicts of codes int64 [B,g*g]: [B,S] for one code a row, else [B,S,parts]."""
    if kind.name == "elm":
        return split_codes(codes, kind.parts, kind.bits)
    if kind.name in ("shuffle", "pool"):
        return to_windows(codes, kind.grid, round(kind.parts**0.5))
    return codes


def with_condition(kind: Kind, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Joint ids: the condition first (V + label), the last row left out, since it predicts nothing."""
    first = kind.codes + labels
    if rows.ndim == 3:
        first = torch.cat([first[:, None], first.new_zeros(len(first), rows.shape[2] - 1)], 1)
    return torch.cat([first[:, None], rows[:, :-1]], 1)


def log_loss(kind: Kind, model: nn.Module, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood in nats of a predicted entry (of a code, but for ELM's sub-codes)."""
    rows = rows_of(kind, codes)
    logits = model(with_condition(kind, rows, labels))
    return F.cross_entropy(logits.float().flatten(0, -2), rows.flatten())


def drop(labels: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Labels with one in ten replaced by 'no class'."""
    return torch.where(torch.from_numpy(draw.random(len(labels)) < DROPPED), CLASSES, labels)


class Codes:
    """Codes of both splits by one tokenizer, and their labels."""

    def __init__(self, out: Path, tokenizer: str) -> None:
        self.train, self.test = (
            torch.load(out / f"{tokenizer}-{s}.pt", weights_only=True).long() for s in ("train", "test")
        )
        self.labels, self.held = (torch.from_numpy(load(s)[1]) for s in ("train", "test"))

    def batch(self, size: int, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(draw.integers(0, len(self.train), size))
        return self.train[rows], drop(self.labels[rows], draw)


def trainer(
    kind: Kind, model: nn.Module, codes: Codes, plan: Plan
) -> Callable[[int, np.random.Generator], torch.Tensor]:
    return lambda step, draw: log_loss(kind, model, *codes.batch(plan.batch, draw))


@torch.no_grad()
def bits_a_code(kind: Kind, model: nn.Module, codes: Codes, count: int = HELD_OUT) -> float:
    """Held-out bits a code of the first ``count`` test images, with their class, in float32."""
    model.eval()
    total = 0.0
    for i in range(0, count, 100):
        total += float(log_loss(kind, model, codes.test[i : i + 100], codes.held[i : i + 100])) * 100
    entries = kind.parts if kind.name == "elm" else 1
    return total / count * entries / float(np.log(2))


class DrafterTrainer(nn.Module):
    """EAGLE's objective (Li et al. 2024): the target's next feature (smooth L1), and its next distribution (cross-entropy).

    The target is frozen and so are the drafter's embeddings, which are the target's. Features get uniform noise, since later drafts
    read the drafter's own.
    """

    def __init__(self, target: LlamaGen, codes: Codes, plan: Plan) -> None:
        super().__init__()
        self.drafter = Drafter(target.config)
        self.drafter.embed_tokens.weight.data.copy_(target.tok_embeddings.weight)
        self.drafter.embed_tokens.weight.requires_grad_(False)
        self.__dict__["target"] = target.eval().requires_grad_(False)  # not a part of the state
        self.codes, self.plan = codes, plan

    def loss(self, step: int, draw: np.random.Generator) -> torch.Tensor:
        codes, labels = self.codes.batch(self.plan.batch, draw)
        with torch.no_grad():
            features = self.target.features(with_condition(KINDS["plain8"], codes, labels)).float()
            wanted = self.target.output(features[:, 1:]).float().softmax(-1)
        noise = torch.from_numpy(draw.uniform(-0.1, 0.1, features[:, :-1].shape).astype(np.float32))
        found = self.drafter(features[:, :-1] + noise, codes[:, :-1]).float()
        logits = self.target.output(found).float()
        return F.smooth_l1_loss(found, features[:, 1:]) + F.cross_entropy(logits.flatten(0, 1), wanted.flatten(0, 1))

    @torch.no_grad()
    def report(self) -> str:
        """On 500 test images: what exact speculation accepts of one sampled draft, sum min(p,q), and agreement of the best codes."""
        codes, labels = self.codes.test[:500], self.codes.held[:500]
        features = self.target.features(with_condition(KINDS["plain8"], codes, labels))
        p = self.target.output(features[:, 1:]).softmax(-1)
        q = self.target.output(self.drafter(features[:, :-1], codes[:, :-1])).softmax(-1)
        same = (p.argmax(-1) == q.argmax(-1)).float().mean()
        return (
            f"overlap of p and q {float(torch.minimum(p, q).sum(-1).mean()):.3f}, best code the same {float(same):.3f}"
        )
