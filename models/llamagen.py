"""The autoregressive image model of LlamaGen (Sun et al. 2024), class-conditional: Llama blocks over the codes of an image.

Parameter names are the released ones, so its state_dict is a checkpoint. Ids: 0..V-1 are codes, V+c is class c, V+classes the
unconditional row: one table, so one graph serves the condition and the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-5
ROPE_BASE = 10000.0


@dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes. ``codes`` is V, the codebook; ``grid`` the codes along a side, so an image is grid^2 of them."""

    codes: int
    classes: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    grid: int

    @property
    def head_dim(self) -> int:
        """dh; a multiple of 4, since rows and columns take half each and rotate in pairs."""
        return self.hidden_size // self.heads

    @property
    def tokens(self) -> int:
        """Codes of an image."""
        return self.grid * self.grid

    @property
    def positions(self) -> int:
        """Rows of the rotary table: one condition and all codes."""
        return 1 + self.tokens

    @property
    def embeddings(self) -> int:
        """Rows of the joint table: codes, classes and the unconditional row."""
        return self.codes + self.classes + 1


def rope_table(config: LlamaGenConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin float32 [1+grid^2, dh/2]: angles of a code are its row times f, then its column times f.

    The condition's row is (0, 0), not (1, 0): the released models were trained so. It makes the query and key of that position
    zero, so that every code scores it 0 and still reads its value. Writing the identity here breaks every checkpoint.
    """
    quarter = config.head_dim // 4
    inv_freq = ROPE_BASE ** (-torch.arange(quarter).float() / quarter)
    along = torch.arange(config.grid).float()[:, None] * inv_freq
    rows = along[:, None].expand(-1, config.grid, -1)
    columns = along[None].expand(config.grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).reshape(config.tokens, 2 * quarter)
    zero = torch.zeros(1, 2 * quarter)
    return torch.cat([zero, angles.cos()]), torch.cat([zero, angles.sin()])


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the interleaved pairs (0,1), (2,3), ... of x [B,S,H,dh] by cos, sin [S,dh/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class _Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


class _Attention(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        c = self.config
        q, k, v = self.wqkv(x).view(*x.shape[:2], 3, c.heads, c.head_dim).unbind(2)
        q, k = rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.wo(mixed.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return out


class _Block(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.feed_forward = _FeedForward(config)
        self.attention_norm = _Norm(config.hidden_size)
        self.ffn_norm = _Norm(config.hidden_size)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class _ClassEmbedding(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.classes + 1, config.hidden_size)


class LlamaGen(nn.Module):
    """The whole model without a cache: reference and training."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = _ClassEmbedding(config)
        self.tok_embeddings = nn.Embedding(config.codes, config.hidden_size)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = _Norm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.codes, bias=False)
        self.rope = rope_table(config)  # an attribute, not a buffer: no checkpoint carries it

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,S,V] of joint ids int64 [B,S], the first of each row a condition. Row i predicts code i."""
        table = torch.cat([self.tok_embeddings.weight, self.cls_embedding.embedding_table.weight])
        x = table[ids]
        cos, sin = (t[: ids.shape[1]] for t in self.rope)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits: torch.Tensor = self.output(self.norm(x))
        return logits
