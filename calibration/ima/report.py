"""The report: scores of every layer, and the layers whose feed-forward networks rows of images can leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError, found_wanted
from ...export.checkpoint import open_vlm
from ...export.checkpoint.vlm_folder import VlmFolder
from ...export.graph import Progress, no_progress
from ...export.graph.visual_step import SKIPS
from ...export.visual.guard import MOST_KL, Guard, divergence
from ...export.visual.samples import read_samples
from .measure import ALIKE, LayerScore, measure


@dataclass(frozen=True)
class Tried:
    """A plan that was measured."""

    plan: dict[int, str]
    guard: Guard


@dataclass(frozen=True)
class ImaReport:
    """``layers``: the input, then behind each layer. ``ima``: mean over the streams behind layers, by kind of comparison.

    ``ranking``: layers in the order in which they would be skipped. ``tried``: plans of the first one, two, four, ... of them; ``plan`` is the
    longest within ``most_kl`` and ``budget``, empty if none is.
    """

    checkpoint: str
    samples: int
    answered: int
    what: str
    budget: int
    most_kl: float
    sparsity: float | None
    layers: list[LayerScore]
    ima: dict[str, float]
    ranking: list[int]
    tried: list[Tried]
    plan: dict[int, str]

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data; ``plan`` as `farthing export ima-skip --plan` reads it."""
        return {
            **asdict(self),
            "plan": {str(layer): what for layer, what in self.plan.items()},
            "tried": [{"plan": {str(k): v for k, v in t.plan.items()}, **t.guard.as_json()} for t in self.tried],
        }


def rank(layers: Sequence[LayerScore]) -> list[int]:
    """Layers by what their feed-forward networks do to rows of images, least first: norm of what is added over the norm of the row.

    The first layer is none of them (rows of images have not been among text before it), nor is the last, whose network they never run.
    """
    inner = [s for s in layers[1:] if s.ffn][:-1]
    return [s.layer for s in sorted(inner, key=lambda s: (s.ffn["visual"], -s.drift["visual"], s.layer))]


def ima_report(
    checkpoint: str | Path | VlmFolder,
    images: str | Path,
    questions: str | Path | None = None,
    *,
    samples: int = 16,
    budget: int | None = None,
    what: str = "ffn",
    most_kl: float = MOST_KL,
    sparsity: float | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ImaReport:
    """Measure ``samples`` questions about pictures. ``budget``: most layers to skip, None = half of the candidates; ``what`` of them is skipped.
    ``sparsity`` above 0 and below 1 compares the sub-networks of images and text, too.

    Raises RequestError, CheckpointError.
    """
    from ...models.decoder import Decoder

    if what not in SKIPS:
        raise RequestError(found_wanted("--what", repr(what), f"one of {', '.join(SKIPS)}", "choose one"))
    if sparsity is not None and not 0 < sparsity < 1:
        raise RequestError(found_wanted("--sparsity", sparsity, "above 0 and below 1", "0.5 is usual"))
    model = checkpoint if isinstance(checkpoint, VlmFolder) else open_vlm(checkpoint)
    chosen = read_samples(model, images, questions, samples, seed)
    decoder = Decoder(model, lazy=True)
    progress("measuring layers", 0, 2)
    layers = measure(model, decoder, chosen, sparsity)
    progress("measuring layers", 1, 2)
    ranking = rank(layers)
    if budget is None:
        budget = len(ranking) // 2
    if not 0 <= budget <= len(ranking):
        raise RequestError(found_wanted("--budget", budget, f"0 to {len(ranking)} layers", "choose fewer"))
    plans = [dict.fromkeys(sorted(ranking[:n]), what) for n in _lengths(budget)]
    tried = [Tried(p, g) for p, g in zip(plans, divergence(model, decoder, chosen, plans), strict=True)]
    progress("measuring layers", 2, 2)
    good = [t.plan for t in tried if t.guard.mean <= most_kl]
    behind = layers[1:]
    return ImaReport(
        checkpoint=model.path.resolve().name,
        samples=len(chosen),
        answered=sum(bool(s.item.answers) for s in chosen),
        what=what,
        budget=budget,
        most_kl=most_kl,
        sparsity=sparsity,
        layers=layers,
        ima={kind: sum(s.alike[kind] for s in behind) / len(behind) for kind in ALIKE},
        ranking=ranking,
        tried=tried,
        plan=max(good, key=len, default={}),
    )


def _lengths(budget: int) -> list[int]:
    """All up to 8, then about an eighth apart: each plan holds a stream of every sample in memory."""
    found = list(range(1, min(budget, 8) + 1))
    while found and found[-1] < budget:
        found.append(min(budget, found[-1] + max(1, found[-1] // 8)))
    return found
