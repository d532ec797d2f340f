"""The task of the judge's proof: sums worked out in steps, in words that may vary, with an answer that can be checked.

    Q 7 A + 5 B - 9 => so A 7 + 5 gives 12 .  well next B 12 - 9 makes 3 .  answer 3 <end>

Numbers are modulo 20. The connecting word, the verb and a filler are drawn at random: whichever comes, the answer is the same. One
result in twelve of the training text is wrong by 1 or 2 and is carried on, as mistakes are in real text; half of these are
remarked upon by ? instead of a full stop.
"""

from __future__ import annotations

import random

import torch

END, PAD = 0, 1
NUMBERS, MODULUS = 2, 20
LABELS = 22
WORDS = [
    "Q", "=>", "answer", ".", "?", "+", "-",
    "so", "next", "then", "now", "first", "thus", "hence", "again",
    "well", "hm", "okay", "see", "look", "right",
    "gives", "makes", "is", "equals", "yields", "becomes",
]  # fmt: skip
ID = {word: 28 + i for i, word in enumerate(WORDS)}
CONNECTING, FILLERS, VERBS = WORDS[7:15], WORDS[15:21], WORDS[21:27]
VOCAB, STEPS, MISTAKES = 56, (3, 6), 1 / 12


def item(draw: random.Random) -> tuple[list[int], int, list[tuple[str, int]]]:
    """(prompt ids, its answer, its steps)."""
    start, steps = (
        draw.randrange(MODULUS),
        [(draw.choice("+-"), draw.randint(1, 9)) for _ in range(draw.randint(*STEPS))],
    )
    prompt, value = [ID["Q"], NUMBERS + start], start
    for label, (sign, number) in enumerate(steps):
        prompt += [LABELS + label, ID[sign], NUMBERS + number]
        value = (value + number if sign == "+" else value - number) % MODULUS
    return [*prompt, ID["=>"]], value, [("", start), *steps]


def worked(steps: list[tuple[str, int]], draw: random.Random) -> list[int]:
    """A solution in drawn words, now and then with a mistake."""
    text, value = [], steps[0][1]
    for label, (sign, number) in enumerate(steps[1:]):
        before = value
        value = (value + number if sign == "+" else value - number) % MODULUS
        wrong = draw.random() < MISTAKES
        if wrong:
            value = (value + draw.choice((-2, -1, 1, 2))) % MODULUS
        filler = [ID[draw.choice(FILLERS)]] if draw.random() < 0.3 else []
        text += [*filler, ID[draw.choice(CONNECTING)], LABELS + label, NUMBERS + before, ID[sign], NUMBERS + number]
        text += [ID[draw.choice(VERBS)], NUMBERS + value, ID["?" if wrong and draw.random() < 0.5 else "."]]
    return [*text, ID["answer"], NUMBERS + value, END]


def answer(text: list[int]) -> int | None:
    """The number behind "answer"; None where there is none."""
    for i in range(len(text) - 2, -1, -1):
        if text[i] == ID["answer"]:
            return text[i + 1] - NUMBERS if 0 <= text[i + 1] - NUMBERS < MODULUS else None
    return None


def items(count: int, seed: int) -> list[tuple[list[int], int]]:
    """(prompt ids, answer) of ``count`` fresh sums."""
    draw = random.Random(seed)
    return [item(draw)[:2] for _ in range(count)]


def batch(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [size,T+1], weights [size,T]: 5 for results, 1 for the rest of the solution, 0 for prompt and padding)."""
    draw, rows, spans = random.Random(seed), [], []
    for _ in range(size):
        prompt, _, steps = item(draw)
        text = worked(steps, draw)
        rows.append(prompt + text)
        spans.append((len(prompt), len(prompt) + len(text)))
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    place = torch.arange(1, width)
    weights = torch.stack([((place >= a) & (place < b)).float() for a, b in spans])
    results = (ids[:, :-1] >= ID[VERBS[0]]) & (ids[:, :-1] <= ID[VERBS[-1]])
    return ids, weights * (1 + 4 * results)
