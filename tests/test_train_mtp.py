"""The trainer: its two-part pass is the reference's, its losses are the paper's, and an interrupted run ends like a whole one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mtp_models import random_adapter
from torch.nn import functional as F

import tiny
from farthing.calibration.train_mtp import Options, train
from farthing.calibration.train_mtp.data import Batch, Document, draw, read_documents, split
from farthing.calibration.train_mtp.forward import FrozenBase
from farthing.calibration.train_mtp.head_loss import head_losses
from farthing.calibration.train_mtp.losses import losses
from farthing.cli.train_mtp import train_mtp_command
from farthing.errors import CheckpointError, RequestError
from farthing.export.checkpoint import Checkpoint, open_checkpoint
from farthing.export.checkpoint.mtp_adapter import open_adapter
from farthing.models.blocks import KVCache
from farthing.models.decoder import Decoder
from farthing.models.mtp import MtpDecoder, quadratic_rows

OPTIONS = Options(masks=3, rank=4, steps=8, batch=2, length=24, density=0.3, warm_up=2, save_every=3)
TEXT = "the quick brown fox jumps over the lazy dog; " * 12


@pytest.fixture(scope="module", autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny.write_hf(tmp_path_factory.mktemp("tied"), "llama-tied"))


def reference_latents(checkpoint: Checkpoint, adapter, ids: list[int]) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """[n,k,D]: one interleaved pass with masks behind every row."""
    k = adapter.config.masks
    visible, positions, masks = quadratic_rows(len(ids), k, checkpoint.config.vocab_size)
    rows = torch.cat([torch.tensor(ids), masks])[None]
    out = MtpDecoder(checkpoint, adapter).step(
        rows,
        KVCache.empty(checkpoint.config, rows.shape[1]),
        torch.tensor([0]),
        positions=positions[None],
        visible=visible,
        mask_rows=torch.arange(len(ids), rows.shape[1]),
        logit_rows=torch.zeros((1, 0), dtype=torch.int64),
    )
    return out.mask_hidden[0].view(len(ids), k, -1)


@pytest.mark.parametrize("family", ["llama-tied", "llama-bias", "qwen2", "qwen3"])
def test_two_parts_are_one_pass(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny.write_hf(tmp_path, family))
    adapter = random_adapter(checkpoint)
    ids = np.random.default_rng(0).integers(0, 300, (2, 11))
    anchors = torch.tensor([[0, 3, 9], [2, 5, 10]])
    base = FrozenBase(checkpoint)
    hidden, kept = base.real_pass(torch.from_numpy(ids))
    latents = base.mask_pass(adapter, kept, anchors)
    for b in range(2):
        wanted = reference_latents(checkpoint, adapter, ids[b].tolist())[anchors[b]]
        torch.testing.assert_close(latents[b], wanted, rtol=1e-5, atol=2e-5)
        plain = Decoder(checkpoint).forward(
            torch.from_numpy(ids[b : b + 1]), KVCache.empty(checkpoint.config, 11), torch.tensor([0])
        )
        torch.testing.assert_close(base.logits(hidden[b]), plain.logits[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_head_loss_is_cross_entropy_with_its_gradient(soft: bool) -> None:
    """More rows than a chunk has."""
    draw_ = torch.Generator().manual_seed(0)
    head = torch.randn(50, 8, generator=draw_)
    rows = [torch.randn(300, 8, generator=draw_).requires_grad_() for _ in range(2)]
    frozen, ids = torch.randn(300, 8, generator=draw_), torch.randint(50, (300,), generator=draw_)
    wanted = torch.softmax(frozen @ head.T, -1) if soft else ids
    weights = torch.rand(300, generator=draw_)
    expected = [(F.cross_entropy(r @ head.T, wanted, reduction="none") * weights).sum() / weights.sum() for r in rows]
    gradients = torch.autograd.grad(expected[0] + 3 * expected[1], rows)
    found = head_losses(rows[0], rows[1], head, frozen if soft else ids, weights)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(found[0] + 3 * found[1], rows), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_losses_by_hand(tied: Checkpoint) -> None:
    """Mask i (from 0) behind row j: label x[j+2+i], sampler given x[j+1+i], latent pulled to that of row j+1+i."""
    adapter = random_adapter(tied, residual="block")
    ids = np.random.default_rng(1).integers(0, 300, 9)
    anchors = [1, 4, 6]
    valid = torch.tensor([[j + 2 + i < 9 for i in range(3)] for j in anchors])
    batch = Batch(torch.from_numpy(ids)[None], torch.tensor([anchors]), valid[None])
    base = FrozenBase(tied)
    latents, frozen = reference_latents(tied, adapter, ids.tolist()), base.real_pass(batch.ids)[0][0]
    by_base, by_sampler, distance, weights = [], [], [], []  # type: ignore[var-annotated]
    for j in anchors:
        for i in range(3):
            if j + 2 + i >= 9:
                continue
            weights.append(0.5**i)
            label = torch.tensor([ids[j + 2 + i]])
            by_base.append(F.cross_entropy(base.logits(latents[j, i])[None], label))
            row = adapter.sample(base.embed[ids[j + 1 + i]], latents[j, i])
            by_sampler.append(F.cross_entropy(base.logits(row)[None], label))
            distance.append(((latents[j, i] - frozen[j + 1 + i]) ** 2).mean())
    found = losses(base, adapter, batch, targets="text", consistency=0.5, decay=0.5).numbers()
    a, b = (float(torch.stack(x) @ torch.tensor(weights)) / sum(weights) for x in (by_base, by_sampler))
    c = float(torch.stack(distance).mean())
    assert found == pytest.approx({"base": a, "sampler": b, "consistency": c, "total": a + b + 0.5 * c}, rel=1e-4)


def test_every_trained_tensor_gets_a_gradient_and_nothing_else(tied: Checkpoint) -> None:
    adapter = random_adapter(tied)
    for tensor in adapter.tensors.values():
        tensor.requires_grad_()
    base = FrozenBase(tied)
    batch = draw([Document(np.arange(40), 0)], np.random.default_rng(0), 2, 24, 0.4, 3)
    losses(base, adapter, batch, targets="model", consistency=1.0).total.backward()
    assert all(float(t.grad.abs().sum()) > 0 for t in adapter.tensors.values())
    assert not any(t.requires_grad for layer in base.layers for t in layer.values())


def test_anchors_stay_in_the_answer() -> None:
    """The prompt's last token is the first anchor; a label is always inside the document."""
    document = Document(np.arange(100, 120), 12)
    for seed in range(30):
        batch = draw([document], np.random.default_rng(seed), 1, 16, 1.0, 3)
        window, anchors, valid = batch.ids[0], batch.anchors[0], batch.valid[0]
        for j, flags in zip(anchors.tolist(), valid.tolist(), strict=True):
            if any(flags):
                assert int(window[j]) >= 111
            for i, flag in enumerate(flags):
                assert not flag or int(window[j + 2 + i]) == int(window[j]) + 2 + i


