"""The small image models of examples/images: real weights, so that what is drawn can be judged."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from farthing.export import export
from farthing.runtime.drawing import Drawer, Guidance

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "images"
CLASSES = [i % 10 for i in range(20)]
SCALE = 2.0


@functools.cache
def folder() -> Path:
    folder.keep = tempfile.TemporaryDirectory(prefix="farthing-images-")  # type: ignore[attr-defined]
    return Path(folder.keep.name)  # type: ignore[attr-defined]


@functools.cache
def drawer(model: str, method: str, options: tuple[tuple[str, Any], ...] = ()) -> Drawer:
    """The bundle of ``model`` by ``method``, exported once and open at one thread."""
    path = folder() / "-".join([model, method, *(f"{n}{v}" for n, v in options)])
    export(method, EXAMPLES / model, path, check=False, **dict(options))
    return Drawer(path, threads=1)


@functools.cache
def judge() -> Any:
    """The classifier that the fixture was trained with."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from image_scores import Classifier
    finally:
        sys.path.pop(0)
    model = Classifier()
    model.load_state_dict(load_file(EXAMPLES / "judge" / "classifier.safetensors"))
    return model.eval()


def right(pixels: np.ndarray, classes: list[int]) -> int:
    """How many of ``pixels`` uint8 [N,32,32,3] the classifier takes for their class."""
    x = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        return int((judge()(x).argmax(-1).numpy() == np.array(classes)).sum())


@functools.cache
def samples() -> np.ndarray:
    """uint8 [20,32,32,3]: two test images of each class, in the order of CLASSES."""
    sheet = np.asarray(Image.open(EXAMPLES / "samples.png").convert("L")).reshape(2, 32, 10, 32)
    return sheet.swapaxes(1, 2).reshape(20, 32, 32, 1).repeat(3, -1)


def test_classifier_knows_real_images() -> None:
    assert right(samples(), CLASSES) >= 17


@pytest.mark.parametrize(("model", "method"), [("plain8", "llamagen"), ("elm8", "elm"), ("nar16", "nar")])
def test_tokenizers_keep_what_is_seen(model: str, method: str) -> None:
    """Squared error in [-1,1]; grey images of one level each are at about 0.5."""
    real = samples()
    back = drawer(model, method).decode(drawer(model, method).encode(real))
    error = np.square((back.astype(np.float64) - real) / 127.5).mean()
    assert error < (0.012 if model == "nar16" else 0.035)
    assert right(back, CLASSES) >= 14


@pytest.mark.parametrize(
    ("model", "method", "passes"),
    [("plain8", "llamagen", 64), ("elm8", "elm", 64), ("nar16", "nar", 31), ("shuffle16", "token-shuffle", 64)],
)
def test_drawn_images_show_their_class(model: str, method: str, passes: int) -> None:
    """Chance is 2 of 20; 9 or more by chance has a probability of 7e-5."""
    drawn = drawer(model, method).draw(CLASSES, seed=0, guidance=Guidance(SCALE))
    assert drawn.passes == passes
    assert right(drawn.pixels, CLASSES) >= 12


def test_first_codes_of_a_seed_stay_what_they_were() -> None:
    drawn = drawer("plain8", "llamagen").draw([9, 1], seed=7, guidance=Guidance(SCALE))
    assert drawn.codes[:, :12].tolist() == GOLDEN


def test_speculation_needs_fewer_passes_and_groups_of_one_are_exact() -> None:
    one = drawer("plain8", "gsd", (("group_size", 1),))
    exact = one.draw(CLASSES[:6], seed=3, guidance=Guidance(SCALE), decode="exact")
    assert (exact.codes == one.draw(CLASSES[:6], seed=3, guidance=Guidance(SCALE), decode="grouped").codes).all()
    grouped = drawer("plain8", "gsd").draw(CLASSES[:6], seed=3, guidance=Guidance(SCALE), decode="grouped")
    assert grouped.passes < exact.passes < 6 * 50
    assert grouped.speculation is not None
    assert 0 < grouped.speculation.total_variation < 0.3


def test_drafters_best_codes_are_plain_greedy_codes() -> None:
    """Without a budget and at temperature 0, LANTERN is plain decoding in fewer passes."""
    lantern = drawer("plain8", "lantern", (("delta", 0.0),))
    plain = lantern.draw([0, 5, 9], temperature=0.0, guidance=Guidance(SCALE), decode="plain")
    fast = lantern.draw([0, 5, 9], temperature=0.0, guidance=Guidance(SCALE), decode="neighbourhood")
    assert (plain.codes == fast.codes).all()
    assert fast.passes < 3 * 40


def test_a_larger_budget_accepts_more() -> None:
    passes = [
        drawer("plain8", "lantern", (("delta", d),))
        .draw(CLASSES, guidance=Guidance(SCALE), decode="neighbourhood")
        .passes
        for d in (0.0, 0.4)
    ]
    assert passes[1] < passes[0]


def test_a_relative_budget_needs_fewer_passes_than_exact_speculation() -> None:
    """Both draw their drafts; 23.1 against 16.7 passes an image over many images."""
    lantern = drawer("plain8", "lantern", (("delta", 4.0), ("relative", True)))
    exact, relaxed = (lantern.draw(CLASSES, guidance=Guidance(SCALE), decode=d) for d in ("exact", "neighbourhood"))
    assert relaxed.passes < 0.9 * exact.passes
    assert right(relaxed.pixels, CLASSES) >= 12


GOLDEN = [
    [184, 61, 240, 181, 162, 45, 154, 1, 100, 192, 35, 239],
    [4, 240, 128, 9, 9, 165, 101, 130, 109, 182, 101, 135],
]
