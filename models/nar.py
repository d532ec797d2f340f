"""Neighbouring autoregressive images (He et al. 2025, arXiv 2503.10696): codes by rising Manhattan distance, two heads.

Code (h,w) lies on diagonal h+w; all codes of a diagonal are decoded in one pass, 2g-1 passes an image. The trunk's head says the code
to the right, a second head behind one more block the code below; where both speak of a place, their logits are averaged:

    logits(h,w) = (right(h,w-1) + below(h-1,w)) / 2;  top row: right alone;  left column: below alone;  (0,0): both at the condition

Parameter names are the released ones: LlamaGen's, `layers.{n}` for the extra block, `medusa_norm`, `medusa_output`.
"""

from __future__ import annotations

import torch
from torch import nn

from .image_blocks import ClassEmbedding, Norm
from .llamagen import LlamaGenConfig, rope_table


def diagonals(grid: int) -> list[list[tuple[int, int]]]:
    """Places (h, w) of each of the 2g-1 diagonals in decoding order: inside one, h ascends."""
    return [[(h, c - h) for h in range(max(0, c - grid + 1), min(c, grid - 1) + 1)] for c in range(2 * grid - 1)]


def proximity(grid: int, rows: int | None = None) -> torch.Tensor:
    """bool [rows,rows], True where a row sees another: condition and codes in raster order (default 1+grid^2 rows).

    A code sees the condition, all codes of nearer diagonals and the whole of its own, in both directions.
    """
    place = torch.arange(grid * grid)
    distance = torch.cat([torch.tensor([-1]), place // grid + place % grid])[:rows]  # the condition comes before all
    return distance[:, None] >= distance[None]


def mix(right: torch.Tensor, below: torch.Tensor, grid: int) -> torch.Tensor:
    """Logits float32 [B,g*g,V] of every code in raster order, of both heads' [B,S,V] at rows condition, code 0, code 1, ...

    S is at least g*g: the last code predicts nothing and may be left out.
    """
    batch, _, codes = right.shape
    whole = grid * grid
    pad = right.new_zeros(batch, max(0, 1 + whole - right.shape[1]), codes)  # rows of the last code, never read
    r, b = (torch.cat([t, pad], dim=1)[:, 1 : 1 + whole].reshape(batch, grid, grid, codes) for t in (right, below))
    first = (right[:, :1] + below[:, :1]) / 2
    top = r[:, 0, :-1]
    inner = (r[:, 1:, :-1] + b[:, :-1, 1:]) / 2
    lower = torch.cat([b[:, :-1, :1], inner], dim=2).flatten(1, 2)
    return torch.cat([first, top, lower], dim=1)


class Nar(nn.Module):
    """The whole model without a cache. ``config.layers`` counts the trunk: one block more feeds the head for the code below."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = ClassEmbedding(config.classes, config.hidden_size)
        self.tok_embeddings = nn.Embedding(config.codes, config.hidden_size)
        self.layers = nn.ModuleList(config.block() for _ in range(config.layers + 1))
        self.norm, self.medusa_norm = Norm(config.hidden_size), Norm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.codes, bias=False)
        self.medusa_output = nn.Linear(config.hidden_size, config.codes, bias=False)
        self.rope = rope_table(config)

    def heads(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float32 [B,S,V] of the code to the right and of the code below each row; ids as `forward`."""
        rows = ids.shape[1]
        table = torch.cat([self.tok_embeddings.weight, self.cls_embedding.embedding_table.weight])
        x = table[ids]
        cos, sin = (t[:rows] for t in self.rope)
        visible = proximity(self.config.grid, rows).to(ids.device)
        for layer in self.layers[:-1]:
            x = layer(x, (cos, sin), visible)
        right: torch.Tensor = self.output(self.norm(x))
        x = self.layers[-1](x, (cos, sin), visible)
        below: torch.Tensor = self.medusa_output(self.medusa_norm(x))
        return right, below

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,g*g,V] of every code in raster order, mixed.

        ``ids`` int64 [B,g*g] or [B,1+g*g]: the condition (V+class), then the codes in raster order; the last may be left out.
        """
        return mix(*self.heads(ids), self.config.grid)
