"""Future token prediction: graphs equal the reference, drafts do not change the text, files of other models are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import farthing
from farthing.errors import CheckpointError, RequestError
from farthing.export import export
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.ftp_head import open_head, save_head
from farthing.export.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from farthing.models.blocks import KVCache
from farthing.models.ftp import FtpConfig, FtpDecoder, FtpHead
from farthing.runtime.engines import native_parts
from tiny import write_hf

PROMPT = [5, 17, 3, 250, 9, 44]


def head_of(checkpoint: Path, **sizes: int) -> FtpHead:
    torch.manual_seed(3)
    base = open_checkpoint(checkpoint)
    head = FtpHead(FtpConfig(base.config.hidden_size, **{"memory": 3, "horizon": 5, "intermediate_size": 64, **sizes}))
    for parameter in head.parameters():
        parameter.data = (parameter.data + 0.05 * torch.randn(parameter.shape)).half().float()  # files are float16
    return head


@pytest.fixture(scope="module", params=["llama-tied", "qwen3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(checkpoint, head, bundle)."""
    folder = tmp_path_factory.mktemp("ftp")
    checkpoint, head = write_hf(folder / "checkpoint", request.param), folder / "ftp.safetensors"
    save_head(head, head_of(checkpoint), open_checkpoint(checkpoint))
    result = export("ftp", checkpoint, folder / "bundle", adapter=head)  # compares step and drafts with the reference
    assert result.check is not None and result.check["max_abs"] < 1e-4
    return checkpoint, head, folder / "bundle"


def reference(made: tuple[Path, Path, Path]) -> FtpDecoder:
    base = open_checkpoint(made[0])
    return FtpDecoder(base, open_head(made[1], base))


def test_the_text_is_that_of_the_reference_in_every_engine(made: tuple[Path, Path, Path]) -> None:
    wanted = reference(made).greedy(PROMPT, 40)
    for native in (True, False):
        if native and native_parts().missing is not None:
            continue
        with farthing.load(made[2], threads=1, context=64, native=native, draft="none") as runtime:
            assert runtime.generate(prompt_ids=PROMPT, greedy=True, ignore_eos=True, max_new_tokens=40).ids == wanted


@pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
@pytest.mark.parametrize("how", [{"greedy": True}, {"temperature": 1.0, "seed": 5}])
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
def test_drafts_change_nothing(made: tuple[Path, Path, Path], how: dict[str, Any], rows: int) -> None:
    how = {"prompt_ids": PROMPT, "ignore_eos": True, "max_new_tokens": 50, **how}
    with farthing.load(made[2], threads=1, context=64, draft="none") as runtime:
        wanted, cached = runtime.generate(**how), runtime.tokens
        runtime.speculate("ftp", rows=rows, always=True)
        found = runtime.generate(**how)
        assert found.ids == wanted.ids and runtime.tokens == cached
        assert found.stats["speculation"]["drafted"] >= min(rows, 4)
        runtime.speculate("auto")
        assert runtime.drafter == "auto" and runtime.generate(**how).ids == wanted.ids


@pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
def test_drafts_are_those_of_the_reference(made: tuple[Path, Path, Path]) -> None:
    """Through the statistics: the loop accepts exactly what the reference's drafts get right."""
    model, new = reference(made), 30
    text = PROMPT + model.greedy(PROMPT, new)
    at, accepted, drafted = (
        len(PROMPT),
        0,
        0,
    )  # text[at] is the newest token, which has not run; its draft comes from a pass
    hidden = model.forward(
        torch.tensor([text]), KVCache.empty(model.config, len(text)), torch.zeros(1, dtype=torch.int64)
    ).hidden[-1]
    from farthing.models.blocks import rms_norm

    rows = rms_norm(hidden, model._get("norm.weight"), model.config.norm_epsilon)[0]
    at += 1  # the first pass runs without a draft
    while at < len(text) - 1:
        draft = model.draft(rows[at - 1], text[at - 1], text[at])[0][: len(text) - at - 2]
        right = 0
        while right < len(draft) and draft[right] == text[at + 1 + right]:
            right += 1
        accepted, drafted, at = accepted + right, drafted + len(draft), at + 1 + right
    with farthing.load(made[2], threads=1, context=64, draft="none") as runtime:
        runtime.speculate("ftp", rows=4, always=True)
        stats = runtime.generate(prompt_ids=PROMPT, greedy=True, ignore_eos=True, max_new_tokens=new).stats
    assert (stats["speculation"]["accepted"], stats["speculation"]["drafted"]) == (accepted, drafted)


def rewritten(head: Path, out: Path, change: Any) -> Path:
    file = SafetensorsFile(head)
    tensors = {n: np.array(file.read(n), np.float16) for n in file.names()}
    notes = dict(file.metadata)
    change(tensors, notes)
    write_safetensors(out, tensors, notes)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, n: n.pop("ftp.memory"), "sizes in .* is missing or bad"),
        (lambda t, n: n.update({"ftp.horizon": "0"}), "expected more than 0"),
        (lambda t, n: n.update({"ftp.horizon": "6"}), "tensor offsets of .* expected"),
        (lambda t, n: n.update({"ftp.hidden_size": "64"}), "hidden_size of .* is 64, expected 48"),
        (lambda t, n: n.update({"ftp.base_sha256": "0" * 64}), "base of .* is 000000000000, expected"),
        (lambda t, n: t.pop("expand.weight"), "tensor expand.weight of .* is missing"),
        (lambda t, n: t["offsets"].__setitem__(0, np.nan), "tensor offsets of .* is not finite"),
    ],
)
def test_damaged_heads_and_those_of_other_models(
    made: tuple[Path, Path, Path], tmp_path: Path, change: Any, message: str
) -> None:
    head = rewritten(made[1], tmp_path / "changed.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        open_head(head, open_checkpoint(made[0]))


def test_pickles_and_missing_files(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base = open_checkpoint(made[0])
    (tmp_path / "head.pt").write_bytes(b"\x80\x02}")
    for path in (tmp_path / "head.pt", tmp_path / "none.safetensors"):
        with pytest.raises(CheckpointError, match=r"expected a \.safetensors file"):
            open_head(path, base)
    with pytest.raises(RequestError, match="adapter is not given"):
        export("ftp", made[0], tmp_path / "bundle")


def test_a_plain_decoder_has_no_ftp(tmp_path: Path) -> None:
    if native_parts().missing is not None:
        pytest.skip("needs the native build")
    export("decoder", write_hf(tmp_path / "checkpoint"), tmp_path / "bundle", check=False)
    with (
        farthing.load(tmp_path / "bundle", context=32, draft="none") as runtime,
        pytest.raises(RequestError, match="without it"),
    ):
        runtime.speculate("ftp")


@pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
def test_the_trained_model_brings_several_tokens_a_pass(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "examples" / "ftp"
    export("ftp", folder / "model", tmp_path / "bundle", adapter=folder / "ftp.safetensors")
    prompts = [b"The ship sails and ", b"When the teacher reads, every ", b"Nobody saw how the comet "]
    with farthing.load(tmp_path / "bundle", threads=1, context=128, draft="none") as runtime:
        for prompt in prompts:
            how: dict[str, Any] = {"prompt_ids": list(prompt), "greedy": True, "ignore_eos": True, "max_new_tokens": 70}
            runtime.speculate("none")
            wanted = runtime.generate(**how)
            runtime.speculate("ftp", rows=7, always=True)
            made = runtime.generate(**how)
            assert made.ids == wanted.ids
            assert 69 / (made.stats["passes"] - 1) > 2
