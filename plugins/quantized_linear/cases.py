"""Rows of the parity table for ``QuantizedLinear``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats

TENSORRT = {"rtx_body": "TensorRT takes signed codes in whole blocks without zero points only"}
WEIGHT = ("codes", "scales", "zeros")
ROUNDING = 2.5e-2
"""Rounding of inputs to 8 bits: half a step of 127, summed over random signs."""


def _weight(rng: np.random.Generator, k: int, n: int, block: int, kind: str, zeros: bool) -> list[np.ndarray | None]:
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}[kind]
    dtype = np.int8 if kind.startswith("int") else np.uint8
    blocks = -(-k // block)
    scales = rng.uniform(0.5, 1.5, (blocks, n)).astype(np.float32) / (high - low)
    middle = rng.integers(low, high, (blocks, n)).astype(dtype) if zeros else None
    return [rng.integers(low, high, (k, n)).astype(dtype), scales, middle]


def _exact(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Inputs that 8 bits hold: in every 16 of them one of 127 / 64 or its negative, the others multiples of 1 / 64."""
    x = rng.integers(-127, 128, shape).astype(np.float32)
    x[..., ::16] = np.where(rng.integers(0, 2, x[..., ::16].shape), 127, -127)
    return x / 64


def cases() -> Iterator[Case]:
    """All dtypes, block sizes and tails, inputs that are exact in 8 bits and others; then what must be refused."""
    rng = np.random.default_rng(9)
    for kind in ("int4", "uint4", "int8", "uint8"):
        nibbles = (("codes", kind), ("zeros", kind)) if kind.endswith("4") else ()
        for rows, k, n, block, zeros in [
            (1, 64, 32, 32, False),
            (3, 96, 33, 32, True),
            (2, 40, 7, 16, True),
            (5, 100, 48, 32, False),
            (9, 256, 16, 128, True),
            (17, 130, 50, 64, True),
            (4, 16, 1, 256, False),
        ]:
            weight = _weight(rng, k, n, block, kind, zeros)
            for name, x, near in (
                ("exact", _exact(rng, 1, rows, k), 2e-5),
                ("rounded", floats(rng, 1, rows, k), ROUNDING),
            ):
                yield Case(
                    "QuantizedLinear",
                    f"{kind}-{rows}x{k}x{n}-b{block}{'z' if zeros else ''}-{name}",
                    [x, *weight],
                    {"block_size": block},
                    tolerance=near,
                    constants=WEIGHT,
                    nibbles=nibbles,
                    skips={} if kind.startswith("int") and not zeros and k % block == 0 else TENSORRT,
                )
    weight = _weight(rng, 64, 8, 32, "int8", False)
    x = floats(rng, 1, 3, 64)
    x[0, 0, :32] = 0
    x[0, 1, 5], x[0, 2, 40] = np.nan, np.inf
    yield Case(
        "QuantizedLinear",
        "nothing-and-nan",
        [x[:, :2], *weight[:2]],
        {"block_size": 32},
        tolerance=ROUNDING,
        constants=WEIGHT,
    )
    yield from refused(rng)


def refused(rng: np.random.Generator) -> Iterator[Case]:
    """Shapes that do not fit each other, and blocks that cannot be."""
    good = [floats(rng, 1, 2, 64), *_weight(rng, 64, 8, 32, "int8", True)]

    def bad(name: str, at: int, to: Any, text: str | tuple[str, ...], block: int = 32, stage: str = "shapes") -> Case:
        inputs = [*good]
        inputs[at] = to
        return Case(
            "QuantizedLinear",
            f"bad-{name}",
            inputs,
            {"block_size": block},
            refuses=text,
            stage=stage,
            constants=WEIGHT,
        )

    yield bad("width", 0, floats(rng, 1, 2, 63), "is [")
    yield bad("scales", 2, good[2][:1], ("scales is [1,8]", "zeros is [2,8]"))  # type: ignore[index]
    yield bad("zeros", 3, good[3][:, :7].copy(), "zeros is [2,7]")  # type: ignore[index]
    yield bad("block", 0, good[0], "block_size is 48", 48, "attributes")
    yield bad("large-block", 0, good[0], "block_size is 512", 512, "attributes")
