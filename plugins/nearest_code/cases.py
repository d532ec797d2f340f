"""Rows of the parity table for ``farthing::NearestCode``.

Codes are compared exactly, so a random latent whose best two codes are within MARGIN is drawn again, in float32 and rounded to
float16. Ties stand in rows of their own, of numbers that every face multiplies and adds exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case, floats

MARGIN = 1e-5
"""Between the scores of the best and the second, over the length of the latent."""


def scores(latents: np.ndarray, table: np.ndarray, normalize: int) -> np.ndarray:
    """What is compared [N,V] in float64."""
    x, e = latents.astype(np.float64), table.astype(np.float64)
    squares = (e * e).sum(1)
    if normalize:
        return x @ (e / np.maximum(np.sqrt(squares), 1e-12)[:, None]).T  # type: ignore[no-any-return]
    return x @ e.T - squares / 2  # type: ignore[no-any-return]


def _clear(latents: np.ndarray, table: np.ndarray, normalize: int) -> np.ndarray:
    """Which latents [N] bool have one best code; not those that are NaN."""
    if len(table) == 1:
        return np.ones(len(latents), bool)
    with np.errstate(invalid="ignore"):
        best = np.partition(scores(latents, table, normalize), -2, axis=1)
        length = np.sqrt((latents.astype(np.float64) ** 2).sum(1))
        return (best[:, -1] - best[:, -2]) > MARGIN * np.maximum(length, 1)  # type: ignore[no-any-return]


def clear_inputs(seed: int, rows: int, codes: int, width: int, normalize: int) -> list[np.ndarray | None]:
    """Latents [rows,width] and a table [codes,width] without near ties."""
    rng = np.random.default_rng(seed)
    table, latents = floats(rng, codes, width), floats(rng, rows, width)
    for _ in range(1000):
        unclear = ~(
            _clear(latents, table, normalize) & _clear(latents.astype(np.float16), table.astype(np.float16), normalize)
        )
        if not unclear.any():
            return [latents, table]
        latents[unclear] = floats(rng, int(unclear.sum()), width)
    raise AssertionError(f"no clear latents for {codes} codes of {width}; lower MARGIN")


def _random() -> Iterator[Case]:
    # N, V, E: one of everything, tails of every tile and vector width, LlamaGen's table, and one wider than any register tile
    for number, (rows, codes, width) in enumerate(
        [
            (1, 1, 1),
            (1, 2, 1),
            (3, 5, 2),
            (4, 16, 8),
            (5, 17, 3),
            (7, 33, 8),
            (64, 256, 8),
            (9, 257, 24),
            (2, 1030, 100),
            (16, 16384, 8),
            (3, 300, 517),
        ]
    ):
        for normalize in (0, 1):
            name = f"n{rows}v{codes}e{width}" + ("-unit" if normalize else "")
            wide = 1 if width == 1 else 0  # unit numbers are all 1 or -1: many ties, all exact
            given = clear_inputs(number, rows, codes, width, normalize * (1 - wide))
            yield Case("NearestCode", name, given, {"normalize": normalize})
    yield Case("NearestCode", "default", clear_inputs(50, 4, 9, 4, 0))
    yield Case("NearestCode", "no-latents", [np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32)])


def _ties() -> Iterator[Case]:
    # Signs: all rows have length 2, every product is an integer, and many codes are equal.
    rng = np.random.default_rng(4)
    for codes in (40, 300):
        table = rng.choice(np.array([-1, 1], np.float32), (codes, 4))
        latents = np.concatenate([table[::-1][:37], np.zeros((2, 4), np.float32), rng.integers(-2, 3, (20, 4))])
        for normalize in (0, 1):
            attributes = {"normalize": normalize}
            yield Case("NearestCode", f"signs{codes}-{normalize}", [latents.astype(np.float32), table], attributes)
    whole, equal = rng.integers(-9, 10, (5, 4)).astype(np.float32), np.full((70, 4), 0.5, np.float32)
    for normalize in (0, 1):
        yield Case("NearestCode", f"all-equal-{normalize}", [whole, equal], {"normalize": normalize})
        yield Case("NearestCode", f"zero-table-{normalize}", [whole, 0 * equal], {"normalize": normalize})
    between = np.array([[4, 0], [0, 0], [0, 4], [4, 4]], np.float32)
    yield Case("NearestCode", "half-way", [np.array([[2, 0], [2, 2], [0, 2], [2, 4]], np.float32), between])


def _odd() -> Iterator[Case]:
    nan, inf = np.nan, np.inf
    for normalize in (0, 1):
        latents, table = (a.copy() for a in clear_inputs(60, 12, 40, 6, normalize) if a is not None)
        latents[1, 2], latents[3, 0], latents[4, 5], latents[5] = nan, inf, -inf, nan
        yield Case("NearestCode", f"odd-latents-{normalize}", [latents.copy(), table], {"normalize": normalize})
        table = table.copy()
        best = scores(latents[8:9], table, normalize).argmax()
        table[best, 1], table[0, 0], table[(best + 1) % 40] = nan, inf, -inf
        left = [i for i in range(12) if i in (1, 3) or _clear(latents[i : i + 1], _without(table), normalize).all()]
        yield Case("NearestCode", f"odd-table-{normalize}", [latents[left], table], {"normalize": normalize})
        yield Case(
            "NearestCode",
            f"only-nan-{normalize}",
            [latents, np.full((9, 6), nan, np.float32)],
            {"normalize": normalize},
        )
        # Of squares that float32 cannot hold.
        big = np.array([[1e20, 0], [1, 0], [0, 3]], np.float32)
        yield Case(
            "NearestCode",
            f"too-long-{normalize}",
            [np.array([[1, 0], [0, 1], [2e19, 1]], np.float32), big],
            {"normalize": normalize},
        )
    short = np.array([[0, 0, 1], [1e-30, 0, 0], [0, 1e-14, 0]], np.float32)
    latents = np.array([[5, 1, -1], [-1, 7, -1], [-1, -1, 7], [-1, -1, -1]], np.float32)
    yield Case(
        "NearestCode",
        "short-codes",
        [latents, short],
        {"normalize": 1},
        half_tolerance=None,
        half_reason="the lengths are below those of float16",
    )


def _without(table: np.ndarray) -> np.ndarray:
    """The rows that can be chosen."""
    return table[np.isfinite(table).all(1)]


def _refused() -> Iterator[Case]:
    rng = np.random.default_rng(7)
    latents, table = floats(rng, 4, 3), floats(rng, 6, 3)
    yield Case("NearestCode", "bad-width", [latents, floats(rng, 6, 2)], refuses="table is [6,2]")
    yield Case("NearestCode", "bad-latents-rank", [floats(rng, 2, 2, 3), table], refuses="latents is [2,2,3]")
    yield Case("NearestCode", "bad-table-rank", [latents, table[0]], refuses="table is [3]")
    yield Case("NearestCode", "bad-no-codes", [latents, table[:0]], refuses="V is 0, expected 1 to")
    yield Case(
        "NearestCode", "bad-normalize", [latents, table], {"normalize": 2}, refuses="normalize is 2", stage="attributes"
    )


def cases() -> Iterator[Case]:
    """All rows."""
    yield from _random()
    yield from _ties()
    yield from _odd()
    yield from _refused()
