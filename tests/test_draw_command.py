"""``farthing draw``: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drawn_models as tiny
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from farthing import load
from farthing.cli.draw import draw_command
from farthing.errors import BundleError, FarthingError, RequestError
from farthing.runtime.drawing import Drawer, Guidance, contact_sheet, write_png


def run(*arguments: object) -> Any:
    return CliRunner().invoke(draw_command, [str(a) for a in arguments], catch_exceptions=False)


def test_contact_sheet() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] + np.zeros((3, 2, 2, 3), np.uint8)
    sheet = contact_sheet(images, 2)
    assert sheet.shape == (4, 4, 3)
    assert [int(sheet[y, x, 0]) for y in (0, 2) for x in (0, 2)] == [0, 1, 2, 255]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_sheet_of_classes(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    made = run(tiny.bundle(kind), "--class", "0,2", "--count", 2, "--seed", 4, "--top-k", 5, "--out", out, "--json")
    drawn = Drawer(tiny.bundle(kind)).draw([0, 0, 2, 2], seed=4, top_k=5)
    found = json.loads(made.stdout)
    assert found["codes"] == drawn.codes.tolist() and found["passes"] == drawn.passes and found["decode"] == "plain"
    assert np.array_equal(np.asarray(Image.open(out)), contact_sheet(drawn.pixels, 2))


def test_figures_of_guessing(tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    call = [tiny.all_modes(), "--class", "1", "--count", 3, "--decode", "grouped", "--draft-window", 7, "--out", out]
    call += ["--cfg", 2, "--cfg-schedule", "square_root", "--cfg-interval", 9]
    found = json.loads(run(*call, "--json").stdout)
    how = {"decode": "grouped", "draft_window": 7, "guidance": Guidance(2, 9, "square_root")}
    drawn = Drawer(tiny.all_modes()).draw([1, 1, 1], **how)
    assert drawn.speculation is not None and found["codes"] == drawn.codes.tolist()
    guesses = found["speculation"]
    assert sum(guesses["passes"]) == found["passes"] == drawn.passes
    assert (
        guesses["acceptance"]
        == guesses["accepted"] / guesses["judged"]
        == drawn.speculation.accepted / drawn.speculation.judged
    )
    words = run(*call).stdout
    assert f"3 images, {drawn.passes} passes" in words
    assert f"grouped: {guesses['accepted']} of {guesses['judged']} drafts held" in words
    assert f"total variation about {guesses['total_variation']:.3f} a draft" in words


def test_the_upper_part_of_a_picture_is_kept(tmp_path: Path) -> None:
    picture, out = tmp_path / "given.png", tmp_path / "x.png"
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    call = [tiny.bundle("llamagen"), "--class", "0,1", "--begin", picture, "--begin-rows", 2, "--out", out, "--json"]
    codes = json.loads(run(*call).stdout)["codes"]
    given = Drawer(tiny.bundle("llamagen")).encode(pixels[None])[0, :8].tolist()
    assert len(set(given)) > 2 and [c[:8] for c in codes] == [given, given] and codes[0][8:] != codes[1][8:]
    for extra, words in (
        (["--begin-rows", 4], "--begin-rows is 4, expected 1 to 3"),
        (["--begin-rows", 0], "--begin-rows is 0"),
        (["--begin", tmp_path / "absent.png"], "absent.png is unreadable"),
        (["--begin", __file__], "is unreadable"),
    ):
        with pytest.raises(RequestError, match=words):
            run(*call, *extra)
    with pytest.raises(RequestError, match="given beginning is --begin-rows alone, expected both or none"):
        run(*call[:3], "--begin-rows", 2, "--out", out)
    with pytest.raises(RequestError, match="prefix is given with diagonal order"):
        run(tiny.bundle("nar"), *call[1:])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--class", "x"], "--class is 'x'"),
        (["--class", ""], "--class is ''"),
        (["--count", "0"], "--count is 0"),
        (["--columns", "-1"], "--columns is -1"),
        (["--out", "/absent/x.png"], "folder of /absent/x.png is missing"),
        (["--decode", "exact"], "decode is 'exact', expected one of plain"),
        (["--draft-window", "8"], "draft_window is 8, expected none"),
        (["--cfg-schedule", "cubic"], "guidance schedule is cubic"),
        (["--cfg", "-1"], "guidance scale is -1.0"),
        (["--text-embeds", "x.npy"], "--class and --text-embeds is both"),
    ],
)
def test_bad_requests(extra: list[str], words: str, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    with pytest.raises(RequestError, match=words):
        run(tiny.bundle("llamagen"), "--class", "1", "--out", out, *extra)
    assert not out.exists()


def test_bad_features(tmp_path: Path) -> None:
    bad = tmp_path / "bad.npy"
    for content, words in (
        (b"", "unreadable"),
        (b"\x93NUMPY\x01\x00v\x00", "unreadable"),
        (None, r"\[4\], expected an array"),
        ({"a": np.zeros(3)}, "several arrays"),
    ):
        if isinstance(content, bytes):
            bad.write_bytes(content)
        elif content is None:
            np.save(bad, np.zeros(4, np.float32))
        else:
            with bad.open("wb") as file:
                np.savez(file, **content)
        with pytest.raises(RequestError, match=words):
            run(tiny.bundle("llamagen"), "--text-embeds", bad, "--out", tmp_path / "x.png")
    np.save(bad, np.array([object()]), allow_pickle=True)
    with pytest.raises(RequestError, match="unreadable"):
        run(tiny.bundle("llamagen"), "--text-embeds", bad, "--out", tmp_path / "x.png")
    with pytest.raises(RequestError, match="neither, expected one of the two"):
        run(tiny.bundle("llamagen"), "--out", tmp_path / "x.png")


def test_other_bundles(tmp_path: Path) -> None:
    with pytest.raises(FarthingError):
        run(tmp_path, "--class", "1", "--out", tmp_path / "x.png")
    assert issubclass(BundleError, FarthingError) and not (tmp_path / "x.png").exists()


def test_png_without_the_core_is_the_same_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    write_png(tmp_path / "core.png", pixels, 2)
    monkeypatch.setattr("farthing.runtime.drawing.sheet.core_module", lambda: None)
    write_png(tmp_path / "pillow.png", pixels, 2)
    for name in ("core", "pillow"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{name}.png")), contact_sheet(pixels, 2))
    with pytest.raises(RequestError, match="not writable"):
        write_png(tmp_path / "none" / "x.png", pixels)


def test_a_model_that_draws_is_no_model_of_text() -> None:
    for native in (None, False):
        with pytest.raises(BundleError, match="which draws, expected a model of text; use farthing draw"):
            load(tiny.all_modes(), native=native)
