"""The page about a bundle: complete, self-contained, safe, and looked at by a browser where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from engines import bundle, folder

from farthing.calibration.op_times import profile
from farthing.calibration.report import gather, page
from farthing.calibration.roofline import Peaks, bounds
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.runtime.bundle import open_bundle
from farthing.runtime.engines import native_parts

needs_native = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
SECTIONS = [
    "What it is",
    "Where time goes",
    "What a pass costs by its rows",
    "Memory",
    "Drift from the checkpoint, by layer",
]


class Reader(HTMLParser):
    """Collects headings, tags and what they point at; fails on tags that do not close in order."""

    void = frozenset(["meta", "br", "hr", "img", "input", "link"])

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.points: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.points += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.points += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a tiny bundle, against its checkpoint."""
    return page(gather(bundle(), checkpoint=folder() / "llama.hf", context=128))


@needs_native
def test_the_page_stands_alone(made: str) -> None:
    reader = read(made)
    assert [h for h in reader.headings if h in SECTIONS] == SECTIONS
    assert all(point.startswith("#") for point in reader.points)  # inside the drawings
    assert "script" not in reader.tags and "img" not in reader.tags
    assert made.count("<svg") == 4
    outside = re.findall(r"url\((?!#)[^)]*\)|@import", made)
    assert outside == []


def test_names_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a manifest says is never markup."""
    report = gather(bundle(), context=64)
    monkeypatch.setitem(report.bundle.manifest, "name", "<script>alert(1)</script>")
    monkeypatch.setitem(report.bundle.manifest["provenance"], "more", '"><img src=x onerror=alert(1)>')
    reader = read(page(report))
    assert "script" not in reader.tags and "img" not in reader.tags


FRAME = """<!doctype html><body style="margin:0"><iframe width="{width}" height="2600" style="border:0" srcdoc="{page}"
 onload="document.body.dataset.needs = this.contentDocument.documentElement.scrollWidth"></iframe>"""
"""The page at any width; a browser's own window has a least one. ``needs``: pixels that it takes without scrolling sideways."""


def browse(folder: Path, page: str, width: int, *options: str) -> str:
    """What chromium prints of ``page`` in a frame of ``width`` pixels."""
    (folder / "frame.html").write_text(FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2600", *options]
    done = subprocess.run(
        [*command, f"file://{folder}/frame.html"], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


@needs_native
@needs_browser
@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_a_phone_and_a_desk(made: str, tmp_path: Path, width: int) -> None:
    found = re.search(r'data-needs="(\d+)"', browse(tmp_path, made, width, "--dump-dom"))
    assert found is not None and int(found[1]) <= width


@needs_native
@needs_browser
@pytest.mark.parametrize("width", [360, 1100])
def test_a_browser_draws_it(made: str, tmp_path: Path, width: int) -> None:
    """A screenshot that is neither blank nor of an error page: it has the charts' colours."""
    shot = tmp_path / "page.png"
    browse(tmp_path, made, width, f"--screenshot={shot}")
    image = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image.open(shot).convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels // 16, axis=0, return_counts=True)
    assert len(colours) > 40
    assert counts.max() < 0.97 * len(pixels)


def test_profiles_add_up() -> None:
    """Operators and what lies between them are the pass; the tiny model's nodes are all counted."""
    opened = open_bundle(bundle())
    for found in profile(opened, [1, 4], past=8):
        assert found.seconds > 0 and found.operators
        assert sum(o.seconds for o in found.operators) + found.between == pytest.approx(found.seconds)
        names = {o.name: o.nodes for o in found.operators}
        assert sum(names.values()) >= 8 * opened.manifest["model"]["layers"]


def test_bounds_are_the_arithmetic() -> None:
    """By hand for the tiny model."""
    opened = open_bundle(bundle())
    model, kv = opened.manifest["model"], opened.manifest["kv"]
    one, many = bounds(opened, [(1, 0, 1.0), (64, 0, 1.0)], Peaks(bandwidth=1e6, flops=1e9))
    cache = 2 * 4 * kv["layers"] * kv["kv_heads"] * kv["head_dim"]
    slow, quick = (bounds(opened, [(64, 0, 1.0)], Peaks(*p))[0] for p in ((1e3, 1e12), (1e12, 1e3)))
    assert (slow.by, quick.by) == ("memory", "arithmetic")
    assert quick.share == quick.bound == pytest.approx(quick.flop / 1e3)
    assert one.cache_bytes == cache and many.cache_bytes == 64 * cache
    assert one.bound == pytest.approx((one.weight_bytes + cache) / 1e6)
    d, heads, f = model["hidden_size"], model["heads"], model["intermediate_size"]
    inner = d * (heads + 2 * kv["kv_heads"]) * kv["head_dim"] + heads * kv["head_dim"] * d + 3 * d * f
    products = 2.0 * model["layers"] * inner
    mixing = 4.0 * model["layers"] * d
    assert one.flop == pytest.approx(products + 2.0 * d * model["vocab_size"] + mixing)
    assert many.flop == pytest.approx(64 * products + 2.0 * d * model["vocab_size"] + 64 * 32.5 * mixing)


@needs_native
def test_commands(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", str(bundle()), "--out", str(out), "--context", "64"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    read(out.read_text(encoding="utf-8"))
    assert "page.html" in done.output
    for wrong, text in (
        (arguments, "there already"),
        (["report", str(bundle()), "--out", str(tmp_path / "no" / "page.html")], "in no folder"),
        ([*arguments, "--overwrite", "--context", "1"], "--context is 1"),
        (["roofline", "--rows", "1,x"], "--rows is '1,x'"),
    ):
        failed: Any = CliRunner().invoke(cli, wrong)
        assert isinstance(failed.exception, RequestError) and text in str(failed.exception)
    shown = CliRunner().invoke(cli, ["roofline", str(bundle()), "--rows", "1,4", "--past", "8", "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert found["bandwidth"] > 1e8 and found["flops"] > 1e8
    assert [p["rows"] for p in found["passes"]] == [1, 4] and found["passes"][0]["operators"]
