"""BERT encoder (Devlin et al., arXiv 1810.04805) with the mean pooling of sentence-transformers (arXiv 1908.10084). Reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BertConfig:
    """Sizes; ``epsilon`` of LayerNorm, ``pooled``: whether there is a sentence embedding."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    max_positions: int
    types: int
    epsilon: float
    pooled: bool


def expected_tensors(c: BertConfig) -> dict[str, tuple[int, ...]]:
    """Names, as transformers has them without a prefix, and shapes."""
    d, f = c.hidden_size, c.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (c.vocab_size, d),
        "embeddings.position_embeddings.weight": (c.max_positions, d),
        "embeddings.token_type_embeddings.weight": (c.types, d),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(c.layers):
        p = f"encoder.layer.{i}."
        for name, rows, columns in (
            *((f"attention.self.{part}", d, d) for part in ("query", "key", "value")),
            ("attention.output.dense", d, d),
            ("intermediate.dense", f, d),
            ("output.dense", d, f),
        ):
            shapes |= {f"{p}{name}.weight": (rows, columns), f"{p}{name}.bias": (rows,)}
        norms += [f"{p}attention.output.LayerNorm", f"{p}output.LayerNorm"]
    return shapes | {f"{n}.{k}": (d,) for n in norms for k in ("weight", "bias")}


def forward(
    c: BertConfig, tensor: Callable[[str], torch.Tensor], ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ids, mask, types int64 [B,S] -> states float32 [B,S,D], and unit vectors [B,D] if ``c.pooled``."""
    import torch
    from torch.nn.functional import gelu, layer_norm, linear, normalize

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (c.hidden_size,), tensor(f"{name}.weight"), tensor(f"{name}.bias"), c.epsilon)

    b, s = ids.shape
    x = tensor("embeddings.word_embeddings.weight")[ids] + tensor("embeddings.position_embeddings.weight")[:s]
    x = norm("embeddings.LayerNorm", x + tensor("embeddings.token_type_embeddings.weight")[types])
    hidden = torch.zeros(b, 1, 1, s).masked_fill(mask[:, None, None] == 0, float("-inf"))
    for i in range(c.layers):
        p = f"encoder.layer.{i}."
        q, k, v = (
            dense(f"{p}attention.self.{n}", x).view(b, s, c.heads, -1).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + hidden).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(b, s, -1)
        x = norm(f"{p}attention.output.LayerNorm", x + dense(f"{p}attention.output.dense", mixed))
        x = norm(f"{p}output.LayerNorm", x + dense(f"{p}output.dense", gelu(dense(f"{p}intermediate.dense", x))))
    if not c.pooled:
        return x, None
    shown = mask[..., None].float()
    return x, normalize((x * shown).sum(1) / shown.sum(1).clamp(min=1e-9), dim=-1)
