"""``farthing inspect``: numbers that can be checked by hand, with and without onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import tiny
from farthing.cli.inspect import MARGIN, inspect, inspect_command
from farthing.errors import BundleError, RequestError
from farthing.export.decoder import export_decoder
from farthing.runtime.bundle import open_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    return export_decoder(tiny.write_hf(root / "hf"), root / "out", check=False).path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(inspect_command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_numbers(bundle: Path) -> None:
    report = json.loads(run(bundle, "--context", "100", "--json"))
    memory = report["memory"]
    # 2 caches x 3 layers x 2 heads x 12 features x 4 bytes
    assert memory["kv"] == 100 * 2 * 3 * 2 * 12 * 4 and memory["margin"] == MARGIN
    assert memory["weights"] == sum(
        (bundle / "graphs" / n).stat().st_size for n in ("decoder.onnx", "decoder.onnx.data")
    )
    assert memory["total"] == memory["weights"] + memory["kv"] + MARGIN
    assert report["files"] == {
        p.relative_to(bundle).as_posix(): p.stat().st_size
        for p in bundle.rglob("*")
        if p.is_file() and p.name != "manifest.json"
    }
    graph = report["graphs"]["decoder"]
    assert graph["operators"]["farthing::CachedAttention"] == 3 and graph["operators"]["farthing::SwiGLU"] == 3
    assert graph["nodes"] == sum(graph["operators"].values()) and set(graph["weights"]) == {"float", "int64"}
    # Layer 0 also owns the norm before it; every later one is normed by the layer before.
    assert len(graph["nodes_per_layer"]) == 3 and max(graph["nodes_per_layer"]) <= 15
    assert (
        report["quantization"]["weights"] == "float32" and report["provenance"]["checkpoint"]["kind"] == "huggingface"
    )


def test_text(bundle: Path) -> None:
    text = run(bundle)
    for part in (
        "decoder: autoregressive, exact",
        "float32 matrices",
        "memory at a context of 512",
        "in all",
        "Linear",
    ):
        assert part in text, part
    assert "more than the model was trained for" not in text
    assert "more than the model was trained for" in run(bundle, "--context", "513")


def test_without_onnx(bundle: Path) -> None:
    """The rest is shown, and the text says what brings the counts."""
    program = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from farthing.cli.inspect import inspect_command\n"
        "inspect_command(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, str(bundle)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "pip install 'farthing[export]'" in text and "in all" in text
    report = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert report["graphs"] == {"decoder": None}


@pytest.mark.parametrize("context", [0, -5, 2**31])
def test_bad_context(bundle: Path, context: int) -> None:
    with pytest.raises(RequestError, match=f"context is {context}, expected 1 to"):
        inspect(open_bundle(bundle, hashes=False), context)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        inspect_command.main([str(tmp_path)], standalone_mode=False)
