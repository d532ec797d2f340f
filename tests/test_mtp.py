"""Multi-token prediction: reference, graphs and bundle agree, and no mask changes what the model says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from mtp_models import Loop, random_adapter, session
from rtx import needs_rtx, rtx  # noqa: F401

import tiny
from farthing.cli.compile import compile_command
from farthing.errors import BundleError, RequestError, VerificationError
from farthing.export import export
from farthing.export.checkpoint import Checkpoint, open_checkpoint
from farthing.export.checkpoint.mtp_adapter import save_adapter
from farthing.export.compile.profiles import Ranges, profiles
from farthing.export.graph.mtp import _StepGraph
from farthing.models.blocks import KVCache
from farthing.models.decoder import Decoder
from farthing.models.mtp import MtpDecoder, quadratic_rows
from farthing.models.mtp_decoding import decode
from farthing.plugins import library_path
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.verify import verify_vectors

PROMPT = [5, 77, 12, 140, 33, 9, 201]
FAMILIES = ("llama-tied", "llama-bias", "qwen3")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny.write_hf(tmp_path_factory.mktemp("hf"), request.param))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny.write_hf(tmp_path_factory.mktemp("tied"), "llama-tied"))


def exported(checkpoint: Checkpoint, folder: Path, **options: object):  # type: ignore[no-untyped-def]
    adapter = random_adapter(checkpoint, **options.pop("adapter", {}))  # type: ignore[arg-type]
    save_adapter(folder / "mtp.safetensors", adapter, checkpoint)
    result = export("mtp", checkpoint.path, folder / "out", adapter=folder / "mtp.safetensors", **options)
    return open_bundle(folder / "out"), adapter, result


@pytest.mark.parametrize("mode", ["quadratic", "linear"])
@pytest.mark.parametrize("masks", [1, 4])
def test_text_is_that_of_the_model(checkpoint: Checkpoint, mode: str, masks: int) -> None:
    model = MtpDecoder(checkpoint, random_adapter(checkpoint, masks=masks))
    assert decode(model, PROMPT, 20, mode=mode).ids == Decoder(checkpoint).greedy(PROMPT, 20)


def mask_pass(model: MtpDecoder) -> tuple[torch.Tensor, torch.Tensor, KVCache]:
    """Logits and latents of PROMPT's rows with two masks behind each, and the cache after it."""
    visible, positions, masks = quadratic_rows(len(PROMPT), 2, model.config.vocab_size)
    ids = torch.cat([torch.tensor(PROMPT), masks])[None]
    cache = KVCache.empty(model.config, ids.shape[1])
    out = model.step(
        ids,
        cache,
        torch.tensor([0]),
        positions=positions[None],
        visible=visible,
        mask_rows=torch.arange(len(PROMPT), ids.shape[1]),
        logit_rows=torch.arange(len(PROMPT))[None],
    )
    return out.logits[0], out.mask_hidden[0], cache


def test_masks_leave_real_rows_alone_and_an_ungated_adapter_does_not(checkpoint: Checkpoint) -> None:
    adapter = random_adapter(checkpoint, masks=2)
    plain_cache = KVCache.empty(checkpoint.config, len(PROMPT))
    plain = Decoder(checkpoint).forward(torch.tensor([PROMPT]), plain_cache, torch.tensor([0])).logits[0]
    logits, _, cache = mask_pass(MtpDecoder(checkpoint, adapter))
    assert float((logits - plain).abs().max()) <= 1e-5 * max(1.0, float(plain.abs().max()))
    for kept, wanted in zip(cache.keys + cache.values, plain_cache.keys + plain_cache.values, strict=True):
        torch.testing.assert_close(kept[:, :, : len(PROMPT)], wanted, rtol=0, atol=1e-5)
    ungated, _, _ = mask_pass(MtpDecoder(checkpoint, adapter, gated=False))
    assert float((ungated - plain).abs().max()) > 0.1


def test_a_mask_sees_its_row_and_its_block(tied: Checkpoint) -> None:
    """Changing the last real token changes the last block's latents and no other; so do later masks for earlier ones."""
    adapter = random_adapter(tied, masks=2)
    model = MtpDecoder(tied, adapter)
    _, latents, _ = mask_pass(model)
    alone = MtpDecoder(tied, adapter.limited(1))
    visible, positions, masks = quadratic_rows(3, 1, tied.config.vocab_size)
    out = alone.step(
        torch.cat([torch.tensor(PROMPT[:3]), masks])[None],
        KVCache.empty(tied.config, 6),
        torch.tensor([0]),
        positions=positions[None],
        visible=visible,
        mask_rows=torch.arange(3, 6),
        logit_rows=torch.zeros((1, 0), dtype=torch.int64),
    )
    torch.testing.assert_close(out.mask_hidden[0], latents[[0, 2, 4]], rtol=0, atol=1e-5)
    assert float((latents[1] - latents[0]).abs().max()) > 0.01


