"""`farthing eval`: the figures are those of the definition, and the intervals hold what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gam_models
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from engines import bundle, folder

from farthing.calibration.evaluate import Interval, _interval, evaluate
from farthing.calibration.quality import read_text, token_ids
from farthing.calibration.quantize import Options, quantize
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.export.checkpoint import open_checkpoint
from farthing.models.blocks import KVCache
from farthing.models.decoder import Decoder
from farthing.runtime.bundle import open_bundle

LINE = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(LINE * 8, encoding="utf-8")
    return path


def test_perplexity_is_that_of_the_reference(text: Path) -> None:
    """By the PyTorch model of the checkpoint, over the same windows."""
    found = evaluate(bundle(), read_text(text), tokens=300)
    own = open_bundle(bundle())
    ids, size = token_ids(own, read_text(text), 300)
    window = min(512, own.manifest["model"]["max_positions"])
    model, nll = Decoder(open_checkpoint(folder() / "llama.hf")), 0.0
    for start in range(0, len(ids), window):
        part = ids[start : start + window + 1]
        seen = torch.tensor([part[:window]])
        cache = KVCache.empty(model.config, seen.shape[1])
        log_p = model.forward(seen, cache, torch.tensor([0])).logits[0].double().log_softmax(-1)
        nll -= sum(float(log_p[i, part[i + 1]]) for i in range(len(part) - 1))
    assert found.perplexity.value == pytest.approx(math.exp(nll / (len(ids) - 1)), rel=1e-4)
    assert found.bits_per_byte.value == pytest.approx(nll / math.log(2) / size, rel=1e-4)


def test_against_itself_nothing_is_lost(text: Path) -> None:
    found = evaluate(bundle(), read_text(text), against=bundle(), tokens=200)
    assert found.kl is not None and found.same_top is not None and found.loss is not None
    assert found.kl.high < 1e-6 and found.same_top == Interval(1, 1, 1) and found.loss == Interval(0, 0, 0)
    assert found.perplexity == found.against_perplexity


def test_quantised_bundles_are_farther_away_with_fewer_bits(text: Path, tmp_path: Path) -> None:
    far = []
    for weights in ("int4", "int8"):
        quantize(bundle(), tmp_path / weights, Options(weights, 16, "float16", weights), measure=False)
        far.append(evaluate(tmp_path / weights, read_text(text), against=bundle(), tokens=300).kl)
    assert far[0] is not None and far[1] is not None
    assert far[0].low > 3 * far[1].high > 0


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """Over 200 made series whose neighbours depend on each other. Single tokens drawn instead of blocks hold it far less often."""
    held = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).standard_normal(2048 + 15)
        series = np.convolve(noise, np.ones(16) / 4, "valid")  # true mean 0
        found = _interval(series)
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_command(text: Path) -> None:
    arguments = ["eval", str(bundle()), "--against", str(bundle()), "--text", str(text), "--tokens", "150"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert "perplexity" in shown.output and "same top" in shown.output
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert found["tokens"] == 150 and found["kl"]["value"] < 1e-6


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"tokens": 10}, "tokens is 10, expected 128 or more"),
        ({"against": "gam"}, "method of .* is gam, expected one with a key/value cache"),
        ({"against": "other"}, "tokens of .* is others"),
        ({"text": "short"}, "tokens, expected at least 128"),
    ],
)
def test_bad_requests(how: dict[str, Any], words: str, text: Path, tmp_path: Path) -> None:
    if how.pop("text", None):
        text.write_text("short", encoding="utf-8")
    if how.get("against") == "gam":
        how["against"] = gam_models.bundle()
    elif how.get("against") == "other":
        how["against"] = bundle("llama", vocab_size=400)
    with pytest.raises(RequestError, match=words):
        evaluate(bundle(), read_text(text), **{"tokens": 150, **how})
