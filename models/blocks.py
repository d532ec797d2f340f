"""Blocks of the reference models, made of the operators' references so that there is one definition of the maths.

Everything is float32; a matrix stored as float16 is widened by `linear`, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..plugins.add_rms_norm.operator import reference as add_rms_norm
from ..plugins.cached_attention.operator import reference as cached_attention
from ..plugins.linear.operator import reference as linear
from ..plugins.swiglu.operator import reference as swiglu
from .config import DecoderConfig

Tensors = Callable[[str], torch.Tensor | None]
"""Looks up a tensor by name; None for one the configuration does not have (an absent bias)."""

Adapt = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
"""(fused linear ``qkv``, ``o``, ``gate_up`` or ``down``; its input; its output) -> the output after an adapter."""


def unadapted(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """No adapter: ``y`` itself."""
    return y


def to_torch(array: np.ndarray, storage: str) -> torch.Tensor:
    """``array`` with matrices as ``storage`` (``float32`` or ``float16``) keeps them and vectors as float32.

    Copies only where it must: a mapped file is read-only, and torch wants memory it may write.
    """
    dtype = storage if array.ndim > 1 else "float32"
    return torch.from_numpy(np.require(array, dtype=dtype, requirements=["C", "W"]))


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""
    return add_rms_norm(x, torch.zeros_like(x), weight, epsilon=epsilon)[0]


def rotary_angles(positions: torch.Tensor, inv_freq: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [B,S,half] of positions [B,S] int64; with M-RoPE of [3,B,S], inv_freq being `DecoderConfig.mrope_freq`."""
    angles = positions[..., None].float() * inv_freq
    if inv_freq.ndim == 4:
        angles = angles.sum(0)
    return angles.cos(), angles.sin()


@dataclass
class KVCache:
    """Keys and values of all layers, each [B,Hkv,C,dh] float32, rotated. C is fixed when it is made."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    @classmethod
    def empty(cls, config: DecoderConfig, capacity: int, batch: int = 1) -> KVCache:
        """A cache of zeros with ``capacity`` slots."""
        shape = (batch, config.kv_heads, capacity, config.head_dim)
        return cls(
            [torch.zeros(shape) for _ in range(config.layers)], [torch.zeros(shape) for _ in range(config.layers)]
        )

    @property
    def capacity(self) -> int:
        """Slots."""
        return self.keys[0].shape[2]


class Attention:
    """Projections and cached attention of layer ``index``."""

    def __init__(self, config: DecoderConfig, index: int, tensors: Tensors) -> None:
        self.config = config
        self.index = index
        self.projections = [(tensors(f"{n}.weight"), tensors(f"{n}.bias")) for n in "qkv"]
        self.out = (tensors("o.weight"), tensors("o.bias"))
        self.norms = (tensors("q_norm.weight"), tensors("k_norm.weight"))

    def __call__(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: KVCache,
        past_len: torch.Tensor,
        visible: torch.Tensor | None = None,
        adapt: Adapt = unadapted,
    ) -> torch.Tensor:
        """y [B,S,D] from the normed x [B,S,D]; replaces this layer's tensors in ``cache``.

        ``visible`` int64 [B,S,W] as CachedAttention has it; None is causal.
        """
        c, i = self.config, self.index
        qkv = adapt("qkv", x, torch.cat([linear(x, weight, bias) for weight, bias in self.projections], dim=-1))
        mixed, cache.keys[i], cache.values[i] = cached_attention(
            qkv,
            cos,
            sin,
            cache.keys[i],
            cache.values[i],
            past_len,
            *self.norms,
            visible,
            num_heads=c.heads,
            kv_num_heads=c.kv_heads,
            scale=c.scale,
            window=c.sliding_window,
            epsilon=c.norm_epsilon,
        )
        return adapt("o", mixed, linear(mixed, *self.out))


class Mlp:
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, tensors: Tensors) -> None:
        self.parts = {n: (tensors(f"{n}.weight"), tensors(f"{n}.bias")) for n in ("gate", "up", "down")}

    def __call__(self, x: torch.Tensor, adapt: Adapt = unadapted) -> torch.Tensor:
        """y [...,D] from x [...,D]."""
        gate_up = torch.cat([linear(x, *self.parts["gate"]), linear(x, *self.parts["up"])], dim=-1)
        active = swiglu(adapt("gate_up", x, gate_up))
        return adapt("down", active, linear(active, *self.parts["down"]))


class DecoderLayer:
    """A pre-norm layer: stream + attention(norm(stream)), then stream + mlp(norm(stream))."""

    def __init__(self, config: DecoderConfig, index: int, tensors: Tensors) -> None:
        self.epsilon = config.norm_epsilon
        self.attention = Attention(config, index, tensors)
        self.mlp = Mlp(tensors)
        self.attn_norm, self.mlp_norm = tensors("attn_norm.weight"), tensors("mlp_norm.weight")

    def __call__(
        self,
        stream: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: KVCache,
        past_len: torch.Tensor,
        visible: torch.Tensor | None = None,
        adapt: Adapt = unadapted,
    ) -> torch.Tensor:
        """The stream [B,S,D] after this layer."""
        normed = rms_norm(stream, self.attn_norm, self.epsilon)
        attended = self.attention(normed, cos, sin, cache, past_len, visible, adapt)
        normed, stream = add_rms_norm(stream, attended, self.mlp_norm, epsilon=self.epsilon)
        return stream + self.mlp(normed, adapt)
