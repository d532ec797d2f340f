"""Blocks of the convolutional image tokenizers, after VQGAN (Esser et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

GROUPS, EPSILON = 32, 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups; channels are a multiple of 32."""
    return nn.GroupNorm(GROUPS, channels, eps=EPSILON)


class Res(nn.Module):
    """Two convolutions beside a skip, which is a 1x1 convolution named ``shortcut`` where the width changes."""

    def __init__(self, inside: int, outside: int, shortcut: str = "nin_shortcut") -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = shortcut if inside != outside else None
        if self.shortcut:
            self.add_module(self.shortcut, nn.Conv2d(inside, outside, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B,outside,h,w] of x [B,inside,h,w]."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return (getattr(self, self.shortcut)(x) if self.shortcut else x) + h  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """One head over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B,C,h,w] of x [B,C,h,w]."""
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # [B,C,HW]
        weights = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))  # type: ignore[no-any-return]


class Down(nn.Module):
    """Half the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B,C,h/2,w/2] of x [B,C,h,w]."""
        out: torch.Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))  # right and bottom only
        return out


class Up(nn.Module):
    """Twice the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B,C,2h,2w] of x [B,C,h,w]."""
        out: torch.Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
