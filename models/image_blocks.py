"""Blocks that the autoregressive image models share: Llama's, with a rotary embedding over the two axes of a grid of codes.

After LlamaGen (Sun et al. 2024). Who sees whom is an argument, since the models differ in it: None is causal.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-5
ROPE_BASE = 10000.0


def grid_rope(grid: int, head_dim: int, conditions: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin float32 [conditions+grid^2, dh/2]: angles of a place are its row times f, then its column times f.

    Rows of the condition are (0, 0), not (1, 0): the released models were trained so. It makes the query and key of those positions
    zero, so that every code scores them 0 and still reads their values. Writing the identity here breaks every checkpoint.
    """
    quarter = head_dim // 4
    inv_freq = ROPE_BASE ** (-torch.arange(quarter).float() / quarter)
    along = torch.arange(grid).float()[:, None] * inv_freq
    rows = along[:, None].expand(-1, grid, -1)
    columns = along[None].expand(grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).reshape(grid * grid, 2 * quarter)
    zero = torch.zeros(conditions, 2 * quarter)
    return torch.cat([zero, angles.cos()]), torch.cat([zero, angles.sin()])


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the interleaved pairs (0,1), (2,3), ... of x [B,S,H,dh] by cos, sin [S,dh/2] or [B,S,dh/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
    visible: torch.Tensor | None,
) -> torch.Tensor:
    """float32 [B,S,H*dh] of q, k, v [B,S,H,dh]; ``visible`` bool [S,S] or [B,1,S,S], True where row i sees row j; None = causal."""
    q, k = (rotate_pairs(t, *rope) for t in (q, k))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)
    return mixed.transpose(1, 2).flatten(2)


class Norm(nn.Module):
    """RMSNorm with a gain."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [...,size] / rms(x) * weight."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


class Attention(nn.Module):
    """Projections without biases, q, k and v in one matrix."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.wo = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], visible: torch.Tensor | None
    ) -> torch.Tensor:
        """float32 [B,S,D] of x [B,S,D]; see `attend`."""
        q, k, v = self.wqkv(x).view(*x.shape[:2], 3, self.heads, -1).unbind(2)
        out: torch.Tensor = self.wo(attend(q, k, v, rope, visible))
        return out


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.w3 = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.w2 = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B,S,D] of x [B,S,D]."""
        out: torch.Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """One Llama layer."""

    def __init__(self, hidden_size: int, intermediate_size: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(hidden_size, heads)
        self.feed_forward = FeedForward(hidden_size, intermediate_size)
        self.attention_norm = Norm(hidden_size)
        self.ffn_norm = Norm(hidden_size)

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], visible: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [B,S,D] of x [B,S,D], cos and sin [S,dh/2] in ``rope``; ``visible`` as in `attend`."""
        x = x + self.attention(self.attention_norm(x), rope, visible)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class ClassEmbedding(nn.Module):
    """Rows of the classes, then that of no class."""

    def __init__(self, classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, hidden_size)
