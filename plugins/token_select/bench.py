"""Rows of the speed table for ``farthing::TokenSelect``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """LLaVA-1.5 (576 tokens) and LLaVA-NeXT (2880), D = 4096, at the numbers of tokens that ZOO-Prune keeps.

    The body multiplies all tokens with all: 2*N*N*D FLOP. What is needed is the similarity of every pick to the picks before it,
    k*k*D FLOP, and to the first pick and the norm for all, 4*N*D, in one pass over the features. How much more the
    kernel must look at depends on the data, so there is a kind one (everything similar, importance decides) and an unkind one (equal
    scores, diversity alone decides).
    """
    for tokens, keep, modes in ((576, 64, ("mmr",)), (576, 144, ("mmr",)), (2880, 640, ("topk", "mmr", "sads"))):
        for mode in modes:
            yield _row(tokens, keep, mode, "")
    yield _row(2880, 640, "mmr", "float16")
    yield _row(2880, 640, "mmr", "equal scores")
    yield _row(2880, 640, "mmr", "5 groups with quotas")


def _row(tokens: int, keep: int, mode: str, kind: str) -> Bench:
    width = 4096
    rng = np.random.default_rng(0)
    feats = rng.standard_normal((1, tokens, width), dtype=np.float32)
    feats += 3 * rng.standard_normal((1, 1, width), dtype=np.float32)
    scores = rng.standard_normal((1, tokens), dtype=np.float32)
    inputs: list[np.ndarray | None] = [scores, feats]
    pools, least = 1, 1.0
    if kind == "float16":
        inputs[1] = feats.astype(np.float16)
    elif kind == "equal scores":
        inputs[0] = np.zeros_like(scores)
        inputs[1] = rng.standard_normal((1, tokens, width), dtype=np.float32)
    elif kind:
        pools = 5
        inputs += [np.arange(tokens)[None] * pools // tokens, np.full((1, pools), keep // pools, np.int64)]
    elif tokens == 2880 and mode != "topk":
        least = 20.0 if mode == "mmr" else 15.0
    flops, moved = keep * keep / pools * width + 4.0 * tokens * width, float(inputs[1].nbytes)  # type: ignore[union-attr]
    if mode == "topk":
        flops, moved = 0.0, float(scores.nbytes + 16 * keep)
    name = f"{mode} {keep} of {tokens} x {width}" + (f", {kind}" if kind else "")
    note = ""
    if least > 1:
        note = f"the Gram matrix alone would be {2e-9 * tokens * tokens * width:.0f} GFLOP"
    return Bench("TokenSelect", name, inputs, flops, moved, {"k": keep, "mode": mode}, least=least, note=note)
