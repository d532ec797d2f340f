"""What leaving parts of layers out does to the next token: KL divergence between the whole model and the one that skips."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...errors import RequestError, found_wanted
from ..checkpoint.vlm_folder import VlmFolder
from .samples import Sample, prompts

if TYPE_CHECKING:
    import torch

    from ...models.decoder import Decoder

MOST_KL = 0.05
"""Nats a token, mean of the samples. Our choice: by Pinsker's inequality no probability moves by more than sqrt(0.05 / 2) = 0.16."""

Plan = Mapping[int, str]


@dataclass(frozen=True)
class Guard:
    """KL(full || skipping) of the next token in nats: ``mean`` of samples, ``worst`` sample; ``same``: share of rows with the same likeliest token."""

    mean: float
    worst: float
    same: float
    samples: int
    rows: int

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)

    def refuse_above(self, most: float) -> None:
        """Raise RequestError unless the mean is at most ``most``."""
        if not self.mean <= most:
            raise RequestError(
                found_wanted(
                    f"mean KL of the plan over {self.samples} samples",
                    f"{self.mean:.4g} nats a token",
                    f"at most {most:g}",
                    "skip less (`farthing ima-report` finds what), or allow more with --max-kl",
                )
            )


def divergence(model: VlmFolder, decoder: Decoder, samples: Sequence[Sample], plans: Sequence[Plan]) -> list[Guard]:
    """A guard for each of ``plans``. Every layer is read once; the streams of all samples and plans are in memory."""
    import torch

    from ...models.vlm_reference import Prompt, through_layer

    full = list(prompts(model, decoder, list(samples)))
    others = [list[Prompt]() for _ in plans]
    with torch.inference_mode():
        for i in range(decoder.config.layers):
            layer = decoder.layer(i)
            for prompt in full:
                before = copy.copy(prompt)
                through_layer(decoder, layer, prompt)
                for plan, run in zip(plans, others, strict=True):
                    if plan and i == min(plan):  # up to here it is the whole model
                        run.append(copy.copy(before))
                        through_layer(decoder, layer, run[-1], plan[i])
            for plan, run in zip(plans, others, strict=True):
                if plan and i > min(plan):
                    for prompt in run:
                        through_layer(decoder, layer, prompt, plan.get(i))
        told = [
            [_chances(decoder, p.stream[-s.judged :]) for p, s in zip(run or full, samples, strict=True)]
            for run in (full, *others)
        ]
    return [_guard(told[0], run) for run in told[1:]]


def _chances(decoder: Decoder, stream: torch.Tensor) -> torch.Tensor:
    return decoder.logits_of(stream).double().log_softmax(-1)


def _guard(full: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Guard:
    import torch

    each = [float((a.exp() * (a - b)).sum(-1).mean().clamp(min=0)) for a, b in zip(full, other, strict=True)]
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(full, other, strict=True)])
    return Guard(sum(each) / len(each), max(each), float(same.double().mean()), len(each), len(same))
