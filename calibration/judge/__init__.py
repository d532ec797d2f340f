"""Training a judge of drafted tokens: mine mismatches by AutoJudge's procedure (arXiv 2504.20039), fit, calibrate.

found = mine(target, draft, prompts, same=answer_rule(r"answer is (\\d+)", decode))
fitted = fit(found, false_accept_rate=0.05)
"""

from __future__ import annotations

from .answers import answer_rule
from .decode import Decoded, JudgeScore, KlScore, NoScore, RandomScore, decode
from .greedy import greedy
from .mine import Mismatch, mine
from .run import JudgeResult, train_judge
from .train import Fitted, auc, fit, threshold

__all__ = [
    "Decoded",
    "Fitted",
    "JudgeResult",
    "JudgeScore",
    "KlScore",
    "Mismatch",
    "NoScore",
    "RandomScore",
    "answer_rule",
    "auc",
    "decode",
    "fit",
    "greedy",
    "mine",
    "threshold",
    "train_judge",
]
