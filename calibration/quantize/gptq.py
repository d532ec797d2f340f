"""Rounding that knows the inputs: GPTQ (Frantar et al. 2022, arXiv 2210.17323), on block-wise scales.

A matrix's outputs err by (W - Q) x. With H the mean of x x^T the expected square of that is the trace of (W - Q) H (W - Q)^T, and what rounding one
input's weights does wrong can be made up by the inputs not rounded yet: the best change of those is the error times a row of the inverse of H,
divided by its diagonal. Inputs are rounded in their order, a block at a time; a block's scale (and zero point) is chosen when its turn comes,
from the weights as they then are.
"""

from __future__ import annotations

import numpy as np

from .blocks import Blocks, round_blocks

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it: inputs seen seldom are not trusted to make up for others."""


def round_gptq(matrix: np.ndarray, moments: np.ndarray, bits: int, block: int, *, symmetric: bool = True) -> Blocks:
    """Round ``matrix`` [N,K] (finite) so that its product with inputs of second moments ``moments`` [K,K] changes little.

    The result has the form of `round_blocks`, and the same range of codes. Moments that are all zero, as of a layer that never fires, leave what
    `round_blocks` gives. Raises ValueError for moments that do not fit or are not finite.
    """
    rows, columns = matrix.shape
    if moments.shape != (columns, columns) or not np.isfinite(moments).all():
        raise ValueError(
            f"moments are {list(moments.shape)}, expected finite [{columns},{columns}]; collect them again"
        )
    if not moments.any():
        return round_blocks(matrix, bits, block, symmetric=symmetric)
    factor = _inverse_factor(moments)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    work = matrix.astype(np.float32)
    count = -(-columns // block)
    codes = np.empty((rows, columns), np.int8 if symmetric else np.uint8)
    scales = np.empty((rows, count), np.float32)
    zeros = None if symmetric else np.empty((rows, count), np.uint8)
    for b in range(count):
        part = slice(b * block, min((b + 1) * block, columns))
        grid = round_blocks(work[:, part], bits, block, symmetric=symmetric)
        scale = scales[:, b] = grid.scales[:, 0]
        zero = np.zeros(rows, np.float32)
        if zeros is not None and grid.zeros is not None:
            zeros[:, b] = grid.zeros[:, 0]
            zero = grid.zeros[:, 0].astype(np.float32)
        wrong = np.empty((rows, part.stop - part.start), np.float32)
        for i in range(part.start, part.stop):
            code = np.clip(np.rint(work[:, i] / scale + zero), low, high)
            codes[:, i] = code
            wrong[:, i - part.start] = (work[:, i] - (code - zero) * scale) / factor[i, i]
            work[:, i + 1 : part.stop] -= np.outer(wrong[:, i - part.start], factor[i, i + 1 : part.stop])
        work[:, part.stop :] -= wrong @ factor[part, part.stop :]
    return Blocks(codes, scales, zeros, block)


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """The upper triangular U, float32, with U^T U the inverse of the damped moments."""
    wide = moments.astype(np.float64)
    damping = DAMPING * max(float(np.mean(np.diag(wide))), float(np.finfo(np.float32).tiny))
    while True:
        damped = wide.copy()
        damped[np.diag_indices_from(damped)] += damping
        try:
            return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
        except np.linalg.LinAlgError:  # sums rounded so that they are no moments any more
            damping *= 10
