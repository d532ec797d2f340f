"""What a decoder is: its shape as data, the names of its tensors, and its rotary frequencies.

One naming for every source format. Layer i has ``layers.i.`` + ``attn_norm.weight``, ``q/k/v/o.weight`` (and ``.bias``),
``q_norm.weight``, ``k_norm.weight``, ``mlp_norm.weight``, ``gate/up/down.weight`` (and ``.bias``); the model has
``embed.weight``, ``norm.weight`` and, unless the head is tied, ``head.weight``. Matrices are [outputs, inputs].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rope:
    """Rotary embedding (Su et al. 2021), half-split layout over the whole head.

    ``kind`` is ``default``, ``linear`` (every frequency divided by ``factor``; Chen et al. 2023), ``llama3`` (long wavelengths
    divided, short ones kept, a ramp between; Llama 3.1) or ``factors`` (one divisor per frequency, as GGUF stores llama3).
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192
    divisors: tuple[float, ...] = ()

    def inv_freq(self, head_dim: int) -> np.ndarray:
        """float32 [head_dim / 2]: radians per position of each rotated pair, scaling included.

        The power is taken in double and rounded once: that agrees bit for bit with torch's float32 `pow` (1 ulp apart in about
        1 entry of 200), where numpy's own float32 power is off in one entry of six. At position 2000 one ulp of a frequency
        near 1 is already 1e-4 rad, so this matters for equality with other implementations.
        """
        exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        power = np.power(float(self.theta), exponent.astype(np.float64)).astype(np.float32)
        plain = np.float32(1.0) / power
        if self.kind == "linear":
            return plain / np.float32(self.factor)
        if self.kind == "llama3":
            return self._llama3(plain)
        if self.kind == "factors":
            return plain / np.asarray(self.divisors, dtype=np.float32)
        return plain

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        factor, low, high = np.float32(self.factor), np.float32(self.low_freq_factor), np.float32(self.high_freq_factor)
        length = np.float32(self.original_positions)
        wavelength = np.float32(2 * math.pi) / plain
        long_wave, short_wave = wavelength > length / low, wavelength < length / high
        divided = np.where(long_wave, plain / factor, plain)
        ramp = (length / wavelength - low) / (high - low)
        between = (np.float32(1) - ramp) * divided / factor + ramp * divided
        return np.where(~short_wave & ~long_wave, between, divided).astype(np.float32)


@dataclass(frozen=True)
class DecoderConfig:
    """A pre-norm decoder with RMSNorm, rotary grouped-query attention and SwiGLU: what our families have in common."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    norm_epsilon: float
    rope: Rope
    tied_head: bool
    sliding_window: int = 0
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    mrope_section: tuple[int, ...] = ()
    """Rotated pairs that turn by time, row and column (M-RoPE, Qwen2-VL); empty = one position a row."""

    @property
    def q_width(self) -> int:
        """Outputs of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Outputs of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim

    @property
    def scale(self) -> float:
        """What multiplies the attention scores."""
        return self.head_dim**-0.5

    def mrope_freq(self) -> np.ndarray:
        """float32 [3,1,1,head_dim/2]: frequency of each pair in the row of the position it turns by, 0 in the others.

        A sum over the three rows of position x frequency is then exact: two of the terms are 0.
        """
        which = np.repeat(np.arange(3), self.mrope_section)
        return (self.rope.inv_freq(self.head_dim) * (which == np.arange(3)[:, None])).astype(np.float32)[:, None, None]

    @property
    def parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(math.prod(shape) for shape in expected_tensors(self).values())


def layer_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Names (without ``layers.i.``) and shapes of the tensors of one layer."""
    d, f, q, kv = config.hidden_size, config.intermediate_size, config.q_width, config.kv_width
    shapes: dict[str, tuple[int, ...]] = {"attn_norm.weight": (d,)}
    for name, rows in (("q", q), ("k", kv), ("v", kv)):
        shapes[f"{name}.weight"] = (rows, d)
        if config.qkv_bias:
            shapes[f"{name}.bias"] = (rows,)
    if config.qk_norm:
        shapes["q_norm.weight"] = shapes["k_norm.weight"] = (config.head_dim,)
    shapes["o.weight"] = (d, q)
    if config.o_bias:
        shapes["o.bias"] = (d,)
    shapes["mlp_norm.weight"] = (d,)
    for name, rows, columns in (("gate", f, d), ("up", f, d), ("down", d, f)):
        shapes[f"{name}.weight"] = (rows, columns)
        if config.mlp_bias:
            shapes[f"{name}.bias"] = (rows,)
    return shapes


def expected_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model with its shape, in the order in which a graph writes them."""
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab_size, config.hidden_size)}
    layer = layer_tensors(config)
    for i in range(config.layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (config.hidden_size,)
    if not config.tied_head:
        shapes["head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes
