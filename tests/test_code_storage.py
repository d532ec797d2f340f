"""Packed codes: lossless, near the entropy, and nothing that is not whole gets through."""

from __future__ import annotations

import hashlib
import math
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from farthing.errors import RequestError
from farthing.runtime.code_storage import BLOCKS, DIGEST, HEADER, pack_codes, unpack_codes
from farthing.runtime.huffman import LONGEST, Canonical, code_lengths

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)


@st.composite
def streams(draw) -> tuple[np.ndarray, int]:
    vocab = draw(st.integers(1, 600))
    codes = draw(arrays.arrays(np.int64, SHAPES, elements=st.integers(0, vocab - 1)))
    return codes, vocab


def resealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def with_header(data: bytes, **changes: int) -> bytes:
    names = ("magic", "version", "vocab", "images", "height", "width", "block", "table", "payload")
    fields = dict(zip(names, HEADER.unpack_from(data), strict=True)) | changes
    return resealed(HEADER.pack(*fields.values()) + data[HEADER.size : -DIGEST])


@QUICK
@given(streams())
def test_round_trip(stream) -> None:
    codes, vocab = stream
    back, told = unpack_codes(pack_codes(codes, vocab))
    assert told == vocab and back.dtype == np.int64 and np.array_equal(back, codes)


@pytest.mark.parametrize("images", [1, BLOCKS - 1, BLOCKS, BLOCKS + 1, 2 * BLOCKS, 2 * BLOCKS + 7])
def test_blocks_of_all_sizes(images) -> None:
    codes = np.random.default_rng(images).integers(0, 1000, (images, 2, 3)).astype(np.uint16)
    assert np.array_equal(unpack_codes(pack_codes(codes, 1000))[0], codes)


def test_size_is_near_the_entropy() -> None:
    shares = np.arange(1, 1025) ** -1.0
    shares /= shares.sum()
    codes = np.random.default_rng(0).choice(1024, (4000, 8, 8), p=shares)
    bits = 8 * len(pack_codes(codes, 1024)) / codes.size
    assert -(shares * np.log2(shares)).sum() < bits < -(shares * np.log2(shares)).sum() + 0.3


@QUICK
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=300).filter(any))
def test_lengths_make_a_prefix_code_no_worse_than_entropy_plus_one(counts) -> None:
    counts = np.array(counts)
    lengths = code_lengths(counts).astype(int)
    assert ((lengths > 0) == (counts > 0)).all() and lengths.max() <= LONGEST
    used = counts[counts > 0] / counts.sum()
    if len(used) > 1:
        assert sum(2.0 ** -int(n) for n in lengths[lengths > 0]) == 1
        if lengths.max() < LONGEST:  # not flattened
            mean = (used * lengths[counts > 0]).sum()
            assert -(used * np.log2(used)).sum() - 1e-9 <= mean < -(used * np.log2(used)).sum() + 1


def test_lengths_of_halves() -> None:
    assert code_lengths(np.array([8, 4, 0, 2, 1, 1])).tolist() == [1, 2, 0, 3, 4, 4]


def test_fibonacci_counts_are_flattened() -> None:
    counts = [1, 1]
    while len(counts) < 60:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts))
    assert lengths.max() <= LONGEST
    codes = np.random.default_rng(0).integers(0, 60, (5, 4, 4))
    assert np.array_equal(unpack_codes(pack_codes(codes, 60, np.array(counts)))[0], codes)


def test_canonical_words_rise() -> None:
    code = Canonical(np.array([2, 1, 3, 3]))
    assert [f"{w:0{n}b}" for w, n in zip(code.words, code.lengths, strict=True)] == ["10", "0", "110", "111"]


@pytest.mark.parametrize("lengths", [[0, 0], [1, 1, 1], [2, 2], [1, 2], [2], [LONGEST + 1] * 2])
def test_lengths_that_are_no_code(lengths) -> None:
    with pytest.raises(ValueError, match=r"lengths|length"):
        Canonical(np.array(lengths))


