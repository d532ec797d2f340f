"""Rows of the speed table for ``farthing::NearestCode``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench
from ..case import floats


def rows() -> Iterator[Bench]:
    """An image of 256 latents by LlamaGen's table of 16,384 codes of 8 numbers, and by VQGAN's of 256 numbers.

    2*N*V*E FLOP; latents and table are read once.
    """
    rng = np.random.default_rng(0)
    for count, codes, width, normalize in ((256, 16384, 8, 1), (256, 16384, 8, 0), (256, 1024, 256, 0)):
        inputs: list[np.ndarray | None] = [floats(rng, count, width), floats(rng, codes, width)]
        yield Bench(
            "NearestCode",
            f"{count} of {codes} x {width}" + (", unit length" if normalize else ""),
            inputs,
            2.0 * count * codes * width,
            4.0 * (count + codes) * width,
            {"normalize": normalize},
            constants=("table",),
        )
