"""The judge: folding and polarity, files that are refused, the combined rule with its valves, and the exported graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from farthing.calibration.quantize import Options, quantize
from farthing.errors import CheckpointError, RequestError
from farthing.export import export
from farthing.export.checkpoint import Checkpoint, open_checkpoint
from farthing.export.checkpoint.judge_file import open_judge, save_judge
from farthing.export.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from farthing.export.vectors.judge import record_judge
from farthing.export.vectors.record import open_graph
from farthing.models.blocks import KVCache
from farthing.models.judge import GOOD, IMPORTANT, Judge, Rule, StatesDecoder, accept_run
from farthing.runtime.bundle import open_bundle
from farthing.runtime.verify import verify_vectors
from farthing.runtime.verify_judge import judge_failure

PROMPT = [5, 77, 12, 140, 33, 9, 201]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny.write_hf(tmp_path_factory.mktemp("hf"), "llama"))


def a_judge(width: int = 48, polarity: str = IMPORTANT, **changes: object) -> Judge:
    draw = np.random.default_rng(3)
    weight, mean = draw.standard_normal((2, width)).astype(np.float32)
    judge = Judge(weight / 5, 0.3, mean, draw.uniform(0.5, 2, width).astype(np.float32), polarity, 0.6)
    return replace(judge, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("polarity", [GOOD, IMPORTANT])
def test_folding_is_standardisation_then_regression(polarity: str) -> None:
    judge, states = a_judge(polarity=polarity), np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    raw = 1 / (1 + np.exp(-(((states - judge.mean) / judge.scale) @ judge.weight + judge.bias)))
    wanted = raw if polarity == GOOD else 1 - raw
    np.testing.assert_allclose(judge.good(states), wanted, atol=1e-5)
    assert wanted.std() > 0.05


def logits_of(rows: list[dict[int, float]], vocab: int = 6) -> np.ndarray:
    """Rows of logits with the given probabilities; the rest share what is left."""
    full = np.array([[r.get(i, (1 - sum(r.values())) / (vocab - len(r))) for i in range(vocab)] for r in rows])
    return np.log(full).astype(np.float32)


ROWS = logits_of([{1: 0.6, 2: 0.2}, {1: 0.6, 2: 0.2}, {1: 0.6, 2: 0.2, 4: 0.001}, {3: 0.7}])
"""Three drafts and the row behind them; every row but the last would say 1."""


@pytest.mark.parametrize(
    ("drafts", "good", "rule", "wanted"),
    [
        ([1, 1, 1], [0, 0, 0, 0], Rule(), (3, 3, 0)),  # the model's own words need no judge
        ([1, 2, 1], [0, 0, 0.9, 0], Rule(), (3, 3, 1)),  # good[2] judges draft 2
        ([1, 2, 1], [0, 0.9, 0, 0.9], Rule(), (1, 1, 0)),  # and not its neighbours
        ([1, 2, 1], [0, 0, 0.5, 0], Rule(delta=0.5), (1, 1, 0)),  # greater, not equal
        ([1, 2, 1], [1, 1, 1, 1], Rule(delta=1.0), (1, 1, 0)),  # judge off
        ([1, 1, 4], [1, 1, 1, 1], Rule(), (2, 1, 0)),  # the model gives it 0.001
        ([1, 1, 4], [1, 1, 1, 1], Rule(min_probability=0), (3, 3, 1)),
        ([1, 2, 1], [1, 1, 1, 1], Rule(control_ids=frozenset({2})), (1, 1, 0)),
        ([2, 2, 2], [1, 1, 1, 1], Rule(max_consecutive=2), (2, 1, 2)),
        ([2, 1, 2], [1, 1, 1, 1], Rule(max_consecutive=1), (3, 3, 2)),  # the model's own word between them
        ([2, 2, 2], [1, 1, 1, 1], Rule(max_consecutive=0), (3, 3, 3)),
        ([], [0], Rule(), (0, 1, 0)),
    ],
)
def test_combined_rule(drafts, good, rule, wanted) -> None:  # type: ignore[no-untyped-def]
    verdict = accept_run(ROWS, drafts, np.array(good, np.float32), rule)
    assert (verdict.accepted, verdict.bonus, verdict.judged) == wanted


def test_rule_refuses() -> None:
    for bad in ({"delta": 1.5}, {"min_probability": -0.1}, {"max_consecutive": -1}, {"delta": float("nan")}):
        with pytest.raises(RequestError, match="expected 0"):
            Rule(**bad)


def test_file_round_trip(target: Checkpoint, tmp_path: Path) -> None:
    judge = a_judge(notes={"auc": "0.9"})
    save_judge(tmp_path / "j.safetensors", judge, target)
    again = open_judge(tmp_path / "j.safetensors", target)
    for name in ("weight", "mean", "scale"):
        assert np.array_equal(getattr(again, name), getattr(judge, name))
    assert (again.bias, again.polarity, again.delta) == (np.float32(0.3), IMPORTANT, 0.6)
    assert again.notes == {"auc": "0.9"} and again.target_sha256 == target.sha256()
    assert open_judge(tmp_path / "j.safetensors", target, delta=0.9).delta == 0.9


def edited(path: Path, **changes: object) -> Path:
    """The judge file with tensors or notes replaced; None removes one."""
    file = SafetensorsFile(path)
    tensors = {n: file.read(n) for n in file.names()}
    notes = dict(file.metadata)
    for name, value in changes.items():
        where, key = (tensors, name) if name in tensors else (notes, f"judge.{name}")
        where.pop(key, None)  # type: ignore[attr-defined]
        if value is not None:
            where[key] = value  # type: ignore[index]
    out = path.with_name("edited.safetensors")
    write_safetensors(out, tensors, notes)
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"polarity": None}, "polarity of judge .* is not in the file, expected good or important"),
        ({"polarity": "bad"}, "polarity of judge .* is 'bad'"),
        ({"layer": "pre_norm"}, "layer of judge"),
        ({"delta": "2"}, "delta of judge"),
        ({"delta": "x"}, "delta of judge"),
        ({"target_sha256": "0" * 64}, "target of judge .* use the checkpoint it was trained on"),
        ({"weight": np.ones(47, np.float32)}, r"shape of weight of judge .* is \[47\], expected \[48\]"),
        ({"bias": np.ones(2, np.float32)}, "shape of bias"),
        ({"mean": np.full(48, np.nan, np.float32)}, "not finite"),
        ({"scale": np.zeros(48, np.float32)}, "numbers above 0"),
        ({"mean": None}, "tensor mean of judge .* missing"),
    ],
)
def test_file_refused(target: Checkpoint, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_judge(tmp_path / "j.safetensors", a_judge(), target)
    with pytest.raises(CheckpointError, match=message):
        open_judge(edited(tmp_path / "j.safetensors", **changes), target)


def test_sklearn_arrays(target: Checkpoint, tmp_path: Path) -> None:
    judge = a_judge()
    arrays = {"coef_": judge.weight[None], "intercept_": np.array([0.3]), "mean_": judge.mean, "scale_": judge.scale}
    np.savez(tmp_path / "j.npz", polarity="important", **arrays)
    assert np.array_equal(open_judge(tmp_path / "j.npz", target).folded()[0], judge.folded()[0])
    np.savez(tmp_path / "j.npz", **arrays)
    with pytest.raises(CheckpointError, match="polarity"):
        open_judge(tmp_path / "j.npz", target)
    np.savez(tmp_path / "j.npz", polarity="important", **{**arrays, "coef_": np.array([{}], object)})
    with pytest.raises(CheckpointError, match="unreadable"):
        open_judge(tmp_path / "j.npz", target)
    (tmp_path / "j.joblib").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickle"):
        open_judge(tmp_path / "j.joblib", target)


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("qwen3", "float16")])
def test_graph_and_manifest(tmp_path: Path, family: str, dtype: str) -> None:
    target = open_checkpoint(tiny.write_hf(tmp_path / "hf", family))
    judge = a_judge(target.config.hidden_size, notes={"false_accept_rate": "0.04"})
    save_judge(tmp_path / "j.safetensors", judge, target)
    result = export("judge", target.path, tmp_path / "out", judge=tmp_path / "j.safetensors", dtype=dtype)
    assert result.check and result.check["judge"]["max_abs"] <= result.check["judge"]["allowed"]
    bundle = open_bundle(tmp_path / "out")
    assert bundle.manifest["method"] == {"id": "judge", "procedure": "speculative", "guarantee": "lossy"}
    entry = bundle.manifest["judge"]
    assert (entry["delta"], entry["min_probability"], entry["max_consecutive"]) == (0.6, 0.01, 8)
    assert entry["false_accept_rate"] == 0.04 and entry["control_ids"] == [0, 1, 2]
    # The output is P(good), though the weights say "important".
    model = StatesDecoder(target, storage=dtype)
    states = model.states(torch.tensor([PROMPT]), KVCache.empty(target.config, 7), torch.tensor([0]))[1][0].numpy()
    important = 1 / (1 + np.exp(-(((states - judge.mean) / judge.scale) @ judge.weight + judge.bias)))
    found = record_judge(bundle.graph("decoder"), target.config, [PROMPT]).good[0]
    np.testing.assert_allclose(found, 1 - important, atol=1e-4)
    vectors = json.loads((tmp_path / "out" / bundle.manifest["vectors"]).read_text())
    assert [len(c["good"]) for c in vectors["judge"]] == [len(c["prompt_ids"]) for c in vectors["cases"]]


def test_export_refuses(target: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="judge is not given"):
        export("judge", target.path, tmp_path / "out")
    other = open_checkpoint(tiny.write_hf(tmp_path / "other", "llama", seed=1))
    save_judge(tmp_path / "j.safetensors", a_judge(), other)
    with pytest.raises(CheckpointError, match="target of judge"):
        export("judge", target.path, tmp_path / "out", judge=tmp_path / "j.safetensors")
    assert not (tmp_path / "out").exists()


def test_verify_replays_the_judge(target: Checkpoint, tmp_path: Path) -> None:
    save_judge(tmp_path / "j.safetensors", a_judge(), target)
    export("judge", target.path, tmp_path / "out", judge=tmp_path / "j.safetensors", check=False)
    bundle = open_bundle(tmp_path / "out")
    assert all(engine.ok for engine in verify_vectors(bundle)[0])
    session = open_graph(bundle.graph("decoder"))
    assert judge_failure(bundle, session, 1e-4) is None

    class Other:
        """A judge of the opposite polarity."""

        def run(self, wanted: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [1 - session.run(wanted, feeds)[0]]

    assert "difference of the judge from the recorded one, prompt 0" in str(judge_failure(bundle, Other(), 1e-4))


def test_quantised_bundle_keeps_a_judge(target: Checkpoint, tmp_path: Path) -> None:
    save_judge(tmp_path / "j.safetensors", a_judge(notes={"false_accept_rate": "0.04"}), target)
    export("judge", target.path, tmp_path / "out", judge=tmp_path / "j.safetensors", check=False)
    quantize(tmp_path / "out", tmp_path / "int8", Options(weights="int8", block=16), measure=False)
    bundle = open_bundle(tmp_path / "int8")
    assert bundle.manifest["judge"]["false_accept_rate"] is None  # the states are others now
    assert all(engine.ok for engine in verify_vectors(bundle)[0])
