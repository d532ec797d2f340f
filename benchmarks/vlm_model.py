"""What the trainer and the measurements of the small vision-language model share: seeing, pooling, stitching, asking.

Many questions stand behind one image in one sequence: each sees the image and itself only (a 4-D mask), and has the positions
that it would have alone, so the logits are those of one prompt a question at a fraction of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from vlm_fixture import EOS, MEAN, PAD, STD, tokenizer
from vlm_scenes import Question, prompt

GRID = 12
"""Tokens along a side of a view."""
ROWS = 9
"""Rows of a question: up to 6 of the question, 2 of " ASSISTANT:", the answer."""
ASKED = 12
"""Questions of an image, at most."""


@cache
def _words() -> tuple[Any, list[int]]:
    """(encode, ids in front of the image: <s>USER: )."""
    built = tokenizer()
    ids = built.encode(prompt("x")).ids
    return built, ids[:4]


@dataclass(frozen=True)
class Asked:
    """Questions of B images as rows."""

    ids: torch.Tensor
    """[B, ASKED*ROWS]."""
    place: torch.Tensor
    """[B, ASKED]: the row whose logits are the answer; -1: no question."""
    answer: torch.Tensor
    """[B, ASKED]: id of the answer."""
    kinds: list[list[str]]


@cache
def word_ids() -> list[int]:
    """Ids of `vlm_heads.WORDS` with a space in front."""
    from vlm_heads import WORDS

    return [_words()[0].encode(f" {w}").ids[1] for w in WORDS]


def ask(asked: list[list[Question]]) -> Asked:
    """Questions of B images, as rows. Raises ValueError if one does not fit or an answer is not one token."""
    ids = torch.full((len(asked), ASKED * ROWS), PAD)
    place, answer = torch.full((len(asked), ASKED), -1), torch.zeros(len(asked), ASKED, dtype=torch.long)
    for b, found in enumerate(asked):
        for n, question in enumerate(found[:ASKED]):
            own = _rows(question.text, question.answer)
            ids[b, n * ROWS : n * ROWS + len(own)] = torch.tensor(own)
            place[b, n], answer[b, n] = n * ROWS + len(own) - 2, own[-1]
    return Asked(ids, place, answer, [[q.kind for q in found[:ASKED]] for found in asked])


@cache
def _rows(text: str, answer: str) -> list[int]:
    """Ids behind "<image>\\n"."""
    built, _ = _words()
    whole = built.encode(f"{prompt(text)} {answer}").ids[6:]
    if len(whole) > ROWS or len(built.encode(f" {answer}").ids) != 2:
        raise ValueError(f"question of {len(whole)} rows, expected {ROWS} and an answer of one token: {text} {answer}")
    return whole


def pixels(views: np.ndarray) -> torch.Tensor:
    """uint8 [n,H,W,3] -> normalised float32 [n,3,H,W]."""
    scaled = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def see(model: Any, views: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 [n,96,96,3] -> features [n,144,dv] of the layer before the last, pooled CLS [n,dv], patches [n,144,dv] of the first layer."""
    seen = model.model.vision_tower(pixels(views), output_hidden_states=True, return_dict=True)
    return seen.hidden_states[-2][:, 1:], seen.pooler_output, seen.hidden_states[1][:, 1:]


