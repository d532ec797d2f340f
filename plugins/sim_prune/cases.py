"""Rows of the parity table for ``farthing::SimPrune``.

Indices are compared exactly, so random rows are drawn until every decision is clear by MARGIN, or is tied bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats
from .body import patches

MARGIN = 1e-5
_EXACT = "indices are compared exactly, and rounding the features may change which is best"


def _reals(values: list[Any]) -> np.ndarray:
    return np.array(values, np.float32)


def clear(x: np.ndarray, noise: np.ndarray, sides: tuple[int, int, int, int], prune: int) -> bool:
    """Whether each choice for x [N,C] and noise [N] leads by MARGIN."""
    unit = x.astype(np.float64) / (np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) + 1e-8)
    like = unit @ unit.T
    score = like.sum(1) + 0.1 * noise
    bases = []
    for patch in patches(*sides):
        order = sorted(patch, key=lambda i: -score[i])
        if len(order) > 1 and score[order[0]] - score[order[1]] < MARGIN * len(x):
            return False
        bases.append(order[0])
    others = np.setdiff1d(np.arange(len(x)), bases)
    nearest = like[np.ix_(others, np.array(bases))].max(1)
    ranked = np.sort(nearest)[::-1]
    if prune < len(ranked) and ranked[prune - 1] - ranked[prune] < MARGIN:
        return False
    pruned = others[np.argsort(-nearest, kind="stable")[:prune]]
    kept = np.setdiff1d(np.arange(len(x)), pruned)
    best = np.sort(like[np.ix_(pruned, kept)], axis=1)
    return best.shape[1] < 2 or bool((best[:, -1] - best[:, -2] > MARGIN).all())


def row(seed: int, sides: tuple[int, int, int, int], width: int, prune: int) -> tuple[np.ndarray, np.ndarray]:
    """x [N,C] and noise [N] with clear choices."""
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        x, noise = floats(rng, sides[0] * sides[1], width), floats(rng, sides[0] * sides[1])
        if clear(x, noise, sides, prune):
            return x, noise
    raise AssertionError(f"no clear choice for {sides}, {width}, {prune}; use fewer tokens")


def _attributes(sides: tuple[int, int, int, int], prune: int) -> dict[str, Any]:
    names = ("height", "width", "patch_height", "patch_width")
    return {**dict(zip(names, sides, strict=True)), "prune": prune}


def _case(name: str, inputs: list[np.ndarray], attributes: dict[str, Any]) -> Case:
    return Case("SimPrune", name, [*inputs], attributes, half_tolerance=None, half_reason=_EXACT)


def cases() -> Iterator[Case]:
    """All rows."""
    # batch, height, width, patch sides, features, prune: sides that patches do not divide, one feature, all others pruned
    for batch, sides, width, prune in [
        (1, (4, 4, 2, 2), 20, 8),
        (2, (5, 7, 2, 2), 33, 17),
        (1, (6, 6, 2, 2), 320, 27),
        (1, (6, 9, 3, 3), 16, 1),
        (1, (9, 8, 1, 2), 100, 30),
        (1, (12, 12, 2, 2), 40, 72),
        (1, (2, 3, 2, 3), 5, 5),
    ]:
        rows = [row(b + sides[1], sides, width, prune) for b in range(batch)]
        x, noise = (np.stack(part) for part in zip(*rows, strict=True))
        name = f"b{batch}-{sides[0]}x{sides[1]}-{sides[2]}x{sides[3]}-d{width}-p{prune}"
        yield _case(name, [x, noise], _attributes(sides, prune))
        if sides[0] == 12:
            yield _case(f"{name}-half", [x.astype(np.float16), noise], _attributes(sides, prune))
    rng = np.random.default_rng(9)
    plain = _attributes((6, 6, 2, 2), 18)
    still = np.zeros((1, 36), np.float32)
    # Signs of four features: norms of 2, similarities in halves, sums exact; nearly everything is tied.
    signs = rng.choice(_reals([-1, 1]), (1, 36, 4))
    yield Case("SimPrune", "ties", [signs, still], plain)
    yield Case("SimPrune", "all-equal", [np.ones((1, 36, 4), np.float32), still], plain)
    yield Case("SimPrune", "all-zero", [np.zeros((2, 36, 4), np.float32), np.zeros((2, 36), np.float32)], plain)
    x, noise = row(3, (6, 6, 2, 2), 24, 18)
    odd = noise.copy()
    odd[[1, 8, 30]] = np.nan, np.inf, -np.inf
    yield _case("odd-noise", [x[None], odd[None]], {**plain, "alpha": 5.0})
    odd_x = x.copy()
    odd_x[2], odd_x[7, 3], odd_x[21, 0], odd_x[33] = 0, np.nan, np.inf, 3e38
    yield _case("odd-features", [odd_x[None], noise[None]], plain)
    yield _case("noise-alone", [x[None], noise[None]], {**plain, "beta": 0.0, "alpha": 1.0})
    refused: list[tuple[str, dict[str, Any], str | tuple[str, ...]]] = [
        ("prune-zero", {"prune": 0}, "prune is 0, expected 1 to 27"),
        ("prune-too-many", {"prune": 28}, "prune is 28, expected 1 to 27"),
        ("height-zero", {"height": 0}, ("height is 0, expected 1 or more", "SimPrune: x is")),
        ("patch-too-high", {"patch_height": 7}, "patch_height is 7, expected 1 to 6"),
        ("patch-zero", {"patch_width": 0}, "patch_width is 0, expected 1 or more"),
        ("alpha-nan", {"alpha": float("nan")}, "expected a finite number"),
    ]
    for name, change, says in refused:
        yield Case("SimPrune", name, [x[None], noise[None]], {**plain, **change}, refuses=says, stage="attributes")
    shapes: list[tuple[str, list[np.ndarray | None], str]] = [
        ("x-rank", [x, noise[None]], "SimPrune: x is"),
        ("x-tokens", [x[None, :35], noise[None]], "SimPrune: x is"),
        ("noise-tokens", [x[None], noise[None, :5]], "SimPrune: noise is"),
        ("noise-batch", [x[None], still[[0, 0]]], "SimPrune: noise is"),
    ]
    for name, inputs, says in shapes:
        yield Case("SimPrune", name, inputs, plain, refuses=says)
