"""The autoregressive image model of LlamaGen (Sun et al. 2024), class-conditional: Llama blocks over the codes of an image.

Parameter names are the released ones, so its state_dict is a checkpoint. Ids: 0..V-1 are codes, V+c is class c, V+classes the
unconditional row: one table, so one graph serves the condition and the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .image_blocks import EPSILON, ROPE_BASE, Block, ClassEmbedding, Norm, grid_rope, rotate_pairs

__all__ = ["EPSILON", "ROPE_BASE", "LlamaGen", "LlamaGenConfig", "rope_table", "rotate_pairs"]


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

    def block(self) -> Block:
        """A layer of these sizes."""
        return Block(self.hidden_size, self.intermediate_size, self.heads)


def rope_table(config: LlamaGenConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin float32 [1+grid^2, dh/2], the condition's row zero: see `grid_rope`."""
    return grid_rope(config.grid, config.head_dim)


class LlamaGen(nn.Module):
    """The whole model without a cache: reference and training."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = ClassEmbedding(config.classes, config.hidden_size)
        self.tok_embeddings = nn.Embedding(config.codes, config.hidden_size)
        self.layers = nn.ModuleList(config.block() for _ in range(config.layers))
        self.norm = Norm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.codes, bias=False)
        self.rope = rope_table(config)  # an attribute, not a buffer: no checkpoint carries it

    def features(self, ids: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [B,S,D] after the last norm, which drafters read; arguments as `forward`."""
        table = torch.cat([self.tok_embeddings.weight, self.cls_embedding.embedding_table.weight])
        x = table[ids]
        cos, sin = (t[: ids.shape[1]] for t in self.rope)
        for layer in self.layers:
            x = layer(x, (cos, sin), visible)
        out: torch.Tensor = self.norm(x)
        return out

    def forward(self, ids: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Logits float32 [B,S,V] of joint ids int64 [B,S], the first of each row a condition. Row i predicts code i.

        ``visible`` bool [S,S] or [B,1,S,S]: True where row i sees row j; None = causal.
        """
        logits: torch.Tensor = self.output(self.features(ids, visible))
        return logits
