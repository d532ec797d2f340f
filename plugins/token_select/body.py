"""The body of ``farthing::TokenSelect`` in standard operators.

Ties go to the lowest index because ONNX says so of TopK and ArgMax. A k above N is stopped by a TopK that asks for more than there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .rules import check_attributes


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """The FunctionProto for these attributes. Raises ValueError for attributes the contract refuses."""
    from .body_greedy import greedy
    from .body_parts import INPUTS, Tokens
    from .body_topk import topk

    grouped, limited = (len(present) > i and bool(present[i]) for i in (2, 3))
    check_attributes(attributes, grouped, limited)
    k, mode, order = int(attributes["k"]), str(attributes["mode"]), str(attributes.get("order", "position"))
    tokens = Tokens(grouped, limited)
    if mode == "topk":
        topk(tokens, k, order)
    else:
        greedy(tokens, k, mode, order, float(attributes.get("lam", 0.5)), float(attributes.get("epsilon", 1e-6)))
    inputs = INPUTS[: 2 + grouped + limited]
    return tokens.w.function(inputs, ["index", "picks"], ["k", "mode", "order", "lam", "epsilon"])
