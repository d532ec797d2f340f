"""Draft tables: what is counted is what both readers find, drafts come from it, and damaged files are refused."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import farthing
from farthing.calibration.draft_table import Table, build, read, write
from farthing.calibration.draft_table.file import HEADER, MOST, RECORD
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.export import export
from farthing.runtime.bundle import open_bundle
from farthing.runtime.engines import native_parts
from tiny import write_hf

native = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
TOKENIZER = "ab" * 32
VOCAB = 500


def made(ids: list[int], min_count: int = 1) -> Table:
    """The table of ``ids``, counted the slow way."""
    counts: dict[tuple[int, int], Counter[int]] = {}
    for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
        counts.setdefault((a, b), Counter())[c] += 1
    rows = []
    for (a, b), following in sorted(counts.items()):
        total = sum(following.values())
        best = sorted((-np.float32(n / total), c) for c, n in following.items() if n >= min_count)[:MOST]
        if best:
            rows.append((a << 32 | b, [(c, -s) for s, c in best]))
    successors = np.zeros(len(rows), RECORD)
    for i, (_, best) in enumerate(rows):
        successors[i]["count"] = len(best)
        for j, (c, share) in enumerate(best):
            successors[i]["ids"][j], successors[i]["scores"][j] = c, share
    return Table(VOCAB, TOKENIZER, len(ids), min_count, np.array([k for k, _ in rows], np.uint64), successors)


def chain(count: int, seed: int) -> list[int]:
    """A Markov chain of second order over 60 tokens: two of three times the same successor of a pair."""
    draw, ids = random.Random(seed), [1, 2]
    while len(ids) < count:
        ids.append((ids[-1] * 7 + ids[-2] * 3) % 60 if draw.random() < 2 / 3 else draw.randrange(60))
    return ids


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draft-table")
    write_hf(folder / "model", "qwen3")
    export("decoder", folder / "model", folder / "bundle", check=False)
    return folder / "bundle"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(made(chain(3000, 1)), tmp_path / "a.table")
    return tmp_path / "a.table"


@pytest.mark.parametrize("min_count", [1, 2, 3])
def test_counts_are_those_of_the_slow_way(bundle: Path, tmp_path: Path, min_count: int, monkeypatch: Any) -> None:
    from tokenizers import Tokenizer

    monkeypatch.setattr(
        sys.modules["farthing.calibration.draft_table.build"], "HELD", 50
    )  # so that there is something to merge
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    words = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "sat", "on", "the", "cat"]
    draw = random.Random(3)
    texts = [" ".join(draw.choice(words) for _ in range(80)) for _ in range(3)]
    for i, text in enumerate(texts):
        (corpus / f"{i}.txt").write_text(text, encoding="utf-8")
    (corpus / "4.bin").write_bytes(b"\xff\xfe\x00")
    result = build(corpus, bundle, tmp_path / "t", min_count=min_count)
    opened = open_bundle(bundle)
    tokenizer = Tokenizer.from_str(opened.text(opened.manifest["tokenizer"]["file"]))
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    grams = Counter(g for one in ids for g in zip(one, one[1:], one[2:], strict=False))
    pairs: Counter[tuple[int, int]] = Counter()
    for (a, b, _), n in grams.items():
        pairs[a, b] += n
    table = read(tmp_path / "t")
    assert result.files == 3 and result.tokens == sum(map(len, ids)) and result.pairs == len(table.keys)
    for a, b in pairs:
        kept = sorted(
            (-float(np.float32(n / pairs[a, b])), c)
            for (x, y, c), n in grams.items()
            if (x, y) == (a, b) and n >= min_count
        )
        assert table.find(a, b) == [(c, -s) for s, c in kept[:MOST]]


@native
def test_both_readers_find_the_same(file: Path) -> None:
    table, mapped = read(file), native_parts().core.TableFile(file, VOCAB, TOKENIZER)
    assert mapped.pairs == len(table.keys) > 1000
    assert mapped.bytes == file.stat().st_size + 4 * (VOCAB + 1)
    for a in range(-1, 62):
        for b in range(-1, 62):
            assert mapped.find(a, b) == (table.find(a, b) if a >= 0 and b >= 0 else [])
    assert mapped.find(VOCAB, 0) == mapped.find(2**31 - 1, 0) == []


def accepted(drafter: Any, text: list[int], prompt: int) -> int:
    drafter.begin(text[: prompt - 1])
    drafter.observe(text[prompt - 1 : prompt])
    at, total = prompt, 0
    while at < len(text):
        ids, _, _ = drafter.propose(4, 4, False)
        right = next((i for i, t in enumerate(ids) if at + i >= len(text) or text[at + i] != t), len(ids))
        total += right
        drafter.verified(list(range(len(ids))), list(range(right)))
        drafter.observe(text[at : at + right + 1])
        at += right + 1
    return total


@native
@pytest.mark.parametrize("name", ["aded", "auto"])
def test_a_table_of_the_same_source_guesses_better_and_is_not_changed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    write(made(chain(40000, 1), 2), path)
    before = path.read_bytes()
    core = native_parts().core
    text = chain(600, 2)
    known = accepted(core.TextDrafter(name, 2048, core.TableFile(path, VOCAB, TOKENIZER)), text, 4)
    alone = accepted(core.TextDrafter(name, 2048), text, 4)
    assert known > 2 * alone and known > 250
    assert path.read_bytes() == before


def resealed(data: bytes) -> bytes:
    return data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode()


def put(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: resealed(data[:offset] + value + data[offset + len(value) :])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "empty|other file"),
    "another file": (lambda d: b"PK" + d[2:], "other file"),
    "header alone": (lambda d: d[:50], "bytes"),
    "truncated": (lambda d: d[:-1], "bytes"),
    "a pair less": (lambda d: d[:-108], "bytes"),
    "longer": (lambda d: d + b"\0", "bytes"),
    "edited": (lambda d: d[:400] + bytes([d[400] ^ 1]) + d[401:], "SHA-256"),
    "from the future": (put(8, b"\x02\0\0\0"), "version .* is 2, expected 1"),
    "more pairs than bytes": (put(80, b"\xff" * 8), "bytes"),
    "a count that overflows": (put(80, (2**64 // 108 + 1).to_bytes(8, "little")), "bytes"),
    "keys that fall": (put(HEADER.size, (1 << 33).to_bytes(8, "little")), "malformed"),
    "a pair outside the vocabulary": (put(HEADER.size + 4, b"\xff" * 4), "malformed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused(name: str, file: Path) -> None:
    change, message = DAMAGE[name]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(RequestError, match=message):
        read(file)
    if native_parts().missing is None:
        with pytest.raises(RequestError, match=message):
            native_parts().core.TableFile(file, VOCAB, TOKENIZER)


@native
def test_tables_of_others_are_refused(file: Path) -> None:
    core = native_parts().core
    for vocabulary, tokenizer, message in (
        (VOCAB + 1, TOKENIZER, "vocabulary .* is 500 tokens, expected 501"),
        (VOCAB, "cd" * 32, "tokenizer .* is another"),
        (VOCAB, "", "a bundle with one"),
    ):
        with pytest.raises(RequestError, match=message):
            core.TableFile(file, vocabulary, tokenizer)
    with pytest.raises(RequestError, match="check the path"):
        core.TableFile(file.parent, VOCAB, TOKENIZER)
    with pytest.raises(RequestError, match="check the path"):
        core.TableFile(file.parent / "none", VOCAB, TOKENIZER)


@native
def test_readers_agree_on_fuzzed_files(tmp_path: Path) -> None:
    """Bytes changed at random and sealed again: both readers take the file, with the same content, or both refuse it."""
    core, draw = native_parts().core, random.Random(7)
    path = tmp_path / "t"
    write(made(chain(60, 1)), path)
    whole = path.read_bytes()
    taken = refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(88, len(data) - 64)] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        path.write_bytes(resealed(bytes(data)))
        outcomes = []
        for reader in (lambda: read(path), lambda: core.TableFile(path, VOCAB, TOKENIZER)):
            try:
                table = reader()
                outcomes.append([table.find(a, b) for a in range(60) for b in (0, 1, 2, 13, 30)])
            except RequestError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]
        taken += outcomes[0] is not None
        refused += outcomes[0] is None
    assert taken > 50 and refused > 50


@native
def test_a_table_changes_no_text(bundle: Path, tmp_path: Path) -> None:
    with farthing.load(bundle, threads=1, context=96, draft="none") as runtime:
        plain = runtime.generate("the cat", max_new_tokens=40, greedy=True, ignore_eos=True)
    (tmp_path / "c.txt").write_text("the cat sat on the mat. " * 40, encoding="utf-8")
    build(tmp_path / "c.txt", bundle, tmp_path / "t")
    for name in ("aded", "auto"):
        with farthing.load(bundle, threads=1, context=96, draft=name, draft_table=tmp_path / "t") as runtime:
            assert runtime.generate("the cat", max_new_tokens=40, greedy=True, ignore_eos=True).ids == plain.ids
    with pytest.raises(RequestError, match="draft table is given for 'lookup'"):
        farthing.load(bundle, threads=1, context=96, draft="lookup", draft_table=tmp_path / "t")


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "c.txt", tmp_path / "t"
    corpus.write_text("one two three one two three one two four. " * 20, encoding="utf-8")
    run = CliRunner().invoke(
        cli, ["draft-table", "build", str(corpus), "--bundle", str(bundle), "--out", str(out), "--json"]
    )
    assert run.exit_code == 0, run.output
    built = json.loads(run.output)
    shown = json.loads(CliRunner().invoke(cli, ["draft-table", "inspect", str(out), "--json"]).output)
    assert shown["bytes"] == built["bytes"] == out.stat().st_size == HEADER.size + 64 + 108 * shown["pairs"]
    assert (shown["pairs"], shown["trigrams"], shown["tokens"]) == (built["pairs"], built["trigrams"], built["tokens"])
    assert "pairs" in CliRunner().invoke(cli, ["draft-table", "inspect", str(out)]).output


def test_requests_that_cannot_be_met(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("a", encoding="utf-8")
    with pytest.raises(RequestError, match="min-count"):
        build(tmp_path / "short", bundle, tmp_path / "t", min_count=0)
    with pytest.raises(RequestError, match="check the path"):
        build(tmp_path / "none", bundle, tmp_path / "t")
    with pytest.raises(RequestError, match="without a tri-gram"):
        build(tmp_path / "short", bundle, tmp_path / "t")
    (tmp_path / "long").write_text("a b c a b c a b c a b c", encoding="utf-8")
    with pytest.raises(RequestError, match="not writable"):
        build(tmp_path / "long", bundle, tmp_path / "no" / "t")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long", "short"]