@pytest.mark.parametrize("kernels", [False, True])
def test_graphs_decode_what_the_model_decodes(checkpoint: Checkpoint, tmp_path: Path, kernels: bool) -> None:
    """Quadratic decoding in numpy over the two graphs: plain greedy of the same graph, of PyTorch, and the oracle's passes."""
    library = library_path() if kernels else None
    if kernels and library is None:
        pytest.skip("libfarthing_ops.so is not built")
    bundle, adapter, result = exported(checkpoint, tmp_path)
    assert result.check["drafts"]["max_abs"] < 1e-4
    loop = Loop(bundle, library)
    oracle = decode(MtpDecoder(checkpoint, adapter), PROMPT, 20)
    assert loop.decode(PROMPT, 20) == loop.greedy(PROMPT, 20) == oracle.ids
    assert loop.passes == oracle.passes and loop.accepted == oracle.accepted


@pytest.mark.parametrize(
    "config", [{"residual": "block"}, {"residual": "none"}, {"norm": "layer", "residual": "latent"}]
)
def test_every_sampler_head(tied: Checkpoint, tmp_path: Path, config: dict[str, str]) -> None:
    """The export compares draft and probabilities with PyTorch; here that they are those of this head and no other."""
    bundle, adapter, _ = exported(tied, tmp_path, adapter=config)
    latents = np.random.default_rng(0).standard_normal((2, 3, tied.config.hidden_size)).astype(np.float32)
    draft, chance = session(bundle.graph("mtp_draft_chain")).run(
        None, {"first_token": np.array([7, 250]), "mask_latents": latents}
    )
    wanted = MtpDecoder(tied, adapter).draft(torch.tensor([7, 250]), torch.from_numpy(latents))
    assert draft.tolist() == wanted[0].tolist()
    np.testing.assert_allclose(chance, wanted[1].numpy(), atol=1e-5)


def test_chain_shares_the_table_of_the_step(checkpoint: Checkpoint, tmp_path: Path) -> None:
    bundle, _, _ = exported(checkpoint, tmp_path)
    places = {}
    for name in ("mtp_step", "mtp_draft_chain"):
        model = onnx.load(str(bundle.graph(name)), load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.name in ("embed.weight", "head.weight"):
                places.setdefault(tensor.name, set()).add(tuple((e.key, e.value) for e in tensor.external_data))
    assert places and all(len(p) == 1 and () not in p for p in places.values())
    files = {e["file"] for e in bundle.manifest["graphs"].values()} | {
        d for e in bundle.manifest["graphs"].values() for d in e["data"]
    }
    assert bundle.weight_bytes == sum((bundle.path / f).stat().st_size for f in files)


def test_draft_vocabulary(tied: Checkpoint, tmp_path: Path) -> None:
    """Drafts stay inside it; the text is not limited by it."""
    (tmp_path / "ids.txt").write_text("3 60 61\n200 12")
    bundle, adapter, _ = exported(tied, tmp_path, draft_vocab=str(tmp_path / "ids.txt"))
    assert bundle.manifest["mtp"]["draft_vocab_size"] == 5
    loop = Loop(bundle)
    latents = np.random.default_rng(1).standard_normal((64, 3, tied.config.hidden_size)).astype(np.float32)
    draft, _ = loop.chain.run(None, {"first_token": np.arange(64), "mask_latents": latents})
    assert set(draft.ravel().tolist()) <= {3, 12, 60, 61, 200} and len(np.unique(draft)) > 2
    subset = torch.tensor([3, 12, 60, 61, 200])
    wanted, _ = MtpDecoder(tied, adapter).draft(torch.arange(64), torch.from_numpy(latents), ids=subset)
    assert (wanted.numpy() == draft).mean() > 0.95  # ties of a random model
    made = loop.decode(PROMPT, 16)
    assert made == loop.greedy(PROMPT, 16) and not set(made) <= set(subset.tolist())


def test_fewer_masks_than_trained_and_float16(tied: Checkpoint, tmp_path: Path) -> None:
    bundle, adapter, _ = exported(tied, tmp_path, masks=2, dtype="float16")
    assert (bundle.manifest["mtp"]["masks"], bundle.manifest["mtp"]["trained_masks"]) == (2, 3)
    assert bundle.manifest["method"] == {"id": "mtp", "procedure": "speculative", "guarantee": "lossy"}
    loop = Loop(bundle)
    made = loop.decode(PROMPT, 12)
    assert (
        made
        == loop.greedy(PROMPT, 12)
        == decode(MtpDecoder(tied, adapter.limited(2), storage="float16"), PROMPT, 12).ids
    )


def test_profiles_of_engines(tied: Checkpoint, tmp_path: Path) -> None:
    """Words follow the rows, and a pass that verifies may have masks, whose rows want no logits."""
    bundle, _, _ = exported(tied, tmp_path)
    made = {
        p["name"]: p["shapes"]
        for p in profiles("mtp_step", bundle.manifest["graphs"]["mtp_step"], Ranges(512, 256, (8,)))
    }
    assert list(made) == ["decode", "prefill", "tree8"]
    assert [r[1:] for r in made["prefill"]["visible"]] == [[1, 1], [256, 4], [256, 4]]
    assert made["decode"]["mask_rows"] == [[0], [0], [0]] and made["tree8"]["mask_rows"] == [[0], [4], [8]]
    assert [r[1] for r in made["tree8"]["logit_rows"]] == [1, 8, 8]
    assert profiles("mtp_draft_chain", bundle.manifest["graphs"]["mtp_draft_chain"], Ranges(512, 256, (8,))) == [
        {"name": "decode", "shapes": {}}
    ]


@needs_rtx
@pytest.mark.usefixtures("rtx")
def test_engines_are_built(tied: Checkpoint, tmp_path: Path) -> None:
    """TensorRT-RTX takes both graphs, passes without masks and with them."""
    bundle, _, _ = exported(tied, tmp_path)
    arguments = [str(bundle.path), "--target", "tensorrt-rtx", "--sm", "86", "--tree", "8", "--json"]
    result = CliRunner().invoke(compile_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)["graphs"]) == {"mtp_step", "mtp_draft_chain"}


