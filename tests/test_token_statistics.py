"""Statistics of codes against streams whose entropy, exponents and neighbours are known; advice; the command; pictures by a bundle."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.calibration.token_statistics import (
    Analysis,
    analyze_tokens,
    read_codes,
    recommend,
    stream_of,
    unpack_codes,
)
from farthing.calibration.token_statistics.entropy import conditional, entropies, miller_madow, plug_in
from farthing.calibration.token_statistics.files import stream_from
from farthing.calibration.token_statistics.grams import corner_grams, pairs, row_grams
from farthing.calibration.token_statistics.hits import hits
from farthing.calibration.token_statistics.innovation import heaps, innovations
from farthing.calibration.token_statistics.neighbours import neighbours
from farthing.calibration.token_statistics.rank_frequency import (
    fit_lognormal,
    fit_mandelbrot,
    fit_zipf,
    fit_zipf_from,
    ranks_of,
)
from farthing.calibration.token_statistics.resample import Resampler
from farthing.calibration.token_statistics.text import text_stream, train_tokenizer
from farthing.cli.analyze_codes import analyze_codes_command
from farthing.errors import BundleError, FarthingError, RequestError

V = 256
ZIPF = np.arange(1, V + 1) ** -1.2 / (np.arange(1, V + 1) ** -1.2).sum()


def drawn(shares=None, images=1600, grid=(8, 8), vocab=V, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).choice(vocab, (images, *grid), p=shares)


def analysed(codes, vocab=V, **options) -> Analysis:
    return analyze_tokens(stream_of(codes, vocab), resamples=20, **options)


# --- estimators on streams that are known


@pytest.mark.parametrize("seed", range(5))
def test_a_zipf_stream(seed) -> None:
    stream = stream_of(drawn(ZIPF, seed=seed), V)
    counts = row_grams(stream, 1)[0].counts()
    assert abs(fit_zipf(ranks_of(counts)).parameters["a"] / 1.2 - 1) < 0.05
    assert abs(miller_madow(counts) + (ZIPF * np.log2(ZIPF)).sum()) < 0.05


def test_a_uniform_stream() -> None:
    found = analysed(drawn())
    assert abs(found.entropy[0].block.value - 8) < 0.05
    assert found.kl_uniform["1"] < 0.01 and found.normalised_entropy > 0.99
    assert abs(found.compression.huffman.value) < 0.01 and found.compression.zlib < 0.01
    assert found.usage.used == V and abs(found.usage.perplexity - V) < 2
    for one in found.neighbours:
        assert abs(one.share.value) < 0.01
    for one in found.hits:
        assert one.top[1].value < 3 / V
    assert found.rank_frequency[0].exponent.value < 0.1


def test_miller_madow_is_nearer_than_plug_in() -> None:
    counts = np.random.default_rng(0).multinomial(4000, np.full(1000, 1e-3))
    truth = math.log2(1000)
    assert truth - plug_in(counts) > 0.1 and abs(miller_madow(counts) - truth) < 0.02


def test_plug_in_by_hand() -> None:
    assert plug_in(np.array([1, 1, 2, 0])) == pytest.approx(1.5)
    assert plug_in(np.array([7])) == 0 and miller_madow(np.array([7])) == 0


def test_conditional_entropy_of_a_markov_chain() -> None:
    """Stays with 3/4, else one of 15 others: 0.8113 + log2(15)/4 bits."""
    random = np.random.default_rng(1)
    codes = np.empty((4000, 4, 16), np.int64)
    codes[:, :, 0] = random.integers(0, 16, (4000, 4))
    for c in range(1, 16):
        other = (codes[:, :, c - 1] + random.integers(1, 16, (4000, 4))) % 16
        codes[:, :, c] = np.where(random.random((4000, 4)) < 0.75, codes[:, :, c - 1], other)
    truth = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25 / 15))
    grams = row_grams(stream_of(codes, 16), 3)
    for order in (1, 2):
        assert abs(conditional(grams[order], grams[order].counts())[1] - truth) < 0.02
    found = neighbours(stream_of(codes, 16), Resampler(stream_of(codes, 16), 20))
    by = {n.direction: n for n in found}
    assert abs(by["x"].bits.value - (4 - truth)) < 0.02
    assert by["x"].bits.low < 4 - truth < by["x"].bits.high + 0.02
    assert abs(by["y"].bits.value) < 0.01 and abs(by["diagonal"].bits.value) < 0.01
    guesses = {h.context: h for h in hits(stream_of(codes, 16), grams, Resampler(stream_of(codes, 16), 20))}
    assert abs(guesses["2"].top[1].value - 0.75) < 0.01 and abs(guesses["1"].top[1].value - 1 / 16) < 0.01
    assert abs(guesses["above"].top[1].value - 1 / 16) < 0.01


def test_neighbours_below_and_along_diagonals() -> None:
    """Each row is the one above, moved by one to the left: a code is that to the right above it."""
    top = drawn(vocab=16, grid=(1, 24), images=500)[:, 0]
    codes = np.stack([top[:, i : i + 8] for i in range(6)], axis=1)
    by = {n.direction: n for n in neighbours(stream_of(codes, 16), Resampler(stream_of(codes, 16), 20))}
    assert abs(by["diagonal"].share.value - 1) < 0.02 and by["x"].share.value < 0.02 and by["y"].share.value < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_laws_that_made_the_ranks_are_found(seed) -> None:
    random, rank = np.random.default_rng(seed), np.arange(1, 3001.0)
    mandelbrot = (rank + 20) ** -1.8
    ranks = ranks_of(random.multinomial(10**6, mandelbrot / mandelbrot.sum()))
    found = fit_mandelbrot(ranks).parameters
    assert abs(found["a"] - 1.8) < 0.05 and abs(found["b"] - 20) < 2
    assert fit_mandelbrot(ranks).likelihood > fit_lognormal(ranks).likelihood > fit_zipf(ranks).likelihood
    normal = np.exp(-((np.log(rank) - 3) ** 2) / (2 * 1.5**2)) / rank
    ranks = ranks_of(random.multinomial(10**6, normal / normal.sum()))
    found = fit_lognormal(ranks).parameters
    assert abs(found["mu"] - 3) < 0.05 and abs(found["s"] - 1.5) < 0.05
    assert fit_lognormal(ranks).ks < 0.01 < 0.1 < fit_zipf(ranks).ks


def test_the_minimum_rank_of_a_flat_head() -> None:
    """20 types alike, then Zipf with 1.5: the law from a rank on finds the exponent, the whole range does not."""
    shares = np.minimum(1.0, (np.arange(1, 2001) / 20) ** -1.5)
    ranks = ranks_of(np.random.default_rng(0).multinomial(10**6, shares / shares.sum()))
    law = fit_zipf_from(ranks)
    assert abs(law.parameters["a"] - 1.5) < 0.05 and 10 < law.parameters["from"] < 40
    assert abs(fit_zipf(ranks).parameters["a"] - 1.5) > 0.2


def test_grouped_ranks_change_nothing(monkeypatch) -> None:
    shares = np.arange(1, 30001) ** -1.1
    counts = np.random.default_rng(0).multinomial(10**7, shares / shares.sum())
    grouped = ranks_of(counts)
    monkeypatch.setattr("farthing.calibration.token_statistics.rank_frequency.EXACT", 10**9)
    alone = ranks_of(counts)
    assert len(grouped.middle) < len(alone.middle) / 2
    for fit in (fit_zipf, fit_lognormal):
        a, b = fit(grouped), fit(alone)
        assert a.likelihood == pytest.approx(b.likelihood, abs=1e-7) and a.ks == pytest.approx(b.ks, abs=1e-3)
        assert list(a.parameters.values()) == pytest.approx(list(b.parameters.values()), rel=1e-4)


def test_heaps_of_a_known_growth() -> None:
    """U(t) = 3 t^0.6 exactly."""
    count = int(3 * (10**6) ** 0.6)
    beta, k = heaps((np.arange(1, count + 1) / 3) ** (1 / 0.6), 10**6)
    assert abs(beta - 0.6) < 0.01 and abs(k - 3) < 0.4


def test_innovation_counts_images() -> None:
    """Every image brings its own code until the codebook is through."""
    codes = np.repeat(np.arange(200), 16).reshape(200, 4, 4)
    found = innovations(stream_of(codes, V), row_grams(stream_of(codes, V), 2))[0]
    assert found.types == 200 and found.images_to["0.9"].value == 180 and found.images_to["0.99"].value == 198
    assert 0.24 < found.last_growth < 0.26
    seen = analysed(codes)
    assert not seen.enough and any("sample too small" in w for w in seen.warnings)


def entropy_of(codes, resamples):
    stream = stream_of(codes, V)
    return entropies(row_grams(stream, 1), Resampler(stream, resamples))[0].block


def test_images_in_the_order_of_their_classes_are_no_smaller_a_sample() -> None:
    """Half of the images use other codes; one after the other or mixed, the sample is as large."""
    codes = drawn(vocab=16, images=600, grid=(4, 4))
    codes[300:] += 16
    found = [analysed(c, 32) for c in (codes, np.random.default_rng(0).permutation(codes))]
    assert all(f.enough for f in found) and found[0].warnings == found[1].warnings


def test_intervals_are_as_wide_as_theory_says() -> None:
    """Of independent codes: standard deviation of H is that of log2 p over sqrt N."""
    found = entropy_of(drawn(ZIPF), 200)
    spread = math.sqrt((ZIPF * np.log2(ZIPF) ** 2).sum() - (ZIPF * np.log2(ZIPF)).sum() ** 2)
    wanted = 2 * 1.96 * spread / math.sqrt(1600 * 64)
    assert 0.75 < (found.high - found.low) / wanted < 1.25
    assert found.low < found.value < found.high


def test_images_of_alike_codes_widen_the_intervals() -> None:
    """64 equal codes an image are one observation, not 64."""
    one = drawn(ZIPF, grid=(1, 1))
    wide, narrow = entropy_of(np.tile(one, (1, 8, 8)), 100), entropy_of(drawn(ZIPF), 100)
    assert (wide.high - wide.low) > 4 * (narrow.high - narrow.low)


# --- n-grams


def test_no_gram_crosses_a_row() -> None:
    codes = np.zeros((120, 3, 4), np.int64)
    codes[:, :, -1], codes[:, 0, 0] = 1, 2  # after a 1 comes nothing
    codes[0, 1, 1] = 3
    for grams in row_grams(stream_of(codes, 4), 4)[1:]:
        starts = {int(codes.reshape(120, -1)[i, p]) for i, p in zip(grams.image, grams.place, strict=True)}
        assert starts <= {0, 1, 3} and len(grams.ids) > 0
    two = row_grams(stream_of(codes, 4), 2)[1]
    held = [0, 2, 3]  # the codes that are contexts; 1 is none
    found = {(held[int(c)], int(last)) for c, last in zip(two.context, two.last, strict=True)}
    assert found == {(2, 0), (0, 0), (0, 1), (0, 3), (3, 0)}
    assert len(two.ids) == 120 * 3 * 3


def test_grams_by_counting_plainly() -> None:
    codes = drawn(vocab=5, images=130, grid=(3, 5), seed=4)
    stream = stream_of(codes, 5)
    for n, grams in enumerate(row_grams(stream, 4), 1):
        plain: dict[tuple[int, ...], int] = {}
        for row in codes.reshape(-1, 5).tolist():
            for i in range(5 - n + 1):
                plain[tuple(row[i : i + n])] = plain.get(tuple(row[i : i + n]), 0) + 1
        assert sorted(plain.values()) == sorted(grams.counts().tolist())
        weights = np.random.default_rng(0).integers(0, 3, 130).astype(float)
        again = row_grams(stream_of(np.repeat(codes, weights.astype(int), 0), 5), n)[-1]
        weighted = grams.counts(weights)
        assert sorted(weighted[weighted > 0]) == sorted(again.counts())
    below = pairs(stream, "y")
    plain_pairs = np.bincount((codes[:, :-1] * 5 + codes[:, 1:]).ravel(), minlength=25)
    assert np.array_equal(np.sort(below.counts()), np.sort(plain_pairs[plain_pairs > 0]))
    corner = corner_grams(stream)
    assert len(corner.ids) == 130 * 2 * 4 and corner.counts().sum() == len(corner.ids)


def test_guesses_are_made_for_images_that_were_not_counted() -> None:
    """With codes of 4096 in 6,400 tokens nearly every pair is unique: a table that had seen the image would be right every time."""
    stream = stream_of(drawn(vocab=4096, images=100), 4096)
    found = {h.context: h for h in hits(stream, row_grams(stream, 4), Resampler(stream, 20))}
    for one in found.values():
        assert one.top[1].value < 0.01
    assert found["3"].known < 0.1


def test_units_are_held_out_together() -> None:
    """Four images of a unit are the same; images of other units say nothing."""
    alone = drawn(images=50, vocab=1000, grid=(4, 4))
    codes = np.repeat(alone, 4, axis=0)
    whole = stream_of(codes, 1000, units=np.repeat(np.arange(50), 4))
    parted = stream_of(codes, 1000)
    by = [
        next(h for h in hits(s, row_grams(s, 3), Resampler(s, 20)) if h.context == "2").top[1].value
        for s in (whole, parted)
    ]
    assert by[0] < 0.05 and by[1] > 0.5


def test_an_unseen_context_falls_back() -> None:
    """A rare code stands before a common one: pairs with it are unseen, the likeliest code alone is right."""
    codes = np.zeros((200, 1, 3), np.int64)
    codes[:, 0, 0] = np.arange(200) + 1
    found = {
        h.context: h
        for h in hits(stream_of(codes, V), row_grams(stream_of(codes, V), 3), Resampler(stream_of(codes, V), 20))
    }
    assert found["2"].known == 0.5 and found["2"].top[1].value == 1


def test_shuffling_keeps_codes_and_loses_their_order() -> None:
    codes = np.cumsum(drawn(ZIPF, vocab=V) % 3, axis=2) % V
    plain, mixed = (analyze_tokens(s, resamples=20) for s in (stream_of(codes, V), stream_of(codes, V).shuffled(0)))
    assert plain.entropy[0] == mixed.entropy[0] and plain.compression.huffman == mixed.compression.huffman
    assert plain.hits[1].top[1].value > mixed.hits[1].top[1].value + 0.1
    assert plain.neighbours[0].bits.low > mixed.neighbours[0].bits.high


def test_a_report_repeats_itself_and_is_plain_data() -> None:
    codes = drawn(ZIPF, images=150, grid=(4, 4))
    first, second = (analysed(codes).as_json() for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == json.loads(json.dumps(second))
    assert sum(first["histogram"]) == 150 * 16 and first["sha256"] != analysed(codes[::-1]).sha256


def test_grids_of_one_row_or_code() -> None:
    row = analysed(drawn(images=200, grid=(1, 32)))
    assert [n.direction for n in row.neighbours] == ["x"] and [h.context for h in row.hits] == ["1", "2", "3", "4"]
    single = analysed(drawn(images=200, grid=(1, 1)))
    assert single.neighbours == [] and len(single.entropy) == 1
    assert {a.method for a in recommend(single).advice} == {"plain", "gsd", "lantern", "nar", "token-shuffle"}
    from farthing.calibration.token_statistics.show import table

    assert "H_1" in table([row], recommend(row)) and "H_1" in table([single])


# --- what is refused

GOOD = drawn(images=120, grid=(4, 4))


@pytest.mark.parametrize(
    ("codes", "vocab", "grid", "word"),
    [
        (GOOD - 1, V, None, "smallest id"),
        (GOOD + 1, V, None, "largest id"),
        (GOOD[:99], V, None, "99 images"),
        (np.repeat(GOOD[:1], 500, 0), V, None, "one image"),
        (GOOD.astype(np.float32), V, None, "float32"),
        (GOOD > 3, V, None, "bool"),
        (GOOD.astype(str), V, None, "expected integers"),
        (GOOD, V, (4, 5), "--grid"),
        (GOOD, V, (2, 8), "--grid"),
        (GOOD.reshape(120, 16), V, (4, 5), "--grid"),
        (GOOD.reshape(120, 16), V, None, "--grid"),
        (GOOD.ravel(), V, None, "shape"),
        (GOOD[None], V, None, "shape"),
        (GOOD[:, :0], V, None, "shape"),
        (GOOD[:0], V, None, "shape"),
        (GOOD, 1, None, "--codebook"),
        (GOOD, 1 << 25, None, "--codebook"),
        (np.full((120, 4, 4), 2**63, np.uint64), V, None, "largest id"),
    ],
)  # fmt: skip
def test_bad_codes_are_refused(codes, vocab, grid, word) -> None:
    with pytest.raises(RequestError, match="expected") as error:
        stream_of(codes, vocab, grid)
    assert word in str(error.value)


def test_flat_images_are_cut_to_the_grid() -> None:
    stream = stream_of(GOOD.reshape(120, 16).astype(np.uint8), V, (2, 8))
    assert stream.codes.shape == (120, 2, 8) and stream.codes.dtype == np.int64


def test_files_that_are_no_codes(tmp_path) -> None:
    bad = {
        "pickle.npy": lambda p: np.save(p, np.array([{}], object), allow_pickle=True),
        "many.npz": lambda p: np.savez(p, a=GOOD),
        "text.npy": lambda p: p.write_text("hello"),
        "empty.npy": lambda p: p.write_bytes(b""),
        "short.npy": lambda p: (np.save(p, GOOD), p.write_bytes(p.read_bytes()[:200])),
        "claims.npy": lambda p: (
            np.save(p, GOOD),
            p.write_bytes(p.read_bytes().replace(b"(120, 4, 4)", b"(9**9, 9,9)")),
        ),
        "huge.npy": lambda p: (
            np.save(p, GOOD),
            p.write_bytes(p.read_bytes().replace(b"(120, 4, 4), }    ", b"(9999999999,4,4),}")),
        ),
        "packed.codes": lambda p: p.write_bytes(b"FARTHCOD" + bytes(90)),
    }
    for name, write in bad.items():
        write(tmp_path / name)
        with pytest.raises(RequestError, match="expected"):
            read_codes(tmp_path / name)
    with pytest.raises(RequestError):
        read_codes(tmp_path / "missing.npy")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 140), st.integers(0, 255) | st.sampled_from(list(b"0123456789(),' "))),
        min_size=1,
        max_size=3,
    )
)
def test_damaged_headers_are_refused_or_read(tmp_path, changes) -> None:
    file = tmp_path / "codes.npy"
    np.save(file, GOOD)
    data = bytearray(file.read_bytes())
    for place, byte in changes:
        data[place] = byte
    file.write_bytes(data)
    try:
        stream = stream_of(read_codes(file)[0], V)
    except RequestError as error:
        assert "expected" in str(error)
    else:
        assert stream.codes.min() >= 0 and stream.codes.max() < V


def test_small_codebooks_for_few_tokens_are_warned_about() -> None:
    found = analysed(drawn(vocab=16384, images=200), 16384)
    assert any("tokens per code" in w for w in found.warnings) and not found.enough
    again = analysed(np.concatenate([GOOD, GOOD]))
    assert any("repeat others" in w for w in again.warnings)


# --- advice


def test_noise_wants_relaxed_acceptance() -> None:
    told = recommend(analysed(drawn()))
    assert told.now == "gsd" and told.to_train == ["lantern"]
    assert all(any(c.isdigit() for c in a.reason) for a in told.advice if a.method != "plain"), "figures"


def test_a_skewed_stream_stays_plain() -> None:
    told = recommend(analysed(drawn(ZIPF)))
    assert told.now == "plain" and told.to_train == []


def smooth(noise=0.3) -> np.ndarray:
    """Codes that follow those to the left and above."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 32, (1500, 8, 8))
    for r in range(8):
        for c in range(8):
            choices = [codes[:, r, c - 1]] * (c > 0) + [codes[:, r - 1, c]] * (r > 0)
            if choices:
                near = np.where(random.random(1500) < 0.5, choices[0], choices[-1])
                codes[:, r, c] = np.where(random.random(1500) < noise, codes[:, r, c], near)
    return codes


