"""Future token prediction (Walker 2024, arXiv 2410.18160): the top vector of a row becomes a short memory, from which a small decoder
writes the next tokens.

    Z = reshape(W_x h + b_x) + P                      h [D] of a row after the last norm, Z [m,D]
    x_0 = E[token of the row] + O[0], x_j = E[token j] + O[j]         tokens 1 .. N-1 are those behind the row
    p(token j + 1) = softmax(W norm(decoder(x_0 .. x_j | Z)))

The decoder sees nothing of the past but Z, so h must say where the text is going. Its first step gives the model's next-token
distribution (there is no head on h); its further steps are a draft. The encoder is a decoder-only stack (`models.decoder`), and table and
head are shared with it. Sizes are our choice; the paper's are not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import KVCache, rms_norm
from .decoder import Decoder, Output, Weights


@dataclass(frozen=True)
class FtpConfig:
    """Sizes of the head: ``memory`` rows of Z (m), ``horizon`` tokens ahead (N), ``layers`` and ``heads`` of the small decoder."""

    hidden_size: int
    memory: int = 8
    horizon: int = 8
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 256
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no decoder."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected more than 0; correct the configuration")
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size / heads is {self.hidden_size} / {self.heads}, expected a whole number; change one"
            )


class FtpLayer(nn.Module):
    """Self-attention over the tokens behind a row, attention to its memory, and a gated MLP; norms before each."""

    def __init__(self, config: FtpConfig) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.heads = config.heads
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.RMSNorm(d, config.norm_epsilon) for _ in range(3))
        for name in ("self_q", "self_k", "self_v", "self_o", "cross_q", "cross_k", "cross_v", "cross_o"):
            setattr(self, name, nn.Linear(d, d, bias=False))
        self.gate_up, self.down = nn.Linear(d, 2 * f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """x [X,n,D] after the layer, of x and the memory [X,m,D]."""
        h = self.self_norm(x)
        x = x + self.self_o(self._attend(self.self_q(h), self.self_k(h), self.self_v(h), causal=True))
        h = self.cross_norm(x)
        x = x + self.cross_o(self._attend(self.cross_q(h), self.cross_k(memory), self.cross_v(memory), causal=False))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)  # type: ignore[no-any-return]

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class FtpHead(nn.Module):
    """Expansion and decoder. Table and head are the encoder's and are handed in."""

    def __init__(self, config: FtpConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.config = config
        self.expand = nn.Linear(d, config.memory * d)
        self.memory_positions = nn.Parameter(torch.randn(config.memory, d) * 0.02)
        self.offsets = nn.Parameter(torch.randn(config.horizon, d) * 0.02)
        self.layers = nn.ModuleList(FtpLayer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(d, config.norm_epsilon)

    def memory(self, h: torch.Tensor) -> torch.Tensor:
        """Z [...,m,D] of rows h [...,D]."""
        return self.expand(h).unflatten(-1, (self.config.memory, -1)) + self.memory_positions  # type: ignore[no-any-return]

    def forward(self, embedded: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Normed rows [X,n,D] of n <= N tokens, embedded [X,n,D] as the table has them, over memory [X,m,D]."""
        x = embedded + self.offsets[: embedded.shape[1]]
        for layer in self.layers:
            x = layer(x, memory)
        return self.norm(x)  # type: ignore[no-any-return]

    @classmethod
    def from_tensors(cls, config: FtpConfig, tensors: Mapping[str, torch.Tensor]) -> FtpHead:
        """A head with these weights, in evaluation mode."""
        head = cls(config)
        head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return head.eval()


class FtpDecoder(Decoder):
    """A decoder whose logits come from the first step of the head: FTP's own next-token distribution."""

    def __init__(self, weights: Weights, head: FtpHead, *, storage: str = "float32", lazy: bool = False) -> None:
        super().__init__(weights, storage=storage, lazy=lazy)
        self.head = head

    @torch.inference_mode()
    def forward(
        self,
        input_ids: torch.Tensor,
        cache: KVCache,
        past_len: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        logit_rows: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> Output:
        """As `Decoder.forward`; logits [B,R,V] of the wanted rows are the head's first step."""
        out = super().forward(
            input_ids,
            cache,
            past_len,
            positions=positions,
            logit_rows=torch.zeros(len(input_ids), 1, dtype=torch.int64),
            visible=visible,
        )
        rows = torch.arange(input_ids.shape[1]).expand(input_ids.shape) if logit_rows is None else logit_rows
        normed = rms_norm(out.hidden[-1], self._get("norm.weight"), self.config.norm_epsilon)
        h = torch.gather(normed, 1, rows[..., None].expand(-1, -1, normed.shape[-1]))
        tokens = torch.gather(input_ids, 1, rows)
        flat = self.head(self.embed(tokens).flatten(0, 1)[:, None], self.head.memory(h).flatten(0, 1))
        logits = flat[:, 0] @ self._get(self._head_name).float().T
        return Output(logits.view(*rows.shape, -1), out.hidden)

    @torch.inference_mode()
    def draft(self, h: torch.Tensor, token: int, first: int) -> tuple[list[int], list[float]]:
        """(ids, probabilities) of the N - 1 tokens behind ``first``, greedily, from the row ``token`` with the normed vector h [D]."""
        memory, ids, chances = self.head.memory(h)[None], [token, first], []
        while len(ids) <= self.head.config.horizon:
            rows = self.head(self.embed(torch.tensor([ids])), memory)
            p = (rows[0, -1] @ self._get(self._head_name).float().T).softmax(-1)
            ids.append(int(p.argmax()))
            chances.append(float(p.max()))
        return ids[2:], chances
