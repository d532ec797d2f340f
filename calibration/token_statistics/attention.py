"""Where the layers of an image model look: how local attention is, layer by layer (after Liu et al. 2025, PMLR 267, who find it local in models of all sizes).

Runs the PyTorch reference of a class-conditional LlamaGen checkpoint over codes, without a class. Row t of the sequence decides code t, so distances
are from the place that is decided: the code to its left stands in the row itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError, found_wanted
from .stream import Stream

if TYPE_CHECKING:
    import torch

    from ...models.llamagen import LlamaGen

NEAR = 2
"""Rows and columns that count as near."""
BATCH = 16


@dataclass(frozen=True)
class Looks:
    """Mean attention of ``layer`` over heads, images and places with neighbours: parts on the ``condition``, the code to the ``left``, ``above``, and
    on all codes that are ``near`` (at most NEAR rows and columns away). ``distance``: mean rows plus columns to what is looked at, condition left out.
    """

    layer: int
    condition: float
    left: float
    above: float
    near: float
    distance: float


@dataclass(frozen=True)
class Attention:
    """``layers``, and what attention that spreads evenly over all earlier codes and the condition would give (its layer is -1)."""

    images: int
    layers: list[Looks]
    even: Looks


def attention(
    stream: Stream,
    checkpoint: str | Path,
    *,
    images: int = 128,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Attention:
    """Of the model in folder ``checkpoint`` over ``images`` of ``stream``, whose codes must be those of its tokenizer.

    Raises RequestError, CheckpointError.
    """
    import torch

    from ...export.checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
    from ...models.llamagen import LlamaGen

    source = LlamaGenCheckpoint(checkpoint)
    model = source.model
    if not isinstance(model, LlamaGen):
        raise RequestError(
            found_wanted(f"model of {checkpoint}", "conditioned on text", "one with classes", "give another")
        )
    c = model.config
    for what, found, wanted in (
        ("codebook of the codes", stream.vocab, c.codes),
        ("grid of the codes", stream.codes.shape[1:], (c.grid, c.grid)),
    ):
        if found != wanted:
            raise RequestError(
                found_wanted(what, found, f"{wanted} as {checkpoint} has", "take codes of its tokenizer")
            )
    if c.grid < 2:
        raise RequestError(found_wanted(f"grid of {checkpoint}", c.grid, "2 or more", "one code has no neighbours"))
    chosen = stream.drawn(min(images, stream.images), seed).codes.reshape(-1, c.tokens)
    kinds = _kinds(c.grid)
    sums = np.zeros((c.layers, len(kinds)))
    hooks = [
        layer.attention.wqkv.register_forward_hook(_counter(model, kinds, sums[i]))
        for i, layer in enumerate(model.layers)
    ]
    try:
        with torch.no_grad():
            for start in range(0, len(chosen), BATCH):
                codes = torch.from_numpy(chosen[start : start + BATCH, :-1])
                none = torch.full((len(codes), 1), c.codes + c.classes)
                model.features(torch.cat([none, codes], 1))
                if progress:
                    progress("reading attention", min(start + BATCH, len(chosen)), len(chosen))
    finally:
        for hook in hooks:
            hook.remove()
    sums /= len(chosen)
    visible = np.tril(np.ones((c.tokens, c.tokens)))
    even = kinds.reshape(len(kinds), -1) @ (visible / visible.sum(1, keepdims=True)).ravel()
    return Attention(len(chosen), [_looks(i, row) for i, row in enumerate(sums)], _looks(-1, even))


def _kinds(grid: int) -> np.ndarray:
    """float64 [5,T,T]: what attention from a row (the place it decides) to a row (condition, then codes) counts for - condition, left, above, near,
    distance - divided by the number of places that count, those with codes to the left and above."""
    place = np.arange(grid * grid)
    row, column = place // grid, place % grid
    down = np.abs(row[:, None] - row[None, :-1])
    across = np.abs(column[:, None] - column[None, :-1])
    before = place[None, :-1] < place[:, None]
    found = np.zeros((5, grid * grid, grid * grid))
    found[0, :, 0] = 1
    found[1, :, 1:] = (down == 0) & (across == 1) & before
    found[2, :, 1:] = (down == 1) & (across == 0) & before
    found[3, :, 1:] = (np.maximum(down, across) <= NEAR) & before
    found[4, :, 1:] = (down + across) * before
    inside = (row > 0) & (column > 0)
    return found * inside[:, None] / inside.sum()


def _counter(model: LlamaGen, kinds: np.ndarray, sums: np.ndarray) -> Callable[[Any, Any, torch.Tensor], None]:
    """A hook that adds the attention of a layer, from its q, k, v [B,S,3D], to ``sums`` [5]."""
    import torch

    from ...models.image_blocks import rotate_pairs

    heads = model.config.heads

    def count(_module: Any, _inputs: Any, qkv: torch.Tensor) -> None:
        q, k, _ = qkv.view(*qkv.shape[:2], 3, heads, -1).unbind(2)
        cos, sin = (t[: qkv.shape[1]] for t in model.rope)
        q, k = (rotate_pairs(t, cos, sin).transpose(1, 2) for t in (q, k))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).mean(1).sum(0)
        sums[:] += np.einsum("kij,ij->k", kinds, weights.double().numpy())

    return count


def _looks(layer: int, sums: Sequence[float] | np.ndarray) -> Looks:
    condition, left, above, near, distance = (float(v) for v in sums)
    return Looks(layer, condition, left, above, near, distance / (1 - condition) if condition < 1 else 0.0)


def attention_table(found: Attention) -> str:
    """A line for each layer, and one for even attention."""
    lines = [
        f"attention of {found.images} images without a class, from the place that is decided",
        f"{'layer':>6}{'left':>8}{'above':>8}{'near':>8}{'condition':>11}{'distance':>10}   near: at most {NEAR} rows and columns away; distance: rows + columns",
    ]
    for one in (*found.layers, found.even):
        name = "even" if one.layer < 0 else str(one.layer)
        lines.append(
            f"{name:>6}{one.left:>8.1%}{one.above:>8.1%}{one.near:>8.1%}{one.condition:>11.1%}{one.distance:>10.2f}"
        )
    return "\n".join(lines)
