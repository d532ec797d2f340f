"""Names and checks shared by the faces of ``farthing::TokenSelect`` that live in Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

MODES = ("topk", "mmr", "sads")
ORDERS = ("position", "score")
ALWAYS = -2
"""Group of a token that is kept whatever its score, e.g. a line break between rows of an image."""
NEVER = -1
"""Group of a token that is no candidate, e.g. padding."""


def refuse(what: str, found: object, wanted: str, fix: str) -> NoReturn:
    """Raise the ValueError of the contract; kernel and plugin say the same sentence."""
    raise ValueError(f"TokenSelect: {what} is {found}, expected {wanted}; {fix}")


def check_attributes(attributes: Mapping[str, Any], group: object, quota: object) -> None:
    """Refuse attributes that no input can make right. ``group`` and ``quota`` are None or False when absent."""
    k, mode, order = attributes["k"], attributes["mode"], attributes.get("order", "position")
    lam, epsilon = attributes.get("lam", 0.5), attributes.get("epsilon", 1e-6)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        refuse("k", k, "1 or more", "keep at least one token")
    if mode not in MODES:
        refuse("mode", repr(mode), " or ".join(MODES), "choose one of them")
    if order not in ORDERS:
        refuse("order", repr(order), " or ".join(ORDERS), "choose one of them")
    if not 0.0 <= lam <= 1.0:  # also catches NaN
        refuse("lam", lam, "0 to 1", "1 is importance alone, 0 diversity alone")
    if not (epsilon > 0.0 and math.isfinite(epsilon)):
        refuse("epsilon", epsilon, "above 0 and finite", "use 1e-6")
    if quota is not None and quota is not False and (group is None or group is False):
        refuse("group", "absent", "present where quota is", "say which group each token is in, or drop quota")
