"""Reference of gated-LoRA multi-token prediction (Samragh et al. 2025, arXiv 2507.11851) on a frozen decoder.

k mask tokens behind a real token x_j ask for the tokens after the next: mask i = 1..k stands at position j+i and predicts
x_{j+1+i}. Low-rank branches fire in the mask rows alone, so the real rows compute what the frozen model computes. A sampler head
turns the masks' latents into one coherent draft: each token is chosen knowing the one before it.

    model = MtpDecoder(open_checkpoint("model.gguf"), adapter)
    decode(model, prompt, 64).ids == model.greedy(prompt, 64)      # farthing.models.mtp_decoding

Rows of a pass stand with the real ones first, as `farthing.plugins.cached_attention.visible.block_sees` lays them out. Mask i has the
id V + i - 1; there are no logits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..plugins.cached_attention.visible import block_positions, block_sees, pack_rows
from ..plugins.gated_lora.operator import reference as gated_lora
from ..plugins.linear.operator import reference as linear
from .blocks import Adapt, KVCache, rms_norm, to_torch
from .config import DecoderConfig
from .decoder import Decoder, Weights

GROUPS: dict[str, tuple[str, ...]] = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
"""Our fused linears, and the parts they are made of, in order."""

MASKS = "mtp_embedding_delta"
"""[k,D]: embeddings of the mask tokens."""

LORA_A, LORA_B = "layers.{}.{}.lora_A.weight", "layers.{}.{}.lora_B.weight"
"""[R,inputs] and [outputs,R] of a layer's part or fused linear."""

SAMPLER = "sampler_head.layers.{}.{}"
"""Block 0 or 1; ``linear.weight``, ``linear.bias``, ``norm.weight`` or ``norm.bias``."""

NORMS, RESIDUALS = ("rms", "layer"), ("none", "block", "latent")


@dataclass(frozen=True)
class MtpConfig:
    """What the weights of an adapter do not say.

    ``scale`` is alpha / rank. ``norm`` of the sampler blocks: ``rms`` or ``layer``. ``residual`` adds to the second block's output
    nothing, the first block's output (``block``, as BatchSpec does) or the latent itself (``latent``: with a gain of 0 the head is
    then the model's own, so that training starts there).
    """

    masks: int
    scale: float
    norm: str = "rms"
    residual: str = "latent"
    epsilon: float = 1e-6


def group_shape(config: DecoderConfig, part: str) -> tuple[int, int]:
    """(outputs, inputs) of the linear ``part``, fused or not."""
    d, f, q, kv = config.hidden_size, config.intermediate_size, config.q_width, config.kv_width
    single = {"q": (q, d), "k": (kv, d), "v": (kv, d), "o": (d, q), "gate": (f, d), "up": (f, d), "down": (d, f)}
    if part in single:
        return single[part]
    return sum(single[p][0] for p in GROUPS[part]), d


