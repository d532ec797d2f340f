"""Drawing pass by pass: orders, guidance and random numbers, against recomputation by the PyTorch models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import drawn_models as tiny
import numpy as np
import pytest
import torch

from farthing.errors import BundleError, RequestError
from farthing.models import nar
from farthing.plugins import library_path, operator
from farthing.runtime.bundle import open_bundle
from farthing.runtime.drawing import SCHEDULES, Guidance
from farthing.runtime.drawing.orders import Order, mixed, order_of
from farthing.runtime.drawing.uniforms import Stream, draw, uniforms
from farthing.runtime.sampling import uniform

PASSES = {"llamagen": 16, "nar": 7, "elm": 16, "token-shuffle": 4}


def recomputed(
    kind: str, label: int, seed: int, guidance: Guidance, temperature: float, top_k: int, top_p: float
) -> list[int]:
    """Codes of one image: every turn runs the whole sequence through the model, and the operator's reference draws."""
    order = order_of(open_bundle(tiny.bundle(kind)).manifest["image_codes"])
    sample = operator("GuidedSample").reference
    tokens = order.grid * order.grid
    codes, drawn_before = np.zeros(tokens, np.int64), 0
    for t, turn in enumerate(order.turns):
        c, u = (tiny.logits(kind, k, codes, t).transpose(0, 1) for k in (label, tiny.CLASSES))
        scales = [guidance.at(int(n), tokens) for n in turn.numbers]
        numbers = [uniform(seed, drawn_before + k) for k in range(len(scales))]
        ids, _ = sample(
            c,
            u,
            torch.tensor(scales),
            torch.tensor([[math.floor(n * 2**24) * 2.0**-24] for n in numbers]),
            torch.tensor([temperature]),
            torch.tensor([top_k]),
            torch.tensor([top_p]),
        )
        codes[turn.places] = order.codes(ids.numpy().reshape(1, -1))[0]
        drawn_before += len(scales)
    return codes.tolist()


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize(
    ("guidance", "temperature", "top_k", "top_p"),
    [
        (Guidance(3.0), 0.0, 0, 1.0),
        (Guidance(2.0), 0.9, 5, 1.0),
        (Guidance(4.0, interval=6), 1.0, 0, 0.8),
        (Guidance(4.0, schedule="linear"), 1.0, 0, 1.0),
        (Guidance(3.0, schedule="half_linear"), 1.0, 7, 0.9),
        (Guidance(1.0), 1.0, 0, 1.0),
    ],
)
def test_drawing_is_drawing_by_recomputation(
    kind: str, guidance: Guidance, temperature: float, top_k: int, top_p: float
) -> None:
    drawn = tiny.opened(tiny.bundle(kind)).draw(
        [1, 2], seed=9, guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p, decode="plain"
    )
    how = (guidance, temperature, top_k, top_p)
    assert drawn.codes.tolist() == [recomputed(kind, 1, 9, *how), recomputed(kind, 2, 10, *how)]
    assert drawn.passes == PASSES[kind]
    assert drawn.decode == "plain" and drawn.speculation is None


@pytest.mark.skipif(library_path() is None, reason="libfarthing_ops.so is not built")
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_kernels_and_bodies_give_equal_codes(kind: str) -> None:
    drawn = [tiny.opened(tiny.bundle(kind), native=native).draw([0, 2], seed=11, top_p=0.9) for native in (True, False)]
    assert np.array_equal(drawn[0].codes, drawn[1].codes)
    assert np.abs(drawn[0].pixels.astype(int) - drawn[1].pixels).max() <= 1


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_image_does_not_depend_on_its_neighbours(kind: str) -> None:
    drawer, how = tiny.opened(tiny.bundle(kind)), Guidance(3.0, schedule="cosine")
    together = drawer.draw([1, 2, 2], seed=2**64 - 2, guidance=how).codes
    alone = [drawer.draw([c], seed=s, guidance=how).codes[0] for c, s in ((1, 2**64 - 2), (2, 2**64 - 1), (2, 0))]
    assert np.array_equal(together, np.stack(alone))
    assert not np.array_equal(together[1], together[2])


def test_numbers_are_those_of_text_in_24_bits() -> None:
    for seed in (0, 7, 2**64 - 1):
        found = uniforms(seed, 3, 500)
        assert found.dtype == np.float32 and found.max() < 1
        assert found.tolist() == [math.floor(uniform(seed, 3 + i) * 2**24) / 2**24 for i in range(500)]
    stream = Stream(7)
    assert np.concatenate([stream.take(2), stream.take(0), stream.take(3)]).tolist() == uniforms(7, 0, 5).tolist()


