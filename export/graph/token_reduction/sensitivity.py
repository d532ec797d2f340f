"""How strongly a projector reacts when a token is nudged: the importance of ZOO-Prune (Kim, Zhang et al. 2025, arXiv 2509.24837).

``zo``, the paper's: the mean over m directions u of |f(v + h u) - f(v - h u)| / 2h. For f(v) = W2 gelu(W1 v + b1) + b2 the perturbed first layer
is W1 v + b1 +- h W1 u, so W1 u is computed once and for all, and the difference of two projections is the projection of the
difference: one product per direction, no bias, and no cancellation behind it. One direction after the other in a Loop: four at once or all
unrolled take the same time (0.27 CPU seconds for 16 directions, 576 x 4096, rank 128) and 3 to 17 times the memory.

``exact``: E |J u|^2 over unit directions is |J|_F^2 / dv, and with J = W2 diag(g) W1, g = gelu'(W1 v + b1), the norm is
g^T (W1 W1^T * W2^T W2) g, the product in the middle element by element. That matrix is positive semidefinite (Schur), so with a factor
F F^T of it the sensitivity is the length |F^T g|. One constant matrix, no random numbers, at the cost of one more second layer instead of m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from ....errors import RequestError, found_wanted
from ..writer import GraphWriter
from .parts import Piece

ESTIMATORS = ("exact", "zo")
DIRECTIONS, STEP = 64, 0.01
"""m and h of the authors' runs."""


@dataclass(frozen=True)
class Projector:
    """f(v) = W2 act(W1 v + b1) + b2. Weights as checkpoints store them: w1 [H,dv], b1 [H], w2 [D,H]; b2 changes no difference."""

    w1: np.ndarray
    b1: np.ndarray | None
    w2: np.ndarray
    activation: str = "gelu"
    """``gelu`` is the exact one, by erf."""

    def check(self) -> None:
        """Raises RequestError for another kind of projector, and for shapes that do not fit."""
        if self.activation != "gelu":
            raise RequestError(
                found_wanted(
                    "activation of the projector",
                    repr(self.activation),
                    "'gelu' (exact) between two linear layers",
                    "choose another importance: a selector, or the norm",
                )
            )
        if self.w1.ndim != 2 or self.w2.ndim != 2 or self.w2.shape[1] != self.w1.shape[0]:
            raise RequestError(
                found_wanted(
                    "projector",
                    f"w1 {self.w1.shape}, w2 {self.w2.shape}",
                    "two linear layers, [H,dv] and [D,H]",
                    "projectors of other shapes (resamplers, convolutions) need another importance",
                )
            )
        if self.b1 is not None and self.b1.shape != self.w1.shape[:1]:
            raise RequestError(
                found_wanted("shape of b1", self.b1.shape, self.w1.shape[:1], "take one projector's tensors")
            )


def directions(count: int, width: int, seed: int) -> np.ndarray:
    """float64 [count,width]: unit vectors, frozen by ``seed``, so that a graph gives the same answer every time."""
    u = np.random.default_rng(seed).standard_normal((count, width))
    return np.asarray(u / (np.linalg.norm(u, axis=1, keepdims=True) + 1e-12))


def add_sensitivity(
    writer: GraphWriter,
    features: str,
    output: str,
    *,
    projector: Projector,
    estimator: str = "exact",
    count: int = DIRECTIONS,
    step: float = STEP,
    seed: int = 0,
    rank: int = 0,
    hidden: str = "",
    lender: GraphWriter | None = None,
) -> None:
    """``output`` float32 [T,N]: sensitivity of each token of ``features`` [T,N,dv].

    Args:
        writer: the graph.
        features: what the projector reads.
        output: name of the result, and prefix of what it takes.
        projector: its weights.
        estimator: ``exact`` or ``zo``.
        count, step, seed: m, h and the directions of ``zo``.
        rank: of ``zo``: the second layer's largest singular values to keep; 0 keeps all. The authors use 128 for LLaVA-NeXT.
        hidden: name of W1 v + b1 [T,N,H], where the graph has it already; computed again otherwise.
        lender: a graph of the same folder that may hold the same constants.

    Raises RequestError.
    """
    projector.check()
    if estimator not in ESTIMATORS:
        raise RequestError(
            found_wanted(
                "estimator", repr(estimator), " or ".join(ESTIMATORS), "zo is the paper's, exact its expectation"
            )
        )
    p = Piece(writer, output, lender)
    if not hidden:
        hidden = p.node("MatMul", [features, p.weight("w1", projector.w1.T)], "product")
        if projector.b1 is not None:
            hidden = p.node("Add", [hidden, p.weight("b1", projector.b1)], "hidden")
    if estimator == "exact":
        _exact(p, hidden, projector)
    else:
        _zeroth_order(p, hidden, projector, count, step, seed, rank)