class MtpAdapter:
    """The trained weights: ``tensors`` named as above, one LoRA per fused linear or one per part of it."""

    def __init__(self, config: MtpConfig, tensors: Mapping[str, torch.Tensor]) -> None:
        self.config = config
        self.tensors = dict(tensors)

    @classmethod
    def initial(
        cls,
        base: DecoderConfig,
        config: MtpConfig,
        *,
        rank: int,
        embedding_std: float,
        norm_weight: torch.Tensor,
        seed: int = 0,
    ) -> MtpAdapter:
        """Untrained: A Kaiming-uniform, B zeros, masks N(0, embedding_std), one LoRA a part.

        ``norm_weight`` [D] is the base's last norm: the gain with which latents reach its head, so also that of the sampler's blocks.
        """
        draw = torch.Generator().manual_seed(seed)
        d = base.hidden_size
        tensors = {MASKS: torch.randn(config.masks, d, generator=draw) * embedding_std}
        for layer in range(base.layers):
            for part in (p for parts in GROUPS.values() for p in parts):
                outputs, inputs = group_shape(base, part)
                # Kaiming-uniform with a = sqrt(5), as LoRA has it: a bound of 1 / sqrt(inputs).
                tensors[LORA_A.format(layer, part)] = _uniform((rank, inputs), inputs**-0.5, draw)
                tensors[LORA_B.format(layer, part)] = torch.zeros(outputs, rank)
        gains = norm_weight, (torch.zeros(d) if config.residual == "latent" else norm_weight)
        for block, (width, gain) in enumerate(zip((2 * d, d), gains, strict=True)):
            tensors[SAMPLER.format(block, "linear.weight")] = _uniform((d, width), width**-0.5, draw)
            tensors[SAMPLER.format(block, "norm.weight")] = gain.clone().float()
            if config.norm == "layer":
                tensors[SAMPLER.format(block, "norm.bias")] = torch.zeros(d)
        return cls(config, tensors)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(t.numel() for t in self.tensors.values())

    def limited(self, masks: int) -> MtpAdapter:
        """This adapter with its first ``masks`` masks only."""
        return MtpAdapter(
            replace(self.config, masks=masks), {**self.tensors, MASKS: self.tensors[MASKS][:masks].clone()}
        )

    def stored(self, storage: str) -> MtpAdapter:
        """With matrices rounded to ``storage``, as an export with that dtype keeps them."""
        return MtpAdapter(self.config, {n: to_torch(t.numpy(), storage) for n, t in self.tensors.items()})

    def parts(self, layer: int, group: str) -> list[str]:
        """Which LoRAs the fused linear ``group`` has: itself, or its parts, of which some may have none."""
        if LORA_A.format(layer, group) in self.tensors:
            return [group]
        return [p for p in GROUPS[group] if LORA_A.format(layer, p) in self.tensors]

    def fused(self, base: DecoderConfig, layer: int, group: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(A [R,inputs], B [outputs,R]) for the fused linear: A's stacked, B's block-diagonal, R the sum of ranks. None without."""
        names = self.parts(layer, group)
        if not names:
            return None
        if names == [group]:
            return self.tensors[LORA_A.format(layer, group)], self.tensors[LORA_B.format(layer, group)]
        a = torch.cat([self.tensors[LORA_A.format(layer, p)] for p in names])
        b = torch.zeros(group_shape(base, group)[0], a.shape[0], dtype=a.dtype)
        row = column = 0
        for part in GROUPS[group]:
            outputs = group_shape(base, part)[0]
            if part in names:
                block = self.tensors[LORA_B.format(layer, part)]
                b[row : row + outputs, column : column + block.shape[1]] = block
                column += block.shape[1]
            row += outputs
        return a, b

    def sample(self, previous: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """What goes through the base's head to choose a draft token. [...,D] from the embedding of the token before it [...,D]
        and the mask's latent [...,D]. Two blocks of Linear, SiLU, norm; the latent sees one token back and no farther."""
        first = self._block(0, torch.cat([previous, latent], dim=-1))
        second = self._block(1, first)
        return second + {"none": torch.zeros(()), "block": first, "latent": latent}[self.config.residual]

    def _block(self, index: int, x: torch.Tensor) -> torch.Tensor:
        def find(name: str) -> torch.Tensor | None:
            return self.tensors.get(SAMPLER.format(index, name))

        weight, gain = find("linear.weight"), find("norm.weight")
        assert weight is not None and gain is not None
        active = torch.nn.functional.silu(linear(x, weight, find("linear.bias")))
        if self.config.norm == "layer":
            return torch.nn.functional.layer_norm(
                active, active.shape[-1:], gain, find("norm.bias"), self.config.epsilon
            )
        return rms_norm(active, gain, self.config.epsilon)


def _uniform(shape: tuple[int, int], bound: float, draw: torch.Generator) -> torch.Tensor:
    return (torch.rand(shape, generator=draw) * 2 - 1) * bound


@dataclass(frozen=True)
class MtpOutput:
    """Result of a pass: logits [B,R,V] of the wanted rows, mask_hidden [B,M/B,D] of the mask rows, hidden as in `Output`."""

    logits: torch.Tensor
    mask_hidden: torch.Tensor
    hidden: list[torch.Tensor]


class MtpDecoder(Decoder):
    """A decoder with an adapter. ``gated=False`` adapts every row, which is ordinary LoRA: it changes the base's logits."""

    def __init__(
        self, weights: Weights, adapter: MtpAdapter, *, storage: str = "float32", lazy: bool = False, gated: bool = True
    ) -> None:
        super().__init__(weights, storage=storage, lazy=lazy)
        self.adapter = adapter.stored(storage)
        self.gated = gated
        self._rows = torch.zeros(0, dtype=torch.int64)

    @torch.inference_mode()
    def step(
        self,
        input_ids: torch.Tensor,
        cache: KVCache,
        past_len: torch.Tensor,
        *,
        positions: torch.Tensor,
        visible: torch.Tensor | None,
        mask_rows: torch.Tensor,
        logit_rows: torch.Tensor,
    ) -> MtpOutput:
        """One pass over input_ids [B,S] int64, ids V .. V+k-1 being masks.

        ``visible`` int64 [B,S,W] as CachedAttention has it, ``mask_rows`` int64 [M] the rows of the flattened pass [B*S] that are masks,
        ascending and equally many in each sequence. The cache then holds all S rows; the real ones come first, so a smaller length
        drops the masks.
        """
        self._rows = torch.arange(input_ids.numel()) if not self.gated else mask_rows
        try:
            out = self.forward(input_ids, cache, past_len, positions=positions, logit_rows=logit_rows, visible=visible)
        finally:
            self._rows = torch.zeros(0, dtype=torch.int64)
        rows = rms_norm(out.hidden[-1].flatten(0, 1)[mask_rows], self._get("norm.weight"), self.config.norm_epsilon)
        return MtpOutput(out.logits, rows.view(input_ids.shape[0], -1, rows.shape[-1]), out.hidden)

    @torch.inference_mode()
    def draft(
        self, first_token: torch.Tensor, latents: torch.Tensor, *, sampler: bool = True, ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(draft [B,k] int64, chance [B,k]): the chain after the verified token first_token [B] int64 over latents [B,k,D].

        ``chance`` is the softmax probability of the drafted token. ``sampler=False`` takes the base's head on the latents instead; ``ids``
        [v] int64 restricts drafts to a part of the vocabulary.
        """
        head, embed = self._get(self._head_name), self._get("embed.weight")
        head = head if ids is None else head[ids]
        token, tokens, chances = first_token, [], []
        for i in range(latents.shape[1]):
            latent = latents[:, i]
            rows = self.adapter.sample(embed[token].float(), latent) if sampler else latent
            chance, best = torch.softmax(linear(rows, head), dim=-1).max(-1)
            token = best if ids is None else ids[best]
            tokens.append(token)
            chances.append(chance)
        return torch.stack(tokens, 1), torch.stack(chances, 1)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the embedding, those of the masks behind it."""
        base = super().embed(input_ids.clamp(max=self.config.vocab_size - 1))
        which = (input_ids - self.config.vocab_size).clamp(min=0)
        masks = self.adapter.tensors[MASKS][which].float()
        return torch.where((input_ids >= self.config.vocab_size)[..., None], masks, base)

    def _adapter(self, layer: int) -> Adapt:
        def adapt(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            pair = self.adapter.fused(self.config, layer, name)
            if pair is None:
                return y
            return gated_lora(x, y, *pair, self._rows, scale=self.adapter.config.scale)

        return adapt


def quadratic_rows(real: int, masks: int, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of quadratic decoding for ``real`` tokens: (visible [1,S,W], positions [S] from the first row, ids of the mask rows)."""
    visible = torch.from_numpy(pack_rows(block_sees(real, masks)[None]))
    return visible, torch.from_numpy(block_positions(real, masks)), torch.arange(masks).repeat(real) + vocab_size


def linear_rows(real: int, masks: int, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of linear decoding: one block of masks behind the last of ``real`` tokens. The rest as `quadratic_rows`."""
    keep = [*range(real), *range(real * (1 + masks) - masks, real * (1 + masks))]
    sees = block_sees(real, masks)[keep][:, keep]
    positions = torch.from_numpy(block_positions(real, masks)[keep])
    return torch.from_numpy(pack_rows(sees[None])), positions, torch.arange(masks) + vocab_size


def ranks_of(adapter: MtpAdapter) -> list[int]:
    """Ranks of its LoRAs."""
    return [t.shape[0] for n, t in adapter.tensors.items() if n.endswith("lora_A.weight")]
