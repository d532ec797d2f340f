"""The PyTorch reference of a plain decoder: what every exported graph is compared with.

    model = Decoder(open_checkpoint("model.gguf"))
    ids = model.greedy([504, 3575], 16)

Equal to transformers' models of the same weights (tests/test_decoder_reference.py). Written for clarity, not for speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..errors import RequestError, found_wanted
from ..plugins.linear.operator import reference as linear
from .blocks import Adapt, DecoderLayer, KVCache, rms_norm, rotary_angles, to_torch, unadapted
from .config import DecoderConfig, expected_tensors


class Weights(Protocol):
    """Where weights come from; `farthing.export.checkpoint.Checkpoint` is one."""

    config: DecoderConfig

    def tensor(self, name: str) -> np.ndarray:
        """The tensor called ``name`` in the naming of `farthing.models.config`."""


@dataclass(frozen=True)
class Output:
    """Result of a pass. ``hidden[i]`` is the residual stream [B,S,D] after layer i, ``hidden[0]`` the embedding."""

    logits: torch.Tensor
    hidden: list[torch.Tensor]


class Decoder:
    """A decoder over ``weights``.

    ``storage`` ``float16`` rounds the matrices as an export with that dtype does. With ``lazy`` each layer is read when it is
    needed and dropped afterwards: memory for one layer and the embedding, at the price of reading the weights at every pass.
    """

    def __init__(self, weights: Weights, *, storage: str = "float32", lazy: bool = False) -> None:
        self.config = weights.config
        self._weights = weights
        self._storage = storage
        self._names = expected_tensors(self.config)
        c = self.config
        self.inv_freq = torch.from_numpy(c.mrope_freq() if c.mrope_section else c.rope.inv_freq(c.head_dim))
        self._layers = None if lazy else [self._layer(i) for i in range(self.config.layers)]
        self._kept = {} if lazy else {n: self._tensor(n) for n in ("embed.weight", "norm.weight", self._head_name)}

    @property
    def _head_name(self) -> str:
        return "embed.weight" if self.config.tied_head else "head.weight"

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
        embeds: torch.Tensor | None = None,
    ) -> Output:
        """One pass over input_ids [B,S] int64 with past_len [B] filled slots; writes the new rows into ``cache``.

        ``positions`` [B,S] defaults to past_len + 0..S-1, with M-RoPE [3,B,S]; ``logit_rows`` [B,R] defaults to all rows; logits are [B,R,V].
        ``visible`` int64 [B,S,W] is CachedAttention's, None for causal. ``embeds`` float32 [B,S,D] stand in place of the embedding.
        """
        if positions is None:
            positions = past_len[:, None] + torch.arange(input_ids.shape[1])
            positions = positions.expand(3, *positions.shape) if self.config.mrope_section else positions
        cos, sin = rotary_angles(positions, self.inv_freq)
        hidden = [self.embed(input_ids) if embeds is None else embeds]
        for i in range(self.config.layers):
            layer = self.layer(i)
            hidden.append(layer(hidden[-1], cos, sin, cache, past_len, visible, self._adapter(i)))
        rows = hidden[-1]
        if logit_rows is not None:
            rows = torch.gather(rows, 1, logit_rows[..., None].expand(-1, -1, rows.shape[-1]))
        return Output(self.logits_of(rows), hidden)

    def layer(self, index: int) -> DecoderLayer:
        """Layer ``index``, read now if the model is lazy."""
        return self._layers[index] if self._layers else self._layer(index)

    def logits_of(self, stream: torch.Tensor) -> torch.Tensor:
        """Logits [...,V] of the stream [...,D] behind the last layer."""
        return linear(rms_norm(stream, self._get("norm.weight"), self.config.norm_epsilon), self._get(self._head_name))

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the embedding, float32 [B,S,D]."""
        return self._get("embed.weight")[input_ids].float()

    def _adapter(self, layer: int) -> Adapt:
        return unadapted

    def greedy(self, prompt_ids: list[int], new_tokens: int) -> list[int]:
        """The ``new_tokens`` ids of greedy decoding after ``prompt_ids``; stop tokens do not stop it. Raises RequestError."""
        if not prompt_ids:
            raise RequestError(found_wanted("prompt", "empty", "at least one id", "give a prompt"))
        bad = [i for i in prompt_ids if not 0 <= i < self.config.vocab_size]
        if bad:
            raise RequestError(
                found_wanted(
                    "token id of the prompt", bad[0], f"0 to {self.config.vocab_size - 1}", "use this model's tokenizer"
                )
            )
        cache = KVCache.empty(self.config, len(prompt_ids) + new_tokens)
        pending, past, result = list(prompt_ids), 0, []
        for _ in range(new_tokens):
            rows = torch.tensor([[len(pending) - 1]])
            output = self.forward(torch.tensor([pending]), cache, torch.tensor([past]), logit_rows=rows)
            past += len(pending)
            pending = [int(output.logits[0, 0].argmax())]
            result += pending
        return result

    def _get(self, name: str) -> torch.Tensor:
        return self._kept[name] if name in self._kept else self._tensor(name)

    def _tensor(self, name: str) -> torch.Tensor:
        return to_torch(self._weights.tensor(name), self._storage)

    def _layer(self, index: int) -> DecoderLayer:
        def find(name: str) -> torch.Tensor | None:
            full = f"layers.{index}.{name}"
            return self._tensor(full) if full in self._names else None

        return DecoderLayer(self.config, index, find)