def _exact(p: Piece, hidden: str, projector: Projector) -> None:
    """|F^T 2g| with 2g = 1 + erf(s) + 2 s exp(-s^2) / sqrt(pi), s = a / sqrt(2): as few nodes as do, since each is a pass over [T,N,H]."""
    s = p.node("Mul", [hidden, p.real(math.sqrt(0.5))], "s")
    # The factor 2 / sqrt(pi) goes into the exponent.
    exponent = p.node("Sub", [p.real(math.log(2 / math.sqrt(math.pi))), p.node("Mul", [s, s], "square")], "exponent")
    density = p.node("Mul", [s, p.node("Exp", [exponent], "bell")], "density")
    above = p.node("Add", [p.node("Erf", [s], "erf"), p.real(1)], "erf_1")
    slope = p.node("Add", [above, density], "slope")  # [T,N,H], twice the slope of gelu
    mixed = p.node("MatMul", [slope, p.weight("factor", lambda: _root(projector))], "mixed")
    # Three nodes are faster than ReduceL2.
    square = p.node("ReduceSum", [p.node("Mul", [mixed, mixed], "terms"), p.ints(2)], "length_square", keepdims=0)
    p.w.node("Sqrt", [square], [p.prefix])


def _root(projector: Projector) -> np.ndarray:
    """F [H,H] with F F^T = (W1 W1^T * W2^T W2) / 4dv, computed in double: some seconds at H = 4096."""
    w1, w2 = projector.w1.astype(np.float64), projector.w2.astype(np.float64)
    gram = w1 @ w1.T
    gram *= w2.T @ w2
    gram /= 4 * projector.w1.shape[1]
    try:
        factor = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:  # units without weights, or more of them than dv * D
        values, vectors = np.linalg.eigh(gram)
        factor = vectors * np.sqrt(values.clip(min=0))
    return np.asarray(factor, np.float32)


def _zeroth_order(p: Piece, hidden: str, projector: Projector, count: int, step: float, seed: int, rank: int) -> None:
    """A Loop over directions that adds up |W2 (gelu(a + e) - gelu(a - e))|, e = h W1 u."""
    most = min(projector.w2.shape)
    if count < 1 or not (step > 0 and math.isfinite(step)):
        raise RequestError(
            found_wanted("directions and step", f"{count} and {step}", "1 or more, above 0", "64 and 0.01")
        )
    if not 0 <= rank <= most:
        raise RequestError(found_wanted("rank", rank, f"0 (all) to {most}", "the authors use 128"))
    moves = step * directions(count, projector.w1.shape[1], seed) @ projector.w1.T.astype(np.float64)
    moves_name = p.weight("moves", moves.astype(np.float32))
    second = p.weight("second", lambda: _factor(projector.w2, rank))
    start = p.node("Mul", [p.node("ReduceMax", [hidden, p.ints(2)], "any", keepdims=0), p.real(0)], "zeros")
    last = p.ints(-1)
    inner = [
        helper.make_node("Gather", [moves_name, p.name("i")], [p.name("move")], axis=0),
        helper.make_node("Add", [hidden, p.name("move")], [p.name("ahead")]),
        helper.make_node("Sub", [hidden, p.name("move")], [p.name("behind")]),
        helper.make_node("Gelu", [p.name("ahead")], [p.name("gelu_ahead")]),
        helper.make_node("Gelu", [p.name("behind")], [p.name("gelu_behind")]),
        helper.make_node("Sub", [p.name("gelu_ahead"), p.name("gelu_behind")], [p.name("change")]),
        helper.make_node("MatMul", [p.name("change"), second], [p.name("projected")]),
        helper.make_node("ReduceL2", [p.name("projected"), last], [p.name("length")], keepdims=0),
        helper.make_node("Add", [p.name("sum"), p.name("length")], [p.name("sum_out")]),
        helper.make_node("Identity", [p.name("go")], [p.name("go_out")]),
    ]
    for node in inner:
        node.name = f"{node.output[0]}/{node.op_type}"
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        inner,
        f"{p.prefix}.direction",
        [
            info(p.name("i"), TensorProto.INT64, []),
            info(p.name("go"), TensorProto.BOOL, []),
            info(p.name("sum"), TensorProto.FLOAT, ["T", "N"]),
        ],
        [info(p.name("go_out"), TensorProto.BOOL, []), info(p.name("sum_out"), TensorProto.FLOAT, ["T", "N"])],
    )
    # A condition that never changes, because TensorRT's parser does not accept an absent one.
    yes = p.node("Constant", [], "yes", value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    total = p.node("Loop", [p.scalar(count), yes, start], "total", body=body)
    p.w.node("Mul", [total, p.real(1 / (2 * step * count))], [p.prefix])


def _factor(w2: np.ndarray, rank: int) -> np.ndarray:
    """F [H,r] with |z F| = |W2 z|, or the best of that rank: |W2 z| = |S V^T z|, since U turns and does not stretch."""
    if not rank:
        return w2.T
    _, singular, right = np.linalg.svd(w2.astype(np.float64), full_matrices=False)
    return np.asarray((singular[:rank, None] * right[:rank]).T, np.float32)
