"""Gated associative memory (Acharya 2025, arXiv 2509.00605): a decoder whose token mixer is a short convolution and a constant bank.

    h = E[ids] + Pos[positions];  per block  y = h + Mixer(LN1(h)),  h = y + FFN(LN2(y));  logits = LN_f(h) @ E.T

Parameters have the names of the official class, so its checkpoints load as they are. The state of a sequence is the last k-1 rows of
LN1(h) of each layer. A row sees itself and ``L * (k - 1)`` rows before it, nothing else: see docs/gam.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..plugins.gated_assoc_memory.operator import reference as gated_assoc_memory

EPSILON = 1e-5
"""Of every LayerNorm: PyTorch's default, which the official class keeps."""


@dataclass(frozen=True)
class GamConfig:
    """Sizes of a GAM. ``slots`` are the rows of each memory bank, ``kernel_size`` the taps of each convolution."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    slots: int
    kernel_size: int
    max_positions: int

    @property
    def receptive_field(self) -> int:
        """Tokens that can influence a row, itself included: L * (k - 1) + 1."""
        return self.layers * (self.kernel_size - 1) + 1

    @property
    def parameters(self) -> int:
        """Number of weights; the tied head counts once."""
        c, f = self.hidden_size, self.intermediate_size
        block = self.slots * c + c * self.kernel_size + c + 2 * c * c + 2 * c + 2 * c * f + f + c + 4 * c
        return (self.vocab_size + self.max_positions) * c + self.layers * block + 2 * c


class GamBlock(nn.Module):
    """One block. ``mode`` is an ablation of the mixer: gate (the paper's), sum, global or local."""

    def __init__(self, config: GamConfig, mode: str = "gate") -> None:
        super().__init__()
        c, f = config.hidden_size, config.intermediate_size
        self.mode = mode
        self.ln1, self.ln2 = nn.LayerNorm(c, EPSILON), nn.LayerNorm(c, EPSILON)
        self.causal_conv = nn.Conv1d(c, c, config.kernel_size, groups=c)
        self.memory_bank = nn.Parameter(torch.empty(config.slots, c))
        nn.init.xavier_uniform_(self.memory_bank)
        self.gate = nn.Linear(c, 2 * c)
        self.ffn = nn.Sequential(nn.Linear(c, f), nn.GELU(), nn.Linear(f, c))

    def forward(self, h: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(h [B,T,C], window [B,k-1+T,C]) from h [B,T,C] and the state [B,k-1,C]."""
        mixed, window = gated_assoc_memory(
            self.ln1(h),
            state,
            self.causal_conv.weight[:, 0],
            self.causal_conv.bias,
            self.memory_bank,
            self.gate.weight,
            self.gate.bias,
            kernel_size=self.causal_conv.kernel_size[0],
            mode=self.mode,
            return_window=1,
        )
        h = h + mixed
        return h + self.ffn(self.ln2(h)), window


class Gam(nn.Module):
    """The language model. ``initialisation``: ``author`` (PyTorch's defaults) or ``small`` (embeddings N(0, 0.02)).

    With the author's, position vectors have standard deviation 1 beside about 0.02 of the tied token embedding: the loss falls slowly.
    """

    def __init__(self, config: GamConfig, mode: str = "gate", initialisation: str = "small") -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embedding = nn.Embedding(config.max_positions, config.hidden_size)
        self.blocks = nn.ModuleList(GamBlock(config, mode) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, EPSILON)
        if initialisation == "small":
            nn.init.normal_(self.token_embedding.weight, std=0.02)
            nn.init.normal_(self.pos_embedding.weight, std=0.02)
        else:
            bound = config.hidden_size**-0.5  # the embedding is the head's weight, whose default it gets
            nn.init.uniform_(self.token_embedding.weight, -bound, bound)

    def zero_state(self, batch: int = 1) -> list[torch.Tensor]:
        """The state before the first token, per layer [B,k-1,C]: the same as the zero padding of training."""
        shape = (batch, self.config.kernel_size - 1, self.config.hidden_size)
        return [torch.zeros(shape) for _ in range(self.config.layers)]

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor | None = None, state: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(logits [B,T,V], per layer the window [B,k-1+T,C]) of ids, positions [B,T] int64 after ``state``.

        The state after the first t of the rows is ``window[:, t : t + k - 1]``.
        """
        h = self.token_embedding(ids)
        h = h + self.pos_embedding(torch.arange(ids.shape[1]) if positions is None else positions)
        windows = []
        for block, before in zip(self.blocks, state or self.zero_state(ids.shape[0]), strict=True):
            h, window = block(h, before)
            windows.append(window)
        return nn.functional.linear(self.ln_f(h), self.token_embedding.weight), windows

    @classmethod
    def from_tensors(cls, config: GamConfig, tensors: Mapping[str, torch.Tensor]) -> Gam:
        """A model with these weights, in evaluation mode. ``head.weight`` is the embedding and is left out."""
        model = cls(config)
        model.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "head.weight"})
        return model.eval()