def test_a_histogram_of_others() -> None:
    codes = np.random.default_rng(0).integers(0, 50, (20, 4, 4))
    counts = np.arange(1, 65)
    data = pack_codes(codes, 64, counts)
    assert np.array_equal(unpack_codes(data)[0], codes)
    counts[codes[0, 0, 0]] = 0
    with pytest.raises(RequestError, match="histogram of code"):
        pack_codes(codes, 64, counts)
    for bad in (np.ones(63, int), np.ones(64), -np.ones(64, int), np.full(64, 1 << 60)):
        with pytest.raises(RequestError, match="histogram"):
            pack_codes(codes, 64, bad)


@pytest.mark.parametrize(
    ("codes", "vocab"),
    [
        (np.zeros((2, 2), int), 4),
        (np.zeros((2, 0, 2), int), 4),
        (np.zeros((2, 2, 2)), 4),
        (np.full((2, 2, 2), 4), 4),
        (np.full((2, 2, 2), -1), 4),
        (np.zeros((2, 2, 2), int), 0),
        (np.zeros((2, 2, 2), int), 1 << 25),
    ],
)
def test_what_is_not_packed(codes, vocab) -> None:
    with pytest.raises(RequestError, match="expected"):
        pack_codes(codes, vocab)


GOOD = pack_codes(np.random.default_rng(1).integers(0, 200, (30, 4, 4)) // 3, 200)


@QUICK
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_every_changed_byte_is_noticed(place, change) -> None:
    data = bytearray(GOOD)
    data[place] ^= change
    with pytest.raises(RequestError, match="expected"):
        unpack_codes(bytes(data))


@QUICK
@given(st.integers(0, len(GOOD) - 1))
def test_every_shortened_file_is_noticed(length) -> None:
    with pytest.raises(RequestError, match="expected"):
        unpack_codes(GOOD[:length])
    with pytest.raises(RequestError, match="expected"):
        unpack_codes(GOOD + GOOD[:length] if length else GOOD + b"\0")


@QUICK
@given(st.binary(max_size=300))
def test_noise_is_refused(data) -> None:
    for whole in (data, b"FARTHCOD" + data, resealed(b"FARTHCOD" + data)):
        with pytest.raises(RequestError, match="expected"):
            unpack_codes(whole)


@settings(QUICK, max_examples=400)
@given(st.data())
def test_a_forged_file_with_a_right_hash_gives_codes_or_a_refusal(data) -> None:
    """Whoever makes the hash anew can at most change which codes come out: in range, of the claimed shape, without much memory."""
    body = bytearray(GOOD[:-DIGEST])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(8, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        codes, vocab = unpack_codes(resealed(bytes(body)))
    except RequestError as error:
        assert "expected" in str(error)
    else:
        assert codes.ndim == 3 and codes.min() >= 0 and codes.max() < vocab and codes.size <= 8 * len(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 2**32 - 1, "height": 2**32 - 1, "width": 2**32 - 1},
        {"images": 2**32 - 1, "block": 2**32 - 1},
        {"images": 0},
        {"block": 0},
        {"block": 2},
        {"vocab": 2**32 - 1},
        {"vocab": 199},
        {"vocab": 201},
        {"height": 3},
        {"width": 5},
        {"table": 0},
        {"payload": 2**63},
        {"version": 2},
    ],
)
def test_claims_that_do_not_fit(changes) -> None:
    with pytest.raises(RequestError, match="expected"):
        unpack_codes(with_header(GOOD, **changes))


def test_a_table_that_inflates_without_end() -> None:
    bomb = zlib.compress(bytes(1 << 24), 9)
    fields = HEADER.unpack_from(GOOD)
    old = fields[7]
    body = HEADER.pack(*fields[:7], len(bomb), fields[8]) + bomb + GOOD[HEADER.size + old : -DIGEST]
    with pytest.raises(RequestError, match="table"):
        unpack_codes(resealed(body))


def test_one_code_only_takes_a_bit_each() -> None:
    codes = np.full((100, 8, 8), 3)
    data = pack_codes(codes, 16384)
    assert np.array_equal(unpack_codes(data)[0], codes) and len(data) < 1500
    assert math.prod(codes.shape) // 8 <= len(data)
