"""Weights in int8 by what the outputs become, and biases that make up for what remains on average.

Rounding goes through the inputs of a layer one after the other and lets those that are still to come make up for the error so far, as
GPTQ does (Frantar et al., arXiv 2210.17323, algorithm 1), with one scale per output. The mean of the error is then moved into the bias
(bias correction: Nagel et al., arXiv 1906.04721, section 4.2, here from data). Since that makes the mean exact for nothing, rounding
minimises the error's variance: its matrix is the covariance of the inputs instead of their second moments.
"""

from __future__ import annotations

import numpy as np

DAMPING = 0.01
"""Of the mean of the diagonal, added to it, at least: inputs that hardly vary on the data may vary on others."""

BLOCK = 64
"""Inputs after which the rest of the matrix hears of the errors."""


def round_by_error(matrix: np.ndarray, moments: np.ndarray, scale: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Codes int8 [G,O,K] of the float32 ``matrix`` [G,O,K] with steps ``scale`` [G,O], for inputs with ``moments`` [G,K,K] (mean products).

    No output's error on the moments, d^T M d, is larger than that of the nearest codes: where it would be, these stay.
    """
    steps = scale[:, :, None].astype(np.float64)
    nearest = np.clip(np.rint(matrix / steps), -127, 127)
    damped = moments.astype(np.float64)
    k = matrix.shape[2]
    diagonal = np.einsum("gkk->gk", damped)
    diagonal += damping * diagonal.mean(1, keepdims=True) + 1e-12
    # The inputs that vary most first: what comes last is made up for by nobody.
    order = np.argsort(-diagonal, axis=1, kind="stable")
    rows = np.take_along_axis(damped, order[:, :, None], 1)
    damped = np.take_along_axis(rows, order[:, None, :], 2)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    left = np.take_along_axis(matrix.astype(np.float64), order[:, None, :], 2)
    codes = np.zeros(left.shape)
    for start in range(0, k, BLOCK):
        end = min(start + BLOCK, k)
        errors = np.zeros((*left.shape[:2], end - start))
        for j in range(start, end):
            column = left[:, :, j]
            codes[:, :, j] = np.clip(np.rint(column / steps[:, :, 0]), -127, 127)
            error = (column - codes[:, :, j] * steps[:, :, 0]) / factor[:, j, j, None]
            left[:, :, j + 1 : end] -= error[:, :, None] * factor[:, None, j, j + 1 : end]
            errors[:, :, j - start] = error
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    found = np.zeros_like(codes)
    np.put_along_axis(found, np.broadcast_to(order[:, None, :], codes.shape), codes, 2)
    better = _error(found * steps - matrix, moments) < _error(nearest * steps - matrix, moments)
    return np.asarray(np.where(better[:, :, None], found, nearest).astype(np.int8))


def _error(difference: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """[G,O]: mean squared error of each output."""
    return np.asarray(((difference @ moments) * difference).sum(2))


def bias_shift(exact: np.ndarray, rounded: np.ndarray, mean: np.ndarray, said: np.ndarray) -> np.ndarray:
    """[G*O] float32: what a bias gains so that outputs are right on average. ``exact``, ``rounded`` [G,O,K]; ``mean`` [G,K] of the inputs,
    ``said`` [G,K] of what their codes say."""
    shift = np.einsum("gok,gk->go", exact, mean) - np.einsum("gok,gk->go", rounded, said)
    return np.asarray(shift.reshape(-1).astype(np.float32))
