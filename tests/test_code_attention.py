"""Locality of attention: against even attention, against the model's own attention, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from farthing.calibration.token_statistics import stream_of
from farthing.calibration.token_statistics.attention import NEAR, attention, attention_table
from farthing.cli.analyze_codes import analyze_codes_command
from farthing.errors import RequestError
from farthing.models.image_blocks import attend
from farthing.models.llamagen import LlamaGen, LlamaGenConfig
from farthing.models.vq import Vq, VqConfig

CONFIG = LlamaGenConfig(codes=40, classes=5, hidden_size=48, intermediate_size=56, layers=2, heads=3, grid=4)
CODES = np.random.default_rng(0).integers(0, 40, (120, 4, 4))


def folder(path, change=lambda model: None):
    torch.manual_seed(0)
    model, vq = LlamaGen(CONFIG), Vq(VqConfig(codes=40, code_dim=4, channels=32, multipliers=(1, 2), latent=64))
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.wqkv.weight *= 12  # far from even
        change(model)
    save_file(model.state_dict(), path / "model.safetensors")
    save_file(vq.state_dict(), path / "vq.safetensors")
    (path / "config.json").write_text(json.dumps({"heads": 3, "grid": 4}))
    return path, model


def test_attention_of_zeros_is_even(tmp_path) -> None:
    path, _ = folder(tmp_path, lambda model: [layer.attention.wqkv.weight.zero_() for layer in model.layers])
    found = attention(stream_of(CODES, 40), path)
    for one in found.layers:
        for field in ("condition", "left", "above", "near", "distance"):
            assert getattr(one, field) == pytest.approx(getattr(found.even, field), abs=1e-6)
    # Places with both neighbours are 5, 6, 7, 9, ... of 16; the row of place t sees t + 1 rows.
    places = [5, 6, 7, 9, 10, 11, 13, 14, 15]
    assert found.even.left == pytest.approx(np.mean([1 / (t + 1) for t in places]))
    assert found.even.condition == found.even.above == pytest.approx(found.even.left)


def test_attention_is_that_of_the_model(tmp_path) -> None:
    path, model = folder(tmp_path)
    found = attention(stream_of(CODES, 40), path, images=120)
    caught = []
    hook = model.layers[1].attention.wqkv.register_forward_hook(lambda m, i, out: caught.append(out))
    codes = torch.from_numpy(CODES.reshape(120, 16)[:, :-1])
    with torch.no_grad():
        model.features(torch.cat([torch.full((120, 1), 45), codes], 1))
    hook.remove()
    q, k, _ = caught[0].view(120, 16, 3, 3, 16).unbind(2)
    # Values that are rows of an identity come out as the weights.
    eye = torch.eye(16)[None, :, None].expand(120, 16, 3, 16)
    weights = (
        attend(q, k, eye, tuple(t[:16] for t in model.rope), None).view(120, 16, 3, 16).mean((0, 2)).detach().numpy()
    )
    left = above = near = far = condition = 0.0
    places = [t for t in range(16) if t // 4 and t % 4]
    for t in places:
        condition += weights[t, 0]
        for j in range(t):
            down, across = abs(t // 4 - j // 4), abs(t % 4 - j % 4)
            seen = weights[t, j + 1]
            left += seen * (j == t - 1)
            above += seen * (j == t - 4)
            near += seen * (max(down, across) <= NEAR)
            far += seen * (down + across)
    one, count = found.layers[1], len(places)
    assert abs(one.near - found.even.near) > 1e-3, "not even"
    assert (one.left, one.above, one.near, one.condition) == pytest.approx(
        (left / count, above / count, near / count, condition / count), abs=1e-5
    )
    assert one.distance == pytest.approx(far / count / (1 - condition / count), abs=1e-4)
    assert "even" in attention_table(found)


@pytest.mark.parametrize(("codes", "vocab"), [(CODES, 41), (CODES[:, :3, :3], 40), (CODES.reshape(120, 2, 8), 40)])
def test_codes_of_another_tokenizer_are_refused(codes, vocab, tmp_path) -> None:
    path, _ = folder(tmp_path)
    with pytest.raises(RequestError, match="expected"):
        attention(stream_of(codes, vocab), path)


def test_the_command_prints_it(tmp_path) -> None:
    path, _ = folder(tmp_path)
    np.save(tmp_path / "codes.npy", CODES)
    arguments = [str(tmp_path / "codes.npy"), "--codebook", "40", "--checkpoint", str(path), "--resamples", "20"]
    shown = CliRunner().invoke(analyze_codes_command, arguments)
    assert shown.exit_code == 0 and "attention of 120 images" in shown.output
    told = json.loads(CliRunner().invoke(analyze_codes_command, [*arguments, "--json", "-"]).output)["attention"]
    assert len(told["layers"]) == 2 and told["even"]["layer"] == -1
