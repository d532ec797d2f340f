"""EAGLE's drafter for an image model (Li et al. 2024, in LANTERN's form: Jang et al. 2025, arXiv 2410.03355).

Row t reads the target's feature at position t and the id at t+1, and says the feature at t+1, which the target's own head turns into
logits of the id at t+2. One Llama layer without an input norm. Names are the released ones.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .image_blocks import Norm, attend, grid_rope
from .llamagen import LlamaGenConfig


class _SelfAttention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size, bias=False) for _ in range(4))

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], visible: torch.Tensor | None
    ) -> torch.Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], self.heads, -1) for layer in (self.q_proj, self.k_proj, self.v_proj))
        out: torch.Tensor = self.o_proj(attend(q, k, v, rope, visible))
        return out


class _Mlp(nn.Module):
    def __init__(self, size: int, inside: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(size, inside, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inside, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class _Layer(nn.Module):
    def __init__(self, size: int, inside: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = _SelfAttention(size, heads), _Mlp(size, inside)
        self.post_attention_layernorm = Norm(size)

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], visible: torch.Tensor | None
    ) -> torch.Tensor:
        x = x + self.self_attn(x, rope, visible)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


def drafter_rope(config: LlamaGenConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin float32 [g*g,dh/2], indexed by t, the position of the feature: the target's table with one slot of the condition less.

    So row t has the angles of the place of its id, which is at t+1 of the target's table; a class has one slot, and none is left.
    """
    return grid_rope(config.grid, config.head_dim, conditions=0)


class Drafter(nn.Module):
    """``config`` is the target's, but for ``intermediate_size``; the head is the target's and no part of this module."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.embed_tokens = nn.Embedding(config.codes, d)
        self.fc = nn.Linear(2 * d, d)
        self.layers = nn.ModuleList([_Layer(d, config.intermediate_size, config.heads)])
        self.rope = drafter_rope(config)

    def forward(self, features: torch.Tensor, ids: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Features float32 [B,S,D] one position on, of the target's ``features`` [B,S,D] at positions 0, 1, ... and ``ids`` int64 [B,S].

        ``ids[:, t]`` is the code at position t+1, that is code number t. The target's ``output`` gives logits of code t+1.
        """
        x = self.fc(torch.cat([self.embed_tokens(ids), features], dim=-1))
        cos, sin = (t[: ids.shape[1]] for t in self.rope)
        out: torch.Tensor = self.layers[0](x, (cos, sin), visible)
        return out
