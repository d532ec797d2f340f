"""Block-wise rounding: a matrix becomes small integers with one scale (and one zero point) per block of inputs.

The scale is searched: the largest value of a block rarely deserves the largest code, since clipping one outlier a little can
buy all others a finer step. For every candidate the best scale given its codes has a closed form (least squares), so the
search compares squared errors without ever computing them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 18
"""Values rounded at a time: 1 MB of float32 and its temporaries stay in the second-level cache."""

_STEPS = {4: (1.0, 1.04, 1.08, 1.12, 1.16, 1.2, 1.25, 1.3), 8: (1.0, 1.01)}
"""Candidate step widths by bits: the plain step (largest value to largest code) divided by these. With 8 bits there is hardly
anything to gain by clipping."""


@dataclass(frozen=True)
class Blocks:
    """A rounded matrix [N,K] in blocks of ``block`` along K; the last block of a row may be short.

    ``codes`` [N,K] int8 (symmetric) or uint8, ``scales`` [N,ceil(K/block)] float32 > 0, ``zeros`` uint8 like scales or None:
    the matrix is about (codes - zeros) * scales.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    block: int

    def dense(self) -> np.ndarray:
        """The matrix these codes stand for, float32 [N,K]."""
        columns = self.codes.shape[1]
        codes = self.codes.astype(np.float32)
        if self.zeros is not None:
            codes -= np.repeat(self.zeros.astype(np.float32), self.block, axis=1)[:, :columns]
        return codes * np.repeat(self.scales, self.block, axis=1)[:, :columns]


def round_blocks(matrix: np.ndarray, bits: int, block: int, *, symmetric: bool = True) -> Blocks:
    """Round ``matrix`` [N,K] (any float dtype, finite) to ``bits`` 4 or 8 with one scale per ``block`` values of a row.

    Symmetric codes are -2^(bits-1) .. 2^(bits-1)-1 with zero at 0; asymmetric ones are 0 .. 2^bits-1 with a zero point
    per block. Scales are positive, as TensorRT demands. The result depends on the values only.
    """
    rows, columns = matrix.shape
    count = -(-columns // block)
    codes = np.empty((rows, columns), np.int8 if symmetric else np.uint8)
    scales = np.empty((rows, count), np.float32)
    zeros = None if symmetric else np.empty((rows, count), np.uint8)
    step = max(1, _CHUNK // (count * block))
    for first in range(0, rows, step):
        part = slice(first, min(first + step, rows))
        # Zero is on every grid, so zeros that fill up a short block change neither its range nor its fit.
        padded = np.zeros((part.stop - first, count * block), np.float32)
        padded[:, :columns] = matrix[part]
        values = padded.reshape(-1, count, block)
        # To -1 .. 1, so that no square in the search leaves the range of float32.
        peak = _nonzero(np.maximum(values.max(-1), -values.min(-1)))
        values /= peak[..., None]
        if symmetric:
            code, scale = _symmetric(values, bits)
        else:
            assert zeros is not None
            code, scale, zeros[part] = _asymmetric(values, bits)
        scales[part] = scale * peak
        codes[part] = code.reshape(part.stop - first, -1)[:, :columns]
    return Blocks(codes, scales, zeros, block)


def _symmetric(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    top = float(2 ** (bits - 1))
    low, high = values.min(-1), values.max(-1)
    search = _Search(values, -top, top - 1)
    search.offer(np.maximum(-low, high) / np.float32(top - 1))
    # There is one more code below zero than above.
    plain = np.maximum(-low / np.float32(top), high / np.float32(top - 1))
    for divisor in _STEPS[bits]:
        search.offer(plain / np.float32(divisor))
    return search.finish(None)


def _asymmetric(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    top = float(2**bits - 1)
    low, high = np.minimum(values.min(-1), 0), np.maximum(values.max(-1), 0)
    plain = (high - low) / np.float32(top)
    middle = np.rint(-low / _nonzero(plain))
    search = _Search(values, 0.0, top)
    for divisor in _STEPS[bits]:
        for shift in (0, -1, 1) if bits == 4 else (0,):
            search.offer(plain / np.float32(divisor), np.clip(middle + shift, 0, top))
    codes, scales = search.finish(search.zero)
    return codes, scales, search.zero.astype(np.uint8)


def _nonzero(scales: np.ndarray) -> np.ndarray:
    """Scales with 1 for those of all-zero blocks: their codes are zero whatever the scale."""
    return np.where(scales > np.finfo(np.float32).tiny, scales, np.float32(1))


class _Search:
    """Keeps, per block, the best candidate so far.

    For codes u the best scale is <w,u>/<u,u>, and the squared error is then <w,w> - <w,u>^2/<u,u>: so the largest
    <w,u>^2/<u,u> wins.
    """

    def __init__(self, values: np.ndarray, low: float, high: float) -> None:
        self.values, self.low, self.high = values, low, high
        shape = values.shape[:-1]
        self.gain = np.full(shape, -1, np.float32)
        self.scale = np.ones(shape, np.float32)
        self.zero = np.zeros(shape, np.float32)
        self._codes = np.empty_like(values)

    def offer(self, scale: np.ndarray, zero: np.ndarray | None = None) -> None:
        """Consider ``scale`` and ``zero`` (both per block)."""
        codes = self._round(_nonzero(scale), zero)
        product = np.einsum("nbk,nbk->nb", self.values, codes)
        norm = np.einsum("nbk,nbk->nb", codes, codes)
        gain = product * product / np.maximum(norm, np.float32(1))
        # A fit of the wrong sign would mean negative scales.
        better = (gain > self.gain) & ((product > 0) | (norm == 0))
        self.gain = np.where(better, gain, self.gain)
        self.scale = np.where(better & (norm > 0), product / np.maximum(norm, np.float32(1)), self.scale)
        if zero is not None:
            self.zero = np.where(better, zero, self.zero)

    def finish(self, zero: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(codes as float, scales) of the best. Rounding again with the fitted scale can only bring values nearer."""
        scale = _nonzero(self.scale)
        codes = self._round(scale, zero)
        return (codes if zero is None else codes + zero[..., None]), scale

    def _round(self, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
        """Codes relative to the zero point, in a buffer that the next call reuses."""
        codes = np.multiply(self.values, (np.float32(1) / scale)[..., None], out=self._codes)
        np.rint(codes, out=codes)
        if zero is None:
            return np.clip(codes, self.low, self.high, out=codes)
        return np.clip(codes, (self.low - zero)[..., None], (self.high - zero)[..., None], out=codes)


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """4-bit codes (int8 -8..7 or uint8 0..15) as ONNX stores INT4 and UINT4: flat, two per byte, the first in the low half."""
    flat = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] & np.uint8(15)) | (flat[1::2] << np.uint8(4))


def unpack_nibbles(packed: np.ndarray, shape: tuple[int, ...], *, signed: bool) -> np.ndarray:
    """The inverse of `pack_nibbles`: int8 or uint8 of ``shape``."""
    flat = np.empty(packed.size * 2, np.uint8)
    flat[0::2], flat[1::2] = packed & np.uint8(15), packed >> np.uint8(4)
    flat = flat[: int(np.prod(shape))].reshape(shape)
    return ((flat ^ np.uint8(8)).astype(np.int8) - np.int8(8)) if signed else flat
