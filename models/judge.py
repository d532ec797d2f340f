"""Judge decoding: a linear head that says whether a drafted token is a valid continuation (Bachmann et al. 2025, arXiv 2501.19309).

Row i of a verification pass reads drafted token i. The state behind it, after the last norm, shows whether the model would rather
take the token back; the judge is a logistic regression on that state. A token is accepted if it is the model's own choice or if the
judge says it will do. What is decoded is therefore **not** the model's own text: the guarantee is lossy.

`accept_run` is the reference of the combined rule with its safety valves, for greedy decoding and chains of drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import RequestError, found_wanted
from .blocks import KVCache, rms_norm
from .decoder import Decoder

GOOD, IMPORTANT = "good", "important"
POLARITIES = (GOOD, IMPORTANT)
"""What the probability means: that the token is good (Bachmann et al.), or an important mismatch (AutoJudge, arXiv 2504.20039)."""

POST_NORM = "post_norm"
"""The only layer a judge reads: the hidden state after the last norm."""


@dataclass(frozen=True)
class Judge:
    """Logistic regression on standardised states: p = sigmoid(weight . (h - mean) / scale + bias).

    ``weight``, ``mean``, ``scale`` float32 [D]. ``delta`` is the threshold on the probability that a token is *good*, whatever
    ``polarity`` the weights have: a token is accepted if that probability is greater.
    """

    weight: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray
    polarity: str
    delta: float = 0.5
    layer: str = POST_NORM
    target_sha256: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def folded(self) -> tuple[np.ndarray, np.float32]:
        """(w' [D], b') with P(good) = sigmoid(w' . h + b'): standardisation and polarity folded in, in double, rounded once."""
        sign = 1.0 if self.polarity == GOOD else -1.0
        weight = sign * self.weight.astype(np.float64) / self.scale.astype(np.float64)
        bias = sign * float(self.bias) - float(weight @ self.mean.astype(np.float64))
        return weight.astype(np.float32), np.float32(bias)

    def good(self, states: np.ndarray) -> np.ndarray:
        """P(good) float32 [...] of states float32 [...,D]."""
        weight, bias = self.folded()
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-(states @ weight + bias)))).astype(np.float32)


@dataclass(frozen=True)
class Rule:
    """When a draft is accepted though the model would say something else.

    ``delta``: P(good) must be greater. Safety valves: the model itself must give the token at least ``min_probability``; no more than
    ``max_consecutive`` such tokens may follow one another (0 = no limit); ``control_ids`` (end of text and other control
    tokens) are accepted by the standard rule alone, or an answer could be cut short.
    """

    delta: float = 0.5
    min_probability: float = 0.01
    max_consecutive: int = 8
    control_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name, value, good in (
            ("delta", self.delta, 0 <= self.delta <= 1),
            ("min_probability", self.min_probability, 0 <= self.min_probability <= 1),
        ):
            if not good:
                raise RequestError(found_wanted(f"judge's {name}", value, "0 to 1", "choose another number"))
        if self.max_consecutive < 0:
            raise RequestError(
                found_wanted("judge's max_consecutive", self.max_consecutive, "0 or more", "choose another number")
            )


@dataclass(frozen=True)
class Verdict:
    """``accepted`` of the drafts stand, ``judged`` of them by the judge alone; then ``bonus``, the model's own token, is said."""

    accepted: int
    bonus: int
    judged: int


def accept_run(logits: np.ndarray, drafts: Sequence[int], good: np.ndarray, rule: Rule) -> Verdict:
    """How much of a chain of drafts stands, greedy.

    ``logits`` float32 [M+1,V], row 0 of the newest token and row i of draft i (1..M); ``good`` float32 [M+1], where good[i] judges
    the token that row i *reads*, draft i; good[0] is not used. A judge-only accept at draft i needs good[i] > delta and
    softmax(logits[i-1])[draft i] >= min_probability. Every pass ends with the model's own token, so max_consecutive needs no memory
    of the pass before.
    """
    judged = streak = 0
    for i, token in enumerate(drafts, start=1):
        row = logits[i - 1]
        own = int(row.argmax())
        if token == own:
            streak = 0
            continue
        free = rule.max_consecutive == 0 or streak < rule.max_consecutive
        if not (
            free
            and token not in rule.control_ids
            and good[i] > rule.delta
            and probability(row, token) >= rule.min_probability
        ):
            return Verdict(i - 1, own, judged)
        streak, judged = streak + 1, judged + 1
    return Verdict(len(drafts), int(logits[len(drafts)].argmax()), judged)


def probability(row: np.ndarray, token: int) -> float:
    """softmax(row)[token], in double."""
    wide = row.astype(np.float64)
    return float(np.exp(wide[token] - wide.max()) / np.exp(wide - wide.max()).sum())


class StatesDecoder(Decoder):
    """A decoder that gives the states a judge reads beside the logits."""

    @torch.inference_mode()
    def states(
        self, input_ids: torch.Tensor, cache: KVCache, past_len: torch.Tensor, logit_rows: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [B,R,V], states [B,R,D] after the last norm) of a pass; arguments as for `forward`."""
        output = self.forward(input_ids, cache, past_len, logit_rows=logit_rows)
        rows = rms_norm(output.hidden[-1], self._get("norm.weight"), self.config.norm_epsilon)
        if logit_rows is not None:
            rows = torch.gather(rows, 1, logit_rows[..., None].expand(-1, -1, rows.shape[-1]))
        return output.logits, rows
