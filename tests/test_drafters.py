"""Drafters that need no model, by themselves: what they guess, and that their chances are what they say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import RequestError
from farthing.runtime.engines import native_parts

pytestmark = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
NAMES = ["lookup", "aded", "auto"]


def drafter(name: str, capacity: int = 4096) -> Any:
    return native_parts().core.TextDrafter(name, capacity)


def walk(draft: tuple[list[int], list[int], list[float]], text: list[int]) -> list[int]:
    """Nodes of the draft that ``text`` goes down."""
    ids, parents, _ = draft
    path, at = [], -1
    for token in text:
        node = next((i for i in range(len(ids)) if parents[i] == at and ids[i] == token), None)
        if node is None:
            break
        path.append(node)
        at = node
    return path


def session(
    d: Any, text: list[int], prompt: int, *, nodes: int = 8, tree: bool = False, learn: bool = True
) -> list[tuple[float, int]]:
    """Decode ``text`` behind its first ``prompt`` tokens; for each pass (expected, accepted)."""
    d.begin(text[: prompt - 1])
    d.observe(text[prompt - 1 : prompt])
    at, passes = prompt, []
    while at < len(text):
        draft = d.propose(nodes, nodes, tree)
        path = walk(draft, text[at : at + nodes])
        reach: list[float] = []
        for parent, chance in zip(draft[1], draft[2], strict=True):
            reach.append(chance * (reach[parent] if parent >= 0 else 1.0))
        passes.append((sum(reach), len(path)))
        if draft[0] and learn:
            d.verified(list(range(len(draft[0]))), path)
        said = text[at : at + len(path) + 1]
        d.observe(said)
        at += len(said)
    return passes


def templated(count: int, seed: int) -> list[int]:
    """Ids like a log's: lines of 9 tokens, of which 3 vary."""
    draw, ids = random.Random(seed), []
    while len(ids) < count:
        ids += [1, 2, 100 + draw.randrange(40), 3, 4, 5, 200 + draw.randrange(6), 6, 300 + draw.randrange(3)]
    return ids[:count]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    text=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    nodes=st.integers(0, 20),
    depth=st.integers(0, 12),
    tree=st.booleans(),
)
def test_drafts_keep_their_limits_and_repeat(name: str, text: list[int], nodes: int, depth: int, tree: bool) -> None:
    made = []
    for _ in range(2):
        d = drafter(name, 128)
        d.begin(text[:-1])
        d.observe(text[-1:])
        made.append(d.propose(nodes, depth, tree))
    ids, parents, chances = made[0]
    assert made[0] == made[1]
    assert len(ids) == len(parents) == len(chances) <= nodes
    assert set(ids) <= set(text) and all(0 <= c <= 1 for c in chances)
    depths: list[int] = []
    for i, parent in enumerate(parents):
        assert -1 <= parent < i and (tree or parent == i - 1)
        depths.append(1 if parent < 0 else depths[parent] + 1)
        assert depths[-1] <= depth
    assert len({(p, t) for p, t in zip(parents, ids, strict=True)}) == len(ids)  # no node twice


@settings(max_examples=150, deadline=None)
@given(text=st.lists(st.integers(0, 3), min_size=3, max_size=80))
def test_lookup_finds_the_longest_end_that_occurred_before(text: list[int]) -> None:
    d = drafter("lookup", 128)
    d.begin(text[:-1])
    d.observe(text[-1:])
    ids = d.propose(4, 4, False)[0]
    lengths = {}
    for end in range(1, len(text)):  # text[:end] ends like text does, for so many tokens
        n = 0
        while n < end and n < 32 and text[end - 1 - n] == text[-1 - n]:
            n += 1
        lengths[end] = n
    best = max(lengths.values(), default=0)
    if best < 2:
        assert ids == []
        return
    # Among the newest 32 places with the same last two tokens, the newest of the longest.
    places = sorted((e for e, n in lengths.items() if n >= 2), reverse=True)[:32]
    end = max(places, key=lambda e: (lengths[e], e))
    follow = text[end:]
    assert ids == [follow[i % len(follow)] for i in range(4)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tree", [False, True])
def test_an_empty_start_learns_the_text(name: str, tree: bool) -> None:
    passes = session(drafter(name), templated(2000, 1), 9, tree=tree)
    tokens, quarter = 0, [0, 0, 0, 0]
    counts = [0, 0, 0, 0]
    for _, accepted in passes:
        part = min(tokens * 4 // 2000, 3)
        quarter[part] += accepted + 1
        counts[part] += 1
        tokens += accepted + 1
    first, last = quarter[0] / counts[0], quarter[3] / counts[3]
    assert last > first and last > 1.8


def test_the_table_must_follow_the_text() -> None:
    """Frozen after a prompt of other lines, it guesses right less than half as often, at the same places, as one that goes on."""
    draw, prompt = random.Random(2), templated(300, 1)
    text = list(prompt)
    while len(text) < 1800:  # the same ids in lines of another order
        text += [4, 3, 100 + draw.randrange(40), 2, 1, 6, 300 + draw.randrange(3), 5, 200 + draw.randrange(6)]
    going, frozen = drafter("aded"), drafter("aded")
    going.begin(text[:299])
    going.observe(text[299:300])
    right = {"going": 0, "frozen": 0}
    for at in range(300, len(text) - 8):
        frozen.begin(prompt)
        frozen.observe(text[at - 2 : at])
        for name, d in (("going", going), ("frozen", frozen)):
            right[name] += len(walk(d.propose(8, 8, False), text[at : at + 8]))
        going.observe(text[at : at + 1])
    assert right["going"] > 1000 and right["going"] > 2 * right["frozen"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tree", [False, True])
def test_chances_are_what_they_say(name: str, tree: bool) -> None:
    passes = session(drafter(name), templated(6000, 3), 9, tree=tree)[300:]
    expected, accepted = (sum(p[i] for p in passes) / len(passes) for i in (0, 1))
    assert accepted > 0.5 and abs(expected - accepted) < 0.2 * accepted


@pytest.mark.parametrize("name", NAMES)
def test_on_random_tokens_nothing_is_expected(name: str) -> None:
    draw = random.Random(5)
    passes = session(drafter(name), [draw.randrange(50) for _ in range(3000)], 100)[1000:]
    assert sum(p[0] for p in passes) / len(passes) < 0.15


def test_lookup_keeps_what_two_texts_share() -> None:
    text = templated(200, 4)
    once, again = drafter("lookup"), drafter("lookup")
    again.begin([*text[:150], 7, 7, 7])
    for d in (once, again):
        d.begin(text[:180])
        d.observe(text[180:181])
    assert once.propose(8, 8, False) == again.propose(8, 8, False)


@pytest.mark.parametrize("name", NAMES)
def test_more_text_than_room(name: str) -> None:
    passes = session(drafter(name, 64), templated(500, 6), 9)
    assert len(passes) < 500


def test_unknown_names() -> None:
    with pytest.raises(RequestError, match="expected lookup, aded or auto"):
        drafter("mtp")