def test_like_neighbours_want_merging() -> None:
    found = analysed(smooth(), 32)
    told = recommend(found)
    assert {"nar", "token-shuffle"} <= set(told.to_train)
    odd = recommend(analysed(smooth()[:, :7, :7], 32))
    assert "nar" in odd.to_train and "token-shuffle" not in odd.to_train, "a window of 2x2 needs even sides"


def test_a_sample_too_small_advises_nothing() -> None:
    told = recommend(analysed(drawn(vocab=16384, images=120), 16384))
    assert told.now == "plain" and told.to_train == [] and "too small" in told.advice[1].reason


def test_rare_codes_do_not_withhold_advice() -> None:
    """A code that occurs in one image of a thousand keeps turning up; entropy and neighbours are known long before."""
    codes = smooth()
    codes[::50, 0, 0] = 32 + np.arange(30)
    found = analysed(codes, 64)
    assert not found.enough and found.settled and any("sample too small" in w for w in found.warnings)
    assert "nar" in recommend(found).to_train


def test_notes() -> None:
    unused = recommend(analysed(drawn(vocab=100), 256), top_k=10)
    assert any("never occurs" in n for n in unused.notes) and any("top-k 10 is below" in n for n in unused.notes)
    fine = recommend(analysed(drawn()), top_k=256)
    assert fine.notes == []


