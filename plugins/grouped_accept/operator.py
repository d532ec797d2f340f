"""Contract of ``farthing::GroupedAccept``: the step of speculative decoding for image codes. Reference, body and rules stand beside it.

``exact`` is speculative sampling (Leviathan et al. 2023, arXiv 2211.17192): the next code is distributed as p. ``grouped`` and ``partition``
compare masses of groups of codes: Grouped Speculative Decoding (So et al. 2025, arXiv 2508.07747), with groups by rank, or with fixed
clusters as in its theory. ``neighbourhood`` is LANTERN (Jang, Park et al. 2025, arXiv 2410.03355): a draft stands for its nearest codes, up to
a budget; relative budgets are LANTERN++ (arXiv 2502.06352).
"""

from __future__ import annotations

from ..contract import Attribute, Operator, Port
from .body import body
from .reference import reference
from .rules import DEFAULTS, MODES, rules

_F32, _INT64 = ("float32",), ("int64",)
OPERATOR = Operator(
    name="GroupedAccept",
    doc="How many drafts of a window stand, and the code that follows them, by the ratio of target to draft probability: of the draft "
    "itself, or of codes that look like it.\n\n"
    "Draft i stands where uniforms[i] < chance[i]; the walk ends at the first that does not. In chance = min(1, a/b), b = 0 gives 0.\n\n"
    "exact: a = p(x), b = q(x). grouped: sums of p and of q over the group_size codes at ranks r - G/2 to r - G/2 + G - 1 around x's rank r by p, "
    "the lower index first among equals, cut at both ends (the authors' script takes the plain ratio for r < 7 instead); codes with "
    "|p(c) - p(x)| >= prob_tol, or with embeds a squared distance >= dist_tol, are dropped, x never; group_size 1 is exact bit for bit. "
    "partition: sums of p and of q over x's cluster. neighbourhood: A(x) is the longest prefix of x's row of table whose sum S of p is at most "
    "delta (relative: delta * p(x)); a = p(x) + S, b = q(x).\n\n"
    "The next code is drawn with the last uniform number: the first index whose running sum of weights exceeds u * total. All stand: by the last row of p. "
    "Refused at i: by the positive part of p - q (exact, grouped); of a cluster's mass in p less that in q, and within the cluster by p "
    "(partition); of P - q with P(x) = p(x) + S, P = 0 on A, P = p elsewhere (neighbourhood). A residual without mass: by p, in "
    "neighbourhood by p without A and x if that has any.\n\n"
    "Rows need not sum to 1. Negative entries and NaN count as 0; a row without a finite positive sum gives V - 1. "
    "exact keeps p. partition is wrong within clusters alone: by the sum of min(p(C), q(C)) * TV(p(.|C), q(.|C)). grouped was never farther from p "
    "than q is, but a window by rank is no partition and may accept less than exact does (by 0.12 at worst in a search). neighbourhood gives P for "
    "drafts with one-hot q, S from p; for drafts drawn from a spread q its budget bounds nothing, and what comes out is close to q. Where values cannot be refused (body, devices), drafts and "
    "entries of table are clamped to 0 to V - 1. embeds is read in mode grouped alone, but may be there in all.",
    inputs=(
        Port("p", ("L+1", "V"), _F32, "target distribution of each draft's place, and of the place behind"),
        Port(
            "q", ("L", "V"), _F32, "distribution that each draft was drawn from; one-hot for a draft that was not drawn"
        ),
        Port("draft", ("L",), _INT64, "drafted codes"),
        Port("uniforms", ("L+1",), _F32, "in [0, 1), multiples of 2^-24: one a draft, the last one for next"),
        Port("embeds", ("V", "E"), _F32, "what distance is measured on; absent: no bound on it", optional=True),
        Port(
            "table",
            ("V", "K"),
            _INT64,
            "partition: K = 1, cluster of each code, 0 to V - 1; neighbourhood: the K nearest other codes, nearest first, 1 <= K < V",
            optional=True,
        ),
    ),
    outputs=(
        Port("accepted", ("1",), _INT64, "how many drafts stand"),
        Port("next", ("1",), _INT64, "the code behind them"),
        Port("chance", ("L",), _F32, "probability with which each draft stands"),
    ),
    attributes=(
        Attribute("mode", "string", "which rule", choices=MODES),
        Attribute("group_size", "int", "grouped: codes in a group, x included", DEFAULTS["group_size"]),
        Attribute("prob_tol", "float", "grouped: least difference in p that drops a code", DEFAULTS["prob_tol"]),
        Attribute("dist_tol", "float", "grouped: least squared distance that drops a code", DEFAULTS["dist_tol"]),
        Attribute("delta", "float", "neighbourhood: most mass to borrow; below 1 unless relative", DEFAULTS["delta"]),
        Attribute("relative", "int", "neighbourhood: 1 measures delta in units of p(x)", DEFAULTS["relative"]),
    ),
    cost="2*(L+1)*V*4 bytes at most; exact and neighbourhood read one row of each, grouped all of p: no sort, O(V) a draft",
    errors=(
        "unknown mode; table absent in partition or neighbourhood, or present in the others",
        "group_size below 1; a tolerance or delta that is negative or NaN; delta of 1 or more that is not relative; relative not 0 or 1",
        "L or V is 0; p, draft or uniforms do not fit q; embeds has not V rows",
        "table has not V rows, not one column in partition, not 1 to V - 1 in neighbourhood",
        "a draft or an entry of table outside 0 to V - 1, a uniform number outside [0, 1); devices clamp",
    ),
    body=body,
    reference=reference,
    rules=rules,
)
