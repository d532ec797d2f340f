"""Prompts by kind of text, for measuring how well guesses come true. All written for this file, or made by arithmetic."""

from __future__ import annotations

KINDS = ("code", "json", "quotes", "prose", "random")


def _chat(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


_STACK = """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def peek(self):
        if not self.items:
            raise IndexError("peek at an empty stack")
        return self.items[-1]

    def is_empty(self):
        return len(self.items) == 0
"""
_SHAPES = """import math


def area_of_square(side):
    if side < 0:
        raise ValueError("side is negative")
    return side * side


def area_of_circle(radius):
    if radius < 0:
        raise ValueError("radius is negative")
    return math.pi * radius * radius


def area_of_triangle(base, height):
    if base < 0:
        raise ValueError("base is negative")
    if height < 0:
        raise ValueError("height is negative")
"""
_CODE = [
    _chat(f"Add a docstring to each method of this class and print the whole class:\n\n```python\n{_STACK}```"),
    _SHAPES,
    """#include <stdio.h>

struct point { int x; int y; };

static int min(int a, int b) {
    if (a < b) {
        return a;
    }
    return b;
}

static int max(int a, int b) {
    if (a > b) {
        return a;
    }
    return b;
}

static int clamp(int value, int low, int high) {
    if (value""",
]

_JSON = [
    """[
  {"id": 1, "name": "Anna Keller", "email": "anna.keller@example.com", "active": true},
  {"id": 2, "name": "Ben Moser", "email": "ben.moser@example.com", "active": false},
  {"id": 3, "name": "Clara Frei", "email": "clara.frei@example.com", "active": true},
  {"id": 4, "name":""",
    """{"time": "2026-03-01T10:00:00Z", "level": "info", "service": "gateway", "message": "request", "path": "/v1/items", "status": 200}
{"time": "2026-03-01T10:00:01Z", "level": "info", "service": "gateway", "message": "request", "path": "/v1/users", "status": 200}
{"time": "2026-03-01T10:00:02Z", "level": "warning", "service": "gateway", "message": "slow request", "path": "/v1/items", "status": 200}
{"time":""",
    """openapi: 3.0.0
paths:
  /users:
    get:
      summary: List all users
      responses:
        "200":
          description: OK
    post:
      summary: Create a user
      responses:
        "201":
          description: Created
  /orders:
    get:
""",
]

_REPORT = (
    "The harbour of Lindau was rebuilt in three stages. In the first stage, from 1811 to 1815, the northern mole was raised by two "
    "metres and the old lighthouse was taken down. In the second stage, from 1853 to 1856, engineers built the southern mole, the "
    "new lighthouse and the statue of a lion that looks towards the lake. In the third stage, from 1912 to 1913, the railway station "
    "was moved closer to the water so that trains and ships could exchange passengers within ten minutes."
)
_MINUTES = (
    "The committee met on Tuesday at nine o'clock. Ms. Adler reported that the new pump station had been tested for six weeks without "
    "a failure. Mr. Brandt asked whether the spare parts had been ordered, and Ms. Adler answered that they would arrive in May. The "
    "committee decided to open the pump station on the first of June and to invite the mayor to the ceremony."
)


_QUOTES = [
    _chat(f'Repeat the second sentence of this text word by word, then the third:\n\n"{_REPORT}"'),
    _chat(f'Summarise this text. Quote every sentence that you use word by word, in quotation marks.\n\n"{_MINUTES}"'),
    _chat(f'Copy this text and correct nothing:\n\n"{_REPORT}"'),
]

_PROSE = [
    "The old clockmaker had never trusted the sea. When his daughter wrote that she would come home by ship, he",
    _chat("Explain in a few paragraphs why leaves change their colour in autumn."),
    "Dear Mr. Hartmann,\n\nThank you for your letter of last week. We have thought about your offer, and",
]


def texts(kind: str) -> list[str]:
    """Prompts of a kind as text, special tokens written out; not for ``random``."""
    return {"code": _CODE, "json": _JSON, "quotes": _QUOTES, "prose": _PROSE}[kind]


def random_ids(vocab: int, count: int, seed: int) -> list[int]:
    """Ids that look like nothing, the same on every machine (Knuth's MMIX generator)."""
    state, ids = 20240229 + seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        ids.append((state >> 33) % vocab)
    return ids
