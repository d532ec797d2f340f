"""Token-Shuffle (Ma et al. 2025, arXiv 2504.17789) on LlamaGen's blocks: s x s codes share one position of the transformer.

    in:  gelu(compress(E[code])) [D/s^2], the window's pieces concatenated, n residual MLPs
    out: n residual MLPs, split into s^2 pieces, gelu(expand(piece)) [D], visual_head

One row predicts all s^2 codes of the next window, independently given the past. Windows are in raster order, codes row by row inside
a window. The paper's text leaves the MLP open: RMSNorm, D -> D, GELU, D -> D here. Without `unshuffle.expand` the head reads the
D/s^2 pieces directly. Rotary angles are those of the (g/s) x (g/s) grid of windows; the condition's row bypasses the shuffle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .image_blocks import ClassEmbedding, Norm, grid_rope
from .llamagen import LlamaGenConfig


@dataclass(frozen=True)
class TokenShuffleConfig(LlamaGenConfig):
    """Sizes; ``grid`` are codes along a side, a multiple of ``window`` s; D is a multiple of s^2."""

    window: int
    mlps: int = 2
    expand: bool = True
    """Whether pieces are widened to D before the head."""

    @property
    def per_step(self) -> int:
        """s^2, the codes of a window."""
        return self.window * self.window

    @property
    def steps(self) -> int:
        """Windows of an image."""
        return self.tokens // self.per_step

    @property
    def positions(self) -> int:
        """Rows of the rotary table: one condition and all windows."""
        return 1 + self.steps


def to_windows(codes: torch.Tensor, grid: int, window: int) -> torch.Tensor:
    """int64 [B,(g/s)^2,s*s] of codes [B,g*g] in raster order."""
    side = grid // window
    return codes.view(-1, side, window, side, window).transpose(2, 3).reshape(-1, side * side, window * window)


def to_raster(windows: torch.Tensor, grid: int, window: int) -> torch.Tensor:
    """The inverse of `to_windows`."""
    side = grid // window
    return windows.view(-1, side, side, window, window).transpose(2, 3).reshape(-1, grid * grid)


class ResidualMlp(nn.Module):
    """x + fc2(gelu(fc1(norm(x)))), all of width D."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = Norm(size)
        self.fc1, self.fc2 = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [...,D] of x [...,D]."""
        return x + self.fc2(functional.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class _Shuffle(nn.Module):
    def __init__(self, config: TokenShuffleConfig) -> None:
        super().__init__()
        self.compress = nn.Linear(config.hidden_size, config.hidden_size // config.per_step)
        self.blocks = nn.ModuleList(ResidualMlp(config.hidden_size) for _ in range(config.mlps))


class _Unshuffle(nn.Module):
    def __init__(self, config: TokenShuffleConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualMlp(config.hidden_size) for _ in range(config.mlps))
        if config.expand:
            self.expand = nn.Linear(config.hidden_size // config.per_step, config.hidden_size)


class TokenShuffle(nn.Module):
    """The whole model without a cache: reference and training."""

    def __init__(self, config: TokenShuffleConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.cls_embedding = ClassEmbedding(config.classes, d)
        self.tok_embeddings = nn.Embedding(config.codes, d)
        self.shuffle, self.unshuffle = _Shuffle(config), _Unshuffle(config)
        self.layers = nn.ModuleList(config.block() for _ in range(config.layers))
        self.norm = Norm(d)
        self.visual_head = nn.Linear(d if config.expand else d // config.per_step, config.codes, bias=False)
        self.rope = grid_rope(config.grid // config.window, config.head_dim)
        self.folded: torch.Tensor | None = None

    def fold(self, storage: torch.dtype = torch.float32) -> None:
        """From now on embed by `table` as a graph stores it, rounded to ``storage``. For comparisons; training does not see it."""
        self.folded = self.table().detach().to(storage).float()

    def table(self) -> torch.Tensor:
        """float32 [V,D/s^2]: gelu(compress(E)) of every code, which is all that a step reads of an embedding."""
        return functional.gelu(self.shuffle.compress(self.tok_embeddings.weight))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 [B,S,D] of ids int64 [B,S,s*s]; a row whose first id is V+k is the condition k."""
        v = self.config.codes
        condition = ids[..., 0] >= v
        codes = torch.where(condition[..., None], 0, ids)
        if self.folded is not None:
            x = self.folded[codes].flatten(2)
        else:
            x = functional.gelu(self.shuffle.compress(self.tok_embeddings(codes))).flatten(2)
        for block in self.shuffle.blocks:
            x = block(x)
        classes = self.cls_embedding.embedding_table(torch.where(condition, ids[..., 0] - v, 0))
        return torch.where(condition[..., None], classes, x)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,S,s*s,V] of normed rows [B,S,D]."""
        for block in self.unshuffle.blocks:
            x = block(x)
        x = x.unflatten(-1, (self.config.per_step, -1))
        if self.config.expand:
            x = functional.gelu(self.unshuffle.expand(x))
        logits: torch.Tensor = self.visual_head(x)
        return logits

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,S,s*s,V] of ids int64 [B,S,s*s], the first row a condition. Row i predicts the codes of window i."""
        x = self.embed(ids)
        cos, sin = (t[: ids.shape[1]] for t in self.rope)
        for layer in self.layers:
            x = layer(x, (cos, sin))
        return self.head(self.norm(x))
