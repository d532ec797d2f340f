"""Per layer: how near rows of images are to rows of text, how little a layer changes them, and how much of that its feed-forward network does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...export.checkpoint.vlm_folder import VlmFolder
from ...export.visual.samples import Sample, prompts
from .subnets import InputNorms, overlap

if TYPE_CHECKING:
    import torch

    from ...models.decoder import Decoder

EPSILON = 1e-7
"""Under the cosine's fraction, as in the authors' code."""

ALIKE = ("cosine", "mean", "median", "max_mean")
"""Ways to compare two modalities. ``cosine``: of their mean rows. The others are of the cosines of all pairs of a visual and a text row: their mean,
their median (which a few rows of huge norm do not move), and the mean over visual rows of the best text row."""


@dataclass(frozen=True)
class LayerScore:
    """The stream before layer ``layer`` (the number of layers: behind the last), means over samples.

    ``alike`` by `ALIKE`. Of the layer itself, absent behind the last: ``drift`` (modality -> cosine of a row before and after) and ``ffn``
    (modality -> norm of what the feed-forward network adds, over the norm of the row before it). ``overlap``: linear -> how many of the
    weights that images and text need are the same (`subnets`), where it was asked for.
    """

    layer: int
    alike: dict[str, float]
    drift: dict[str, float]
    ffn: dict[str, float]
    overlap: dict[str, float]


def measure(
    model: VlmFolder, decoder: Decoder, samples: Sequence[Sample], sparsity: float | None = None
) -> list[LayerScore]:
    """Scores of all layers, the input first. Text is what stands behind the image: the question and its answer.

    ``sparsity`` of the sub-networks that are compared; None compares none, which saves sorting every row of every matrix twice.
    """
    import torch

    from ...models.blocks import unadapted
    from ...models.vlm_reference import through_layer

    rows = list(prompts(model, decoder, list(samples)))
    found = []
    with torch.inference_mode():
        for i in range(decoder.config.layers + 1):
            layer = decoder.layer(i) if i < decoder.config.layers else None
            norms = InputNorms()
            scores: list[tuple[dict[str, float], dict[str, float], dict[str, float]]] = []
            for prompt in rows:
                visual = prompt.visual
                text = torch.arange(len(visual)) > int(visual.nonzero().max())
                alike = compare(prompt.stream[visual], prompt.stream[text])
                drift: dict[str, float] = {}
                ffn: dict[str, float] = {}
                if layer is not None:
                    before = copy.copy(prompt)
                    norms.rows(visual, text)
                    added = through_layer(decoder, layer, prompt, adapt=unadapted if sparsity is None else norms.see)
                    middle = prompt.stream - added
                    for name, which in (("visual", visual), ("text", text)):
                        drift[name] = float(cosine(before.stream[which], prompt.stream[which]).mean())
                        ffn[name] = float((added[which].norm(dim=-1) / middle[which].norm(dim=-1)).mean())
                scores.append((alike, drift, ffn))
            same = {} if sparsity is None or layer is None else overlap(layer, norms, sparsity)
            alike_all, drift_all, ffn_all = (_means([s[k] for s in scores]) for k in range(3))
            found.append(LayerScore(i, alike_all, drift_all, ffn_all, same))
    return found


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x . y / (|x| |y| + 1e-7) over the last axis."""
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1) + EPSILON)


def compare(visual: torch.Tensor, text: torch.Tensor) -> dict[str, float]:
    """`ALIKE` of rows [N,D] and [M,D]."""
    pairs = (visual / (visual.norm(dim=-1, keepdim=True) + EPSILON)) @ (
        text / (text.norm(dim=-1, keepdim=True) + EPSILON)
    ).T
    return {
        "cosine": float(cosine(visual.mean(0), text.mean(0))),
        "mean": float(pairs.mean()),
        "median": float(np.median(pairs.numpy())),
        "max_mean": float(pairs.amax(1).mean()),
    }


def _means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(e[name] for e in each) / len(each) for name in each[0]}
