"""Greedy continuation of many texts at once, each of its own length."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from ...models.blocks import KVCache
from ...models.judge import StatesDecoder


def padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [B,T] int64 with zeros behind, lengths [B])."""
    lengths = torch.tensor([len(t) for t in texts])
    ids = torch.zeros((len(texts), int(lengths.max())), dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(list(text))
    return ids, lengths


def greedy(
    model: StatesDecoder, texts: Sequence[Sequence[int]], new_tokens: int, stop_ids: Collection[int] = ()
) -> tuple[list[list[int]], np.ndarray]:
    """(what follows each text, its stop id included; the state [B,D] float32 of each text's last token).

    Rows that are padding write cache slots that the next pass overwrites before anything sees them.
    """
    ids, lengths = padded(texts)
    cache = KVCache.empty(model.config, int(lengths.max()) + new_tokens, len(texts))
    none = torch.zeros(len(texts), dtype=torch.int64)
    logits, states = model.states(ids, cache, none, (lengths - 1)[:, None])
    said: list[list[int]] = [[] for _ in texts]
    open_rows = set(range(len(texts)))
    for step in range(new_tokens):
        chosen = logits[:, 0].argmax(-1)
        for row in tuple(open_rows):
            token = int(chosen[row])
            said[row].append(token)
            if token in stop_ids:
                open_rows.discard(row)
        if not open_rows or step + 1 == new_tokens:
            break
        logits = model.states(chosen[:, None], cache, lengths + step, none[:, None])[0]
    return said, states[:, 0].numpy()
