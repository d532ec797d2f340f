"""Draft and verify with a judge, many texts at once: the procedure of the dossier's proof, over the references.

Every text has its own lengths; a pass takes one newest token and M drafts of each. Texts that have ended run along unheard.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from ...models.blocks import KVCache
from ...models.judge import Judge, Rule, StatesDecoder, accept_run
from .greedy import padded


class Score(Protocol):
    """Gives P(good), or a score in its place, for every row of a pass; `Rule.delta` is compared with it."""

    def __call__(self, states: np.ndarray, logits: np.ndarray, draft_logits: np.ndarray) -> np.ndarray:
        """float32 [B,M+1] from states [B,M+1,D], logits [B,M+1,V], and the draft's logits [B,M,V] of drafts 1..M."""


@dataclass(frozen=True)
class JudgeScore:
    """The trained judge."""

    judge: Judge

    def __call__(self, states: np.ndarray, logits: np.ndarray, draft_logits: np.ndarray) -> np.ndarray:
        """P(good) of the token that each row read."""
        return self.judge.good(states)


@dataclass(frozen=True)
class NoScore:
    """Accepts nothing: exact speculative decoding."""

    def __call__(self, states: np.ndarray, logits: np.ndarray, draft_logits: np.ndarray) -> np.ndarray:
        """Zeros."""
        return np.zeros(states.shape[:2], np.float32)


@dataclass
class RandomScore:
    """Accepts a mismatch with chance ``rate``, by a seed: what a judge must beat. Compare with a delta of 0.5."""

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._draw = np.random.default_rng(self.seed)

    def __call__(self, states: np.ndarray, logits: np.ndarray, draft_logits: np.ndarray) -> np.ndarray:
        """1 where a token is let through, else 0."""
        return (self._draw.random(states.shape[:2]) < self.rate).astype(np.float32)


@dataclass(frozen=True)
class KlScore:
    """The rule that needs no training (arXiv 2601.04766): accept where KL(target || draft) of the place is small.

    The score is exp(-KL), so that it lies in (0, 1] and a larger one is better.
    """

    def __call__(self, states: np.ndarray, logits: np.ndarray, draft_logits: np.ndarray) -> np.ndarray:
        """exp(-KL) at the row before each draft, where both models predict it."""
        p, q = _log_softmax(logits[:, :-1]), _log_softmax(draft_logits)
        kl = np.maximum((np.exp(p) * (p - q)).sum(-1), 0)
        return np.concatenate([np.zeros((len(kl), 1)), np.exp(-kl)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Decoded:
    """Ids of each text (stop id included), and sums over all: target passes, drafts accepted, those by the score alone, mismatches met."""

    texts: list[list[int]]
    passes: int
    accepted: int
    judged: int
    mismatches: int

    @property
    def accepted_length(self) -> float:
        """Drafts that stand per target pass; the bonus token is not counted."""
        return self.accepted / max(1, self.passes)

    @property
    def judged_share(self) -> float:
        """Of the mismatches that were met, those that were let through."""
        return self.judged / max(1, self.mismatches)


def decode(
    target: StatesDecoder,
    draft: StatesDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    score: Score,
    rule: Rule,
    drafts: int = 16,
    new_tokens: int = 128,
    stop_ids: Collection[int] = (),
) -> Decoded:
    """Continue ``prompts`` with ``drafts`` greedy guesses a pass. Stop ids are held by the standard rule, whatever ``rule`` says."""
    rule = replace(rule, control_ids=rule.control_ids | frozenset(stop_ids))
    batch = len(prompts)
    ids, lengths = padded(prompts)
    room = int(lengths.max()) + new_tokens + drafts + 2
    caches = [KVCache.empty(m.config, room, batch) for m in (target, draft)]
    none = torch.zeros(batch, dtype=torch.int64)
    logits = target.states(ids, caches[0], none, (lengths - 1)[:, None])[0]
    draft.states(ids, caches[1], none, none[:, None])
    newest = logits[:, 0].argmax(-1)
    past, lag = lengths.clone(), newest[:, None]
    texts = [[int(t)] for t in newest]
    ended = [_ended(t, new_tokens, stop_ids) for t in texts]
    passes = accepted = judged = mismatches = 0
    draft_past = past.clone()
    while not all(ended):
        guesses, draft_logits = _guess(draft, caches[1], lag, draft_past, drafts)
        rows = torch.cat([newest[:, None], guesses], 1)
        logits, states = target.states(rows, caches[0], past)
        said, scores = logits.numpy(), score(states.numpy(), logits.numpy(), draft_logits.numpy())
        lag = torch.zeros((batch, 2), dtype=torch.int64)
        for b in range(batch):
            if ended[b]:
                lag[b] = rows[b, :2]
                continue
            verdict = accept_run(said[b], guesses[b].tolist(), scores[b], rule)
            new = [*guesses[b, : verdict.accepted].tolist(), verdict.bonus]
            passes, judged = passes + 1, judged + verdict.judged
            mismatches += verdict.judged + (verdict.accepted < drafts)
            # The draft has not read its own last guess: when all stand, it has two tokens to read, otherwise the newest one twice.
            before = rows[b, verdict.accepted]
            past[b] += verdict.accepted + 1
            lag[b] = torch.stack([before, torch.tensor(verdict.bonus)])
            newest[b] = verdict.bonus
            for place, token in enumerate(new):
                texts[b].append(token)
                accepted += place < verdict.accepted  # not those behind the end
                if _ended(texts[b], new_tokens, stop_ids):
                    ended[b] = True
                    break
        draft_past = past - 1
    return Decoded(texts, passes, accepted, judged, mismatches)


def _ended(text: list[int], new_tokens: int, stop_ids: Collection[int]) -> bool:
    return len(text) >= new_tokens or text[-1] in stop_ids


def _guess(
    draft: StatesDecoder, cache: KVCache, unread: torch.Tensor, past: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(``count`` greedy tokens [B,count], their logits [B,count,V]) after reading ``unread`` [B,n] behind ``past`` [B] slots."""
    last = torch.full((len(unread), 1), unread.shape[1] - 1)
    rows, tokens, logits = unread, [], []
    for _ in range(count):
        out = draft.states(rows, cache, past, last)[0][:, 0]
        past = past + rows.shape[1]
        tokens.append(out.argmax(-1))
        logits.append(out)
        rows, last = tokens[-1][:, None], torch.zeros_like(last)
    return torch.stack(tokens, 1), torch.stack(logits, 1)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = (x - x.max(-1, keepdims=True)).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
