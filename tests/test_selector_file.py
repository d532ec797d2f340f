"""Selector folders: what is read, what is refused, and IDPruner with and without one against its reference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reduction_graphs import LIBRARIES, idpruner, run

from farthing.errors import CheckpointError
from farthing.export.checkpoint.safetensors_file import write_safetensors
from farthing.export.checkpoint.selector_file import TENSORS, open_selector
from farthing.models import token_reduction as reference

WIDTH, HIDDEN = 12, 8


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((HIDDEN, WIDTH) if "weight" in n else HIDDEN).astype(np.float32) for n in TENSORS}


def selector(folder: Path, values: dict[str, np.ndarray] | None = None, config: object = None) -> Path:
    folder.mkdir(exist_ok=True)
    text = {"architecture": "TransformerScorer", "in_dim": WIDTH} if config is None else config
    (folder / "config.json").write_text(json.dumps(text))
    write_safetensors(folder / "model.safetensors", tensors() if values is None else values, {})
    # A checkpoint's code is never run: this one would say so.
    (folder / "modeling.py").write_text("raise SystemExit('this must not be run')\n")
    return folder


@pytest.mark.parametrize(
    "prefix", ("", "module.", "visual.importance_scorer.", "_orig_mod.module.visual.importance_scorer.")
)
def test_weights_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    found = open_selector(selector(tmp_path / "s", {prefix + n: a for n, a in tensors().items()}), WIDTH)
    for name, array in tensors().items():
        np.testing.assert_array_equal(found.weights()[name.replace("_proj.", "_")], array)
    assert (found.hidden, found.architecture) == (HIDDEN, "TransformerScorer")
    assert [p.name for p in found.files] == ["config.json", "model.safetensors"]


def test_half_precision_is_widened_and_no_architecture_means_the_usual_one(tmp_path: Path) -> None:
    found = open_selector(selector(tmp_path / "s", {n: a.astype(np.float16) for n, a in tensors().items()}, {}), WIDTH)
    assert found.architecture == "TransformerScorer" and all(a.dtype == np.float32 for a in found.weights().values())


def test_a_bin_of_plain_tensors_is_read_and_one_with_code_is_not(tmp_path: Path) -> None:
    folder = selector(tmp_path / "s")
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"not looked at")
    torch.save(
        {f"module.{n}": torch.from_numpy(a).bfloat16() for n, a in tensors().items()}, folder / "pytorch_model.bin"
    )
    found = open_selector(folder, WIDTH)
    np.testing.assert_allclose(found.q_weight, tensors()["q_proj.weight"], rtol=1e-2)

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.write_text, (tmp_path / "sprung", "code was run"))

    torch.save({"q_proj.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="content of selector .* is not plain tensors"):
        open_selector(folder, WIDTH)
    assert not (tmp_path / "sprung").exists()
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is list, expected a state_dict of tensors"):
        open_selector(folder, WIDTH)


def without(*names: str) -> dict[str, np.ndarray]:
    return {n: a for n, a in tensors().items() if n not in names}


@pytest.mark.parametrize(
    ("values", "config", "says"),
    [
        (None, {"architecture": "MlpScorer"}, "'MlpScorer', expected one of TransformerScorer"),
        (None, {"architecture": 7}, "7, expected a string"),
        (None, [], "is a list, expected a JSON object"),
        (without("k_proj.bias"), None, "missing k_proj.bias, expected exactly q_proj.weight, q_proj.bias"),
        (
            {**without("k_proj.bias"), "key.bias": np.zeros(8, np.float32)},
            None,
            "missing k_proj.bias; surplus key.bias",
        ),
        ({**tensors(), "head.weight": np.zeros(3, np.float32)}, None, "surplus head.weight"),
        ({**tensors(), "module.q_proj.bias": np.zeros(8, np.float32)}, None, "q_proj.bias of selector"),
        ({**tensors(), "q_proj.weight": np.zeros((8, 13), np.float32)}, None, "[8, 13], expected [8, 12]"),
        ({**tensors(), "k_proj.weight": np.zeros((9, 12), np.float32)}, None, "[9, 12], expected [8, 12]"),
        ({**tensors(), "q_proj.weight": np.zeros(12, np.float32)}, None, "shape of q_proj.weight"),
        ({**tensors(), "k_proj.bias": np.zeros((8, 1), np.float32)}, None, "[8, 1], expected [8]"),
        ({**tensors(), "k_proj.bias": np.full(8, np.nan, np.float32)}, None, "k_proj.bias of selector"),
    ],
)
def test_what_is_no_selector_is_refused(tmp_path: Path, values, config, says: str) -> None:
    with pytest.raises(CheckpointError) as error:
        open_selector(selector(tmp_path / "s", values, config), WIDTH)
    assert says in str(error.value)


def test_a_selector_of_another_model_is_refused_with_both_widths(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\[8, 12\], expected \[8, 3584\]: the embeddings have 3584 numbers"):
        open_selector(selector(tmp_path / "s"), 3584)


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="selector .* is missing, expected a folder"):
        open_selector(tmp_path / "nowhere", WIDTH)
    folder = selector(tmp_path / "s")
    with pytest.raises(CheckpointError, match="is a file, expected a folder"):
        open_selector(folder / "model.safetensors", WIDTH)
    write_safetensors(folder / "old.safetensors", tensors(), {})
    with pytest.raises(CheckpointError, match="is model.safetensors, old.safetensors, expected one .safetensors file"):
        open_selector(folder, WIDTH)
    (folder / "old.safetensors").unlink()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="fetch it again"):
        open_selector(folder, WIDTH)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights of selector .* is missing"):
        open_selector(folder, WIDTH)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json is not readable as JSON"):
        open_selector(folder, WIDTH)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: "kernels" if path else "bodies")
@pytest.mark.parametrize("k", (1, 9, 35, 36))
@pytest.mark.parametrize("importance", ("selector", "norm"))
@pytest.mark.parametrize("kind", ("random", "equal rows", "constant scores", "zero rows", "few directions"))
def test_idpruner_equals_its_reference(tmp_path: Path, library, k: int, importance: str, kind: str) -> None:
    rng = np.random.default_rng(17)
    x = rng.standard_normal((2, 36, WIDTH)).astype(np.float32)
    weights = open_selector(selector(tmp_path / "s"), WIDTH).weights() if importance == "selector" else None
    if kind == "equal rows":
        x[:, 10:20] = x[:, :1]
    elif kind == "zero rows":
        x[:, ::5] = 0
    elif kind == "constant scores":
        x /= np.linalg.norm(x, axis=2, keepdims=True)
        if weights is not None:
            weights = {**weights, "q_weight": np.zeros_like(weights["q_weight"])}
        else:
            x = rng.choice(np.array([-1, 1], np.float32), x.shape)
            x[:, :, 4:] = 0  # of length 2, so that equal similarities are equal in every arithmetic
    elif kind == "few directions":
        x = x[:, :4][:, rng.integers(0, 4, 36)] * rng.choice(np.array([1, 2, 4], np.float32), (2, 36, 1))
    kept, scores = run(idpruner(tmp_path, weights, WIDTH, k), {"embeds": x}, library)
    for b in range(2):
        wide = torch.from_numpy(x[b]).double()
        if weights is None:
            wanted = torch.linalg.vector_norm(wide, dim=1)
        else:
            wanted = reference.linear_importance(wide, *(torch.from_numpy(a).double() for a in weights.values()))
        np.testing.assert_allclose(scores[b], wanted, atol=1e-5 * max(1, float(wanted.abs().max())))
        if kind in ("random", "zero rows", "constant scores"):
            picks = reference.mmr(wide, torch.from_numpy(scores[b]).double(), k)
            np.testing.assert_array_equal(kept[b], sorted(picks))
        else:  # rows that are the same but for their last bit: as many of each
            picks = sorted(reference.mmr(wide, torch.from_numpy(scores[b]).double(), k))
            mine, theirs = (np.sort(x[b][rows].sum(1)) for rows in (kept[b], picks))
            np.testing.assert_allclose(mine, theirs, rtol=1e-5)
        assert len(set(kept[b].tolist())) == k
