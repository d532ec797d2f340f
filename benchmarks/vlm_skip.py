"""Which rows can do without the feed-forward network (Shukor and Cord 2024, arXiv 2405.16700), and how near images come to text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import torch
import vlm_model as vlm
from torch.nn import functional as F
from vlm_bench import Bench, Score

Rows = Callable[[torch.Tensor], torch.Tensor]
"""Output of a feed-forward network [B,S,D] -> bool [B,S]: rows that go without."""


@contextmanager
def skipped(model: Any, layers: tuple[int, ...], rows: Rows) -> Iterator[None]:
    """The feed-forward networks of ``layers`` add nothing to ``rows``."""
    handles = [
        model.model.language_model.layers[n].mlp.register_forward_hook(
            lambda _m, _i, out: out.masked_fill(rows(out)[..., None], 0.0)
        )
        for n in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _visual(size: int) -> torch.Tensor:
    where = torch.arange(size)
    return (where >= 4) & (where < size - vlm.ASKED * vlm.ROWS - 1)


def some(which: str, count: int | None, seed: int = 0) -> Rows:
    """``count`` rows (None: all) of "visual", "text" or "any"; text counts the rows of ONE question and what stands before it."""

    def rows(out: torch.Tensor) -> torch.Tensor:
        batch, size = out.shape[:2]
        visual = _visual(size)
        of = {"visual": visual, "text": ~visual, "any": torch.ones_like(visual)}[which]
        if count is None:
            return of.expand(batch, -1)
        # Rows of a question stand for one prompt each: drop the same share of every question's rows as of the others.
        prompt = {"visual": int(visual.sum()), "text": 5 + vlm.ROWS, "any": int(visual.sum()) + 5 + vlm.ROWS}[which]
        draw = np.random.default_rng([seed, size])
        keep = torch.zeros(batch, size, dtype=torch.bool)
        places = torch.nonzero(of)[:, 0].numpy()
        for b in range(batch):
            keep[b, draw.permutation(places)[: round(len(places) * count / prompt)]] = True
        return keep

    return rows


@torch.no_grad()
def closeness(bench: Bench, pictures: int) -> dict[str, dict[str, float]]:
    """Per layer: cosine of the means of visual and of text rows; cosine of a row before and after; norm of the network over the row's."""
    model, made = bench.model, {}
    asked = vlm.ask(bench.asked[:pictures])
    taken: dict[int, torch.Tensor] = {}
    layers = model.model.language_model.layers
    handles = [
        layer.mlp.register_forward_hook(lambda _m, _i, out, n=n: taken.__setitem__(n, out))
        for n, layer in enumerate(layers)
    ]
    inputs = vlm.sequence(model, bench.rows[:pictures], asked)
    states = model.model.language_model(**inputs, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    visual = _visual(states[0].shape[1])
    blocks = states[0].shape[1] - vlm.ASKED * vlm.ROWS
    real = (asked.ids != 3).unflatten(1, (vlm.ASKED, vlm.ROWS))
    has = asked.place >= 0
    for n, state in enumerate(states):
        image = state[:, visual].mean(1)
        text = state[:, blocks:].unflatten(1, (vlm.ASKED, vlm.ROWS))
        text = (text * real[..., None]).sum(2) / real.sum(2, keepdim=True).clamp(min=1)
        near = F.cosine_similarity(image[:, None], text, dim=-1, eps=1e-7)[has]
        row = {"image to text": float(near.mean()), "median": float(near.median())}
        if n < len(layers):
            words = F.pad(real.flatten(1), (blocks, 0))
            after = states[n + 1] if n + 1 < len(layers) else None
            for name, use in (("visual", visual.expand(pictures, -1)), ("text", words)):
                if after is not None:
                    row[f"{name} drift"] = float(F.cosine_similarity(state[use], after[use], dim=-1).mean())
                row[f"{name} ffn"] = float((taken[n][use].norm(dim=-1) / state[use].norm(dim=-1)).mean())
        made[f"layer {n} input" if n < len(layers) else "after the last norm"] = row
    return made


def ima(bench: Bench) -> dict[str, Any]:
    full = bench.right()
    made: dict[str, Any] = {"nothing skipped": full.row()}
    near = closeness(bench, min(50, len(bench.scenes)))
    depth = len(bench.model.model.language_model.layers)
    candidates = range(1, depth)
    half = tuple(sorted(sorted(candidates, key=lambda n: near[f"layer {n} input"]["visual ffn"])[: depth // 2]))
    few = 5 + vlm.ROWS
    visual = bench.rows.shape[1]

    def without(layers: tuple[int, ...], which: str, count: int | None) -> Score:
        with skipped(bench.model, layers, some(which, count)):
            return bench.right()

    for layers in combinations(range(depth), depth // 2):
        made[f"layers {layers}: all {visual} visual rows"] = without(layers, "visual", None).row()
    cases = {
        "all visual": without(half, "visual", None),
        "all text": without(half, "text", None),
        f"{visual} of any": without(half, "any", visual),
        f"{few} visual": without(half, "visual", few),
        f"{few} of any": without(half, "any", few),
    }
    made |= {f"layers {half}: {name}": score.row() for name, score in cases.items()}
    nothing = (cases["all visual"].good == full.good).mean()
    claims = {}
    for other, mine in (
        ("all text", f"{few} visual"),
        (f"{few} of any", f"{few} visual"),
        ("all text", "all visual"),
        (f"{visual} of any", "all visual"),
    ):
        gap, error = cases[mine].minus(cases[other])
        claims[f"layers {half}: skipping {mine} rows costs less than {other}"] = (
            gap > 0,
            f"{100 * gap:+.1f} +- {100 * error:.1f} points",
        )
    empty = without((), "visual", None)
    claims["an empty list changes nothing"] = (
        bool((empty.good == full.good).all()),
        f"{100 * nothing:.1f} % same answers with {half}",
    )
    return {"rows": made | near, "claims": claims}
