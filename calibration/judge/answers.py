"""Whether two texts come to the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from ...errors import RequestError, found_wanted

Same = Callable[[int, list[int], list[int]], bool]
"""(number of the prompt, ids that the target said, ids after a change) -> whether the answer is still the same."""

Decode = Callable[[list[int]], str]
"""Ids -> text."""


def answer_rule(pattern: str, text_of: Decode) -> Same:
    """Two texts agree if the last match of the regular expression ``pattern`` is the same in both: its first group, or all of it.

    Spaces and thousands' commas do not count. A changed text without a match differs; if the target's own text has none,
    nothing can be said and every change counts as important. Raises RequestError for a bad pattern.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RequestError(
            found_wanted("answer pattern", f"{pattern!r} ({error})", "a regular expression", "correct --answer")
        ) from error

    def answer(ids: list[int]) -> str | None:
        found = list(compiled.finditer(text_of(ids)))
        return re.sub(r"[\s,]", "", found[-1].group(1 if compiled.groups else 0) or "") if found else None

    def same(prompt: int, own: list[int], changed: list[int]) -> bool:
        wanted = answer(own)
        return wanted is not None and answer(changed) == wanted

    return same
