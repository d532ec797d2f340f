"""The learned scorer of IDPruner (Tan et al. 2026, arXiv 2602.13315) for the small model: training, file, scores.

A = (X Wq + bq)(X Wk + bk)^T / sqrt(H) without softmax, score_i = mean_j A_ij. Trained with the model frozen through a soft top-k:
weights sigmoid((score + t) / temperature) with t such that they add up to a fifth of the tokens. A token of weight w is
attended to with log w added to its attention score, so weight 0 is a token that is not there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from vlm_scenes import make_scene, questions, views

WIDTH, SHARE, SEED = 64, 0.2, 7


class Scorer(nn.Module):
    def __init__(self, hidden: int, width: int = WIDTH) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(hidden, width), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,N,D] -> [B,N]; the mean of the keys first, so no [N,N] matrix."""
        query, key = self.q_proj(x), self.k_proj(x).mean(-2, keepdim=True)
        return (query * key).sum(-1) / query.shape[-1] ** 0.5


def soft_top(scores: torch.Tensor, count: float, temperature: float) -> torch.Tensor:
    """Logarithms of weights [B,N] in 0..1 that add up to ``count``; the gradient knows that t follows the scores."""
    with torch.no_grad():
        low, high = -scores.amax(1, keepdim=True) - 30 * temperature, -scores.amin(1, keepdim=True) + 30 * temperature
        for _ in range(64):
            t = (low + high) / 2
            more = torch.sigmoid((scores + t) / temperature).sum(1, keepdim=True) > count
            low, high = torch.where(more, low, t), torch.where(more, t, high)
        slope = torch.sigmoid((scores + t) / temperature)
        slope = (slope * (1 - slope)).sum(1, keepdim=True).clamp(min=1e-6) / temperature
    # One Newton step of size 0, for its derivative.
    t = t - (torch.sigmoid((scores + t) / temperature).sum(1, keepdim=True) - count) / slope
    return torch.nn.functional.logsigmoid((scores + t) / temperature)


def fit(model: Any, *, steps: int = 200, batch: int = 12, rate: float = 3e-3, seed: int = SEED) -> Scorer:
    """Train a scorer on fresh scenes; ``model`` is frozen."""
    torch.manual_seed(seed)
    scorer = Scorer(model.config.text_config.hidden_size)
    optimiser, total = torch.optim.AdamW(scorer.parameters(), lr=rate, weight_decay=0.0), 0.0
    for step in range(steps):
        draw = np.random.default_rng([seed, step])
        scenes = [make_scene(draw) for _ in range(batch)]
        asked = vlm.ask([questions(s, draw) for s in scenes])
        with torch.no_grad():
            visual = vlm.embed(model, np.stack([views(s.image) for s in scenes]))
        count = visual.shape[1]
        # Ever harder: equal weights for all would cost nothing, since attention only compares.
        temperature = 0.03 ** (step / steps)
        weights = soft_top(scorer(visual), SHARE * count, temperature)
        inputs = vlm.sequence(model, visual, asked)
        mask = torch.zeros(inputs["attention_mask"].shape).masked_fill(~inputs["attention_mask"], -1e9)
        columns = torch.zeros(batch, mask.shape[-1])
        columns = torch.cat([columns[:, :4], weights.clamp(min=-30), columns[:, 4 + count :]], 1)
        inputs["attention_mask"] = mask + columns[:, None, None]
        with sdpa_kernel(SDPBackend.MATH):
            states = model.model.language_model(**inputs).last_hidden_state
            first, second = vlm.answers(model, states, asked, count)
            loss = vlm.loss_of(first, second, asked.answer[asked.place >= 0])
            optimiser.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimiser.step()
        total += loss.item()
        if (step + 1) % 50 == 0:
            print(f"selector {step + 1}: loss {total / 50:.3f}", flush=True)
            total = 0.0
    return scorer.requires_grad_(False)


def save_scorer(scorer: Scorer, folder: Path) -> None:
    """config.json and model.safetensors with q_proj/k_proj weight [H,D] and bias [H], float32."""
    folder.mkdir(parents=True, exist_ok=True)
    width, hidden = scorer.q_proj.weight.shape
    about = {"architecture": "TransformerScorer", "init_args": {"hidden_size": hidden, "projection_dim": width}}
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    save_file(
        {n: p.detach().contiguous() for n, p in scorer.named_parameters()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def load_scorer(folder: Path) -> Scorer:
    tensors = load_file(folder / "model.safetensors")
    width, hidden = tensors["q_proj.weight"].shape
    scorer = Scorer(hidden, width)
    scorer.load_state_dict(tensors)
    return scorer.requires_grad_(False)
