"""Importance of visual tokens without attention maps: a learned query/key scorer, and the norm as a stand-in for it."""

from __future__ import annotations

import math

import numpy as np

from ....errors import RequestError, found_wanted
from ..writer import GraphWriter
from .parts import Piece


def add_linear_scorer(
    writer: GraphWriter,
    features: str,
    output: str,
    *,
    q_weight: np.ndarray,
    q_bias: np.ndarray,
    k_weight: np.ndarray,
    k_bias: np.ndarray,
    lender: GraphWriter | None = None,
) -> None:
    """Importance [B,N] of features [B,N,D] float32 by VisionSelector's scorer (as used by IDPruner, arXiv 2602.13315).

    The mean over j of q_i . k_j / sqrt(H) is q_i . mean(k) / sqrt(H), and the mean of a linear map is that of the mean: so
    one vector Wq^T (Wk mean(x) + bk) of D numbers, and one product with each token. Weights are [H,D], biases [H], as
    checkpoints store them. Raises RequestError for shapes that do not fit.
    """
    hidden, width = q_weight.shape
    for name, array, wanted in (
        ("k_proj.weight", k_weight, (hidden, width)),
        ("q_proj.bias", q_bias, (hidden,)),
        ("k_proj.bias", k_bias, (hidden,)),
    ):
        if array.shape != wanted:
            raise RequestError(
                found_wanted(f"shape of {name}", array.shape, f"{wanted}", "check the scorer's checkpoint")
            )
    p = Piece(writer, output, lender)
    last = p.ints(-1)
    mean = p.node("ReduceMean", [features, p.ints(1)], "mean", keepdims=1)
    key = p.node("MatMul", [mean, p.weight("k_weight_t", k_weight.T)], "key_product")
    key = p.node("Add", [key, p.weight("k_bias", k_bias)], "key")
    key = p.node("Mul", [key, p.real(1.0 / math.sqrt(hidden))], "key_scaled")  # [B,1,H]
    direction = p.node("MatMul", [key, p.weight("q_weight", q_weight)], "direction")  # [B,1,D]
    column = p.node("Transpose", [direction], "column", perm=[0, 2, 1])
    products = p.node("Squeeze", [p.node("MatMul", [features, column], "products"), last], "product")
    offsets = p.node("Mul", [key, p.weight("q_bias", q_bias)], "offsets")
    writer.node("Add", [products, p.node("ReduceSum", [offsets, last], "offset", keepdims=0)], [output])


def add_norm_scores(writer: GraphWriter, embeds: str, output: str) -> None:
    """Importance [B,N] of embeddings [B,N,D]: their length. What needs neither weights nor training, and is worth as much as that."""
    p = Piece(writer, output)
    writer.node("ReduceL2", [embeds, p.ints(-1)], [output], keepdims=0)
