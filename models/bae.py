"""The binary autoencoder of ELM (Liu et al. 2025), after binary latent diffusion (Wang et al. 2023): a code is a string of n bits.

Encoder, a 1x1 convolution to n logits, bits; bits times a table [n,latent], generator, pixels in 0 to 1. No codebook is searched: a
bit is set where its logit is positive. Parameter names are the released ones (without the prefix ``ae.``), blocks in flat lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from .conv_blocks import Down, Res, SelfAttention, Up, group_norm

SHORTCUT = "conv_out"
"""Name of a residual block's skip in this family."""


@dataclass(frozen=True)
class BaeConfig:
    """Sizes. ``bits`` n of a code; ``multipliers`` of ``channels`` a resolution, finest first; ``latent`` width between the two halves.

    Attention stands behind the residual blocks of the coarsest resolution and in the middle; ``norm_first`` begins the generator with a norm.
    """

    bits: int
    channels: int
    multipliers: tuple[int, ...]
    latent: int
    blocks: int = 2
    generator_blocks: int = 2
    norm_first: bool = False

    @property
    def downsampling(self) -> int:
        """Pixels along the side of a code."""
        return int(2 ** (len(self.multipliers) - 1))


class BaePass(NamedTuple):
    """``pixels`` float32 [B,3,H,W]; ``bits`` and ``chances`` float32 [B,n,h,w]: what was drawn, and the probability of a 1."""

    pixels: torch.Tensor
    bits: torch.Tensor
    chances: torch.Tensor


def _middle(width: int) -> list[nn.Module]:
    return [Res(width, width), SelfAttention(width), Res(width, width)]


def _encoder(c: BaeConfig) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(3, c.channels, 3, padding=1)]
    inside, last = c.channels, len(c.multipliers) - 1
    for i, width in enumerate(c.channels * m for m in c.multipliers):
        for _ in range(c.blocks):
            layers.append(Res(inside, width, SHORTCUT))
            inside = width
            if i == last:
                layers.append(SelfAttention(width))
        if i != last:
            layers.append(Down(width))
    return [*layers, *_middle(inside), group_norm(inside), nn.Conv2d(inside, c.latent, 3, padding=1)]


def _generator(c: BaeConfig) -> list[nn.Module]:
    inside, last = c.channels * c.multipliers[-1], len(c.multipliers) - 1
    layers: list[nn.Module] = [group_norm(c.latent)] if c.norm_first else []
    layers += [nn.Conv2d(c.latent, inside, 3, padding=1), *_middle(inside)]
    for i in range(last, -1, -1):
        width = c.channels * c.multipliers[i]
        for _ in range(c.generator_blocks):
            layers.append(Res(inside, width, SHORTCUT))
            inside = width
            if i == last:
                layers.append(SelfAttention(width))
        if i:
            layers.append(Up(width))
    return [*layers, group_norm(inside), nn.Conv2d(inside, 3, 3, padding=1)]


class _Stack(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.blocks:
            x = layer(x)
        return x


class _Quantize(nn.Module):
    def __init__(self, config: BaeConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(config.latent, config.bits, 1))
        self.embed = nn.Embedding(config.bits, config.latent)


class Bae(nn.Module):
    """Pixels [B,3,H,W] in 0 to 1 to codes and back. No activation stands between the last norms and their convolutions, as released."""

    def __init__(self, config: BaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.generator = _Stack(_encoder(config)), _Stack(_generator(config))
        self.quantize = _Quantize(config)

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [B,n,h,w]: the logit of each bit."""
        out: torch.Tensor = self.quantize.proj(self.encoder(pixels))
        return out

    def generate(self, bits: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [B,3,H,W], about 0 to 1, of bits float32 [B,n,h,w]."""
        latents = torch.einsum("bnhw,nd->bdhw", bits, self.quantize.embed.weight)
        out: torch.Tensor = self.generator(latents)
        return out

    def forward(self, pixels: torch.Tensor) -> BaePass:
        """A training pass: bits are drawn from Bernoulli(sigmoid(logit)); the gradient goes to the chances as if they were the bits."""
        chances = torch.sigmoid(self.logits(pixels))
        bits = torch.bernoulli(chances.detach())
        return BaePass(self.generate(bits + chances - chances.detach()), bits, chances)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B,h*w], deterministic: bit j is set where its logit is positive, bit 0 the highest: sum of bit[j] << (n-1-j)."""
        n = self.config.bits
        bits = (self.logits(pixels) > 0).long().flatten(2)  # [B,n,hw]
        return (bits << torch.arange(n - 1, -1, -1, device=bits.device)[:, None]).sum(1)

    def bits(self, codes: torch.Tensor) -> torch.Tensor:
        """float32 [B,n,g*g], 0 or 1, of codes int64 [B,g*g]."""
        n = self.config.bits
        return (codes[:, None] >> torch.arange(n - 1, -1, -1, device=codes.device)[:, None] & 1).float()

    def shortfall(self, pixels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """float32 [B,h*w], 0 or more: the largest size of a logit whose bit in ``codes`` is the wrong one."""
        logits = self.logits(pixels).flatten(2)
        return torch.where((logits > 0).float() == self.bits(codes), 0, logits.abs()).amax(1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [B,3,H,W], about 0 to 1, of codes int64 [B,g*g]."""
        grid = round(codes.shape[1] ** 0.5)
        return self.generate(self.bits(codes).view(len(codes), -1, grid, grid))