def test_draw_walks_up_the_running_sum() -> None:
    weights = np.array([0, 0.25, 0, 0.5, 0.25, 0], np.float32)
    assert [draw(weights, np.float32(u)) for u in (0, 0.24, 0.25, 0.74, 0.75, 1 - 2**-24)] == [1, 1, 3, 3, 4, 4]


def test_schedules_by_their_definition() -> None:
    tokens, top = 8, 5.0
    wanted = {
        "constant": lambda r: 1.0,
        "linear": lambda r: r,
        "half_linear": lambda r: 2 * r if r < 0.5 else 1.0,
        "cosine": lambda r: math.sin(r * math.pi / 2),
        "log": lambda r: math.log(1 + r * (math.e - 1)),
        "square": lambda r: r**2,
        "square_root": lambda r: r**0.5,
    }
    assert set(wanted) == set(SCHEDULES)
    for name, share in wanted.items():
        guidance = Guidance(top, schedule=name)
        found = [guidance.at(i, tokens) for i in range(tokens)]
        assert np.allclose(found, [1 + (top - 1) * share((i + 1) / tokens) for i in range(tokens)]), name
        assert math.isclose(found[-1], top)
    assert [Guidance(top, 3, "linear").at(i, tokens) > 1 for i in range(tokens)] == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
    ("order", "passes"), [(Order("raster", 6), 36), (Order("diagonal", 6), 11), (Order("window", 6, 9, 3), 4)]
)
def test_orders_decide_every_place_once(order: Order, passes: int) -> None:
    assert len(order.turns) == passes
    places = np.concatenate([turn.places for turn in order.turns])
    assert sorted(places.tolist()) == list(range(36))
    distances = places // 6 + places % 6
    if order.name == "diagonal":
        assert (np.diff(distances) >= 0).all()
        for turn in order.turns:
            assert (np.diff(turn.places // 6) == 1).all()
    if order.name == "window":
        assert order.turns[1].places.tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
        assert [set(turn.numbers.tolist()) for turn in order.turns] == [{0}, {9}, {18}, {27}]


def test_codes_are_their_sub_ids_big_endian() -> None:
    order = Order("raster", 4, per_step=3, sub_bits=2)
    parts = np.array([[1, 2, 3]])
    assert order.codes(parts).tolist() == [[0b011011]]
    assert order.split(np.array([[0b011011, 5]])).tolist() == [[[1, 2, 3], [0, 1, 1]]]


def test_diagonals_are_mixed_as_in_training() -> None:
    grid, v = 5, 7
    random = np.random.default_rng(0)
    right, below = random.normal(size=(2, 2, 1 + grid * grid, v)).astype(np.float32)
    wanted = nar.mix(torch.from_numpy(right), torch.from_numpy(below), grid).numpy()
    rows = np.array([0])
    for c, turn in enumerate(Order("diagonal", grid).turns):
        assert np.allclose(mixed(right[:, rows], below[:, rows], c, grid), wanted[:, turn.places], atol=1e-6), c
        rows = 1 + turn.places


@pytest.mark.parametrize("kind", ["llamagen", "elm"])
def test_a_prefix_is_continued(kind: str) -> None:
    drawer = tiny.opened(tiny.bundle(kind))
    whole = drawer.draw([0, 1], seed=4, decode="plain").codes
    for length in (0, 1, 9, 15):
        again = drawer.draw([0, 1], seed=4, decode="plain", prefix=whole[:, :length])
        assert np.array_equal(again.codes, whole)
        assert again.passes == (16 - length + 1 if length else 16)
    other = (whole[:, :5] + 1) % tiny.CODES
    assert np.array_equal(drawer.draw([0, 1], prefix=other).codes[:, :5], other)


@pytest.mark.parametrize("kind", ["llamagen", "elm"])
def test_pixels_and_codes_are_those_of_the_reference(kind: str) -> None:
    drawer, tokenizer = tiny.opened(tiny.bundle(kind)), tiny.tokenizer(kind)
    low = 0 if kind == "elm" else -1
    codes = np.random.default_rng(0).integers(0, 256 if kind == "elm" else tiny.CODES, (3, 16))
    with torch.no_grad():
        wanted = (tokenizer.decode(torch.from_numpy(codes)).clamp(low, 1).numpy() - low) * 255 / (1 - low)
    pixels = drawer.decode(codes)
    assert pixels.shape == (3, 8, 8, 3) and wanted.std() > 1
    assert np.abs(pixels - wanted.transpose(0, 2, 3, 1)).max() < 0.51
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    scaled = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 * (1 - low) + low)
    with torch.no_grad():
        codes = tokenizer.encode(scaled).numpy().reshape(4, 16)
    assert np.array_equal(drawer.encode(pixels), codes) and len(np.unique(codes)) > 3


def test_progress_counts_codes() -> None:
    for kind in tiny.KINDS:
        heard: list[tuple[int, int]] = []
        tiny.opened(tiny.bundle(kind)).draw([0, 1], progress=lambda done, total: heard.append((done, total)))
        assert len(heard) == PASSES[kind] and heard[-1] == (32, 32)
        assert [d for d, _ in heard] == sorted({d for d, _ in heard})


def test_seconds_add_up() -> None:
    seconds = tiny.opened(tiny.bundle("llamagen")).draw([0]).seconds
    assert set(seconds) == {"model", "choosing", "pixels", "loop", "total"}
    assert math.isclose(sum(seconds.values()), 2 * seconds["total"]) and min(seconds.values()) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": [3]}, "class is 3, expected 0 to 2"),
        ({"classes": [0, -1]}, "class is -1, expected 0 to 2"),
        ({"classes": []}, "number of images is 0"),
        ({"classes": None}, "number of images is 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"guidance": Guidance(float("nan"))}, "guidance scale is nan"),
        ({"guidance": Guidance(2.0, interval=-2)}, "guidance interval is -2"),
        ({"guidance": Guidance(2.0, schedule="cubic")}, "guidance schedule is cubic, expected one of constant, linear"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"decode": "grouped"}, "decode is 'grouped', expected one of plain, which the bundle has"),
        ({"decode": ""}, "decode is '', expected one of plain"),
        ({"draft_window": 4}, "draft_window is 4, expected none with plain decoding"),
        ({"text_embeds": np.zeros((2, 8), np.float32)}, "text_embeds is given, expected none: the model draws classes"),
        ({"prefix": np.zeros((2, 3), np.int64)}, r"prefix is \[2, 3\], expected \[1,n\] with n of 0 to 15"),
        ({"prefix": np.zeros((1, 16), np.int64)}, r"prefix is \[1, 16\]"),
        ({"prefix": np.full((1, 3), tiny.CODES)}, "codes is 12 to 12, expected whole numbers"),
        ({"prefix": np.full((1, 3), 0.5)}, r"codes is float64 \[1, 3\], expected whole numbers \[B,3\] of 0 to 11"),
        ({"prefix": [1, 2]}, r"prefix is \[2\]"),
    ],
)
def test_bad_requests(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        tiny.opened(tiny.bundle("llamagen")).draw(**{"classes": [0], **options})


def test_a_prefix_needs_a_raster() -> None:
    with pytest.raises(RequestError, match="given with diagonal order and decode plain, expected raster"):
        tiny.opened(tiny.bundle("nar")).draw([0], prefix=np.zeros((1, 3), np.int64))


@pytest.mark.parametrize("codes", [np.full((1, 16), 12), np.full((1, 16), -1), np.zeros((1, 15), np.int64)])
def test_bad_codes(codes: np.ndarray) -> None:
    with pytest.raises(RequestError, match="codes is"):
        tiny.opened(tiny.bundle("llamagen")).decode(codes)


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 8, 8, 3)), np.zeros((1, 9, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_bad_pixels(pixels: np.ndarray) -> None:
    with pytest.raises(RequestError, match="pixels is"):
        tiny.opened(tiny.bundle("llamagen")).encode(pixels)


def test_a_bundle_without_the_graph_that_draws_is_refused(tmp_path: Path) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(tiny.bundle("llamagen"), old)
    manifest = json.loads((old / "manifest.json").read_text())
    (old / manifest["graphs"]["sample"]["file"]).unlink()
    del manifest["files"][manifest["graphs"].pop("sample")["file"]]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="graph sample of .* is missing"):
        tiny.opened(old)


def test_a_model_without_unconditional_row_is_not_guided(tmp_path: Path) -> None:
    import shutil

    path = tmp_path / "bundle"
    shutil.copytree(tiny.bundle("llamagen"), path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["vocab_size"] -= 1
    (path / "manifest.json").write_text(json.dumps(manifest))
    drawer = tiny.opened(path)
    with pytest.raises(
        RequestError, match="guidance scale is other than 1, expected 1: the model has no unconditional"
    ):
        drawer.draw([0], guidance=Guidance(2.0))
    same = tiny.opened(tiny.bundle("llamagen")).draw([0], guidance=Guidance(1.0))
    assert np.array_equal(drawer.draw([0]).codes, same.codes)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_many_images_are_drawn_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = tiny.opened(tiny.bundle(kind))
    assert drawer.together == 64
    whole = drawer.draw([0, 1, 2, 0, 1], seed=6)
    monkeypatch.setattr("farthing.runtime.drawing.drawer.MOST_TOGETHER", 2)
    heard: list[tuple[int, int]] = []
    parts = drawer.draw([0, 1, 2, 0, 1], seed=6, progress=lambda done, total: heard.append((done, total)))
    assert np.array_equal(whole.codes, parts.codes) and parts.passes == 3 * whole.passes
    assert heard == sorted(set(heard)) and heard[-1] == (80, 80)
