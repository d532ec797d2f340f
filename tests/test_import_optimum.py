"""`farthing import` of what `optimum-cli export onnx` makes of a BERT and a ViT: the bundle computes what the file does.

Optimum pins an older transformers, so it runs in an environment of its own: FARTHING_OPTIMUM_PYTHON names its interpreter. Decoders are in
test_import_decoder.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

import tiny
from farthing.cli.main import cli
from farthing.export.onnx_import import import_onnx
from farthing.runtime.network import open_network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "FARTHING_OPTIMUM_PYTHON" not in os.environ,
        reason="FARTHING_OPTIMUM_PYTHON names no interpreter with optimum-onnx",
    ),
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def _exported(model: Any, folder: Path, task: str) -> Path:
    model.eval().save_pretrained(folder / "hf")
    tool = Path(os.environ["FARTHING_OPTIMUM_PYTHON"]).with_name("optimum-cli")
    command = [tool, "export", "onnx", "-m", folder / "hf", "--task", task, folder / "onnx"]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    return folder / "onnx"


def _same(folder: Path, bundle: Path, feeds: dict[str, np.ndarray]) -> None:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = open_network(bundle).run(feeds)
    for name, wanted in zip(names, session.run(names, feeds), strict=True):
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-6)
    checked = CliRunner().invoke(cli, ["verify", str(bundle), "--against", str(folder / "model.onnx")])
    assert checked.exit_code == 0, checked.output


def test_bert(tmp_path: Path) -> None:
    folder = _exported(BertModel(BertConfig(vocab_size=300, **SIZES)), tmp_path, "feature-extraction")
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(300), encoding="utf-8")
    bundle = import_onnx(folder, tmp_path / "b").path
    ids = np.array([[1, 2, 3, 4], [7, 8, 49, 0]], np.int64)
    mask = (ids > 0).astype(np.int64)
    _same(folder, bundle, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})


def test_vit(tmp_path: Path) -> None:
    folder = _exported(ViTModel(ViTConfig(image_size=32, patch_size=8, **SIZES)), tmp_path, "feature-extraction")
    bundle = import_onnx(folder, tmp_path / "b").path
    _same(folder, bundle, {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)})
