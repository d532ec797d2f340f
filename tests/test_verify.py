"""``farthing verify``: whole bundles pass, every kind of damage is refused with its exit code, drift names its first layer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import tiny
from farthing.calibration.drift import Drift, LayerDrift, drift
from farthing.cli.verify import verify_command
from farthing.errors import BundleError, CheckpointError, FarthingError, RequestError, VerificationError
from farthing.export.checkpoint import open_checkpoint
from farthing.export.decoder import export_decoder
from farthing.plugins import library_path
from farthing.runtime.bundle import open_bundle
from farthing.runtime.bundle.read import sha256_of
from farthing.runtime.verify import read_cases, verify_vectors

ENGINES = ["bodies", "kernels"] if library_path() else ["bodies"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle) of a tiny Qwen3."""
    root = tmp_path_factory.mktemp("exported")
    checkpoint = tiny.write_hf(root / "hf", "qwen3")
    export_decoder(checkpoint, root / "out")
    return checkpoint, root / "out"


@pytest.fixture
def copy(exported: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(exported[1], tmp_path / "copy")


def reseal(bundle: Path, *files: str) -> None:
    """Make the manifest vouch for edited files: what a hash cannot find must be found by running."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in files:
        manifest["files"][name] = {"sha256": sha256_of(bundle / name), "bytes": (bundle / name).stat().st_size}
    path.write_text(json.dumps(manifest))


def edit_weight(bundle: Path, name: str, factor: float) -> None:
    """Multiply a weight in the external data file."""
    graph = onnx.load(bundle / "graphs/decoder.onnx", load_external_data=False).graph
    (tensor,) = [t for t in graph.initializer if t.name == name]
    place = {e.key: e.value for e in tensor.external_data}
    data = np.memmap(
        bundle / "graphs" / place["location"], np.float32, "r+", int(place["offset"]), (int(place["length"]) // 4,)
    )
    data *= factor
    data.flush()
    reseal(bundle, f"graphs/{place['location']}")


def edit_vectors(bundle: Path, change) -> None:
    path = bundle / "vectors/decoder.json"
    vectors = json.loads(path.read_text())
    change(vectors["cases"])
    path.write_text(json.dumps(vectors))
    reseal(bundle, "vectors/decoder.json")


def run(*arguments: object) -> tuple[int, str]:
    """(exit code as the command line gives it, output)."""
    result = CliRunner().invoke(verify_command, [str(a) for a in arguments])
    if isinstance(result.exception, FarthingError):
        return result.exception.exit_code, result.output + str(result.exception)
    return result.exit_code, result.output


def test_a_good_bundle_holds(exported: tuple[Path, Path]) -> None:
    code, text = run(exported[1], "--json")
    report = json.loads(text)
    assert code == 0 and report["ok"] and report["files"] == 5
    assert [e["engine"] for e in report["engines"]] == ENGINES and report["drift"] is None
    assert len(report["skipped"]) == 2 - len(ENGINES)
    for engine in report["engines"]:
        assert engine["ids"] == {"equal": 16 * engine["cases"], "ties": 0, "different": 0} and engine["cases"] == 4
        assert engine["max_error"] < 1e-4
    code, text = run(exported[1])
    assert code == 0 and "64 of 64 greedy ids equal" in text and text.endswith("all holds\n")


@pytest.mark.parametrize("family", ["llama-bias", "mistral", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_families_hold_and_do_not_drift(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint = tiny.write_hf(tmp_path / "hf", family)
    export_decoder(checkpoint, tmp_path / "out", dtype=dtype)
    code, text = run(tmp_path / "out", "--against", checkpoint, "--json")
    report = json.loads(text)
    assert code == 0 and [d["engine"] for d in report["drift"]] == ENGINES
    for one in report["drift"]:
        assert [layer["name"] for layer in one["layers"]] == ["embedding", "layer 0", "layer 1", "layer 2", "logits"]
        assert one["first_over"] is None and max(layer["relative"] for layer in one["layers"]) < 1e-5


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_quantised_bundles(weights: str, exported: tuple[Path, Path], tmp_path: Path) -> None:
    """They verify, also with 8-bit activations; their drift is shown and judged only if asked; a wrong checkpoint is still found."""
    from farthing.calibration.quantize import Options, quantize

    checkpoint, source = exported
    quantize(source, tmp_path / "q", Options(weights, 16, "float16", weights, symmetric=True), measure=False)
    code, text = run(tmp_path / "q", "--against", checkpoint, "--json")
    report = json.loads(text)
    assert code == 0, text
    assert [e["engine"] for e in report["engines"]] == ["bodies", "kernels-int8"][: len(ENGINES)]
    assert max(e["max_error"] for e in report["engines"] if e["engine"] != "kernels-int8") < 1e-4
    one = report["drift"][0]
    assert one["tolerance"] is None and one["first_over"] is None and 1e-3 < one["layers"][1]["relative"] < 0.5
    code, text = run(tmp_path / "q", "--against", checkpoint, "--tolerance", "1e-3")
    assert code == 5 and "the first over it is layer 0" in text
    other = tiny.write_hf(tmp_path / "other", "qwen3", seed=1)
    code, text = run(tmp_path / "q", "--against", other)
    assert code == 5 and "relative error of embedding" in text and "at most 0.001" in text


def test_works_without_torch_and_onnx(exported: tuple[Path, Path]) -> None:
    """Steps 1 and 2 with both packages blocked, as on a device."""
    program = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from farthing.cli.verify import verify_command\n"
        "verify_command([sys.argv[1], '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", program, exported[1]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]


def test_edited_file_is_a_bundle_error(copy: Path) -> None:
    path = copy / "graphs/decoder.onnx.data"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, text = run(copy)
    assert code == 4 and "sha256 of" in text and "decoder.onnx.data" in text
    code, text = run(copy, "--json")
    assert code == 4 and '"ok": false' in text and "sha256 of" in json.loads(text.splitlines()[0])["error"]


def test_missing_bundle(tmp_path: Path) -> None:
    code, text = run(tmp_path / "nothing")
    assert code == 4 and "not a folder" in text


def test_changed_weight_is_a_verification_error(copy: Path) -> None:
    """Hashes made to agree: only running finds it."""
    edit_weight(copy, "layers.1.o.weight", 1.05)
    code, text = run(copy)
    assert code == 5 and "difference of logit" in text and "FAILS" in text and "by bodies" in text
    code, text = run(copy, "--json")
    report = json.loads(text.splitlines()[0])
    assert code == 5 and not report["ok"] and [e["ok"] for e in report["engines"]] == [False] * len(ENGINES)
    assert report["engines"][0]["failure"] in report["error"]


def test_drift_names_the_first_layer(exported: tuple[Path, Path], copy: Path) -> None:
    """A weight of layer 1 changed: embedding and layer 0 agree, layer 1 is the first over."""
    edit_weight(copy, "layers.1.gate_up.weight", 1.05)
    for one in drift(open_bundle(copy), open_checkpoint(exported[0])):
        assert one.first_over is not None and one.first_over.name == "layer 1"
        assert [one.is_over(layer) for layer in one.layers] == [False, False, True, True, True]


def test_drift_on_the_command_line(exported: tuple[Path, Path], tmp_path: Path) -> None:
    """Another model of the same shape: refused at the embedding; table and plot are there all the same."""
    other = tiny.write_hf(tmp_path / "other", "qwen3", seed=1)
    picture = tmp_path / "drift.png"
    code, text = run(exported[1], "--against", other, "--plot", picture)
    assert code == 5 and "relative error of embedding" in text and "the first over it is embedding" in text
    assert text.count("layer ") >= 3 and picture.read_bytes().startswith(b"\x89PNG")
    code, text = run(exported[1], "--against", exported[0], "--plot", picture)
    assert code == 0 and "no layer is over it" in text
    code, text = run(exported[1], "--against", exported[0], "--tolerance", "1e-12")
    assert code == 5 and "at most 1e-12" in text


def nan_layer() -> LayerDrift:
    layers = [LayerDrift("a", 0.0, 0.1, 0.1), LayerDrift("b", 1.0, float("nan"), 0.1)]
    first = Drift("bodies", 1, None, 1.0, layers).first_over
    assert first is not None
    return first


def test_nan_is_over_tolerance(copy: Path, exported: tuple[Path, Path]) -> None:
    edit_weight(copy, "layers.2.down.weight", float("nan"))
    code, text = run(copy, "--json")
    assert code == 5 and json.loads(text.splitlines()[0])["engines"][0]["max_error"] is None
    assert nan_layer().name == "b"
    found = drift(open_bundle(copy), open_checkpoint(exported[0]))[0]
    assert found.first_over is not None and found.first_over.name == "layer 2"
    assert found.as_json()["layers"][3]["relative"] is None


def test_ties_may_go_either_way(copy: Path) -> None:
    """A recorded id that lost by less than the tolerance passes, one that lost clearly does not."""
    bundle = open_bundle(copy)
    right = read_cases(bundle)[0].greedy_ids[-1]

    def lose(margin: float):
        def change(cases: list[dict]) -> None:
            cases[0]["greedy_ids"][-1] = (right + 1) % 300
            cases[0]["margins"][-1] = margin

        return change

    edit_vectors(copy, lose(1e-6))
    results, _ = verify_vectors(open_bundle(copy))
    assert [(r.ok, r.cases[0].ties, r.cases[0].different) for r in results] == [(True, [15], [])] * len(ENGINES)
    edit_vectors(copy, lose(2.0))
    results, _ = verify_vectors(open_bundle(copy))
    assert [r.cases[0].different for r in results] == [[15]] * len(ENGINES)
    assert "greedy id of step 15 (by bodies, case 0)" in (results[0].failure() or "")


def test_a_shifted_norm_is_found(copy: Path) -> None:
    """Between the sampled logits hides only what the norm shows."""

    def change(cases: list[dict]) -> None:
        cases[1]["logits"]["l2"] *= 1.1

    edit_vectors(copy, change)
    code, text = run(copy)
    assert code == 5 and "the logits' norm" in text and "case 1" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda cases: cases[0].pop("logits"),
        lambda cases: cases[0].update(prompt_ids=[]),
        lambda cases: cases[0]["prompt_ids"].append(300),
        lambda cases: cases[0]["margins"].pop(),
        lambda cases: cases[0]["logits"]["ids"].pop(),
    ],
)
def test_unusable_vectors(copy: Path, change) -> None:
    edit_vectors(copy, change)
    with pytest.raises(BundleError, match=r"decoder.json is unusable .* expected recorded vectors"):
        verify_vectors(open_bundle(copy))


def test_unloadable_graph(copy: Path) -> None:
    (copy / "graphs/decoder.onnx").write_bytes(b"not a graph")
    reseal(copy, "graphs/decoder.onnx")
    code, text = run(copy)
    assert code == 4 and "refused by onnxruntime" in text


def test_bad_requests(exported: tuple[Path, Path], tmp_path: Path) -> None:
    for bad in ("0", "-1", "nan", "inf"):
        code, text = run(exported[1], "--tolerance", bad)
        assert code == 2 and "tolerance is" in text, bad
    code, text = run(exported[1], "--plot", tmp_path / "x.png")
    assert code == 2 and "--against" in text
    code, text = run(exported[1], "--against", exported[0], "--plot", tmp_path / "x.nonsense")
    assert code == 2 and "--plot" in text
    code, text = run(exported[1], "--against", tmp_path / "none")
    assert code == 3 and "is missing" in text


def test_checkpoint_of_another_shape(exported: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny.write_hf(tmp_path / "other", "qwen3", num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"layers of checkpoint .* is 2, expected 3"):
        drift(open_bundle(exported[1]), open_checkpoint(other))


def test_messages_have_the_house_form(copy: Path) -> None:
    edit_weight(copy, "layers.1.o.weight", 1.5)
    with pytest.raises((VerificationError, RequestError), match=r"^.+ is .+, expected .+; .+$"):
        verify_command.main([str(copy)], standalone_mode=False)
