"""LlamaGen pairs: loading, and graphs against PyTorch. Drawing with them is tested in test_drawing.py."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from farthing.errors import CheckpointError, VerificationError
from farthing.export.checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from farthing.export.llamagen import export_llamagen
from farthing.models.llamagen import LlamaGen, LlamaGenConfig, rope_table
from farthing.models.vq import Vq, VqConfig
from farthing.runtime.bundle import open_bundle
from farthing.runtime.verify import verify_vectors

CONFIG = LlamaGenConfig(codes=40, classes=5, hidden_size=48, intermediate_size=56, layers=2, heads=3, grid=4)
VQ = VqConfig(codes=40, code_dim=4, channels=32, multipliers=(1, 2), latent=64)


@functools.cache
def folder() -> Path:
    folder.keep = tempfile.TemporaryDirectory(prefix="farthing-llamagen-")  # type: ignore[attr-defined]
    return Path(folder.keep.name)  # type: ignore[attr-defined]


@functools.cache
def models() -> tuple[LlamaGen, Vq]:
    """Random; gains and biases are not 1 and 0, so that mixing them up shows; embeddings are large, so that choices are clear."""
    torch.manual_seed(3)
    model, vq = LlamaGen(CONFIG), Vq(VQ)
    with torch.no_grad():
        for module in (model, vq):
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter += 0.3 * torch.randn_like(parameter)
        model.output.weight *= 4
    return model.eval(), vq.eval()


def write(path: Path, *, vq: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> Path:
    """A pair in ``path`` as safetensors."""
    path.mkdir(parents=True, exist_ok=True)
    model, tokenizer = models()
    save_file(model.state_dict(), path / "ar.safetensors")
    save_file(tokenizer.state_dict() if vq is None else vq, path / "vq.safetensors")
    (path / "config.json").write_text(json.dumps({"heads": 3, "grid": 4} if config is None else config))
    return path


@functools.cache
def checkpoint() -> Path:
    return write(folder() / "pair")


@functools.cache
def bundle(dtype: str = "float32") -> Path:
    return export_llamagen(checkpoint(), folder() / dtype, dtype=dtype).path


def test_rope_table_by_its_definition() -> None:
    cos, sin = rope_table(CONFIG)
    # The condition's row is zero and not the identity: released models were trained so.
    assert not cos[0].any() and not sin[0].any()
    quarter = CONFIG.head_dim // 4
    for i in range(CONFIG.tokens):
        y, x = divmod(i, CONFIG.grid)
        angles = [v * 10000 ** (-j / quarter) for v in (y, x) for j in range(quarter)]
        assert np.allclose(cos[1 + i], [math.cos(a) for a in angles], atol=1e-6)
        assert np.allclose(sin[1 + i], [math.sin(a) for a in angles], atol=1e-6)


def test_the_graph_keeps_the_zero_row() -> None:
    graph = onnx.load(str(bundle() / "graphs" / "ar_step.onnx")).graph
    tables = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer if i.name.startswith("rope_")}
    assert sorted(tables) == ["rope_cos", "rope_sin"]
    assert all(t.shape == (17, 8) and not t[0].any() for t in tables.values())


def test_an_identity_row_would_be_noticed() -> None:
    source = LlamaGenCheckpoint(checkpoint())
    ids = torch.tensor([[CONFIG.codes + 2, 7, 8]])
    with torch.no_grad():
        right = source.model(ids)
        source.model.rope[0][0] = 1.0
        fixed = source.model(ids)
    assert (right - fixed).abs().max() > 1e-2


def test_the_check_notices_unordered_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("farthing.export.graph.image_step.half_split", lambda wqkv, heads: wqkv)
    with pytest.raises(VerificationError, match="largest difference of logits"):
        export_llamagen(checkpoint(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_encode_takes_the_nearest_code() -> None:
    _, vq = models()
    torch.manual_seed(1)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        codes, table = vq.encode(pixels), vq.table()
        latents = vq.quant_conv(vq.encoder(pixels)).flatten(2).transpose(1, 2)
        unit = latents / latents.norm(dim=-1, keepdim=True)
        wanted = (unit[:, :, None] - table).pow(2).sum(-1).argmin(-1)
    assert codes.shape == (2, 16) and len(codes.unique()) > 2
    assert torch.equal(codes, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bundle_verifies(dtype: str) -> None:
    results, _ = verify_vectors(open_bundle(bundle(dtype)))
    assert results and all(r.ok for r in results), [r.failure() for r in results]


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_released_layouts(wrapper: str | None, tmp_path: Path) -> None:
    for module, name in zip(models(), ("c2i.pt", "vq_ds2_c2i.pt"), strict=True):
        state = module.state_dict()
        if name == "c2i.pt":
            state["freqs_cis"] = torch.zeros(3)  # known, and needed by nobody
        torch.save(state if wrapper is None else {wrapper: state, "steps": 5}, tmp_path / name)
    (tmp_path / "config.json").write_text('{"heads": 3, "grid": 4}')
    source = LlamaGenCheckpoint(tmp_path)
    assert (source.config, source.vq_config) == (CONFIG, VQ)
    assert torch.equal(source.model.output.weight, models()[0].output.weight)


class _Code:
    def __reduce__(self) -> Any:
        return print, ("a checkpoint ran code",)


def test_bad_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = write(tmp_path / "half")
    (half / "vq.safetensors").unlink()
    torch.save({"model": _Code()}, write(tmp_path / "code") / "vq.pt")
    (tmp_path / "code" / "vq.safetensors").unlink()
    other = Vq(VqConfig(codes=41, code_dim=4, channels=32, multipliers=(1, 2), latent=64)).state_dict()
    short = {k: v for k, v in models()[1].state_dict().items() if k != "decoder.mid.1.q.bias"}
    bad = {**models()[1].state_dict()}
    bad["decoder.conv_in.bias"] = torch.full_like(bad["decoder.conv_in.bias"], math.nan)
    for path, words in (
        (half, r"1 model\(s\) and 0 tokenizer\(s\)"),
        (tmp_path / "code", "not loadable as weights only"),
        (write(tmp_path / "codes", vq=other), "41 codes, expected 40"),
        (write(tmp_path / "short", vq=short), "missing decoder.mid.1.q.bias"),
        (write(tmp_path / "nan", vq=bad), "tensor decoder.conv_in.bias .* not finite"),
        (write(tmp_path / "heads", config={"heads": 5, "grid": 4}), "heads .* is 5, expected a divisor of 48"),
        (write(tmp_path / "grid", config={"heads": 3}), "grid .* is None"),
        (tmp_path / "absent", "no folder"),
    ):
        with pytest.raises(CheckpointError, match=words):
            LlamaGenCheckpoint(path)
    assert "ran code" not in capsys.readouterr().out
