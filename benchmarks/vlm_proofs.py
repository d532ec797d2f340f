"""The proofs of fewer visual tokens, one function each: rows of accuracies and the claims of the papers, held against them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
import vlm_selector
from vlm_bench import Bench, Choice, Score, wilson
from vlm_large import globalcom2
from vlm_scenes import COARSE, FINE
from vlm_skip import ima

from farthing.plugins.token_select.reference import reference

__all__ = ["accuracy", "globalcom2", "idpruner", "ima", "matryoshka", "zoo"]

Result = dict[str, Any]


def select(scores: torch.Tensor, rows: torch.Tensor, count: int, mode: str, **options: Any) -> Choice:
    """The choice of ``farthing::TokenSelect`` for scores [n,N] and rows [n,N,D]."""
    return lambda n: reference(scores[n : n + 1], rows[n : n + 1], k=count, mode=mode, **options)[0][0]


def at_random(tokens: int, count: int, seed: int) -> Choice:
    def choose(n: int) -> torch.Tensor:
        kept = np.random.default_rng([seed, n]).permutation(tokens)[:count]
        return torch.from_numpy(np.sort(kept))

    return choose


def better(a: Score, b: Score, kinds: tuple[str, ...] | None = None) -> tuple[bool, str]:
    """Is a's mean higher than b's? With the difference and its standard error, in points."""
    gap, error = a.minus(b, kinds)
    return gap > 0, f"{100 * gap:+.1f} +- {100 * error:.1f} points"


def accuracy(benches: dict[str, Bench]) -> Result:
    """Right answers by kind of question with 95 % intervals (Wilson), unpruned."""
    made, least = {}, 1.0
    for name, bench in benches.items():
        score = bench.right()
        for kinds in (*((k,) for k in (*COARSE, *FINE)), (*COARSE, *FINE)):
            use = np.isin(score.kinds, kinds)
            low, high = wilson(int(score.good[use].sum()), int(use.sum()))
            label = kinds[0] if len(kinds) == 1 else "all"
            made[f"{name}: {label}"] = {
                "right": int(score.good[use].sum()),
                "asked": int(use.sum()),
                "share": score.of(kinds),
                "low": low,
                "high": high,
            }
        least = min(least, score.of())
    return {"rows": made, "claims": {"above 90 % unpruned": (least > 0.9, f"{100 * least:.1f} %")}}


def idpruner(bench: Bench, folder: Path) -> Result:
    if not (folder / "model.safetensors").exists():
        vlm_selector.save_scorer(vlm_selector.fit(bench.model), folder)
    scores, rows = vlm_selector.load_scorer(folder)(bench.rows), bench.rows
    tokens = rows.shape[1]
    made = {"all tokens": bench.right().row()}
    claims = {}
    for share in (0.25, 0.1):
        count = round(tokens * share)
        ways = {
            "mmr 0.5": select(scores, rows, count, "mmr"),
            "importance alone": select(scores, rows, count, "topk"),
            "diversity alone": select(torch.zeros_like(scores), rows, count, "mmr", lam=0.0),
            "mmr 0.8": select(scores, rows, count, "mmr", lam=0.8),
            "mmr 0.2": select(scores, rows, count, "mmr", lam=0.2),
            "random": at_random(tokens, count, 1),
        }
        found = {name: bench.right(way) for name, way in ways.items()}
        made |= {f"{name}, {count} of {tokens}": s.row() for name, s in found.items()}
        made[f"mmr 0.5 renumbered, {count} of {tokens}"] = bench.right(ways["mmr 0.5"], compact=True).row()
        for other in ("importance alone", "diversity alone", "random"):
            claims[f"mmr 0.5 beats {other} at {count}"] = better(found["mmr 0.5"], found[other])
    return {"rows": made, "claims": claims}


def sensitivity(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Exact Frobenius norm of the projector's Jacobian, over sqrt(dv): [...,dv] -> [...]."""
    projector = model.model.multi_modal_projector
    first, second = projector.linear_1, projector.linear_2
    with torch.enable_grad():
        inner = first(features).detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.nn.functional.gelu(inner).sum(), inner)
    both = (first.weight @ first.weight.T) * (second.weight.T @ second.weight)
    squares = ((slope @ both) * slope).sum(-1)
    return (squares / features.shape[-1]).clamp(min=0).sqrt()


def probed(
    model: Any, features: torch.Tensor, *, directions: int = 64, step: float = 0.01, seed: int = 0
) -> torch.Tensor:
    """ZOO-Prune's estimate of the same by finite differences along ``directions`` that all tokens share."""
    unit = torch.randn(directions, features.shape[-1], generator=torch.Generator().manual_seed(seed))
    unit = unit / (unit.norm(dim=-1, keepdim=True) + 1e-12)
    project, total = model.model.multi_modal_projector, torch.zeros(features.shape[:-1])
    for u in unit:
        total += (project(features + step * u) - project(features - step * u)).norm(dim=-1) / (2 * step)
    return total / directions


