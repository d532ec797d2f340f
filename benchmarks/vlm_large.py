"""GlobalCom2 (Liu et al. 2025, arXiv 2501.05179) on large pictures: the thumbnail's CLS attention shares out the tokens of the crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from vlm_bench import Bench, Score
from vlm_scenes import FINE

from farthing.plugins.token_select.reference import reference

GRID, VIEWS, HEAT = 12, 5, 10.0
CANVAS = 2 * GRID


def order() -> torch.Tensor:
    """int64 [744]: for each row of the sequence its place in [5*144], or 720 for a newline."""
    own = torch.arange(GRID * GRID)
    crops = torch.arange(GRID * GRID, VIEWS * GRID * GRID).reshape(2, 2, GRID, GRID)
    canvas = crops.transpose(1, 2).reshape(CANVAS, CANVAS)
    ends = torch.full((CANVAS, 1), VIEWS * GRID * GRID)
    return torch.cat([own, torch.cat([canvas, ends], 1).flatten()])


def quotas(thumbnail: torch.Tensor, share: float, *, exact: bool = False) -> list[int]:
    """Tokens of the four crops from the thumbnail's scores [144]: they add up to int(share * 576). ``exact`` rounds as the authors do."""
    cells = thumbnail.reshape(2, GRID // 2, 2, GRID // 2).sum((1, 3)).flatten().double()
    soft = ((cells - cells.max()) / HEAT).exp()
    soft = soft / (soft.sum() + 1e-8)
    ratio = (share * (1 + soft - soft.mean())).clamp(max=1.0)
    want = ratio * GRID * GRID
    if exact:
        return [int(w) for w in want]
    total = int(share * 4 * GRID * GRID)
    return shared_out(want * total / want.sum(), total, GRID * GRID)


def shared_out(want: torch.Tensor, total: int, most: int) -> list[int]:
    """Whole numbers near ``want`` that add up to ``total``, by largest remainder, none above ``most``."""
    whole = want.floor().clamp(max=most).long()
    rest = torch.where(whole < most, want - whole, -torch.inf)
    while int(whole.sum()) < total:
        best = int(rest.argmax())
        whole[best] += 1
        rest[best] = rest[best] - 1 if whole[best] < most else -torch.inf
    return whole.tolist()


def guided(scores: torch.Tensor) -> torch.Tensor:
    """CLS scores [5,144] -> scores of all tokens: a crop's own and the thumbnail's at that place, each over its norm."""
    wide = F.interpolate(scores[:1].reshape(1, 1, GRID, GRID), scale_factor=2, mode="bilinear", align_corners=False)
    below = wide.reshape(2, GRID, 2, GRID).transpose(1, 2).reshape(4, -1)
    crops = scores[1:]
    unit = lambda x: x / (x.norm(dim=1, keepdim=True) + 1e-12)  # noqa: E731
    return torch.cat([scores[:1], unit(crops) + unit(below)])


class Chooser:
    """Choices among the 744 rows of each picture of ``bench`` at ``share``; newlines are always kept."""

    def __init__(self, bench: Bench, share: float) -> None:
        self.bench, self.share = bench, share
        self.place = order()
        view = torch.cat([torch.arange(VIEWS).repeat_interleave(GRID * GRID), torch.tensor([-2])])
        self.group = view[self.place][None]
        self.thumb = int(share * GRID * GRID)
        self.crops = int(share * 4 * GRID * GRID)
        self.count = self.thumb + self.crops + CANVAS

    def _take(self, scores: torch.Tensor, n: int, quota: list[int] | None) -> torch.Tensor:
        flat = torch.cat([scores.flatten(), torch.zeros(1)])[self.place][None]
        given = None if quota is None else torch.tensor([quota])
        group = self.group if quota is not None else torch.where(self.group >= 0, 0, self.group)
        feats = self.bench.rows[n : n + 1]
        return reference(flat, feats, group, given, k=self.count, mode="topk")[0][0]

    def commander(self, n: int, scores: torch.Tensor) -> torch.Tensor:
        """GlobalCom2: the thumbnail's quotas, and its scores beside the crops' own."""
        return self._take(guided(scores), n, [self.thumb, *quotas(scores[0], self.share)])

    def uniform(self, n: int, scores: torch.Tensor) -> torch.Tensor:
        """The same number of tokens of each crop, by its own scores."""
        return self._take(scores, n, [self.thumb, *[self.crops // 4 + (c < self.crops % 4) for c in range(4)]])

    def everywhere(self, n: int, scores: torch.Tensor) -> torch.Tensor:
        """The highest scores wherever they are."""
        return self._take(scores, n, None)

    def random(self, n: int) -> torch.Tensor:
        return self._take(torch.from_numpy(np.random.default_rng([3, n]).random((VIEWS, GRID * GRID))).float(), n, None)


def joined(scores: list[Score]) -> Score:
    """One score of several benches."""
    shift = np.cumsum([0] + [int(s.owner.max()) + 1 for s in scores])
    owners = [s.owner + k for s, k in zip(scores, shift)]
    return Score(*(np.concatenate(p) for p in ([s.good for s in scores], [s.kinds for s in scores], owners)))


def _rows(name: str, found: dict[int, Score]) -> dict[str, Any]:
    return {f"{name}, uneven": joined([found[1], found[2]]).row(), f"{name}, even": found[4].row()}


def globalcom2(benches: dict[int, Bench]) -> dict[str, Any]:
    """``benches``: number of quadrants that hold the detail -> pictures; 1 and 2 are uneven, 4 even."""
    made: dict[str, Any] = {"all tokens": joined([b.right() for b in benches.values()]).row()}
    claims: dict[str, Any] = {}
    for share in (0.25, 0.1):
        choosers = {q: Chooser(b, share) for q, b in benches.items()}
        count = choosers[1].count - CANVAS
        # Like with like: all ways by the authors' scores (logits), and all by attention after the softmax, with a mean of about 1.
        kinds = {
            "logits": {q: b.cls for q, b in benches.items()},
            "chances": {q: b.chance * 144 for q, b in benches.items()},
        }
        at_random = {q: b.right(choosers[q].random, compact=True) for q, b in benches.items()}
        made |= _rows(f"random, {count} of 720", at_random)
        for kind, scores in kinds.items():
            found = {"random": at_random}
            for way in ("commander", "uniform", "everywhere"):
                found[way] = {
                    q: b.right(lambda n, c=choosers[q], s=scores[q], w=way: getattr(c, w)(n, s[n]), compact=True)
                    for q, b in benches.items()
                }
                made |= _rows(f"{way} by {kind}, {count} of 720", found[way])
            mine = joined([found["commander"][1], found["commander"][2]])
            for other in ("uniform", "everywhere", "random"):
                theirs = joined([found[other][1], found[other][2]])
                gap, error = mine.minus(theirs)
                fine, fine_error = mine.minus(theirs, FINE)
                text = f"{100 * gap:+.1f} +- {100 * error:.1f} points, fine {100 * fine:+.1f} +- {100 * fine_error:.1f}"
                claims[f"{kind}: commander beats {other} on uneven pictures at {count}"] = (gap > 0, text)
            gap, error = found["commander"][4].minus(found["uniform"][4])
            claims[f"{kind}: commander is as good as uniform on even pictures at {count}"] = (
                gap > -0.02,
                f"{100 * gap:+.1f} +- {100 * error:.1f} points",
            )
        given = torch.tensor([quotas(b.cls[n, 0], share) for b in benches.values() for n in range(len(b.scenes))])
        made[f"quotas at {count}"] = {"smallest": int(given.min()), "largest": int(given.max())}
    return {"rows": made, "claims": claims}
