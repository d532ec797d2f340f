"""Scaling before rounding: AWQ (Lin et al. 2023, arXiv 2306.00978), on block-wise scales.

Weights of an input that is large on the data count for more in the products. Multiplied by s before rounding and divided by it after, they
are rounded s times as finely, at the expense of the others in their block. AWQ takes s = (size of the input)^alpha, and the alpha
in 0 .. 1 with the least error of the outputs (eq. 5). Here the error is exact for the text read: with W' = W diag(s), rounded to Q, and H the
second moments of the inputs, it is the trace of (Q - W') H' (Q - W')^T, where H' = diag(1/s) H diag(1/s) are the moments of inputs divided by s. The size of
an input is the root of its mean square, where the paper has the mean magnitude: the moments hold it.

The division costs nothing where it can be folded into what makes the input (`farthing.calibration.quantize.folding`); elsewhere it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..budget.sizes import product_error

ALPHAS = tuple(i / 10 for i in range(11))
"""Candidate exponents; 0 is no scaling."""

_FLOOR = 1e-4
"""Least size of an input over the largest one: an input that is nearly always 0 must not get a factor near 0."""

Rounding = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(matrix [N,K], moments [K,K]) -> the matrix that its codes stand for."""


def awq_factors(
    matrices: Sequence[np.ndarray], moments: np.ndarray, rounding: Rounding, groups: np.ndarray | None = None
) -> np.ndarray | None:
    """Factors s, float32 [K] > 0 with a geometric mean of 1, for the columns of ``matrices`` [N,K] that share their inputs; None where no
    scaling is best.

    ``groups`` int [K]: inputs of one number get one factor. Factors are powers of 2^(1/8), so that scaling by them and back is repeatable.
    """
    power = np.diag(moments).astype(np.float64)
    if groups is not None:
        power = (np.bincount(groups, power) / np.bincount(groups))[groups]
    size = np.sqrt(np.maximum(power, power.max() * _FLOOR**2))
    if not power.max() > 0:
        return None
    best, least = None, np.inf
    for alpha in ALPHAS:
        factors = np.ones(len(size), np.float32) if alpha == 0 else _snapped(size**alpha)
        turned = scaled_moments(moments, factors)
        error = 0.0
        for matrix in matrices:
            wide = np.asarray(matrix, np.float32) * factors
            error += product_error(wide, rounding(wide, turned), turned)
        if error < least:
            best, least = (factors if alpha else None), error
    return best


def scaled_moments(moments: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Second moments of inputs divided by ``factors``."""
    wide = factors.astype(np.float64)
    return np.asarray(moments / wide[:, None] / wide)


def _snapped(factors: np.ndarray) -> np.ndarray:
    logs = np.log2(factors)
    return np.exp2(np.rint((logs - logs.mean()) * 8) / 8).astype(np.float32)
