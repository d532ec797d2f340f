"""The C++ loops of drawing: equal to Python's number for number, the C interface, PNG files, and memory."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing_models import CLASSES, CODES, bundle
from native_programs import build_programs
from PIL import Image

from farthing.errors import BundleError, RequestError
from farthing.export import export
from farthing.plugins import library_path
from farthing.runtime.drawing import SCHEDULES, Drawer, Guidance, contact_sheet
from farthing.runtime.drawing.native import core_module, native_loops
from tiny import write_hf

core = core_module()
pytestmark = pytest.mark.skipif(core is None, reason="needs the native core")
ROOT = Path(__file__).parent.parent
KINDS = ("llamagen", "nar", "elm-2", "elm-3", "shuffle-2", "shuffle-2-short", "gsd", "lantern")


def both(kind: str) -> tuple[Drawer, Drawer]:
    """Loops in C++ and in Python, over the same kernels."""
    native, python = Drawer(bundle(kind), threads=1), Drawer(bundle(kind), threads=1, core=False)
    assert native.loops == "native" and python.loops == "python"
    return native, python


def compare(kind: str, classes: list[int] | None, **how: Any) -> None:
    """Equal codes, pixels and figures."""
    native, python = (d.draw(classes, **how) for d in both(kind))
    assert np.array_equal(native.codes, python.codes)
    assert np.array_equal(native.pixels, python.pixels)
    assert (native.passes, native.decode) == (python.passes, python.decode)
    assert (native.speculation is None) == (python.speculation is None)
    if native.speculation and python.speculation:
        a, b = native.speculation, python.speculation
        assert (a.judged, a.accepted, a.passes) == (b.judged, b.accepted, b.passes)
        assert a.mean_chance == pytest.approx(b.mean_chance, abs=1e-5)
        assert a.total_variation == pytest.approx(b.total_variation, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_codes_are_those_of_python(kind: str) -> None:
    compare(kind, [0, 3, 3], seed=11, decode="plain")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 9, "guidance": Guidance(2.5, schedule="linear")},
        {"top_p": 0.8, "guidance": Guidance(3.0, interval=5)},
        {"guidance": Guidance(1.0), "seed": 2**64 - 1},
    ],
)
def test_plain_codes_under_every_option(kind: str, how: dict[str, Any]) -> None:
    compare(kind, [4, 1], decode="plain", **how)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_those_of_python(schedule: str) -> None:
    compare("nar", [2], seed=5, guidance=Guidance(6.0, schedule=schedule))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("gsd", mode) for mode in ("exact", "grouped", "partition")),
        *((kind, mode) for kind in ("lantern", "lantern-relative") for mode in ("exact", "neighbourhood")),
    ],
)
@pytest.mark.parametrize("how", [{}, {"temperature": 0.8, "top_k": 12, "guidance": Guidance(3.0, schedule="linear")}])
def test_drafted_codes_are_those_of_python(kind: str, mode: str, how: dict[str, Any]) -> None:
    for seed in range(3):
        compare(kind, [1, 4], seed=seed, decode=mode, **how)


@pytest.mark.parametrize(("kind", "option"), [("gsd", "draft_window"), ("lantern", "draft_length")])
def test_lengths_of_drafts(kind: str, option: str) -> None:
    for length in (2, 3, 7, 16):
        compare(kind, [0], seed=length, decode="exact", **{option: length})


@pytest.mark.parametrize("kind", ["gsd", "lantern"])
def test_drafts_without_guidance_and_at_temperature_0(kind: str) -> None:
    compare(kind, [2], seed=3, decode="exact", guidance=Guidance(1.0))
    compare(kind, [2], seed=3, decode="exact", temperature=0.0)
    native, _ = both(kind)
    greedy = [native.draw([2], temperature=0.0, decode=mode).codes for mode in ("plain", "exact")]
    assert np.array_equal(*greedy)


@pytest.mark.parametrize("kind", ["llamagen", "elm-2", "gsd"])
def test_given_codes(kind: str) -> None:
    whole = both(kind)[0].draw([1, 2], seed=4, decode="plain").codes
    for length in (0, 1, 7, 15):
        how: dict[str, Any] = {"seed": 4, "decode": "plain", "prefix": whole[:, :length]}
        compare(kind, [1, 2], **how)
        assert np.array_equal(both(kind)[0].draw([1, 2], **how).codes, whole)


@pytest.mark.parametrize(("kind", "mode"), [("text", "plain"), ("textgsd", "plain"), ("textgsd", "exact")])
def test_texts(kind: str, mode: str) -> None:
    features = np.random.default_rng(0).normal(size=(2, 5, 20)).astype(np.float32)
    for scale in (1.0, 3.0):
        compare(kind, None, text_embeds=features, seed=2, decode=mode, guidance=Guidance(scale))


def test_images_that_do_not_fit_together() -> None:
    """More than are drawn at once: the groups draw what one would."""
    native, python = both("llamagen")
    loops = native_loops(bundle("llamagen"), 1, 16)
    assert loops is not None and loops.together == python.together
    count = loops.together + 3
    classes = [i % CLASSES for i in range(count)]
    a, b = (d.draw(classes, seed=9) for d in (native, python))
    assert np.array_equal(a.codes, b.codes) and a.passes == b.passes == 2 * 16


def test_bodies_draw_the_same() -> None:
    """Standard operators alone, in C++: as `farthing_drawer_options.ops_library` of nothing."""
    from farthing.runtime.engines import onnxruntime_library

    loops = core.Drawer(str(bundle("nar")), 1, str(onnxruntime_library() or ""), "")
    codes, _ = loops.draw([0, 3], {"seed": 3})
    assert np.array_equal(codes, Drawer(bundle("nar"), threads=1, native=False).draw([0, 3], seed=3).codes)


def test_progress_and_its_exceptions() -> None:
    native, _ = both("gsd")
    seen: list[tuple[int, int]] = []
    native.draw([0, 1], decode="exact", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (32, 32)

    def fail(done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        native.draw([0], progress=fail)
    assert native.draw([0], decode="plain").passes == 16  # and it still draws


def test_what_the_core_refuses(tmp_path: Path) -> None:
    """The checks of the Python loops come first; whoever calls the core itself gets the same sentences."""
    from farthing.runtime.engines import onnxruntime_library

    where = (1, str(onnxruntime_library() or ""), str(library_path()))
    loops = core.Drawer(str(bundle("gsd")), *where)
    for classes, options, words in (
        ([], {}, "number of images is 0"),
        ([CLASSES], {}, f"class is {CLASSES}, expected 0 to {CLASSES - 1}"),
        ([-1], {}, "class is -1"),
        ([0], {"temperature": 0.0}, "decode at temperature 0"),
        ([0], {"decode": "neighbourhoods"}, "decode is 'neighbourhoods'"),
        ([0], {"decode": "exact", "draft_length": 17}, "draft_window is 17, expected 2 to 16"),
        ([0], {"guidance": float("nan")}, "guidance scale is"),
    ):
        with pytest.raises(RequestError, match=words):
            loops.draw(classes, options)
    for array, words in (
        (np.zeros((1, 15), np.int64), "codes of an image is 15, expected 16"),
        (np.full((1, 16), CODES), f"codes is {CODES}"),
        (np.zeros((0, 16), np.int64), "codes is 0"),
        (np.zeros((1, 16), np.int32), "codes is another kind of array"),
    ):
        with pytest.raises(RequestError, match=words):
            loops.decode(array)
    write_hf(tmp_path / "checkpoint")
    export("decoder", tmp_path / "checkpoint", tmp_path / "bundle", check=False)
    with pytest.raises(BundleError, match="expected a model that draws"):
        core.Drawer(str(tmp_path / "bundle"), *where)
    with pytest.raises(BundleError, match="which draws, expected a model of text"):
        core.Engine(str(bundle("gsd")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": CODES + 1}, "logits of .* expected \\[\\?,\\?,41\\]|model.vocab_size"),
        ({"grid": 5}, "model.max_positions"),
        ({"size": 9}, "pixels of .* is \\[\\?,3,8,8\\], expected \\[\\?,3,9,9\\]"),
        ({"order": "spiral"}, "image_codes.order .* is 'spiral', expected raster, diagonal or window"),
        ({"order": "diagonal", "drafts": "none"}, "below_logits of .* missing"),
        ({"order": "diagonal"}, "image_codes.drafts"),
        ({"per_step": 2}, "image_codes.per_step .* is 2"),
        ({"window": 3}, "image_codes.window .* is 3"),
        ({"sub_bits": 4, "per_step": 2}, "image_codes.sub_bits .* is 4"),
        ({"pixel_range": [1, -1]}, "image_codes.pixel_range"),
        ({"drafts": "medusa"}, "image_codes.drafts .* is 'medusa'"),
        ({"drafts": "eagle"}, "graph draft_step .* missing"),
        ({"accept": ["exact", "lucky"]}, 'image_codes.accept .* is "lucky"'),
        ({"accept": []}, "image_codes.accept"),
        ({"default_accept": "neighbourhood"}, "image_codes.default_accept|graph accept_neighbourhood"),
    ],
)
def test_edited_manifests(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    """What is no longer true of the graphs is refused, not run."""
    import json

    from farthing.runtime.engines import onnxruntime_library

    path = tmp_path / "edited"
    shutil.copytree(bundle("gsd"), path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["image_codes"] |= change
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        core.Drawer(str(path), 1, str(onnxruntime_library() or ""), str(library_path()))


def test_png_files_are_what_pillow_reads() -> None:
    random = np.random.default_rng(1)
    total, reference = 0, 0
    for trial in range(80):
        count, height, width = (int(random.integers(1, most)) for most in (4, 40, 90))
        if trial % 20 == 0:
            height, width = 300, 500  # several blocks of deflate
        flat = random.integers(0, 256, (count, height, width, 3), np.uint8)
        smooth = np.cumsum(flat % 3, axis=2).astype(np.uint8)
        images = (flat, smooth, flat // 128 * 200, np.full_like(flat, trial))[trial % 4]
        columns = int(random.integers(1, count + 2))
        data = core.png(np.ascontiguousarray(images), columns)
        sheet = contact_sheet(images, columns)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), sheet)
        pillow = io.BytesIO()
        Image.fromarray(sheet).save(pillow, "PNG")
        total, reference = total + len(data), reference + len(pillow.getvalue())
    assert total < 1.1 * reference


def test_bad_pictures() -> None:
    for images, columns in (
        (np.zeros((1, 0, 4, 3), np.uint8), 1),
        (np.zeros((0, 4, 4, 3), np.uint8), 1),
        (np.zeros((1, 4, 4, 4), np.uint8), 1),
        (np.zeros((1, 4, 4, 3), np.float32), 1),
        (np.zeros((2, 4, 4, 3), np.uint8)[:, ::2], 1),
        (np.zeros((1, 4, 4, 3), np.uint8), 0),
        (np.zeros((1, 4, 4, 3), np.uint8), 2**62),
    ):
        with pytest.raises(RequestError, match="expected"):
            core.png(images, columns)


@pytest.fixture(scope="module")
def programs() -> Path:
    """Folder with the test programs."""
    if shutil.which("cmake") is None:
        pytest.skip("needs CMake")
    folder = build_programs(["draw_check", "draw_allocations", "farthing", "farthing_ops"])
    assert folder is not None
    return folder


def _run(program: Path, *arguments: object) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_c_interface(programs: Path, tmp_path: Path) -> None:
    from farthing.runtime.engines import onnxruntime_library

    write_hf(tmp_path / "checkpoint")
    export("decoder", tmp_path / "checkpoint", tmp_path / "text", check=False)
    bundles = bundle("llamagen"), bundle("gsd"), bundle("text"), tmp_path / "text"
    picture = tmp_path / "x.png"
    out = _run(programs / "draw_check", *bundles, onnxruntime_library(), library_path(), picture)
    by_class, by_text = (np.array(line.split()[1:], np.int64).reshape(2, 16) for line in out.splitlines()[-2:])
    drawn = Drawer(bundle("llamagen"), threads=1, core=False).draw([0, CLASSES - 1], seed=7)
    assert np.array_equal(by_class, drawn.codes)
    features = np.arange(2 * 3 * 20, dtype=np.float32).reshape(2, 3, 20) / 8
    said = Drawer(bundle("text"), threads=1, core=False).draw(text_embeds=features, seed=3)
    assert np.array_equal(by_text, said.codes)
    assert np.array_equal(np.asarray(Image.open(picture)), contact_sheet(drawn.pixels, 2))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("llamagen", "plain"), ("nar", "plain"), ("elm-2", "plain"), ("gsd", "exact"), ("lantern", "exact")],
)
def test_no_allocation_per_pass(programs: Path, kind: str, mode: str) -> None:
    from farthing.runtime.engines import onnxruntime_library

    words = _run(programs / "draw_allocations", bundle(kind), onnxruntime_library(), library_path(), mode).split()
    assert words[0] == "ours" and int(words[1]) == 0
    assert int(words[3]) > 0, "the counter saw nothing at all, not even ONNX Runtime"


def test_example_in_cpp(programs: Path, tmp_path: Path) -> None:
    """The program of examples/cpp, against the library with the operators beside it."""
    from farthing.runtime.engines import onnxruntime_library

    build = programs.parent
    for library in (build / "runtime" / "libfarthing.so.0", build / "plugins" / "libfarthing_ops.so"):
        shutil.copy(library, tmp_path / library.name)
    source, include = ROOT / "examples" / "cpp" / "draw.cc", ROOT / "runtime" / "include"
    program, out = tmp_path / "draw", tmp_path / "x.png"
    compiler = shutil.which("c++") or shutil.which("g++")
    command = [compiler, "-std=c++20", f"-I{include}", source, tmp_path / "libfarthing.so.0", "-o", program]
    done = subprocess.run([*command, f"-Wl,-rpath,{tmp_path}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "FARTHING_ORT": str(onnxruntime_library())}
    for kind, count, mode in (("llamagen", 1, ""), ("gsd", 3, "exact"), ("elm-2", 4, "plain")):
        call = [program, bundle(kind), "2", "5", out, str(count), *([mode] if mode else [])]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        drawn = Drawer(bundle(kind), threads=1, core=False).draw([2] * count, seed=5, decode=mode or None)
        assert np.array_equal(np.array(done.stdout.split(), np.int64).reshape(count, -1), drawn.codes)
        assert np.array_equal(np.asarray(Image.open(out)), contact_sheet(drawn.pixels, int(np.ceil(count**0.5))))
    for arguments, status, words in (
        ([bundle("gsd"), "99", "5", out], 2, "class is 99"),
        ([bundle("gsd"), "0", "5", out, "0"], 2, "number of images is 0"),
        ([tmp_path, "0", "5", out], 4, "manifest.json"),
        ([bundle("gsd"), "0", "5", tmp_path / "no" / "x.png"], 2, "not writable"),
    ):
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status and words in done.stderr, done.stderr
