"""References of the visual token reductions, from the papers' equations and the authors' procedure, in double, one step at a time.

Written apart from the graphs in `export.graph.token_reduction`, which rearrange the algebra; tests compare the two.
ZOO-Prune (arXiv 2509.24837), IDPruner (2602.13315), GlobalCom2 (2501.05179), Matryoshka Multimodal Models (2405.17430).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from ..errors import RequestError, found_wanted

Map = Callable[[torch.Tensor], torch.Tensor]
"""A projector: [...,dv] -> [...,D]."""


def sensitivity_zo(project: Map, features: torch.Tensor, directions: torch.Tensor, step: float) -> torch.Tensor:
    """[N]: mean over unit ``directions`` [m,dv] of |f(v + h u) - f(v - h u)| / 2h, of ``features`` [N,dv]. Any projector, any dtype."""
    lengths = []
    for u in directions:
        change = project(features + step * u) - project(features - step * u)
        lengths.append(torch.linalg.vector_norm(change, dim=-1) / (2 * step))
    return torch.stack(lengths).mean(0)


def sensitivity_exact(project: Map, features: torch.Tensor) -> torch.Tensor:
    """[N]: |J|_F / sqrt(dv), the root of what sensitivity_zo's squares have as expectation; J by automatic differentiation."""
    jacobians = torch.stack([torch.autograd.functional.jacobian(project, v) for v in features])
    return torch.linalg.matrix_norm(jacobians) / features.shape[1] ** 0.5


def linear_importance(
    x: torch.Tensor, q_weight: torch.Tensor, q_bias: torch.Tensor, k_weight: torch.Tensor, k_bias: torch.Tensor
) -> torch.Tensor:
    """[N]: mean over j of q_i . k_j / sqrt(H), no softmax, of ``x`` [N,D]: VisionSelector's scorer."""
    q, k = functional.linear(x, q_weight, q_bias), functional.linear(x, k_weight, k_bias)
    return (q @ k.T / q.shape[1] ** 0.5).mean(1)


def unit(x: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
    """Rows over (their norms + epsilon)."""
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + epsilon)


def mmr(x: torch.Tensor, scores: torch.Tensor, k: int, lam: float = 0.5) -> list[int]:
    """Indices of ``x`` [N,D] in the order they are picked: importance first, then lam imp - (1 - lam) (similarity to the nearest pick)."""
    low, high = scores.min(), scores.max()
    importance = (scores - low) / (high - low + 1e-6)
    rows, nearest, alive = unit(x), torch.full_like(scores, -2.0), torch.ones(len(x), dtype=torch.bool)
    picks: list[int] = []
    while len(picks) < k:
        objective = importance if not picks else lam * importance - (1 - lam) * nearest
        picks.append(_first_best(objective, alive))
        alive[picks[-1]] = False
        nearest = torch.maximum(nearest, rows @ rows[picks[-1]])
    return picks


def sads(x: torch.Tensor, scores: torch.Tensor, k: int) -> list[int]:
    """Indices of projected features ``x`` [N,D] in pick order: w first, then w * (distance to the nearest pick); w = 1 for equal scores."""
    low, high = scores.min(), scores.max()
    w = (scores - low) / (high - low + 1e-8) if high > low else torch.ones_like(scores)
    rows, distance, alive = unit(x), torch.ones_like(scores), torch.ones(len(x), dtype=torch.bool)
    picks: list[int] = []
    while len(picks) < k:
        picks.append(_first_best(w if not picks else distance * w, alive))
        alive[picks[-1]] = False
        apart = 1 - rows @ rows[picks[-1]]
        distance = apart if len(picks) == 1 else torch.minimum(distance, apart)
    return picks


def _first_best(objective: torch.Tensor, alive: torch.Tensor) -> int:
    best = objective[alive].max()
    return int(torch.nonzero(alive & (objective == best))[0])


def zoo_prune(views: Sequence[tuple[torch.Tensor, torch.Tensor]], budget: int) -> tuple[list[list[int]], list[int]]:
    """(picks of each view, ascending; how many each got) for views given as (x [n,D], scores [n]): sads within every view.

    The authors give each int(budget / views) and lose what a small view cannot use; here it goes to the others, so ``budget`` is used up.
    """
    quotas = share([1.0] * len(views), [len(s) for _, s in views], budget)
    return [sorted(sads(x, s, q)) if q else [] for (x, s), q in zip(views, quotas, strict=True)], quotas


def share(weights: Sequence[float], counts: Sequence[int], budget: int) -> list[int]:
    """Whole numbers in proportion to ``weights``, none above its count, sum min(budget, sum counts); largest remainders, ties to the first."""
    given = [0.0] * len(counts)
    full = {i for i, n in enumerate(counts) if n == 0}
    while True:
        left = budget - sum(counts[i] for i in full)
        free = [i for i in range(len(counts)) if i not in full]
        total = sum(weights[i] for i in free)
        for i in free:
            given[i] = left * weights[i] / total
        over = {i for i in free if given[i] >= counts[i]}
        if not over:
            break
        full |= over
    quotas = [counts[i] if i in full else int(given[i]) for i in range(len(counts))]
    order = sorted(free, key=lambda i: (int(given[i]) - given[i], i))
    for i in order[: max(0, budget - sum(quotas))]:
        quotas[i] += 1
    return quotas


