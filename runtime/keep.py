"""How many visual tokens stay: counts from a ratio, and which built size serves an image. Exporter and runtime must agree, so it stands here."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError, found_wanted


def keep_count(tokens: int, ratio: float) -> int:
    """Tokens that stay when ``ratio`` of them is dropped: round(tokens * (1 - ratio)), halves to even, at least 1 if ratio < 1.

    Raises RequestError for a ratio that is not a number from 0 to 1, or a negative count.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0.0 <= ratio <= 1.0:
        raise RequestError(found_wanted("ratio of dropped tokens", repr(ratio), "a number from 0 to 1", "0 keeps all"))
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise RequestError(found_wanted("number of tokens", repr(tokens), "0 or more", "count the visual tokens"))
    kept = round(tokens * (1.0 - ratio))
    return 1 if kept == 0 and ratio < 1.0 and tokens > 0 else kept


def keep_buckets(token_counts: Sequence[int], ratio: float) -> tuple[int, ...]:
    """The values of k to build graphs for, one for every number of tokens that the vision tower may give; ascending.

    Raises RequestError if one of them would keep nothing.
    """
    kept = sorted({keep_count(tokens, ratio) for tokens in token_counts})
    if not kept or kept[0] < 1:
        raise RequestError(
            found_wanted("tokens kept", kept or "none", "1 or more", "lower the ratio or give token counts")
        )
    return tuple(kept)


def choose_bucket(buckets: Sequence[int], tokens: int, ratio: float, *, always: int = 0) -> int | None:
    """The k to use for ``tokens`` candidates: the smallest bucket that keeps enough, or None to keep all of them.

    Never fewer than `keep_count` asks for, plus ``always``: rows that are no candidates and stay whatever happens (line breaks). None when
    every such bucket is as large as the whole input, so there is nothing to drop. Raises RequestError when the largest bucket is too small.
    """
    wanted = keep_count(tokens, ratio) + always
    enough = [k for k in sorted(buckets) if k >= wanted]
    if not enough:
        raise RequestError(
            found_wanted("tokens to keep", wanted, f"at most {max(buckets, default=0)}", "export a larger bucket")
        )
    return enough[0] if enough[0] < tokens + always else None