def test_vectors_hold_the_drafts(tied: Checkpoint, tmp_path: Path) -> None:
    bundle, _, _ = exported(tied, tmp_path)
    recorded = json.loads(bundle.text("vectors/mtp_step.json"))
    loop = Loop(bundle)
    for case, drafts in zip(recorded["cases"], recorded["drafts"], strict=True):
        assert case["prompt_ids"] == drafts["prompt_ids"] and case["greedy_ids"][0] == drafts["first_id"]
        assert len(drafts["draft_ids"]) == len(drafts["chances"]) == 3
        assert loop.greedy(case["prompt_ids"], 4) == case["greedy_ids"][:4]


def damaged(bundle: Bundle, change: Callable[[list[dict[str, Any]]], None]) -> Bundle:
    """With other recorded drafts, and hashes that fit."""
    path = bundle.path / "vectors" / "mtp_step.json"
    recorded = json.loads(path.read_text())
    change(recorded["drafts"])
    path.write_text(json.dumps(recorded))
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["vectors/mtp_step.json"] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    return open_bundle(bundle.path)


def test_verify_replays_the_drafts(tied: Checkpoint, tmp_path: Path) -> None:
    """On every engine; a latent or a probability that is another one is found."""
    bundle, _, _ = exported(tied, tmp_path)
    assert all(result.ok for result in verify_vectors(bundle)[0])

    def latent(drafts: list[dict[str, Any]]) -> None:
        drafts[2]["latents"]["values"][3] += 0.05

    def chance(drafts: list[dict[str, Any]]) -> None:
        drafts[2]["latents"]["values"][3] -= 0.05
        drafts[1]["chances"][0] += 0.05

    for change, message in ((latent, "mask's latent from the recorded one, draft 2"), (chance, "probability, draft 1")):
        for result in verify_vectors(damaged(bundle, change))[0]:
            assert not result.ok and message in str(result.failure())


@pytest.mark.parametrize("field", ["draft_ids", "chances", "latents", "prompt_ids"])
def test_unusable_drafts_are_refused(tied: Checkpoint, tmp_path: Path, field: str) -> None:
    bundle, _, _ = exported(tied, tmp_path)
    with pytest.raises(BundleError, match="drafts of .* is unusable"):
        verify_vectors(damaged(bundle, lambda drafts: drafts[0].update({field: [1, 999]})))


def test_a_wrong_graph_is_not_committed(tied: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One LoRA left out: the comparison with PyTorch names the latents."""
    whole = _StepGraph.adapt

    def forgetful(self: _StepGraph, layer: int, group: str, x: str, y: str) -> str:
        return y if (layer, group) == (1, "down") else whole(self, layer, group, x, y)

    monkeypatch.setattr(_StepGraph, "adapt", forgetful)
    with pytest.raises(VerificationError, match="latents of mask pass 0"):
        exported(tied, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 4}, "masks is 4, expected 1 to 3"),
        ({"masks": 0}, "masks is 0, expected 1 to 3"),
        ({"alpha": -1.0}, "alpha is -1.0, expected a number above 0"),
        ({"draft_vocab": "0"}, "is empty"),
        ({"draft_vocab": "no-such-file"}, "unreadable"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"windows": 3}, "option of method mtp is windows"),
    ],
)
def test_bad_requests(tied: Checkpoint, tmp_path: Path, options: dict[str, object], message: str) -> None:
    if options.get("draft_vocab") == "0":  # the stop id alone is a vocabulary
        (tmp_path / "empty.txt").write_text("")
        options = {"draft_vocab": str(tmp_path / "empty.txt")}
    with pytest.raises(RequestError, match=message):
        exported(tied, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_adapter_must_be_given(tied: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="adapter is not given"):
        export("mtp", tied.path, tmp_path / "out")