def run(tied: Checkpoint, folder: Path, options: Options = OPTIONS, **more: object):  # type: ignore[no-untyped-def]
    folder.mkdir(exist_ok=True)
    (folder / "t.txt").write_text(TEXT)
    return train(tied, [folder / "t.txt"], folder / "a.safetensors", options, **more)  # type: ignore[arg-type]


def test_an_interrupted_run_ends_like_a_whole_one(tied: Checkpoint, tmp_path: Path) -> None:
    whole = run(tied, tmp_path / "whole")

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tied, tmp_path / "cut", progress=interrupt)
    again = run(tied, tmp_path / "cut")
    assert (tmp_path / "cut" / "a.safetensors").read_bytes() == (tmp_path / "whole" / "a.safetensors").read_bytes()
    assert (again.steps, again.losses) == (whole.steps, whole.losses) == (8, whole.losses)
    with pytest.raises(RequestError, match="those of another run"):
        run(tied, tmp_path / "cut", replace(OPTIONS, rate=1e-3))


def test_it_learns(tied: Checkpoint, tmp_path: Path) -> None:
    """A few steps on a repeated sentence: the loss falls to less than half, and the file is an adapter of this base."""
    result = run(tied, tmp_path, replace(OPTIONS, steps=60, rate=1e-2, density=0.5, save_every=60, seed=2))
    log = [json.loads(line) for line in (tmp_path / "a.safetensors.log.jsonl").read_text().splitlines()]
    assert np.mean([r["sampler"] for r in log[-5:]]) < 0.5 * np.mean([r["sampler"] for r in log[:3]])
    adapter = open_adapter(result.path, tied)
    assert adapter.parameters == result.parameters and adapter.config.masks == 3 and adapter.config.scale == 2.0


def test_pause(tied: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step while the file exists."""
    stop, naps = tmp_path / "quiet", []  # type: ignore[var-annotated]
    stop.write_text("")

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            stop.unlink()

    monkeypatch.setattr("farthing.calibration.train_mtp.run.time.sleep", sleep)
    run(tied, tmp_path / "run", replace(OPTIONS, steps=1), pause_while=stop)
    assert len(naps) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"ids": [1, 2, 300]}', "ids of line 1 of .* is outside the vocabulary, expected 0 to 299"),
        ('{"ids": "x"}', "malformed"),
        ('{"prompt": 3}', "malformed"),
        ("no json", "malformed"),
        ('{"ids": [1, 2]}', "training text is empty"),
    ],
)
def test_bad_documents(tied: Checkpoint, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "d.jsonl").write_text(line)
    with pytest.raises(RequestError, match=message):
        read_documents([tmp_path / "d.jsonl"], tied)


def test_held_out_documents_are_not_trained_on() -> None:
    documents = [Document(np.array([i] * 5), 0) for i in range(20)]
    training, held = split(documents, 0.2, 1)
    assert len(held) == 4 and len(training) == 16
    assert not {int(d.ids[0]) for d in training} & {int(d.ids[0]) for d in held}


@pytest.mark.parametrize(
    "change", [{"masks": 0}, {"density": 0.0}, {"targets": "labels"}, {"compute": "int8"}, {"norm": "batch"}]
)
def test_bad_options(tied: Checkpoint, tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(change))} is .*, expected"):
        run(tied, tmp_path, replace(OPTIONS, **change))


def test_sliding_windows_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    base = open_checkpoint(tiny.write_hf(tmp_path / "m", "mistral"))
    with pytest.raises(CheckpointError, match="sliding window of the base is 7"):
        train(base, [tmp_path / "no-text"], tmp_path / "a.safetensors", OPTIONS)


def test_command(tied: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    arguments = [str(tmp_path / "t.txt"), "--checkpoint", str(tied.path), "--out", str(tmp_path / "a.safetensors"), "--steps", "2",
                 "--length", "16", "--masks", "2", "--rank", "2", "--threads", "1", "--json"]  # fmt: skip
    result = CliRunner().invoke(train_mtp_command, arguments, catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["steps"] == 2 and found["parameters"] == open_adapter(tmp_path / "a.safetensors", tied).parameters
