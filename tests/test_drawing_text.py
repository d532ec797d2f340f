"""Drawing what a text says, against recomputation by the PyTorch model, which pads and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from drawing_models import CODES, bundle, model
from drawn_models import opened

from farthing.cli.draw import draw_command
from farthing.errors import RequestError
from farthing.plugins import library_path, operator
from farthing.runtime.drawing import Guidance
from farthing.runtime.drawing.uniforms import uniforms

ROWS, WIDTH, TOKENS = 12, 20, 16


def features(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(*shape, WIDTH)).astype(np.float32)


def recomputed(text: np.ndarray, seed: int, guidance: Guidance) -> list[int]:
    """Codes of one image: every code runs padded text and all codes before it. ``text`` float32 [T,dc]."""
    reference, sample = model("text"), operator("GuidedSample").reference
    empty = reference.cls_embedding.uncond_embedding.detach()[-len(text) :]
    padded, valid = reference.padded(torch.stack([torch.from_numpy(text), empty]))
    codes: list[int] = []
    for i in range(TOKENS):
        with torch.no_grad():
            logits = reference(padded, valid, torch.tensor([codes, codes], dtype=torch.int64))[:, -1:]
        scale = torch.tensor([guidance.at(i, TOKENS)])
        number = torch.from_numpy(uniforms(seed, i, 1))[None]
        rest = (torch.ones(1), torch.tensor([9]), torch.ones(1))
        codes.append(int(sample(logits[:1], logits[1:], scale, number, *rest)[0]))
    return codes


@pytest.mark.parametrize("rows", [1, 5, ROWS])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_drawing_is_drawing_by_recomputation(rows: int, scale: float) -> None:
    texts, guidance = features(2, rows), Guidance(scale, schedule="half_linear")
    drawn = opened(bundle("text")).draw(text_embeds=texts, seed=8, guidance=guidance, top_k=9)
    assert drawn.codes.tolist() == [recomputed(texts[0], 8, guidance), recomputed(texts[1], 9, guidance)]
    assert drawn.passes == TOKENS
    alone = opened(bundle("text")).draw(text_embeds=texts[1], seed=9, guidance=guidance, top_k=9)
    assert np.array_equal(alone.codes[0], drawn.codes[1])


def test_what_the_text_says_matters() -> None:
    drawer = opened(bundle("text"))
    a, b = (drawer.draw(text_embeds=features(5) * f, seed=1).codes for f in (1, -1))
    assert not np.array_equal(a, b)


def test_guessing_and_given_codes() -> None:
    drawer, text = opened(bundle("textgsd")), features(2, 4)
    plain = drawer.draw(text_embeds=text, decode="plain", temperature=0)
    guessed = drawer.draw(text_embeds=text, decode="exact", temperature=0)
    assert np.array_equal(plain.codes, guessed.codes)
    assert guessed.speculation is not None and sum(guessed.speculation.passes) == guessed.passes
    again = drawer.draw(text_embeds=text, decode="plain", temperature=0, prefix=plain.codes[:, :6])
    assert np.array_equal(again.codes, plain.codes)


@pytest.mark.skipif(library_path() is None, reason="libfarthing_ops.so is not built")
def test_kernels_and_bodies_give_equal_codes() -> None:
    made = [opened(bundle("text"), native=n).draw(text_embeds=features(3, 7), seed=2).codes for n in (True, False)]
    assert np.array_equal(*made)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text_embeds": None}, "condition is none, expected text_embeds"),
        ({"text_embeds": None, "classes": [1]}, "condition is none, expected text_embeds"),
        ({"classes": [1]}, "classes is given beside text_embeds"),
        ({"text_embeds": np.zeros((3, WIDTH + 1), np.float32)}, r"text_embeds is \[1, 3, 21\], expected \[T,20\]"),
        ({"text_embeds": np.zeros((ROWS + 1, WIDTH), np.float32)}, r"\[1, 13, 20\], expected .* with T of 1 to 12"),
        ({"text_embeds": np.zeros((0, WIDTH), np.float32)}, r"text_embeds is \[1, 0, 20\]"),
        ({"text_embeds": np.zeros((0, 3, WIDTH), np.float32)}, r"text_embeds is \[0, 3, 20\]"),
        ({"text_embeds": np.zeros(WIDTH, np.float32)}, r"text_embeds is float32 \[20\]"),
        ({"text_embeds": np.zeros((3, WIDTH), np.int64)}, r"text_embeds is int64 \[3, 20\]"),
        ({"text_embeds": np.full((3, WIDTH), np.nan, np.float32)}, "60 values that are NaN or infinite"),
        ({"text_embeds": np.full((3, WIDTH), 1e300)}, "60 values that are NaN or infinite"),
    ],
)
def test_bad_requests(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        opened(bundle("text")).draw(**{"text_embeds": features(3), **options})


def test_the_command(tmp_path: Path) -> None:
    file, out = tmp_path / "text.npy", tmp_path / "x.png"
    np.save(file, features(4))
    call = [bundle("text"), "--text-embeds", file, "--count", 2, "--seed", 3, "--cfg", 2, "--out", out, "--json"]
    made = CliRunner().invoke(draw_command, [str(a) for a in call], catch_exceptions=False)
    wanted = opened(bundle("text")).draw(text_embeds=np.stack([features(4)] * 2), seed=3, guidance=Guidance(2.0))
    assert json.loads(made.stdout)["codes"] == wanted.codes.tolist() and wanted.codes.max() < CODES
    assert out.exists()
