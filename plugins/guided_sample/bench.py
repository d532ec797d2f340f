"""Rows of the speed table for ``farthing::GuidedSample``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench
from ..case import floats


def rows() -> Iterator[Bench]:
    """16 draws of two images over LlamaGen's 16,384 codes, with the settings of its demos and of its evaluation.

    Both logits are read once: 2*B*M*V*4 bytes. A subtraction, a multiply-add, the exponential (20 FLOP) and the running sum are 25 FLOP
    a logit; probs is written too.
    """
    batch, draws, size = 2, 16, 16384
    rng = np.random.default_rng(0)
    cond, uncond = (floats(rng, batch, draws, size, scale=2.0) for _ in range(2))
    scale, uniforms = np.array([4, 4], np.float32), rng.random((batch, draws), np.float32)
    for name, top_k, top_p, temperature in (
        ("no filter", 0, 1.0, 1.0),
        ("top_k 2000", 2000, 1.0, 1.0),
        ("top_k 2000, top_p 0.95", 2000, 0.95, 1.0),
        ("temperature 0", 0, 1.0, 0.0),
    ):
        inputs: list[np.ndarray | None] = [
            cond,
            uncond,
            scale,
            uniforms,
            np.array([temperature], np.float32),
            np.array([top_k], np.int64),
            np.array([top_p], np.float32),
        ]
        count = cond.size
        yield Bench(
            "GuidedSample", f"{batch} x {draws} of {size}, {name}", inputs, 25.0 * count, 2.0 * cond.nbytes, least=4.0
        )
