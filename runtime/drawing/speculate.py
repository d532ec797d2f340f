"""Speculative drawing of one image: several guessed codes a pass, kept for as long as a rule of acceptance lets them.

The rules are modes of GroupedAccept: ``exact`` (Leviathan et al. 2023) draws what plain decoding draws; ``grouped`` and ``partition``
(So et al. 2025) and ``neighbourhood`` (Jang et al. 2025) trade a part of the distribution for longer runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .. import tensors as names
from .chooser import Acceptor, Sampler
from .condition import Start
from .drafters import Drafter
from .request import Request
from .uniforms import Stream


@dataclass
class Account:
    """What became of the drafts of all images so far."""

    judged: int = 0
    """Drafts that were reached: accepted ones, and the refused one of each round."""
    accepted: int = 0
    chance: float = 0.0
    above: float = 0.0
    below: float = 0.0
    passes: list[int] = field(default_factory=list)

    def add(self, p: np.ndarray, q: np.ndarray, draft: np.ndarray, accepted: int, chance: np.ndarray) -> None:
        """One round. The exact rule's chance of each judged draft is what the total variation is counted against."""
        reached = min(accepted + 1, len(draft))
        at = np.arange(reached), draft[:reached]
        px, qx = p[at].astype(np.float64), q[at].astype(np.float64)
        exact = np.minimum(1.0, np.divide(px, qx, out=np.zeros_like(px), where=qx > 0))
        excess = chance[:reached].astype(np.float64) - exact
        self.judged += reached
        self.accepted += accepted
        self.chance += float(chance[:reached].sum())
        self.above += float(np.maximum(excess, 0).sum())
        self.below += float(np.maximum(-excess, 0).sum())


def draw_image(
    start: Start,
    sampler: Sampler,
    acceptor: Acceptor,
    drafter: Drafter,
    request: Request,
    image: int,
    tokens: int,
    account: Account,
) -> np.ndarray:
    """Codes int64 [``tokens``] of image number ``image`` in raster order; adds to ``account``."""
    stream, warp = Stream(request.seeds[image]), request.warp
    step, made = start.begin()
    scales = request.guidance.scales(np.arange(tokens + 1), tokens)
    codes = [int(sampler.draw(made[names.LOGITS], scales[:1], stream.take(1)[None], warp)[0, 0])]
    drafter.begin(made, codes[0])
    while (left := tokens - len(codes)) > 0:
        known = len(codes)
        draft, q = drafter.propose(min(request.length, left), known, stream)
        rows, past = 1 + len(draft), step.past
        ids = np.concatenate([codes[-1:], draft])[None]
        positions = start.position + known - 1 + np.arange(rows)
        made = step.run({names.INPUT_IDS: start.for_all_rows(ids)}, positions, np.arange(rows))
        p = sampler.distributions(made[names.LOGITS], scales[known : known + rows], warp)
        accepted, following, chance = acceptor.judge(p, q, draft, stream.take(rows))
        account.add(p, q, draft, accepted, chance)
        new = [*draft[:accepted].tolist(), following]
        codes += new[:left]
        step.past = past + 1 + accepted  # the refused draft's slot is written again
        drafter.hear(made, p, accepted, new, stream)
        request.progress(image * tokens + len(codes), len(request.seeds) * tokens)
    account.passes.append(start.passes)
    return np.array(codes, np.int64)
