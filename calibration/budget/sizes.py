"""Bytes of tensors in a bundle, and the error of a rounded matrix on its inputs."""

from __future__ import annotations

import numpy as np

from ...export.graph.external_data import ALIGNMENT
from ...export.graph.writer import INLINE_LIMIT

PROTO = 128
"""Bytes of a tensor's entry in the .onnx file, its name included, and its share of a node."""


def stored(size: int) -> int:
    """What a tensor of ``size`` bytes takes: whole pages of the data file, or its bytes inside the graph."""
    return PROTO + (size if size < INLINE_LIMIT else -(-size // ALIGNMENT) * ALIGNMENT)


def stored_blocks(outputs: int, inputs: int, bits: int, block: int, *, symmetric: bool) -> int:
    """What a matrix takes as codes of ``bits``, float32 scales and, without ``symmetric``, zero points."""
    count = -(-inputs // block)
    parts = [(outputs * inputs * bits + 7) // 8, outputs * count * 4]
    if not symmetric:
        parts.append((outputs * count * bits + 7) // 8)
    return sum(stored(part) for part in parts)


def product_error(matrix: np.ndarray, rounded: np.ndarray, moments: np.ndarray) -> float:
    """tr(D H D^T) with D = matrix - rounded, both [N,K], and H = moments [K,K]: the mean squared error of products with such inputs."""
    wrong = np.asarray(matrix, np.float32) - np.asarray(rounded, np.float32)
    return float(((wrong @ moments.astype(np.float32)) * wrong).sum(dtype=np.float64))