def gradients(bench: Bench, pictures: int) -> torch.Tensor:
    """[n,N]: norm of the gradient of the right answer's logit by each visual row, mean of the questions."""
    found = []
    for n in range(pictures):
        visual = bench.rows[n : n + 1].clone().requires_grad_()
        asked = vlm.ask([bench.asked[n]])
        with torch.enable_grad():
            first, _, answer = vlm.read(bench.model, visual, asked)
            right = first.gather(1, answer[:, None])[:, 0]
            each = [torch.autograd.grad(r, visual, retain_graph=True)[0][0].norm(dim=-1) for r in right]
        found.append(torch.stack(each).mean(0))
    return torch.stack(found)


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean rank correlation of the rows of [n,N]."""
    ranks = [x.argsort(1).argsort(1).double() for x in (a, b)]
    centred = [r - r.mean(1, keepdim=True) for r in ranks]
    return float((centred[0] * centred[1]).sum(1).div(centred[0].norm(dim=1) * centred[1].norm(dim=1)).mean())


def zoo(bench: Bench) -> Result:
    exact, rows = sensitivity(bench.model, bench.features[:, 0]), bench.rows
    estimate = probed(bench.model, bench.features[:, 0])
    attention, tokens = bench.chance[:, 0], rows.shape[1]
    count = int(0.1112 * tokens)
    ways = {
        "sads": select(estimate, rows, count, "sads", epsilon=1e-8),
        "sads, exact sensitivity": select(exact, rows, count, "sads", epsilon=1e-8),
        "sensitivity alone": select(estimate, rows, count, "topk"),
        "diversity alone": select(torch.zeros_like(exact), rows, count, "sads", epsilon=1e-8),
        "CLS attention": select(attention, rows, count, "topk"),
        "random": at_random(tokens, count, 1),
    }
    found = {name: bench.right(way, compact=True) for name, way in ways.items()}
    made = {"all tokens": bench.right().row()} | {f"{n}, {count} of {tokens}": s.row() for n, s in found.items()}
    made["sads, positions kept"] = bench.right(ways["sads"]).row()
    claims = {
        f"sads is not worse than {other}": (
            lambda gap: (gap[0] >= 0, f"{100 * gap[0]:+.1f} +- {100 * gap[1]:.1f} points")
        )(found["sads"].minus(found[other]))
        for other in ("sensitivity alone", "diversity alone", "CLS attention")
    }
    gap, error = found["sads"].minus(found["random"])
    claims["sads beats random by 5 points and 3 errors"] = (
        gap > max(0.05, 3 * error),
        f"{100 * gap:+.1f} +- {100 * error:.1f} points",
    )
    some = min(100, len(rows))
    true = gradients(bench, some)
    ours, cls = spearman(estimate[:some], true), spearman(attention[:some], true)
    claims["sensitivity follows the gradient of the answer"] = (ours > 0, f"rank correlation {ours:.3f}")
    claims["and more so than CLS attention"] = (ours > cls, f"{ours:.3f} against {cls:.3f}")
    same = spearman(estimate, exact)
    claims["the estimate follows the exact sensitivity"] = (same > 0.9, f"rank correlation {same:.3f}")
    return {"rows": made, "claims": claims}


def matryoshka(nested: Bench, plain: Bench) -> Result:
    scales = (144, 36, 16, 9, 4, 1)
    a = {s: nested.right(tokens=s) for s in scales}
    b = {s: plain.right(tokens=s) for s in scales}
    made = {f"A nested, {s} tokens": a[s].row() for s in scales} | {f"B plain, {s} tokens": b[s].row() for s in scales}

    def within(points: float, x: Score, y: Score, kinds: tuple[str, ...] | None = None) -> tuple[bool, str]:
        gap, error = x.minus(y, kinds)
        return gap >= -points / 100, f"{100 * gap:+.1f} +- {100 * error:.1f} points"

    fine = [a[s].of(FINE) for s in scales]
    good = np.stack([a[s].good for s in sorted(scales)])
    # The cheapest scale that is right; the cheapest of all where none is.
    first = np.where(good.any(0), good.argmax(0), 0)
    mean = float(np.array(sorted(scales))[first].mean())
    oracle = float(good.any(0).mean())
    dearer = min(s for s in scales if s >= mean)
    made["A, the best scale of each question"] = {"all": oracle, "mean tokens": mean}
    claims = {
        "A: 9 tokens lose at most 2 points of 144 on coarse questions": within(2, a[9], a[144], COARSE),
        "A beats B at 9 tokens": better(a[9], b[9]),
        "A beats B at 36 tokens": better(a[36], b[36]),
        "A at 144 is within 2 points of B": within(2, a[144], b[144]),
        "A: fine questions need more tokens (never worse with more)": (
            all(x >= y for x, y in pairwise(fine)),
            ", ".join(f"{s}: {100 * f:.1f}" for s, f in zip(scales, fine)),
        ),
        "A: the best scale of each question beats the next dearer fixed scale": (
            oracle > a[dearer].of(),
            f"{100 * oracle:.1f} % with {mean:.1f} tokens, {100 * a[dearer].of():.1f} % with {dearer}",
        ),
    }
    return {"rows": made, "claims": claims}
