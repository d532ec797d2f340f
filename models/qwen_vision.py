"""Qwen2.5-VL's vision tower (Bai et al. 2025, arXiv 2502.13923, section 2.1): its shape, its tensors, and the PyTorch reference.

A vision transformer over images of any size: patches of 14 x 14 pixels, RMSNorm, a gated feed-forward network, rotary positions by row and
column, and attention within windows of 8 x 8 patches except in a few layers. Four neighbours are merged into one token of the decoder: the
last norm and the grouping belong to the tower here, so that a feature is what the two linears behind it read.

Tensors are named as in the checkpoints, without ``visual.``. Compared with transformers in tests/test_qwen_vl.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

EPSILON = 1e-6
"""Of every RMSNorm; no field of the configuration."""


@dataclass(frozen=True)
class QwenVisionConfig:
    """A pre-norm vision transformer without a class token. ``window`` is a side in pixels; ``full_layers`` see the whole image."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    patch_size: int = 14
    merge: int = 2
    frames: int = 2
    """Frames that a patch spans; an image is repeated."""
    window: int = 112
    full_layers: tuple[int, ...] = (7, 15, 23, 31)
    theta: float = 10000.0

    tokens = "L"
    """Features of a view: as many as the image has."""

    @property
    def unit(self) -> int:
        """Pixels along a side of a token; sides of images are multiples of it."""
        return self.patch_size * self.merge

    @property
    def window_tokens(self) -> int:
        """Tokens along a side of a window."""
        return self.window // self.unit

    @property
    def patches_in_token(self) -> int:
        """Patches that are merged."""
        return self.merge**2

    @property
    def feature_size(self) -> int:
        """Width of a feature."""
        return self.hidden_size * self.patches_in_token

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.heads

    def inv_freq(self) -> np.ndarray:
        """float32 [head_dim/4]: radians per row, and per column, of each rotated pair."""
        half = self.head_dim // 2
        exponent = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
        return np.float32(1) / np.power(self.theta, exponent.astype(np.float64)).astype(np.float32)

    def expected_tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the tower with its shape."""
        return expected_tensors(self)

    def features(self, read: Callable[[str], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """See `features`."""
        return features(self, read, images)


def expected_tensors(c: QwenVisionConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the tower with its shape."""
    d, f, p = c.hidden_size, c.intermediate_size, c.patch_size
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (d, 3, c.frames, p, p)}
    for i in range(c.layers):
        name = f"blocks.{i}."
        for part, rows, columns in (
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.gate_proj", f, d),
            ("mlp.up_proj", f, d),
            ("mlp.down_proj", d, f),
        ):
            shapes |= {f"{name}{part}.weight": (rows, columns), f"{name}{part}.bias": (rows,)}
        shapes |= {f"{name}norm1.weight": (d,), f"{name}norm2.weight": (d,)}
    shapes["merger.ln_q.weight"] = (d,)
    return shapes


def windows(c: QwenVisionConfig, rows: int, columns: int) -> np.ndarray:
    """int64 [rows*columns]: the window of each token of a grid, row by row. Windows at the right and lower edge may be smaller."""
    y, x = np.arange(rows)[:, None] // c.window_tokens, np.arange(columns)[None] // c.window_tokens
    return np.asarray(y * (columns // c.window_tokens + 1) + x, np.int64).reshape(-1)


def features(c: QwenVisionConfig, read: Callable[[str], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """What the merger's linears read of ``images`` [1,3,H,W]: [1,N,feature_size], tokens row by row, patches of a token row by row in it."""
    import torch
    from torch.nn import functional as f

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.linear(x, read(f"{name}.weight"), read(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.rms_norm(x, (c.hidden_size,), read(f"{name}.weight"), EPSILON)

    high, wide = images.shape[2] // c.unit, images.shape[3] // c.unit

    def by_token(grid: torch.Tensor) -> torch.Tensor:
        """[rows of patches, columns of patches, ...] -> [patches, ...], those of a token side by side."""
        return grid.unflatten(1, (wide, c.merge)).unflatten(0, (high, c.merge)).transpose(1, 2).flatten(0, 3)

    frames = images[:, :, None].expand(-1, -1, c.frames, -1, -1)
    kernel = read("patch_embed.proj.weight")
    patches = f.conv3d(frames, kernel, stride=kernel.shape[2:])[0, :, 0]
    x = by_token(patches.permute(1, 2, 0))
    freq = torch.from_numpy(c.inv_freq())
    row, column = torch.arange(high * c.merge), torch.arange(wide * c.merge)
    angles = torch.cat(
        [
            (row[:, None] * freq)[:, None].expand(-1, len(column), -1),
            (column[:, None] * freq)[None].expand(len(row), -1, -1),
        ],
        -1,
    )
    angles = by_token(angles)[:, None]
    cos, sin = angles.cos(), angles.sin()

    def turned(heads: torch.Tensor) -> torch.Tensor:
        first, second = heads.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).transpose(0, 1)

    window = torch.from_numpy(windows(c, high, wide)).repeat_interleave(c.patches_in_token)
    within = window[:, None] == window
    for i in range(c.layers):
        p = f"blocks.{i}."
        q, k, v = dense(norm(x, p + "norm1"), p + "attn.qkv").unflatten(-1, (3, c.heads, c.head_dim)).unbind(1)
        mask = None if i in c.full_layers else within
        mixed = f.scaled_dot_product_attention(turned(q), turned(k), v.transpose(0, 1), mask)
        x = x + dense(mixed.transpose(0, 1).flatten(1), p + "attn.proj")
        normed = norm(x, p + "norm2")
        active = f.silu(dense(normed, p + "mlp.gate_proj")) * dense(normed, p + "mlp.up_proj")
        x = x + dense(active, p + "mlp.down_proj")
    return norm(x, "merger.ln_q").view(1, -1, c.feature_size)
