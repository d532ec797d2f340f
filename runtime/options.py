"""Checks of what a caller asks for, before anything runs. All raise RequestError in the house form."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import RequestError, found_wanted

INT32_MAX = 2**31 - 1


def whole_number(what: str, value: Any, low: int, high: int, fix: str = "choose another value") -> int:
    """``value`` as an int in [low, high]; bools and floats are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise RequestError(found_wanted(what, repr(value), "a whole number", fix))
    try:
        number = operator.index(value)
    except TypeError as error:
        raise RequestError(found_wanted(what, repr(value)[:80], "a whole number", fix)) from error
    if not low <= number <= high:
        raise RequestError(found_wanted(what, number, f"{low} to {high}", fix))
    return number


def real_number(
    what: str, value: Any, low: float, high: float, *, open_low: bool = False, fix: str = "choose another value"
) -> float:
    """``value`` as a finite float in [low, high], or (low, high] with ``open_low``."""
    wanted = f"above {low:g}, at most {high:g}" if open_low else f"{low:g} to {high:g}"
    if isinstance(value, (bool, str, bytes)):
        raise RequestError(found_wanted(what, repr(value)[:80], wanted, fix))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(found_wanted(what, repr(value)[:80], wanted, fix)) from error
    if not math.isfinite(number) or not low <= number <= high or (open_low and number == low):
        raise RequestError(found_wanted(what, number, wanted, fix))
    return number


def token_ids(what: str, ids: Any, vocab_size: int, *, empty: bool = False) -> list[int]:
    """``ids`` as a list of ints below ``vocab_size``; ``empty`` says whether it may have none."""
    fix = "use this bundle's tokenizer"
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise RequestError(found_wanted(what, repr(ids)[:80], "a list of token ids", fix))
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise RequestError(found_wanted(what, f"an array of shape {ids.shape}", "one row of token ids", fix))
        if np.issubdtype(ids.dtype, np.integer):
            ids = ids.tolist()
    result = [whole_number(f"{what}[{i}]", value, 0, vocab_size - 1, fix) for i, value in enumerate(ids)]
    if not result and not empty:
        raise RequestError(found_wanted(what, "empty", "at least one token", "give a prompt"))
    return result


def sampling(
    *,
    greedy: bool,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int,
) -> dict[str, Any]:
    """The engine's sampling options; ``greedy`` sets the temperature to 0. The ranges are those of runtime/core/sampler.cc."""
    checked = real_number("temperature", temperature, 0.0, 1e6, fix="choose another value; 0 is greedy")
    return {
        "temperature": 0.0 if greedy else checked,
        "top_k": whole_number("top_k", top_k, 0, INT32_MAX, "choose another value; 0 is off"),
        "top_p": real_number("top_p", top_p, 0.0, 1.0, open_low=True, fix="choose another value; 1 is off"),
        "min_p": real_number("min_p", min_p, 0.0, 1.0, fix="choose another value; 0 is off"),
        "repetition_penalty": real_number(
            "repetition_penalty", repetition_penalty, 0.0, 1e6, open_low=True, fix="choose another value; 1 is off"
        ),
        "seed": whole_number("seed", seed, 0, 2**64 - 1),
    }
