"""Rows of the speed table for ``farthing::SimPrune``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """The first level of Stable Diffusion 1.5 at 256 and 512 pixels: 32 x 32 and 64 x 64 tokens of 320 features, half pruned."""
    for side in (32, 64):
        tokens, width = side * side, 320
        bases, prune = tokens // 4, tokens // 2
        rng = np.random.default_rng(0)
        # Neighbours are alike, as in a feature map.
        coarse = rng.standard_normal((side // 4, 1, side // 4, 1, width), dtype=np.float32)
        x = np.broadcast_to(coarse, (side // 4, 4, side // 4, 4, width)).reshape(1, tokens, width)
        x = x + 0.3 * rng.standard_normal((1, tokens, width), dtype=np.float32)
        noise = rng.standard_normal((1, tokens), dtype=np.float32)
        dots = (tokens - bases) * bases + prune * (tokens - prune - bases)
        yield Bench(
            "SimPrune",
            f"{prune} of {side} x {side} x {width}",
            [x, noise],
            2.0 * width * dots,
            float(x.nbytes),
            {"height": side, "width": side, "prune": prune},
        )