def globalcom_rates(
    thumbnail: np.ndarray, tiles: tuple[int, int], keep: float, temperature: float = 10.0
) -> np.ndarray:
    """r_c before it is clipped to 1, [n], of the thumbnail's scores [G,G]: keep * (1 + sigma_c - mean sigma). Its mean is ``keep``."""
    (high, wide), grid = tiles, len(thumbnail)
    ph, pw = max(grid // high, 1), max(grid // wide, 1)
    richness = np.zeros(high * wide)
    for i in range(grid):
        for j in range(grid):
            richness[min(i // ph, high - 1) * wide + min(j // pw, wide - 1)] += thumbnail[i, j]
    power = np.exp((richness - richness.max()) / temperature)
    sigma = power / (power.sum() + 1e-8)
    return np.asarray(keep * (1 + sigma - sigma.mean()))


def globalcom(
    cls_score: np.ndarray,
    original: tuple[int, int],
    tiles: tuple[int, int],
    *,
    keep: float,
    k: int | None,
    exact_repo: bool = False,
    temperature: float = 10.0,
) -> tuple[list[int], list[int]]:
    """(rows of the sequence that stay, ascending, line breaks included; how many of each view).

    ``cls_score`` [1+n,N], thumbnail first; ``original`` (height, width) of the image. The sequence is the thumbnail, then the stitched tiles
    without their letterbox, a line break behind every row. k rows stay in all, line breaks included. With ``exact_repo`` the numbers
    are the authors', int(N keep) of the thumbnail and int(N_c r_c) of tile c, and k is not used.
    """
    (high, wide), grid = tiles, round(cls_score.shape[1] ** 0.5)
    maps = cls_score.astype(np.float64).reshape(-1, grid, grid)
    top, bottom, left, right = _inside(original, (high * grid, wide * grid))
    number = np.full((high * grid, wide * grid), -1)  # of a canvas cell in the sequence
    row, breaks = grid * grid, []
    for y in range(top, bottom):
        for x in range(left, right):
            number[y, x], row = row, row + 1
        breaks.append(row)
        row += 1
    guide = np.zeros((high * grid, wide * grid))
    if bottom > top and right > left:
        whole = torch.from_numpy(maps[:1])[None]
        stretched = functional.interpolate(whole, (bottom - top, right - left), mode="bilinear", align_corners=False)
        guide[top:bottom, left:right] = stretched[0, 0].numpy()
    scores, numbers = [maps[0].reshape(-1)], [np.arange(grid * grid)]
    for c in range(high * wide):
        down, across = (slice(i * grid, (i + 1) * grid) for i in divmod(c, wide))
        valid = number[down, across] >= 0
        own, borrowed = maps[1 + c][valid], guide[down, across][valid]
        scores.append(own / max(np.linalg.norm(own), 1e-12) + borrowed / max(np.linalg.norm(borrowed), 1e-12))
        numbers.append(number[down, across][valid])
    counts = [len(s) for s in scores]
    rates = np.minimum(globalcom_rates(maps[0], tiles, keep, temperature), 1.0)
    if exact_repo:
        quotas = [int(counts[0] * keep), *(int(n * r) for n, r in zip(counts[1:], rates, strict=True))]
    else:
        if k is None or k < len(breaks):
            raise RequestError(found_wanted("k", k, f"{len(breaks)} or more, the line breaks", "keep more"))
        budget = min(k - len(breaks), sum(counts))
        first = min(int(np.floor(counts[0] * budget / sum(counts) + 0.5)), counts[0])
        weights = [n * float(r) for n, r in zip(counts[1:], rates, strict=True)]
        quotas = [first, *share(weights, counts[1:], budget - first)]
    kept = list(breaks)
    for score, own, quota in zip(scores, numbers, quotas, strict=True):
        kept += [int(own[i]) for i in np.argsort(-score, kind="stable")[:quota]]
    return sorted(kept), quotas


def _inside(original: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the canvas without its letterbox."""
    height, width = original
    if width / height > canvas[1] / canvas[0]:
        pad = (canvas[0] - int(round(height * (canvas[1] / width), 7))) // 2
        return pad, canvas[0] - pad, 0, canvas[1]
    pad = (canvas[1] - int(round(width * (canvas[0] / height), 7))) // 2
    return 0, canvas[0], pad, canvas[1] - pad


def matryoshka(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """[n,tokens,D] of projected features [n,G*G,D]: average pooling, as the authors call it."""
    grid = int(x.shape[1] ** 0.5)
    pool = int((grid * grid / tokens) ** 0.5)
    planes = x.transpose(1, 2).unflatten(-1, (grid, grid))
    return functional.avg_pool2d(planes, pool, pool).flatten(2).transpose(1, 2)
