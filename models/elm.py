"""ELM (Liu et al. 2025, PMLR 267): a code of m*c bits is split into m sub-codes of c bits, each with a table and a head of its own.

All m sub-codes of a place are predicted by one row and sampled independently given the past; the next row reads all of them: their
m embeddings are concatenated and projected. Names are the released ones: `tok_embedder.{k}`, `proj`, `output.{k}`; with m = 1
`tok_embedder` and `output` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .image_blocks import ClassEmbedding, Norm
from .llamagen import LlamaGenConfig, rope_table


@dataclass(frozen=True)
class ElmConfig(LlamaGenConfig):
    """Sizes; ``codes`` is 2^c, the entries of one sub-code, and ``parts`` m, the sub-codes of a place."""

    parts: int

    @property
    def bits(self) -> int:
        """c, bits of a sub-code."""
        return self.codes.bit_length() - 1


def split_codes(codes: torch.Tensor, parts: int, bits: int) -> torch.Tensor:
    """Sub-codes int64 [...,m] of codes int64 [...], the highest bits first: the inverse of `join_codes`."""
    shifts = torch.tensor([bits * (parts - 1 - k) for k in range(parts)], device=codes.device)
    return codes[..., None] >> shifts & (1 << bits) - 1


def join_codes(parts: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes int64 [...] of sub-codes int64 [...,m]: sum of part[k] << (c * (m-1-k))."""
    m = parts.shape[-1]
    shifts = torch.tensor([bits * (m - 1 - k) for k in range(m)], device=parts.device)
    return (parts << shifts).sum(-1)


class Elm(nn.Module):
    """The whole model without a cache: reference and training."""

    def __init__(self, config: ElmConfig) -> None:
        super().__init__()
        self.config = config
        d, v, m = config.hidden_size, config.codes, config.parts
        self.cls_embedding = ClassEmbedding(config.classes, d)
        self.tok_embedder: nn.Module
        self.output: nn.Module
        if m == 1:
            self.tok_embedder, self.output = nn.Embedding(v, d), nn.Linear(d, v, bias=False)
        else:
            self.tok_embedder = nn.ModuleList(nn.Embedding(v, d) for _ in range(m))
            self.output = nn.ModuleList(nn.Linear(d, v, bias=False) for _ in range(m))
            self.proj = nn.Linear(m * d, d, bias=False)
        self.layers = nn.ModuleList(config.block() for _ in range(config.layers))
        self.norm = Norm(d)
        self.rope = rope_table(config)
        self.folded: list[torch.Tensor] | None = None

    def fold(self, storage: torch.dtype = torch.float32) -> None:
        """From now on embed by `tables` as a graph stores them, rounded to ``storage``. For comparisons; training does not see it."""
        self.folded = [t.detach().to(storage).float() for t in self.tables()]

    def tables(self) -> list[torch.Tensor]:
        """m tables float32 [2^c,D] whose rows are summed: T_k = E_k proj_k^T, exact since the projection is linear."""
        if isinstance(self.tok_embedder, nn.Embedding):
            return [self.tok_embedder.weight]
        pieces = self.proj.weight.split(self.config.hidden_size, dim=1)
        return [e.weight @ p.T for e, p in zip(self.tok_embedder, pieces, strict=True)]  # type: ignore[call-overload]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 [B,S,D] of ids int64 [B,S,m]; a row whose first id is V+k is the condition k."""
        v = self.config.codes
        condition = ids[..., 0] >= v
        codes = torch.where(condition[..., None], 0, ids)
        if self.folded is not None:
            x = torch.stack([t[codes[..., k]] for k, t in enumerate(self.folded)]).sum(0)
        elif isinstance(self.tok_embedder, nn.Embedding):
            x = self.tok_embedder(codes[..., 0])
        else:
            rows = [e(codes[..., k]) for k, e in enumerate(self.tok_embedder)]  # type: ignore[arg-type]
            x = self.proj(torch.cat(rows, dim=-1))
        classes = self.cls_embedding.embedding_table(torch.where(condition, ids[..., 0] - v, 0))
        return torch.where(condition[..., None], classes, x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,S,m,2^c] of ids int64 [B,S,m], the first row a condition. Row i predicts the sub-codes of place i."""
        x = self.embed(ids)
        cos, sin = (t[: ids.shape[1]] for t in self.rope)
        for layer in self.layers:
            x = layer(x, (cos, sin))
        x = self.norm(x)
        heads = [self.output] if self.config.parts == 1 else list(self.output)  # type: ignore[arg-type]
        return torch.stack([head(x) for head in heads], dim=2)
