"""LlamaGen conditioned by a text (Sun et al. 2024): rows of a T5 encoder, projected, take the place of the class.

There are always 120 of them. Short texts are padded on the left; nobody sees padding but itself. Rows of the condition have no rotary
angle (see `grid_rope`), so a model without the padded rows computes the same: nothing says where in the 120 a row stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .image_blocks import Norm, grid_rope
from .llamagen import LlamaGenConfig


@dataclass(frozen=True)
class TextLlamaGenConfig(LlamaGenConfig):
    """Sizes; ``text_tokens`` rows of ``text_width`` features are the condition, and ``classes`` is 0."""

    text_tokens: int
    text_width: int

    @property
    def positions(self) -> int:
        """Rows of the rotary table: the condition's and all codes."""
        return self.text_tokens + self.tokens

    @property
    def embeddings(self) -> int:
        """Rows of the table: codes alone."""
        return self.codes


class _Projection(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inside, outside, bias=False), nn.Linear(outside, outside, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return out


class _TextEmbedding(nn.Module):
    def __init__(self, config: TextLlamaGenConfig) -> None:
        super().__init__()
        self.cap_proj = _Projection(config.text_width, config.hidden_size)
        rows = torch.randn(config.text_tokens, config.text_width) / config.text_width**0.5
        self.uncond_embedding = nn.Parameter(rows)


class TextLlamaGen(nn.Module):
    """The whole model without a cache. Parameter names are the released ones."""

    def __init__(self, config: TextLlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = _TextEmbedding(config)
        self.tok_embeddings = nn.Embedding(config.codes, config.hidden_size)
        self.layers = nn.ModuleList(config.block() for _ in range(config.layers))
        self.norm = Norm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.codes, bias=False)
        self.rope = grid_rope(config.grid, config.head_dim, config.text_tokens)

    def padded(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B,text_tokens,dc] of ``text`` [B,T,dc], padded on the left, and which rows are none of padding, bool [B,text_tokens]."""
        batch, rows, _ = text.shape
        left = self.config.text_tokens - rows
        valid = torch.arange(self.config.text_tokens) >= left
        return functional.pad(text, (0, 0, left, 0)), valid.expand(batch, -1)

    def forward(self, text: torch.Tensor, valid: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,1+S,V] of the first 1+S codes, given codes ``ids`` int64 [B,S] and all rows of the condition.

        ``text`` float32 [B,text_tokens,dc], ``valid`` bool [B,text_tokens]: False for padding, which is hidden from all but itself.
        """
        tokens, rows = self.config.text_tokens, self.config.text_tokens + ids.shape[1]
        x = torch.cat([self.cls_embedding.cap_proj(text), self.tok_embeddings(ids)], dim=1)
        visible = torch.ones(rows, rows, dtype=torch.bool).tril().repeat(len(ids), 1, 1)
        visible[:, :, :tokens] &= valid[:, None]
        visible |= torch.eye(rows, dtype=torch.bool)  # a row that sees nothing would be NaN
        cos, sin = (t[:rows] for t in self.rope)
        for layer in self.layers:
            x = layer(x, (cos, sin), visible[:, None])
        logits: torch.Tensor = self.output(self.norm(x[:, tokens - 1 :]))
        return logits
