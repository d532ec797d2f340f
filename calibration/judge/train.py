"""Fitting the judge: logistic regression on standardised states, its strength chosen by ROC-AUC, its threshold by false accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import RequestError, found_wanted
from ...models.judge import GOOD, Judge
from .mine import Mismatch

STRENGTHS = tuple(10.0**e for e in np.arange(-7, 2.5, 0.5))
"""Inverse strengths C of the L2 penalty, as scikit-learn counts them; AutoJudge's grid."""


@dataclass(frozen=True)
class Fitted:
    """A judge and what was measured on mismatches of prompts it was not trained on.

    ``false_accepts`` is the share of important mismatches above ``judge.delta``, ``accepts`` that of unimportant ones.
    """

    judge: Judge
    strength: float
    auc: float
    trained_on: int
    validated_on: int
    important: float
    false_accepts: float
    accepts: float


def fit(
    found: Sequence[Mismatch], *, false_accept_rate: float = 0.05, validation: float = 0.3, seed: int = 0
) -> Fitted:
    """Train on the mismatches of most prompts, choose C and the threshold on those of the rest (``validation``, a share of prompts).

    The labels are 1 = good; both classes weigh the same. Raises RequestError if a class is missing on either side.
    """
    if not 0 < false_accept_rate < 1:
        raise RequestError(found_wanted("false accept rate", false_accept_rate, "between 0 and 1", "choose another"))
    states = np.stack([m.state for m in found]).astype(np.float64) if found else np.zeros((0, 1))
    good = np.array([not m.important for m in found], bool)
    held = _held_out(np.array([m.prompt for m in found]), validation, seed)
    for name, part in (("training", ~held), ("validation", held)):
        for kind, count in (("unimportant", int(good[part].sum())), ("important", int((~good[part]).sum()))):
            if count < 2:
                raise RequestError(
                    found_wanted(
                        f"{kind} mismatches for {name}",
                        count,
                        "2 or more",
                        "mine more prompts, or prompts whose answers can be wrong",
                    )
                )
    mean, scale = states[~held].mean(0), states[~held].std(0)
    scale[scale < 1e-6] = 1.0
    standard = (states - mean) / scale
    tried = []
    for strength in STRENGTHS:
        weight, bias = _regression(standard[~held], good[~held], strength)
        scores = standard[held] @ weight + bias
        # Where several rank the mismatches equally well, the one whose probabilities fit best.
        tried.append((round(auc(scores, good[held]), 4), -_log_loss(scores, good[held]), strength, weight, bias))
    _, _, strength, weight, bias = max(tried, key=lambda t: t[:2])
    area = auc(standard[held] @ weight + bias, good[held])
    judge = Judge(weight.astype(np.float32), float(bias), mean.astype(np.float32), scale.astype(np.float32), GOOD)
    chances = judge.good(states[held].astype(np.float32))
    delta = threshold(chances, good[held], false_accept_rate)
    false_accepts = float((chances[~good[held]] > delta).mean())
    notes = {"auc": f"{area:.4f}", "false_accept_rate": f"{false_accepts:.4f}", "mismatches": str(len(found))}
    return Fitted(
        Judge(judge.weight, judge.bias, judge.mean, judge.scale, GOOD, delta, notes=notes),
        strength,
        area,
        int((~held).sum()),
        int(held.sum()),
        float((~good).mean()),
        false_accepts,
        float((chances[good[held]] > delta).mean()),
    )


def threshold(chances: np.ndarray, good: np.ndarray, false_accept_rate: float) -> float:
    """A threshold above which at most ``false_accept_rate`` of the mismatches that are not ``good`` lie; both [N].

    The lowest such one, raised as far as no good mismatch is lost by it, into the middle (of the logits) of the gap that is there:
    where the classes lie apart, nothing is gained by letting bad ones through up to the rate.
    """
    bad = np.sort(chances[~good])[::-1]
    lowest = float(bad[int(false_accept_rate * len(bad))])
    above = chances[good & (chances > lowest)]
    if not above.size:
        return lowest
    under, over = bad[bad < above.min()].max(), above.min()
    low, high = (np.clip(float(x), 1e-9, 1 - 1e-9) for x in (under, over))
    middle = 1 / (1 + np.exp(-(np.log(low / (1 - low)) + np.log(high / (1 - high))) / 2))
    return float(min(max(middle, under), np.nextafter(over, 0)))


def auc(scores: np.ndarray, good: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a good one scores above a bad one, ties counting half. Both [N]."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives, negatives = int(good.sum()), int((~good).sum())
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _log_loss(scores: np.ndarray, good: np.ndarray) -> float:
    """Mean log loss of sigmoid(scores), both classes weighing the same."""
    losses = np.logaddexp(0, np.where(good, -scores, scores))
    return float(losses[good].mean() + losses[~good].mean()) / 2


def _held_out(prompts: np.ndarray, share: float, seed: int) -> np.ndarray:
    """[N] bool. Whole prompts: mismatches of one text resemble each other."""
    groups = np.unique(prompts)
    chosen = np.random.default_rng(seed).permutation(groups)[: round(share * len(groups))]
    return np.isin(prompts, chosen)


def _regression(x: np.ndarray, good: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """(weight [D], bias) that minimise strength * sum of weighted log losses + |weight|^2 / 2, by L-BFGS in double."""
    features, labels = torch.from_numpy(x), torch.from_numpy(good.astype(np.float64))
    share = labels.mean()
    weights = torch.where(labels > 0, 0.5 / share, 0.5 / (1 - share))
    parameters = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=200, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = features @ parameters[:-1] + parameters[-1]
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="mean")
        # Divided by C: the same minimum, and the steps of L-BFGS stay of one size over nine decades of C.
        total = losses + parameters[:-1].square().sum() / (2 * strength * len(labels))
        total.backward()
        return total

    optimiser.step(loss)
    found = parameters.detach().numpy()
    return found[:-1].copy(), float(found[-1])