def pool(embeds: torch.Tensor, tokens: int) -> torch.Tensor:
    """Matryoshka pooling: [n,G*G,D] -> [n,tokens,D], means of squares."""
    n, count, width = embeds.shape
    if tokens == count:
        return embeds
    grid, small = round(count**0.5), round(tokens**0.5)
    if small * small != tokens or grid % small:
        raise ValueError(f"{tokens} tokens of a {grid}x{grid} grid, expected a square of a divisor of {grid}")
    squares = embeds.transpose(1, 2).reshape(n, width, grid, grid)
    return F.avg_pool2d(squares, grid // small).flatten(2).transpose(1, 2)


def stitch(embeds: torch.Tensor, newline: torch.Tensor) -> torch.Tensor:
    """LLaVA-NeXT's packing of square pictures: [B,5,N,D] (thumbnail, 2x2 crops) -> [B,L,D]; `newline` ends each row of the crops."""
    b, _, count, width = embeds.shape
    grid = round(count**0.5)
    canvas = embeds[:, 1:].reshape(b, 2, 2, grid, grid, width).transpose(2, 3).reshape(b, 2 * grid, 2 * grid, width)
    ends = newline.expand(b, 2 * grid, 1, width).to(canvas.dtype)
    return torch.cat([embeds[:, 0], torch.cat([canvas, ends], 2).flatten(1, 2)], 1)


@cache
def may_see(image: int) -> torch.Tensor:
    """bool [1,1,S,S] of a sequence with ``image`` visual rows."""
    front = 4 + image + 1
    size = front + ASKED * ROWS
    mask = torch.ones(size, size, dtype=torch.bool).tril()
    block = (torch.arange(size) - front).div(ROWS, rounding_mode="floor")
    same = block[:, None] == block[None]
    mask &= same | (torch.arange(size) < front)[None]
    return mask[None, None]


def sequence(
    model: Any, visual: torch.Tensor, asked: Asked, positions: torch.Tensor | None = None, end: int | None = None
) -> dict[str, Any]:
    """Inputs of the language model: visual [B,L,D], positions int64 [B,L] relative to the image's first (None: 0..L-1).

    ``end`` is the relative position of the text behind the image; None: L.
    """
    batch, count, _ = visual.shape
    table = model.get_input_embeddings()
    _, front = _words()
    newline = _rows_front()
    first = table(torch.tensor(front)).expand(batch, -1, -1)
    line = table(torch.tensor([newline])).expand(batch, -1, -1)
    rows = torch.cat([first.to(visual.dtype), visual, line.to(visual.dtype), table(asked.ids).to(visual.dtype)], 1)
    own = torch.arange(count).expand(batch, -1) if positions is None else positions
    last = 4 + (count if end is None else end)
    behind = last + 1 + torch.arange(ROWS).repeat(ASKED)
    where = torch.cat(
        [
            torch.arange(4).expand(batch, -1),
            own + 4,
            torch.tensor([[last]]).expand(batch, -1),
            behind.expand(batch, -1),
        ],
        1,
    )
    return {"inputs_embeds": rows, "position_ids": where, "attention_mask": may_see(count), "use_cache": False}


@cache
def _rows_front() -> int:
    """Id of the newline behind the image."""
    return _words()[0].encode(prompt("x")).ids[5]


def answers(model: Any, states: torch.Tensor, asked: Asked, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits of the answers [Q,V], logits of what follows them [Q,V]) of every real question; states [B,S,D], ``count`` visual rows."""
    own = states[:, 4 + count + 1 :]
    images, slots = torch.nonzero(asked.place >= 0, as_tuple=True)
    place = asked.place[images, slots]
    return model.lm_head(own[images, place]), model.lm_head(own[images, place + 1])


def read(
    model: Any, visual: torch.Tensor, asked: Asked, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(answer logits [Q,V], next logits [Q,V], right ids [Q])."""
    states = model.model.language_model(**sequence(model, visual, asked, **options)).last_hidden_state
    return *answers(model, states, asked, visual.shape[1]), asked.answer[asked.place >= 0]


def loss_of(first: torch.Tensor, second: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the answer and, at a fifth, of </s> behind it."""
    return F.cross_entropy(first.float(), right) + 0.2 * F.cross_entropy(second.float(), torch.full_like(right, EOS))


def embed(model: Any, views: np.ndarray, *, tokens: int = GRID * GRID) -> torch.Tensor:
    """Views uint8 [B,T,96,96,3] (T 1 or 5) -> visual rows [B,L,D]; `model.image_newline` is used for T = 5."""
    batch, count = views.shape[:2]
    features = see(model, views.reshape(-1, *views.shape[2:]))[0]
    return arrange(model, model.model.multi_modal_projector(features), batch, count, tokens)


def arrange(model: Any, embeds: torch.Tensor, batch: int, count: int, tokens: int) -> torch.Tensor:
    """Projected rows [B*T,144,D] -> [B,L,D] at ``tokens`` a view."""
    small = pool(embeds, tokens).unflatten(0, (batch, count))
    return small[:, 0] if count == 1 else stitch(small, model.model.image_newline)