# --- text beside it


TEXT = "".join(
    f"the {a * 7919} of {b * 104729} is {a * b} and {hex(a ^ 977 * b)} the rest\n" for a in range(60) for b in range(40)
)


def test_text_has_as_many_symbols_and_tokens(tmp_path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    known = train_tokenizer([TEXT], 64)
    words = text_stream([TEXT], known, (4, 4), 150)
    assert words.codes.shape == (150, 4, 4) and words.vocab == 64
    ids = known.encode(TEXT).ids
    assert words.codes.ravel().tolist() == ids[: 150 * 16]
    with pytest.raises(RequestError, match="pieces"):
        text_stream(["too short"], known, (4, 4))
    with pytest.raises(RequestError, match="symbols"):
        train_tokenizer(["aaa"], 256)


# --- the command


def call(*arguments) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(analyze_codes_command, [str(a) for a in arguments])
    return done.exit_code, done.output, done.exception


@pytest.fixture
def codes(tmp_path):
    np.save(tmp_path / "codes.npy", drawn(ZIPF, images=150, grid=(4, 4)).astype(np.uint16))
    return tmp_path / "codes.npy"


def test_the_command(codes, tmp_path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 3)
    code, out, _ = call(
        codes, "--codebook", 256, "--grid", "4x4", "--text", tmp_path / "text.txt", "--resamples", 20,
        "--json", tmp_path / "r.json", "--plot", tmp_path / "p.png", "--save", tmp_path / "c.codes",
    )  # fmt: skip
    assert code == 0 and "Huffman" in out and "text" in out and "for the model as it is" in out
    told = json.loads((tmp_path / "r.json").read_text())
    assert (
        told["images"] == 150
        and told["recommendation"]["now"] in ("plain", "gsd")
        and told["beside"][0]["name"] == "text"
    )
    assert told["beside"][0]["tokens"] == told["tokens"] and told["beside"][0]["vocab"] == 256
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    saved, vocab = unpack_codes((tmp_path / "c.codes").read_bytes())
    assert vocab == 256 and np.array_equal(saved, np.load(codes))
    again, out, _ = call(tmp_path / "c.codes", "--resamples", 20, "--json", "-", "--save", tmp_path / "back.npy")
    assert again == 0 and json.loads(out)["sha256"] == told["sha256"]
    assert np.load(tmp_path / "back.npy").dtype == np.uint8


def test_a_short_text_draws_fewer_images(codes, tmp_path) -> None:
    (tmp_path / "text.txt").write_text(TEXT[: 16 * 105 * 2])
    code, out, _ = call(codes, "--codebook", 256, "--json", "--resamples", 20, "--text", tmp_path / "text.txt", "--tokenizer", tokenizer(tmp_path))  # fmt: skip
    beside = json.loads(out)["beside"]
    assert code == 0 and len(beside) == 2 and beside[0]["images"] == beside[1]["images"] < 150


def tokenizer(folder):
    train_tokenizer([TEXT], 48).save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--codebook"),
        (["--codebook", "100"], "largest id"),
        (["--codebook", "256", "--grid", "5"], "--grid"),
        (["--codebook", "256", "--grid", "four"], "--grid"),
        (["--codebook", "256", "--grid", "0"], "--grid"),
        (["--codebook", "256", "--images", "."], "--images"),
        (["--codebook", "256", "--tokenizer", "x"], "--tokenizer"),
        (["--codebook", "256", "--text", "nowhere"], "--text"),
        (["--codebook", "256", "--plot", "nowhere/p.png"], "folder"),
        (["--codebook", "256", "--save", "CODES"], "the codes themselves"),
        (["--codebook", "256", "--json", "CODES"], "the codes themselves"),
        (["--codebook", "256", "--plot", "p.xyz", "--resamples", "20"], "--plot"),
    ],
)
def test_the_command_refuses(codes, arguments, word, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    before = codes.read_bytes()
    _, _, error = call(codes, *[str(codes) if a == "CODES" else a for a in arguments])
    assert isinstance(error, RequestError) and word in str(error) and "expected" in str(error)
    assert codes.read_bytes() == before and not list(tmp_path.glob("*.codes"))


def test_a_text_is_refused_before_the_images_are_measured(codes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "farthing.calibration.token_statistics.analyze_tokens", lambda *_, **__: pytest.fail("measured")
    )
    (tmp_path / "short.txt").write_text("a few words")
    _, _, error = call(codes, "--codebook", 256, "--text", tmp_path / "short.txt")
    assert isinstance(error, RequestError)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\nimport numpy as np\nfrom farthing.calibration.token_statistics import analyze_tokens, stream_of\n"
        "analyze_tokens(stream_of(np.arange(120 * 16).reshape(120, 4, 4) % 7, 7), resamples=20)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'PIL', 'tokenizers'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- pictures by a bundle


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(folder, uint8 [101,8,8,3])."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (101, 8, 8, 3)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return folder, pixels


def test_pictures_of_other_sizes_are_cut_to_a_square() -> None:
    from farthing.calibration.token_statistics.encode import fitted

    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    assert np.array_equal(fitted(small, 8), small)
    wide = np.zeros((32, 48, 3), np.uint8)
    wide[:, 8:40] = 200
    wide[:16, 8:40, 1] = 90
    found = fitted(wide, 8)
    assert (found[..., 0] == 200).all(), "nothing of the borders"
    assert (found[:2, :, 1] == 90).all() and (found[6:, :, 1] == 200).all(), "upright; bicubic rings at the edge"
    assert np.array_equal(fitted(wide.transpose(1, 0, 2), 8), found.transpose(1, 0, 2))


def test_bundles_that_cannot_encode(pictures, tmp_path) -> None:
    bundle = pytest.importorskip("drawing_models").bundle("llamagen")
    for arguments, kind in (
        ((bundle, None), RequestError),
        ((bundle, tmp_path), RequestError),
        ((bundle, tmp_path / "none"), RequestError),
        ((tmp_path, pictures[0]), BundleError),
        ((bundle, pictures[0], 17), RequestError),
        ((bundle, pictures[0], None, (5, 5)), RequestError),
    ):
        with pytest.raises(kind, match="expected"):
            stream_from(*arguments)


def test_the_command_encodes_pictures(pictures, tmp_path) -> None:
    bundle = pytest.importorskip("drawing_models").bundle("llamagen")
    code, out, error = call(bundle, "--images", pictures[0], "--json", "--resamples", 20, "--save", tmp_path / "c.npy")
    assert code == 0, error
    assert json.loads(out)["grid"] == [4, 4] and json.loads(out)["vocab"] == 40
    assert np.load(tmp_path / "c.npy").shape == (101, 4, 4)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["llamagen", "elm-2"])
def test_exported_encoders_give_the_codes_of_the_reference(kind, native, pictures) -> None:
    """The same codes as PyTorch for pictures of the model's size, and the range of pixels that each tokenizer wants."""
    drawing_models = pytest.importorskip("drawing_models")
    import torch

    folder, pixels = pictures
    whole = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = drawing_models.vq().encode(2 * whole - 1) if kind == "llamagen" else drawing_models.bae().encode(whole)
    found = stream_from(drawing_models.bundle(kind), folder, native=native)
    assert found.vocab == (40 if kind == "llamagen" else 64)
    # A latent in the middle between two codes may fall to either side.
    assert (found.codes.reshape(101, -1) == wanted.numpy().reshape(101, -1)).mean() > 0.995


def test_errors_are_those_of_the_project() -> None:
    assert issubclass(RequestError, FarthingError)
