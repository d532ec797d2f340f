"""A training aid for the small vision-language model: the row that answers shall look at the patches that the question is about.

Found by itself this takes thousands of steps: a digit is one patch in 144, and a question has to be read before it can be looked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from vlm_heads import patch_labels
from vlm_scenes import KINDS, SIDE, STYLES, Question, Scene


def where(scenes: list[Scene], asked: list[list[Question]]) -> torch.Tensor:
    """bool [Q,L]: the visual rows that each question is about; none for those about the whole picture."""
    found = [_about(scene, q) for scene, own in zip(scenes, asked) for q in own]
    return torch.from_numpy(np.stack(found))


def _about(scene: Scene, question: Question) -> np.ndarray:
    cells, small = vlm.GRID * (scene.side // SIDE), scene.side == SIDE
    rows = np.zeros(vlm.GRID**2 if small else vlm.GRID**2 + cells * (cells + 1), bool)
    word = question.text.split()[-1].rstrip("?")
    if word in KINDS:  # a shape is seen in the thumbnail
        there = patch_labels(scene)[..., 0] == KINDS.index(word) + 1
        step = cells // vlm.GRID
        rows[: vlm.GRID**2] = there.reshape(vlm.GRID, step, vlm.GRID, step).any((1, 3)).flatten()
    elif word in STYLES or word == "dot":
        item = scene.items[STYLES.index(word) if word in STYLES else 3]
        rows[item.row * cells + item.column if small else vlm.GRID**2 + item.row * (cells + 1) + item.column] = True
    return rows


class Pointer:
    """While entered, keeps what an attention is given; `loss` is of its first group of heads."""

    def __init__(self, attention: nn.Module) -> None:
        self.attention, self.given = attention, {}

    def __enter__(self) -> Pointer:
        self.hook = self.attention.register_forward_pre_hook(
            lambda _m, args, kwargs: self.given.update(kwargs, args=args), with_kwargs=True
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()

    def loss(self, asked: vlm.Asked, count: int, targets: torch.Tensor) -> torch.Tensor:
        """-log of the attention from the answering rows to ``targets`` [Q,count]."""
        module = self.attention
        states = self.given["hidden_states"] if "hidden_states" in self.given else self.given["args"][0]
        query = module.q_proj(states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        key = module.k_proj(states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        group = module.num_key_value_groups
        query, key = apply_rotary_pos_emb(query, key, *self.given["position_embeddings"])
        images, slots = torch.nonzero(asked.place >= 0, as_tuple=True)
        rows = 4 + count + 1 + asked.place[images, slots]
        scores = torch.einsum("qhd,qsd->qhs", query[images, :group, rows].float(), key[images, 0].float())
        scores = scores * module.head_dim**-0.5
        scores = scores.masked_fill(~vlm.may_see(count)[0, 0][rows][:, None], -1e9).log_softmax(-1)[..., 4 : 4 + count]
        has = targets.any(1)
        hit = scores[has].masked_fill(~targets[has][:, None], -1e9).logsumexp(-1)
        return -hit.mean()
