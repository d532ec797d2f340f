"""GAM checkpoints: official names from safetensors and torch files, sizes from shapes, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import gam_models
import pytest
import torch
from safetensors.torch import save_file

from farthing.calibration.quantize import quantize
from farthing.cli.main import main
from farthing.errors import CheckpointError, RequestError
from farthing.export import export
from farthing.export.checkpoint.gam_checkpoint import GamCheckpoint, byte_tokenizer
from farthing.runtime.bundle import open_bundle

Tensors = dict[str, torch.Tensor]


def tensors() -> Tensors:
    return {name: tensor.clone().contiguous() for name, tensor in gam_models.model().state_dict().items()}


def test_sizes_come_from_shapes() -> None:
    assert GamCheckpoint(gam_models.checkpoint()).config == gam_models.CONFIG
    assert gam_models.CONFIG.parameters == sum(p.numel() for p in gam_models.model().parameters())


def test_default_size_of_the_paper() -> None:
    """C = 512, L = 6, M = 512, k = 3, V = 10000, P = 256: the 22.6 million parameters of its table."""
    from farthing.models.gam import GamConfig

    assert GamConfig(10000, 512, 2048, 6, 512, 3, 256).parameters == 22_599_680


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_every_container(tmp_path: Path, suffix: str) -> None:
    """With the tied head stored once more, as torch.save does; as a folder, with half the precision."""
    path = tmp_path / ("model" + suffix if suffix != ".bin" else "pytorch_model.bin")
    given = tensors() | {"head.weight": tensors()["token_embedding.weight"]}
    given = {name: tensor.half() for name, tensor in given.items()}
    save_file(given, path) if suffix == ".safetensors" else torch.save(given, path)
    made = export("gam", tmp_path, tmp_path / "bundle")
    assert made.parameters == gam_models.CONFIG.parameters
    assert open_bundle(made.path).manifest["provenance"]["checkpoint"]["kind"] in ("pytorch", "safetensors")


def test_own_tokenizer(tmp_path: Path) -> None:
    """A tokenizer.json beside the weights is taken, with its end-of-text token."""
    import json

    save_file(tensors(), tmp_path / "model.safetensors")
    document = json.loads(byte_tokenizer())
    del document["model"]["vocab"]["\u00ff"]  # byte 255, which no UTF-8 text holds
    document["added_tokens"] = [
        {
            "id": 255,
            "content": "[EOS]",
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    manifest = open_bundle(export("gam", tmp_path, tmp_path / "bundle").path).manifest
    assert manifest["tokenizer"]["eos_ids"] == [255]


def test_bytes_are_ids() -> None:
    import farthing

    with farthing.load(gam_models.bundle(), threads=1) as model:
        text = "Grüße, 世界 🌍\t\n def f(x):\r\n"
        assert model.tokenizer is not None
        assert model.tokenizer.encode(text) == list(text.encode())
        assert model.tokenizer.decode(list(text.encode())) == text


def _edit(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def edit(given: Tensors) -> None:
        given[name] = change(given[name]).contiguous()

    return edit


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[3, 5] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_edit("blocks.0.causal_conv.weight", lambda t: t[:, :, :1]), "kernel size of .* is 1, expected 2 or more"),
        (_edit("blocks.0.causal_conv.weight", lambda t: t.expand(40, 40, 3)), r"\[40, 40, 3\], expected \[C,1,k\]"),
        (_edit("blocks.1.memory_bank", _nan), "blocks.1.memory_bank is not finite in 1 of 2800 values .first at index 125."),
        (_edit("blocks.1.memory_bank", lambda t: t[:50]), r"blocks.1.memory_bank .* is \[50, 40\], expected \[70, 40\]"),
        (_edit("blocks.2.gate.weight", lambda t: t[:40]), r"is \[40, 40\], expected \[80, 40\]"),
        (lambda g: g.pop("blocks.2.gate.bias"), "missing blocks.2.gate.bias"),
        (lambda g: g.pop("blocks.0.memory_bank"), "without blocks.0.memory_bank"),
        (lambda g: g.update({"blocks.1.attn.weight": torch.zeros(2)}), "unexpected blocks.1.attn.weight"),
        (lambda g: g.update({"head.weight": torch.zeros(256, 40)}), "head.weight .* another matrix"),
        (lambda g: [g.pop(n) for n in list(g) if n.startswith("blocks.1.")], r"blocks \[0, 2\]"),
    ],
)  # fmt: skip
def test_bad_checkpoints(tmp_path: Path, edit: Callable[[Tensors], None], words: str) -> None:
    """Each refusal says what was found; nothing is left behind."""
    given = tensors()
    edit(given)
    save_file(given, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        export("gam", tmp_path / "model.safetensors", tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from a checkpoint ran",)


def test_torch_files_run_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"token_embedding.weight": _Evil()}))
    torch.save({"model": _Evil(), "epoch": 3}, tmp_path / "gam.bin")
    torch.save({"epoch": 3}, tmp_path / "epoch.bin")
    for name in ("model.pt", "gam.bin", "epoch.bin"):
        with pytest.raises(CheckpointError, match="weights only|no state_dict"):
            GamCheckpoint(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def test_other_paths(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "model.safetensors"),
        (tmp_path / "no.pt", "missing"),
        (Path(__file__), "a .py file"),
    ):
        with pytest.raises(CheckpointError, match=words):
            GamCheckpoint(path)
    with pytest.raises(RequestError, match="dtype is 'int4', expected one of float32, float16, int8"):
        export("gam", gam_models.checkpoint(), tmp_path / "bundle", dtype="int4")


def test_commands_that_do_not_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """quantize and verify --against know decoders; they say so and what to do."""
    with pytest.raises(RequestError, match="method of .* is gam, expected decoder"):
        quantize(gam_models.bundle(), tmp_path / "q")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(gam_models.bundle()), "--against", str(gam_models.checkpoint())])
    assert ended.value.code == 2 and "not supported" in capsys.readouterr().err


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """export, verify, inspect, run, bench and methods, as a user calls them."""
    out = str(tmp_path / "bundle")
    for arguments, words in (
        (["export", "gam", "--checkpoint", str(gam_models.checkpoint()), "--out", out], "largest difference from PyTorch"),
        (["verify", out], "all holds"),
        (["inspect", out], "70 memory slots, convolutions of 3, 7 tokens in sight"),
        (["run", out, "--prompt", "farthing", "--greedy", "--max-new-tokens", "99", "--restart-window", "8"], "began again 1 times"),
        (["bench", out, "--runs", "1", "--prompt-tokens", "8", "--new-tokens", "8"], "MB state"),
        (["methods", "--working"], " 08  gam"),
    ):  # fmt: skip
        try:
            main(arguments)
        except SystemExit as ended:
            assert not ended.code, arguments
        shown = capsys.readouterr()
        assert words in shown.out + shown.err, arguments
