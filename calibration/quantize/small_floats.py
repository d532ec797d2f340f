"""Weights in 8- and 4-bit floats, for TensorRT on devices that compute with them.

FP8 is E4M3 (Micikevicius et al. 2022, arXiv 2209.05433), at most 448, here with a scale for each output. NVFP4 (NVIDIA; ONNX's FLOAT4E2M1)
knows 0, 0.5, 1, 1.5, 2, 3, 4 and 6; 16 inputs share a scale, which is itself E4M3 and a multiple of one number for the whole matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

FP8_TOP, FP4_TOP = 448.0, 6.0
FP4_BLOCK = 16
_STEPS = (1.0, 0.9, 1.1, 1.25, 1.5)
"""Candidate scales of a block of NVFP4 over the plain one, which takes the largest value to 6. At 1.5 it becomes 4, and its neighbours
move from a grid of 2 to one of 1."""

_LEAST = 1e-30
"""What is smaller counts as zero: its scale would not be a normal float32."""


@dataclass(frozen=True)
class Fp8:
    """A matrix [N,K] as ``codes`` [N,K] float8_e4m3fn times ``scales`` [N] float32."""

    codes: np.ndarray
    scales: np.ndarray

    def dense(self) -> np.ndarray:
        """The matrix it stands for, float32 [N,K]."""
        return np.asarray(self.codes.astype(np.float32) * self.scales[:, None])


@dataclass(frozen=True)
class Nvfp4:
    """A matrix [N,K] as ``codes`` [N,K] float4_e2m1fn times ``scales`` [N,K/16] float8_e4m3fn times ``whole``, a float32."""

    codes: np.ndarray
    scales: np.ndarray
    whole: np.float32

    def dense(self) -> np.ndarray:
        """The matrix it stands for, float32 [N,K]."""
        scales = np.repeat(self.scales.astype(np.float32) * self.whole, FP4_BLOCK, axis=1)
        return np.asarray(self.codes.astype(np.float32) * scales)


def round_fp8(matrix: np.ndarray) -> Fp8:
    """Round ``matrix`` [N,K] (finite), the largest value of each row to 448. Rows of zeros get the scale 1, and stay zeros."""
    wide = np.asarray(matrix, np.float32)
    peak = np.abs(wide).max(1)
    scales = np.where(peak > _LEAST, peak / np.float32(FP8_TOP), np.float32(1)).astype(np.float32)
    # Rounding of the division may lead a hair beyond the top, where E4M3 has NaN.
    ratio = np.clip(wide / scales[:, None], -FP8_TOP, FP8_TOP)
    return Fp8(ratio.astype(ml_dtypes.float8_e4m3fn), scales)


def round_nvfp4(matrix: np.ndarray) -> Nvfp4:
    """Round ``matrix`` [N,K] (finite), K a multiple of 16; of a few scales each block takes the one with the least squared error."""
    rows, columns = matrix.shape
    values = np.asarray(matrix, np.float32).reshape(rows, columns // FP4_BLOCK, FP4_BLOCK)
    peak = np.abs(values).max(-1)
    largest = float(peak.max())
    if largest <= _LEAST:
        values = np.zeros_like(values)
        largest = 0.0
    # The largest candidate of the largest block is 448 times `whole`.
    whole = np.float32(largest * max(_STEPS) / (FP4_TOP * FP8_TOP)) if largest > 0 else np.float32(1)
    best = np.full(peak.shape, np.inf, np.float32)
    scales = np.ones(peak.shape, np.float32)
    for step in _STEPS:
        scale = (peak * np.float32(step / FP4_TOP) / whole).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        error = ((_grid(values, scale * whole) - values) ** 2).sum(-1)
        better = (error < best) & (scale > 0)
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
    codes = _grid(values, scales * whole, codes=True).reshape(rows, columns)
    return Nvfp4(codes.astype(ml_dtypes.float4_e2m1fn), scales.astype(ml_dtypes.float8_e4m3fn), whole)


def _grid(values: np.ndarray, scale: np.ndarray, *, codes: bool = False) -> np.ndarray:
    """``values`` [N,b,16] on the grid of ``scale`` [N,b]; ``codes``: without the scale."""
    wide = np.where(scale > 0, scale, np.float32(1))[..., None]
    ratio = np.clip(values / wide, -FP4_TOP, FP4_TOP).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return ratio if codes else ratio * wide
