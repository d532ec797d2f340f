"""Contract of ``farthing::TokenSelect``: which k of N tokens to keep. Reference, body and rules stand beside it.

Modes: ``topk`` takes the highest scores. ``mmr`` is Maximal Marginal Relevance (Carbonell and Goldstein 1998) as IDPruner uses it (Tan et
al. 2026, arXiv 2602.13315): first the highest importance, then the highest lam * importance - (1 - lam) * nearest, where
nearest is the largest cosine similarity to what is picked. ``sads`` is the sensitivity-aware selection of ZOO-Prune (Kim,
Zhang et al. 2025, arXiv 2509.24837): first the highest importance, then the highest importance * (1 - nearest).
Importance is the score, min-max normalised: (s - min) / (max - min + epsilon).
"""

from __future__ import annotations

from ..contract import Attribute, Operator, Port
from .body import body
from .reference import reference
from .rules import MODES, ORDERS

OPERATOR = Operator(
    name="TokenSelect",
    doc="The k tokens of N worth keeping, by importance, diversity or both, within groups and quotas.\n\n"
    "One pick at a time, from the first of these tiers that has anybody left: tokens that are always kept, by position; "
    "candidates whose group has not reached its quota; candidates whose group has; tokens that are no candidates, by position. "
    "So the k picks are always distinct and valid, and quotas that add up to less than k are topped up, those that add up to "
    "more are cut by the objective. With quotas each group is a pool of its own: scores are normalised and similarities counted "
    "within it; without, all candidates are one pool. Ties go to the lowest index. A NaN or -Inf score counts as the lowest of its "
    "pool, +Inf as the highest; equal scores give importance 0 (mmr) or 1 (sads), so diversity decides. Features of norm zero, or not "
    "finite, are similar to nothing.",
    inputs=(
        Port("scores", ("B", "N"), ("float32",), "importance before normalisation; larger is better"),
        Port(
            "feats",
            ("B", "N", "D"),
            ("float32", "float16"),
            "what similarity is measured on; topk reads its shape only",
        ),
        Port(
            "group",
            ("B", "N"),
            ("int64",),
            "group of each token; -2 always kept, -1 or no group of quota: no candidate",
            optional=True,
        ),
        Port("quota", ("B", "G"), ("int64",), "most tokens to take of group 0 .. G-1; needs group", optional=True),
    ),
    outputs=(
        Port(
            "index", ("B", "k"), ("int64",), "positions of the kept tokens: ascending, or in pick order for order=score"
        ),
        Port("picks", ("B", "k"), ("int64",), "the same in the order they were picked"),
    ),
    attributes=(
        Attribute("k", "int", "tokens to keep, always kept ones included; 1 to N"),
        Attribute("mode", "string", "how to choose", choices=MODES),
        Attribute("order", "string", "order of index", "position", choices=ORDERS),
        Attribute("lam", "float", "weight of importance against diversity in mmr, 0 to 1", 0.5),
        Attribute("epsilon", "float", "added to max - min of the scores; 1e-6 in IDPruner, 1e-8 in ZOO-Prune", 1e-6),
    ),
    cost="body: 2*B*N*N*D FLOP; kernel: some k*k*D FLOP when importance decides, at most 2*k*N*D; N*D*sizeof(feats) bytes at least",
    errors=(
        "k is not 1 to N",
        "unknown mode or order",
        "lam is not within 0 and 1; epsilon is not above 0",
        "quota without group",
        "feats is not [B,N,D] of the scores' B and N; group is not [B,N]; quota is not [B,G] with G >= 1",
    ),
    body=body,
    reference=reference,
    symbols={"k": "k"},
)
