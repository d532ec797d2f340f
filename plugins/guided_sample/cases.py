"""Rows of the parity table for ``farthing::GuidedSample``.

Ids are compared exactly, so every random row is made clear: at the k-th logit there is a gap, top_p lies in the middle between two running masses
and u in the middle of an id's share or at least MARGIN inside it, all in float64. Faces differ by some 1e-7 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..case import Case, floats

MARGIN = 3e-6
"""Of u from the next boundary: the float32 sums of a body over 16,384 ids are good to some 3e-7."""
GAP = 1e-4
"""Between the logit of rank k and the next."""
_HALF = "uniforms in float16 are 2^-11 apart, coarser than most probabilities"
ALMOST = 1 - 2.0**-24


def guided(cond: np.ndarray, uncond: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Logits [B,M,V] in float64."""
    c, u, s = (a.astype(np.float64) for a in (cond, uncond, scale[:, None, None]))
    with np.errstate(invalid="ignore", over="ignore"):
        mixed: np.ndarray = np.where(s == 1, c, u + s * (c - u))
    return np.where(np.isnan(mixed), -np.inf, mixed)


def softmax(row: np.ndarray, temperature: float, top_k: int = 0) -> np.ndarray:
    """Probabilities [V] in float64 after top-k."""
    weight = np.exp((row - row.max()) / temperature)
    if 0 < top_k < row.size:
        weight[row < np.partition(row, -top_k)[-top_k]] = 0
    return weight / weight.sum()


def _clear_gap(row: np.ndarray, top_k: int) -> bool:
    """Whether rank k is well apart from rank k + 1, or the same number."""
    if not 0 < top_k < row.size:
        return True
    ordered = np.sort(row)[::-1]
    return bool(ordered[top_k - 1] - ordered[top_k] > GAP)


def _between(rows: np.ndarray, temperature: float, top_k: int, wanted: float) -> float | None:
    """A top_p near ``wanted`` that is MARGIN away from every running mass of every row; None if there is none."""
    for shift in np.linspace(0, 0.02, 401):
        p = float(np.float32(wanted - shift))
        masses = (np.sort(softmax(row, temperature, top_k))[::-1].cumsum() for row in rows)
        if all(np.abs(m - p).min() > MARGIN for m in masses):
            return p
    return None


def _inside(probs: np.ndarray, rng: np.random.Generator) -> float:
    """A number u that is MARGIN away from every boundary."""
    edges = probs.cumsum()
    for _ in range(1000):
        u = np.float32(rng.random() * (1 - 2.0**-20))
        if np.abs(edges - float(u)).min() > MARGIN:
            return float(u)
    raise AssertionError("no clear number, expected one within 1000 draws; lower MARGIN")


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    if top_p < 1:
        order = np.argsort(-probs, kind="stable")
        count = int(np.searchsorted(probs[order].cumsum(), top_p)) + 1
        probs = np.where(probs >= probs[order[count - 1]], probs, 0)
    return probs / probs.sum()


def clear_inputs(
    seed: int, batch: int, rows: int, size: int, scale: float, temperature: float, top_k: int, top_p: float
) -> list[np.ndarray | None]:
    """Random inputs of a clear choice; ``top_p`` is moved by up to 0.02."""
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        cond, uncond = floats(rng, batch, rows, size, scale=2.0), floats(rng, batch, rows, size, scale=2.0)
        scales = np.full(batch, scale, np.float32)
        flat = guided(cond, uncond, scales).reshape(-1, size)
        if not all(_clear_gap(row, top_k) for row in flat):
            continue
        p = _between(flat, temperature, top_k, top_p) if temperature > 0 and top_p < 1 else top_p
        if p is None:
            continue
        uniforms = rng.random(batch * rows)
        if temperature > 0:
            uniforms = np.array([_inside(_nucleus(softmax(row, temperature, top_k), p), rng) for row in flat])
        return inputs(cond, uncond, scales, uniforms.reshape(batch, rows), temperature, top_k, p)
    raise AssertionError(f"no clear choice for {size} ids, k {top_k}, p {top_p}; lower GAP or MARGIN")


