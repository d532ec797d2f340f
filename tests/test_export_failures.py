"""Exports that end early: interrupt, full disk, unsuitable target. Nothing half written, nothing of the user's lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tiny
from farthing.cli.export import export_command
from farthing.errors import BundleError, CheckpointError, RequestError
from farthing.export.decoder import export_decoder
from farthing.export.graph.external_data import ExternalData
from farthing.runtime.bundle import open_bundle


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny.write_hf(tmp_path / "hf")


@pytest.mark.parametrize("stage", ["writing weights", "recording vectors", "comparing with PyTorch", "hashing"])
@pytest.mark.parametrize("existing", [False, True])
def test_interrupt_at_every_stage(stage: str, existing: bool, checkpoint: Path, tmp_path: Path) -> None:
    """Ctrl-C leaves the folder as it was; an older bundle stays whole."""
    if existing:
        export_decoder(tiny.write_hf(tmp_path / "old", seed=3), tmp_path / "out", check=False)
    before = everything(tmp_path)

    def interrupt(at: str, done: int, total: int) -> None:
        if at == stage and not (at == "hashing" and done):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_decoder(checkpoint, tmp_path / "out", progress=interrupt)
    assert everything(tmp_path) == before
    if existing:
        open_bundle(tmp_path / "out")


def test_real_ctrl_c(tmp_path: Path) -> None:
    """SIGINT to a process that is writing: it ends, and its staging folder is gone."""
    checkpoint = tiny.write_hf(tmp_path / "hf", num_hidden_layers=40, hidden_size=192, intermediate_size=512)
    before = everything(tmp_path)
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from farthing.export import export; export('decoder', sys.argv[1], sys.argv[2])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, checkpoint, tmp_path / "out"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/graphs/*.data")):
        assert process.poll() is None and time.monotonic() < deadline, "it never began to write"
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 1, 130) and "KeyboardInterrupt" in text
    assert everything(tmp_path) == before


@pytest.mark.parametrize("after", [0, 5])
def test_disk_full(after: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(tmp_path)
    original, calls = ExternalData.append, []

    def append(self, array, dtype, name):
        calls.append(name)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, array, dtype, name)

    monkeypatch.setattr(ExternalData, "append", append)
    with pytest.raises(
        BundleError, match="full, expected room for the bundle; free some space; nothing was left behind"
    ):
        export_decoder(checkpoint, tmp_path / "out")
    assert everything(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_disk_full_for_real(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says ENOSPC at the first flush, in the middle of the buffered stream."""
    before = everything(tmp_path)
    original = ExternalData.__init__
    monkeypatch.setattr(ExternalData, "__init__", lambda self, path: original(self, Path("/dev/full")))
    with pytest.raises(BundleError, match="full, expected room"):
        export_decoder(checkpoint, tmp_path / "out")
    assert everything(tmp_path) == before


def test_target_in_use(checkpoint: Path, tmp_path: Path) -> None:
    """A folder with other files, and a file, are refused before any work; a bundle is replaced."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me")
    for name in ("mine", "file"):
        with pytest.raises(RequestError, match="choose another --out"):
            export_decoder(checkpoint, tmp_path / name)
    assert (tmp_path / "mine" / "letter.txt").read_text() == (tmp_path / "file").read_text() == "keep me"
    export_decoder(checkpoint, tmp_path / "out", check=False)
    export_decoder(tiny.write_hf(tmp_path / "hf2", seed=5), tmp_path / "out", check=False)
    assert open_bundle(tmp_path / "out").manifest["name"] == "hf2"
    assert not [n for n in everything(tmp_path) if Path(n).name.startswith(".")]


def test_nan_in_the_last_tensor(tmp_path: Path) -> None:
    """Found after most of the graph is on disk; still nothing is left."""
    folder = tiny.write_hf(tmp_path / "hf")
    tensors = tiny.weights(tiny.config())
    tensors["lm_head.weight"][-1, -1] = np.nan
    tiny.save_safetensors(folder / "model.safetensors", tensors)
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not finite in 1 of 14400"):
        export_decoder(folder, tmp_path / "out")
    assert everything(tmp_path) == before


def test_bad_tokenizer_is_found_before_writing(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(400), encoding="utf-8")
    seen: list[str] = []
    with pytest.raises(CheckpointError, match="392 ids, expected 1 to 300"):
        export_decoder(folder, tmp_path / "out", progress=lambda stage, *_: seen.append(stage))
    assert not seen and not (tmp_path / "out").exists()


def test_command(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["decoder", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(export_command, [*arguments, "--json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["method"] == "decoder" and report["check"]["rows"] == 64
    assert report["path"] == str(tmp_path / "out") and report["nodes_per_layer"] == 8
    assert report["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    text = (
        CliRunner()
        .invoke(export_command, [*arguments, "--no-check", "--dtype", "float16"], catch_exceptions=False)
        .stdout
    )
    assert "8 per layer" in text and "not compared" in text
    with pytest.raises(RequestError, match="nearest is 'decoder'"):
        CliRunner().invoke(export_command, ["decodr", *arguments[1:]], catch_exceptions=False)
    usage = CliRunner().invoke(export_command, ["--help"])
    assert usage.exit_code == 0 and "Examples:" in usage.output and "Qwen2.5" in usage.output
    assert CliRunner().invoke(export_command, ["decoder"]).exit_code == 2
