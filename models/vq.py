"""The image tokenizer of LlamaGen: a convolutional encoder, the nearest of V normalised codes, a convolutional decoder.

Architecture after VQGAN (Esser et al. 2021), codes after ViT-VQGAN (Yu et al. 2022). Parameter names are the released ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .conv_blocks import EPSILON, GROUPS, Down, Res, SelfAttention, Up, group_norm

__all__ = ["EPSILON", "GROUPS", "Vq", "VqConfig"]


@dataclass(frozen=True)
class VqConfig:
    """Sizes. ``multipliers`` of ``channels`` a resolution, finest first; each step down halves the sides."""

    codes: int
    code_dim: int
    channels: int
    multipliers: tuple[int, ...]
    latent: int
    blocks: int = 2

    @property
    def downsampling(self) -> int:
        """Pixels along the side of a code."""
        return int(2 ** (len(self.multipliers) - 1))


class _Level(nn.Module):
    def __init__(self, inside: int, outside: int, blocks: int, attend: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(Res(inside if i == 0 else outside, outside) for i in range(blocks))
        self.attn = nn.ModuleList(SelfAttention(outside) for _ in range(blocks if attend else 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, res in enumerate(self.res):
            x = res(x)
            if len(self.attn):
                x = self.attn[i](x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


def _middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList([Res(channels, channels), SelfAttention(channels), Res(channels, channels)])


class _Encoder(nn.Module):
    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        inside, last = config.channels, len(widths) - 1
        for i, width in enumerate(widths):
            level = _Level(inside, width, config.blocks, attend=i == last)
            if i != last:
                level.downsample = Down(width)
            self.conv_blocks.append(level)
            inside = width
        self.mid = _middle(inside)
        self.norm_out, self.conv_out = group_norm(inside), nn.Conv2d(inside, config.latent, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for layer in (*self.conv_blocks, *self.mid):
            x = layer(x)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in reversed(config.multipliers)]  # coarsest first
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid = _middle(widths[0])
        self.conv_blocks = nn.ModuleList()
        inside, last = widths[0], len(widths) - 1
        for i, width in enumerate(widths):
            level = _Level(inside, width, config.blocks + 1, attend=i == 0)
            if i != last:
                level.upsample = Up(width)
            self.conv_blocks.append(level)
            inside = width
        self.norm_out, self.conv_out = group_norm(inside), nn.Conv2d(inside, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for layer in (*self.mid, *self.conv_blocks):
            x = layer(x)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return out


class _Quantize(nn.Module):
    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codes, config.code_dim)


class Vq(nn.Module):
    """Pixels [B,3,h,w] in [-1,1] to codes and back."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)
        self.quantize = _Quantize(config)
        self.quant_conv = nn.Conv2d(config.latent, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, 1)

    def table(self) -> torch.Tensor:
        """The codebook as it is used: rows of length 1 [V,code_dim]."""
        return functional.normalize(self.quantize.embedding.weight, dim=-1)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """int64 [B,h*w] of pixels float32 [B,3,H,W]: the nearest code of each latent, which of unit rows is the largest product."""
        latents = functional.normalize(self.quant_conv(self.encoder(pixels)), dim=1)
        return (latents.flatten(2).transpose(1, 2) @ self.table().T).argmax(-1)

    def shortfall(self, pixels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """float32 [B,h*w], 0 or more: how much less like the latents of ``pixels`` these ``codes`` are than the best ones (cosine)."""
        latents = functional.normalize(self.quant_conv(self.encoder(pixels)), dim=1)
        likeness = latents.flatten(2).transpose(1, 2) @ self.table().T
        return likeness.amax(-1) - likeness.gather(-1, codes[..., None])[..., 0]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [B,3,H,W], about -1 to 1, of codes int64 [B,g*g]."""
        grid = round(codes.shape[1] ** 0.5)
        latents = self.table()[codes].transpose(1, 2).reshape(len(codes), -1, grid, grid)
        out: torch.Tensor = self.decoder(self.post_quant_conv(latents))
        return out
