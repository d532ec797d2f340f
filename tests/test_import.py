"""`farthing import`: the bundle computes what the file computes, and what cannot be imported is refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from engines import bundle as decoder_bundle
from networks import VOCAB, write_encoder, write_vision
from onnx import TensorProto, helper

import farthing
import tiny
from farthing.cli.main import cli
from farthing.errors import BundleError, CheckpointError, FarthingError, RequestError, VerificationError
from farthing.export.onnx_import import import_onnx
from farthing.runtime.bundle import open_bundle
from farthing.runtime.network import open_network, verify_network


def _run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, list(arguments))
    if result.exception and not isinstance(result.exception, (FarthingError, SystemExit)):
        raise result.exception
    return result


def test_encoder_computes_what_the_file_computes(tmp_path: Path) -> None:
    file = write_encoder(tmp_path / "model.onnx")
    (tmp_path / "tokenizer.json").write_text(tiny.tokenizer_json(300), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"vocabulary of .* is 292 ids, expected at most the {VOCAB} rows"):
        import_onnx(tmp_path, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    (tmp_path / "tokenizer.json").unlink()
    found = import_onnx(tmp_path, tmp_path / "b")
    network = open_network(found.path)
    assert network.bundle.manifest["model"]["vocab_size"] == VOCAB
    ids = np.array([[1, 2, 3], [7, 8, 49]], np.int64)
    mask = np.array([[1, 1, 1], [1, 1, 0]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask}
    reference = onnxruntime.InferenceSession(str(file)).run(None, feeds)[0]
    np.testing.assert_array_equal(network.run(feeds)["sentence_embedding"], reference)
    with pytest.raises(RequestError, match="input is"):
        network.run({"input_ids": ids})


def test_vision_has_external_weights_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    file = write_vision(tmp_path / "net.onnx")
    model = onnx.load(str(file))
    big = helper.make_tensor("big", TensorProto.FLOAT, [40, 40], np.ones((40, 40), np.float32).tobytes(), raw=True)
    model.graph.initializer.append(big)
    onnx.save(model, str(file), save_as_external_data=True, location="net.weights", size_threshold=100)
    first, second = (import_onnx(file, tmp_path / n).path for n in "ab")
    one = open_bundle(first, networks=True)
    assert one.manifest["graphs"]["network"]["data"] == ["graphs/network.onnx.data"]
    assert one.manifest["files"] == open_bundle(second, networks=True).manifest["files"]
    assert one.manifest["model"]["image"]["height"] == 32
    (tmp_path / "net.weights").unlink()  # the bundle stands on its own
    assert verify_network(one).ok


def test_commands(tmp_path: Path) -> None:
    file = write_encoder(tmp_path / "m.onnx")
    out = str(tmp_path / "b")
    assert json.loads(_run("import", str(file), "--out", out, "--json").stdout)["max_error"] == 0
    assert "all holds" in _run("verify", out, "--against", str(file)).stdout
    assert json.loads(_run("verify", out, "--json").stdout)["ok"] is True
    shown = json.loads(_run("inspect", out, "--json").stdout)
    assert [t["name"] for t in shown["inputs"]] == ["input_ids", "attention_mask"]
    assert shown["graphs"]["network"]["operators"]["MatMul"] == 2
    assert "run once per input" in _run("inspect", out).stdout
    timed = json.loads(_run("bench", out, "--runs", "1", "--prompt-tokens", "9", "--json").stdout)
    assert timed["shapes"]["input_ids"] == [1, 9] and timed["cpu_seconds_per_pass"] > 0


def test_other_weights_do_not_verify(tmp_path: Path) -> None:
    file = write_encoder(tmp_path / "m.onnx")
    path = import_onnx(file, tmp_path / "b").path
    other = write_encoder(tmp_path / "other.onnx", outlier=3.0)
    model = onnx.load(str(other))
    next(t for t in model.graph.initializer if t.name == "bias").raw_data = np.ones(128, np.float32).tobytes()
    onnx.save(model, str(other))
    with pytest.raises(VerificationError, match="of output sentence_embedding"):
        _reraise(_run("verify", str(path), "--against", str(other)))
    with pytest.raises(RequestError, match="inputs of"):
        _reraise(_run("verify", str(path), "--against", str(write_vision(tmp_path / "v.onnx"))))
    # A changed number in the recorded vectors is noticed too.
    bundle = open_bundle(path, networks=True)
    vectors = path / "vectors/network.json"
    raw = json.loads(vectors.read_text())
    raw["cases"][1]["outputs"]["sentence_embedding"]["values"][3] += 0.01
    vectors.write_text(json.dumps(raw))
    assert not verify_network(bundle).ok
    vectors.write_text("{}")
    with pytest.raises(BundleError, match="unusable"):
        verify_network(bundle)


def test_nobody_decodes_with_it(tmp_path: Path) -> None:
    path = import_onnx(write_encoder(tmp_path / "m.onnx"), tmp_path / "b").path
    with pytest.raises(RequestError, match="import, a network that is run once per input, expected one that decodes"):
        farthing.load(path)
    for command in (["run", str(path), "--prompt", "x"], ["tune", str(path)]):
        with pytest.raises(RequestError, match="run once per input"):
            _reraise(_run(*command))
    with pytest.raises(RequestError, match="which decodes tokens"):
        open_network(decoder_bundle())


@pytest.mark.parametrize(
    "what", ["rubbish", "empty", "domain", "past", "string", "data", "outside", "several", "nan", "invalid"]
)
def test_bad_files(tmp_path: Path, what: str) -> None:
    file, source = tmp_path / "in" / "m.onnx", None
    model = onnx.load(str(write_encoder(file)))
    error: type[FarthingError] = CheckpointError
    match what:
        case "rubbish":
            file.write_bytes(b"\xff" * 100)
            wanted = "not readable as ONNX"
        case "empty":
            del model.graph.node[:]
            wanted = "empty, expected some nodes"
        case "domain":
            model.graph.node[1].domain = "acme"
            wanted = "operator acme::MatMul"
        case "past":
            model.graph.input.append(
                helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, ["b", 2, "p", 4])
            )
            wanted = "operators of .* is Relu"
        case "string":
            model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
            wanted = "type of input_ids .* is STRING"
        case "data" | "outside":
            tensor = model.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="gone.bin" if what == "data" else "../x.bin")
            wanted = "missing, expected a file beside it" if what == "data" else "outside its folder"
        case "several":
            shutil.copy(file, file.with_name("n.onnx"))
            error, wanted, source = RequestError, "m.onnx, n.onnx, expected one .onnx file", file.parent
        case "invalid":
            del model.graph.node[1].input[1]
            wanted = "not valid ONNX"
        case "nan":
            model.graph.initializer[0].raw_data = np.full((VOCAB, 64), np.nan, np.float32).tobytes()
            error, wanted = VerificationError, "not finite"
    if what not in ("rubbish", "several"):
        file.write_bytes(model.SerializeToString())
    with pytest.raises(error, match=wanted):
        import_onnx(source or file, tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def _reraise(result: Any) -> None:
    if result.exception:
        raise result.exception


def _open_vision(folder: Path) -> Path:
    """The network of `write_vision` with channels, height and width left open, as optimum leaves them."""
    model = onnx.load(str(write_vision(folder / "model.onnx")))
    for dimension, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "ncyx", strict=True):
        dimension.dim_param = name
    onnx.save(model, str(folder / "model.onnx"))
    return folder


def test_size_and_means_of_pictures_come_from_the_files_beside(tmp_path: Path) -> None:
    folder = _open_vision(tmp_path)
    manifest = open_network(import_onnx(folder, tmp_path / "plain").path).bundle.manifest
    assert manifest["graphs"]["network"]["inputs"][0]["shape"] == ["n", 3, "y", "x"]
    assert manifest["model"]["image"]["height"] == 224
    (folder / "config.json").write_text('{"image_size": 48}')
    processor = {"size": {"height": 40, "width": 56}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    manifest = open_network(import_onnx(folder, tmp_path / "sized").path).bundle.manifest
    assert manifest["graphs"]["network"]["inputs"][0]["shape"] == ["n", 3, 48, 48]
    wanted = {"height": 48, "width": 48, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    assert manifest["model"]["image"] == wanted
    (folder / "config.json").unlink()
    chosen = open_network(import_onnx(folder, tmp_path / "given", mean=(0.5, 0.5, 0.5)).path).bundle.manifest["model"][
        "image"
    ]
    assert chosen == {"height": 40, "width": 56, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.6, 0.7]}


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ("[", CheckpointError, "no JSON"),
        ("[1]", CheckpointError, "list, expected a JSON object"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}', CheckpointError, "image_std .* above 0"),
        ('{"image_mean": [0, 0, 0], "rescale_factor": 1}', RequestError, "scaled by 1, expected 1/255"),
    ],
)
def test_bad_files_beside_a_picture_network(tmp_path: Path, content: str, kind: type, words: str) -> None:
    folder = _open_vision(tmp_path)
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(kind, match=words):
        import_onnx(folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()
