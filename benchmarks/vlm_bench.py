"""Held-out pictures of a small vision-language model, seen once, and the right answers of any choice of their tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from vlm_scenes import COARSE, Scene, make_scene, questions, views

Choice = Callable[[int], torch.Tensor]
"""Picture -> ascending rows int64 [k] that are kept, the same k for all."""


def load(folder: Path) -> Any:
    """A LLaVA-NeXT folder, float32, frozen."""
    from transformers import LlavaNextForConditionalGeneration

    model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


@dataclass
class Bench:
    model: Any
    scenes: list[Scene]
    asked: list[list[Any]]
    features: torch.Tensor
    """[n,T,144,dv] before the projector."""
    cls: torch.Tensor
    """[n,T,144]: logits of the last layer from CLS to the patches, mean of the heads."""
    chance: torch.Tensor
    """[n,T,144]: the same after the softmax (over CLS and patches)."""
    rows: torch.Tensor
    """[n,L,D]: the unpruned visual rows, as the language model gets them."""

    @classmethod
    def small(cls, model: Any, count: int, seed: int) -> Bench:
        return cls._made(model, [make_scene(np.random.default_rng([seed, 0, n])) for n in range(count)], seed)

    @classmethod
    def large(cls, model: Any, count: int, seed: int, *, quadrants: int) -> Bench:
        draws = [np.random.default_rng([seed, 1, quadrants, n]) for n in range(count)]
        return cls._made(model, [make_scene(d, large=True, quadrants=quadrants) for d in draws], seed)

    @classmethod
    @torch.no_grad()
    def _made(cls, model: Any, scenes: list[Scene], seed: int) -> Bench:
        asked = [questions(s, np.random.default_rng([seed, 2, n])) for n, s in enumerate(scenes)]
        found: list[tuple[torch.Tensor, ...]] = []
        for scene in scenes:
            seen = views(scene.image)
            features, logits, chances = tower(model, seen)
            embeds = model.model.multi_modal_projector(features)
            rows = vlm.arrange(model, embeds, 1, len(seen), vlm.GRID**2)
            found.append((features, logits, chances, rows[0]))
        return cls(model, scenes, asked, *(torch.stack(part) for part in zip(*found)))

    @property
    def projected(self) -> torch.Tensor:
        """[n,T,144,D]."""
        return self.model.model.multi_modal_projector(self.features)

    @torch.no_grad()
    def right(self, choose: Choice | None = None, *, tokens: int | None = None, compact: bool = False) -> Score:
        """Answers from the chosen rows, or from all (pooled to ``tokens`` a view). ``compact`` renumbers the kept rows."""
        good, kinds, owner = [], [], []
        for start in range(0, len(self.scenes), 20):
            those = range(start, min(start + 20, len(self.scenes)))
            visual, options = self.rows[those], {}
            if tokens is not None:
                count = self.features.shape[1]
                visual = vlm.arrange(self.model, self.projected[those].flatten(0, 1), len(those), count, tokens)
            if choose is not None:
                kept = torch.stack([choose(n) for n in those])
                if not compact:
                    options = {"positions": kept, "end": visual.shape[1]}
                visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[2]))
            asked = vlm.ask([self.asked[n] for n in those])
            first, _, answer = vlm.read(self.model, visual, asked, **options)
            good += (first.argmax(-1) == answer).tolist()
            kinds += [k for each in asked.kinds for k in each]
            owner += [n for n, each in zip(those, asked.kinds) for _ in each]
        return Score(np.array(good), np.array(kinds), np.array(owner))


@dataclass
class Score:
    good: np.ndarray
    """bool [Q]: one answer each."""
    kinds: np.ndarray
    owner: np.ndarray
    """Picture of each question."""

    def of(self, kinds: tuple[str, ...] | None = None) -> float:
        return float(self.good[np.isin(self.kinds, kinds)].mean() if kinds else self.good.mean())

    def row(self) -> dict[str, float]:
        coarse = np.isin(self.kinds, COARSE)
        return {"all": self.of(), "coarse": float(self.good[coarse].mean()), "fine": float(self.good[~coarse].mean())}

    def minus(self, other: Score, kinds: tuple[str, ...] | None = None) -> tuple[float, float]:
        """(mean difference, its standard error over pictures)."""
        use = np.isin(self.kinds, kinds) if kinds else np.ones(len(self.good), bool)
        gap = self.good[use].astype(float) - other.good[use]
        _, who = np.unique(self.owner[use], return_inverse=True)
        each = np.bincount(who, gap) / np.bincount(who)
        return float(gap.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))


def wilson(right: int, asked: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, right / asked
    middle, half = p + z * z / (2 * asked), z * math.sqrt(p * (1 - p) / asked + z * z / (4 * asked * asked))
    return (middle - half) / (1 + z * z / asked), (middle + half) / (1 + z * z / asked)


def tower(model: Any, seen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views uint8 [T,96,96,3] -> features [T,144,dv], CLS logits [T,144] and chances [T,144] of the last layer."""
    vision = model.model.vision_tower
    states = vision(vlm.pixels(seen), output_hidden_states=True, return_dict=True).hidden_states[-2]
    layer = vision.encoder.layers[-1]
    normed, attention = layer.layer_norm1(states), layer.self_attn
    heads = attention.num_heads
    query = attention.q_proj(normed[:, :1]).unflatten(-1, (heads, -1)).transpose(1, 2)
    keys = attention.k_proj(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
    logits = (query @ keys.transpose(-1, -2))[:, :, 0] * query.shape[-1] ** -0.5
    return states[:, 1:], logits.mean(1)[:, 1:], logits.softmax(-1).mean(1)[:, 1:]
