"""Which mismatches between draft and target change the answer (AutoJudge; Garipov et al. 2025, arXiv 2504.20039, algorithm 1).

The text begins as the target's own. At its first place where the draft would say something else, that word is put in and the target goes
on from there. Same answer: the word did not matter, the changed text is kept. Another answer: it did, the old text is kept.
Then the next place, until none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...models.blocks import KVCache
from ...models.judge import StatesDecoder
from .answers import Same
from .greedy import greedy, padded


@dataclass(frozen=True)
class Mismatch:
    """The draft's token in the place of the target's. ``state`` float32 [D]: the target's, after it *read* the draft's token."""

    prompt: int
    place: int
    drafted: int
    own: int
    important: bool
    state: np.ndarray


@dataclass
class _Item:
    number: int
    prompt: list[int]
    own: list[int]
    text: list[int]
    start: int = 0
    found: list[Mismatch] = field(default_factory=list)


def mine(
    target: StatesDecoder,
    draft: StatesDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    same: Same,
    new_tokens: int = 256,
    stop_ids: Collection[int] = (),
    control_ids: Collection[int] = (),
    batch: int = 32,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Mismatch]:
    """All mismatches of ``prompts``, in their order. ``same`` says whether an answer still holds (`answer_rule`, or a checker of one's own).

    Places where either side says a stop or control token are passed over: these are never the judge's business.
    """
    never, found = {*stop_ids, *control_ids}, []
    for first in range(0, len(prompts), batch):
        numbers = range(first, min(first + batch, len(prompts)))
        texts = [list(prompts[i]) for i in numbers]
        own = greedy(target, texts, new_tokens, stop_ids)[0]
        items = [_Item(i, t, o, list(o)) for i, t, o in zip(numbers, texts, own, strict=True)]
        pending = items
        while pending:
            pending = _round(target, draft, pending, same, new_tokens, stop_ids, never)
        found += [m for item in items for m in item.found]
        progress("mining", numbers.stop, len(prompts))
    return found


def _round(
    target: StatesDecoder,
    draft: StatesDecoder,
    items: list[_Item],
    same: Same,
    new_tokens: int,
    stop_ids: Collection[int],
    never: set[int],
) -> list[_Item]:
    """Try the next mismatch of every item; returns the items that had one."""
    changed = []
    for item, said in zip(items, _draft_says(draft, items), strict=True):
        for place in range(item.start, len(item.text)):
            if said[place] != item.text[place] and not never & {said[place], item.text[place]}:
                changed.append((item, place, said[place]))
                break
    if not changed:
        return []
    starts = [[*item.prompt, *item.text[:place], token] for item, place, token in changed]
    rests, states = greedy(target, starts, new_tokens, stop_ids)
    for (item, place, token), rest, state in zip(changed, rests, states, strict=True):
        text = [*item.text[:place], token, *rest][:new_tokens]
        important = not same(item.number, item.own, text)
        item.found.append(Mismatch(item.number, place, token, item.text[place], important, state))
        item.start = place + 1
        if not important:
            item.text = text
    return [item for item, _, _ in changed]


def _draft_says(draft: StatesDecoder, items: list[_Item]) -> list[list[int]]:
    """The draft's choice at every place of every item's text, the text before it given."""
    ids, lengths = padded([[*i.prompt, *i.text] for i in items])
    cache = KVCache.empty(draft.config, ids.shape[1], len(items))
    chosen = draft.states(ids, cache, torch.zeros(len(items), dtype=torch.int64))[0].argmax(-1)
    return [
        row[len(item.prompt) - 1 : int(length) - 1].tolist()
        for row, item, length in zip(chosen, items, lengths, strict=True)
    ]
