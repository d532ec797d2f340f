"""Drawing a batch of images pass by pass, in whatever order the model has."""

from __future__ import annotations

import numpy as np

from .. import tensors as names
from .chooser import Sampler
from .condition import Start
from .orders import Order
from .request import Request
from .uniforms import uniforms


def draw_plain(start: Start, order: Order, sampler: Sampler, request: Request) -> np.ndarray:
    """Codes int64 [B,g*g]. Those behind a prefix have the random numbers that they have without one."""
    count, tokens, prefix = len(request.seeds), order.grid * order.grid, request.prefix
    codes = np.zeros((count, tokens), np.int64)
    step, made = start.begin()
    first = 0
    if prefix is not None and prefix.shape[1]:
        first = prefix.shape[1]
        codes[:, :first] = prefix
        made = step.run(
            {names.INPUT_IDS: start.for_all_rows(order.split(prefix))},
            start.position + np.arange(first),
            np.array([first - 1]),
        )
    drawn_before = first * order.per_step
    for t, turn in enumerate(order.turns[first:], first):
        draws = len(turn.numbers)
        numbers = np.stack([uniforms(seed, drawn_before, draws) for seed in request.seeds])
        drawn = sampler.draw(
            order.logits(made, t), request.guidance.scales(turn.numbers, tokens), numbers, request.warp
        )
        codes[:, turn.places] = order.codes(drawn)
        drawn_before += draws
        request.progress(count * (int(turn.numbers[0]) + len(turn.places)), count * tokens)
        if t + 1 < len(order.turns):
            rows = len(turn.positions)
            made = step.run(
                {names.INPUT_IDS: start.for_all_rows(order.rows(drawn))},
                start.position + turn.positions,
                order.logit_rows(rows),
                order.visible(rows),
            )
    return codes