def inputs(
    cond: np.ndarray,
    uncond: np.ndarray,
    scale: Any,
    uniforms: Any,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[np.ndarray | None]:
    """The seven inputs in their dtypes."""
    real = [np.asarray(a, np.float32) for a in (cond, uncond, scale, uniforms, [temperature], [top_p])]
    return [*real[:5], np.array([top_k], np.int64), real[5]]


def _case(name: str, given: list[np.ndarray | None], **more: Any) -> Case:
    return Case("GuidedSample", name, given, tolerance=3e-6, half_tolerance=None, half_reason=_HALF, **more)


def _random() -> Iterator[Case]:
    # B, M, V, scale, temperature, top_k, top_p: tails of every vector width, each filter alone and both together
    for number, (batch, rows, size, scale, temperature, k, p) in enumerate(
        [
            (1, 1, 2, 7.5, 1.0, 0, 1.0),
            (2, 16, 33, 1.0, 1.0, 0, 1.0),
            (2, 3, 257, 0.0, 0.7, 0, 1.0),
            (3, 2, 257, 7.5, 1.0, 20, 1.0),
            (1, 5, 257, 1.0, 1.3, 0, 0.8),
            (2, 2, 257, 4.0, 1.0, 64, 0.9),
            (2, 4, 257, 4.0, 0.0, 64, 0.9),
            (1, 2, 257, 1.5, 5.0, 256, 0.95),
            (1, 2, 257, 1.5, 1.0, 257, 1.0),
            (1, 2, 257, 1.5, 1.0, 1 << 40, 1.0),
            (1, 2, 257, 2.0, 1.0, 1, 1.0),
            (2, 1, 4097, 1.75, 1.0, 0, 1.0),
            (1, 2, 4097, 7.5, 1.0, 1000, 0.95),
            (1, 1, 16384, 4.0, 1.0, 2000, 1.0),
            (1, 2, 16384, 2.0, 1.0, 0, 0.97),
        ]
    ):
        name = f"b{batch}m{rows}v{size}-scale{scale}-t{temperature}-k{k}-p{p}"
        yield _case(name, clear_inputs(number, batch, rows, size, scale, temperature, k, p))
    whole = "a function of ONNX has all its outputs"
    yield _case(
        "ids-alone",
        clear_inputs(77, 2, 3, 257, 3.0, 1.0, 40, 0.9),
        outputs=("ids",),
        skips={"body": whole, "rtx_body": whole},
    )


def _dyadic(rows: Sequence[Sequence[float]], uniforms: list[float], **more: Any) -> list[np.ndarray | None]:
    """Logits as given, at scale 1; every number is exact."""
    cond = np.array([rows], np.float32)
    return inputs(cond, np.full_like(cond, 99.0), [1.0], [uniforms], **more)


def _ties() -> Iterator[Case]:
    yield _case("one-id", _dyadic([[3.0], [-np.inf]], [0.5, 0.0]))
    equal = [0.0] * 8
    eighths = [0.0, 0.124, 0.126, 0.499, 0.501, 0.874, 0.876, ALMOST]
    yield _case("all-equal", _dyadic([equal] * 8, eighths))
    yield _case("ties-stay-at-k", _dyadic([[1, 5, 1, 3, 1, 2, 1, 0]] * 3, [0.1, 0.9, 0.99], top_k=4))
    yield _case("ties-at-the-top", _dyadic([[1, 5, 5, 3, 5]] * 3, [0.1, 0.5, 0.99], top_k=1))
    # The mass of the first equals 1/4, 1/2, 3/4 of it exactly, and all ties with the last stay.
    for p in (0.25, 0.5, 0.75):
        yield _case(f"mass-hit-{p}", _dyadic([[-200, 4, 4, -200, 4, 4]] * 3, [0.1, 0.6, 0.99], top_p=p))
    yield _case("ties-stay-at-p", _dyadic([[0, 1, 0, 3, 1, 0, 0]] * 4, [0.05, 0.3, 0.95, 0.99], top_p=0.9))
    yield _case("top-p-tiny", _dyadic([[0, 1, 0, 3, 1, 3, 0]] * 3, [0.0, 0.4, 0.99], top_p=1e-30))
    yield _case("top-p-zero", _dyadic([[0, 1, 0, 3, 1, 3, 0]] * 3, [0.0, 0.4, 0.99], top_p=0.0))
    yield _case("greedy-takes-the-first", _dyadic([[0, 1, 3, 0, 3], equal[:5]], [0.9, 0.9], temperature=0.0))
    ends = [0.0, ALMOST]
    masked = [-np.inf, 1.0, 2.0, -np.inf]
    yield _case("uniforms-at-both-ends", _dyadic([masked] * 2, ends))
    yield _case("uniforms-at-both-ends-flat", _dyadic([[0.0] * 4097] * 2, ends))
    # Distances of one unit in the last place are no ties.
    near = [float(np.nextafter(np.float32(1), np.float32(2), dtype=np.float32)), 1.0, 1.0, 0.5]
    yield _case("nearly-ties", _dyadic([near], [0.99], top_k=1))


def _odd() -> Iterator[Case]:
    nan, inf = np.nan, np.inf
    rng = np.random.default_rng(9)
    cond, uncond = (
        rng.integers(-8, 8, (2, 2, 40)).astype(np.float32),
        rng.integers(-8, 8, (2, 2, 40)).astype(np.float32),
    )
    cond[..., [17, 39]] = uncond[..., [17, 39]] = 9  # heavy enough for the number just below 1
    for scale in (0.0, 1.0, 2.0):
        c, u = cond.copy(), uncond.copy()
        c[..., [0, 5, 11]], u[..., [0, 7, 11]] = -inf, -inf
        c[..., 13] = nan
        yield _case(f"masked-scale{scale}", inputs(c, u, [scale] * 2, [[0.0, ALMOST]] * 2))
        yield _case(f"masked-scale{scale}-k", inputs(c, u, [scale] * 2, [[0.0, ALMOST]] * 2, top_k=39, top_p=0.999))
    yield _case("scales-differ", inputs(cond, uncond, [1.0, 3.0], [[0.0, ALMOST]] * 2))
    quarter = [[0.1, 0.4, 0.6, 0.9]]
    rows: list[list[float]] = [[1, inf, 2, inf], [-inf] * 4, [nan] * 4, [nan, -inf, 3, nan]]
    yield _case("infinite-and-nan", _dyadic(rows, quarter[0]))
    yield _case("infinite-and-nan-greedy", _dyadic(rows, quarter[0], temperature=0.0))
    yield _case("infinite-and-nan-filtered", _dyadic(rows, quarter[0], top_k=3, top_p=0.5))
    huge: list[list[float]] = [
        [3.4e38, -3.4e38, 3.4e38, 0.0],
        [-3.4e38, -3.3e38, -3.4e38, -3.4e38],
        [1e30, 0, 0, 0],
        [0, 100, 0, 99],
    ]
    yield _case("huge", _dyadic(huge, quarter[0]))
    big = np.array([[huge[i] for i in (0, 2, 3)]], np.float32)
    yield _case("huge-guided", inputs(big, -big, [7.5], [quarter[0][:3]]))
    yield _case("beyond-reach", _dyadic([[-87, 0, -88, 0], [-88, 0, 0, -87]], [0.0, ALMOST]))
    for name, temperature in (("negative", -1.0), ("nan", nan), ("infinite", inf), ("tiny", 1e-30), ("large", 1e30)):
        yield _case(f"temperature-{name}", _dyadic([[1, 3, 2, -inf]] * 2, [0.1, 0.6], temperature=temperature))
    for name, number in (("negative", -0.5), ("one", 1.0), ("above", 7.0), ("nan", nan), ("infinite", inf)):
        yield _case(f"uniform-{name}", _dyadic([[-inf, 3, 2, -inf]], [number]))
    for name, p in (("negative", -2.0), ("above", 1.5), ("nan", nan)):
        yield _case(f"top-p-{name}", _dyadic([[1, 3, 2, -inf]] * 2, [0.1, 0.9], top_p=p))
    for name, k in (("negative", -5), ("least", -(1 << 63)), ("most", (1 << 63) - 1)):
        yield _case(f"top-k-{name}", _dyadic([[1, 3, 2, -inf]] * 2, [0.1, 0.9], top_k=k))
    yield _case("scale-nan", inputs(cond, uncond, [nan, 1.0], [[0.01, 0.99]] * 2))
    yield _case("scale-infinite", inputs(cond, uncond, [inf, -inf], [[0.01, 0.99]] * 2))


def _refused() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    good = inputs(floats(rng, 2, 3, 7), floats(rng, 2, 3, 7), [1.0, 2.0], rng.random((2, 3)))

    def bad(name: str, change: int, to: np.ndarray, text: str) -> Case:
        return Case("GuidedSample", f"bad-{name}", [to if i == change else a for i, a in enumerate(good)], refuses=text)

    yield bad("uncond", 1, floats(rng, 2, 3, 6), "uncond is [2,3,6]")
    yield bad("uncond-rank", 1, floats(rng, 3, 7), "uncond is [3,7]")
    yield bad("cond-rank", 0, floats(rng, 6, 7), "cond is [6,7]")
    yield bad("scale", 2, floats(rng, 3), "scale is [3]")
    yield bad("scale-rank", 2, floats(rng, 2, 1), "scale is [2,1]")
    yield bad("uniforms", 3, floats(rng, 2, 4), "uniforms is [2,4]")
    yield bad("temperature", 4, floats(rng, 2), "temperature is [2]")
    yield bad("top-k", 5, np.array([1, 2], np.int64), "top_k is [2]")
    yield bad("top-p", 6, np.zeros((1, 1), np.float32), "top_p is [1,1]")
    none = np.zeros((2, 3, 0), np.float32)
    yield Case("GuidedSample", "bad-no-ids", [none, none, *good[2:]], refuses="V is 0, expected 1 to")


def cases() -> Iterator[Case]:
    """All rows."""
    yield from _random()
    yield from _ties()
    yield from _odd()
    yield from _refused()
