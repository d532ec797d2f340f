"""The trained model of examples/mtp on fresh text: drafts come true, better ones by the better parts, and the text stays the model's."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mtp_models import Loop

from farthing.export import export
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.mtp_adapter import open_adapter
from farthing.models.blocks import KVCache
from farthing.models.mtp import MtpAdapter, MtpDecoder, quadratic_rows
from farthing.models.mtp_decoding import decode
from farthing.plugins import library_path
from farthing.runtime import tensors as names
from farthing.runtime.bundle import Bundle, open_bundle

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "mtp"


@pytest.fixture(scope="module")
def recipe() -> Any:
    """benchmarks/train_mtp_fixture.py, which made the model and makes the fresh text."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("train_mtp_fixture")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def model() -> MtpDecoder:
    checkpoint = open_checkpoint(FOLDER / "model")
    return MtpDecoder(checkpoint, open_adapter(FOLDER / "mtp.safetensors", checkpoint))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("mtp") / "bundle"
    export("mtp", FOLDER / "model", out, adapter=FOLDER / "mtp.safetensors")
    return open_bundle(out)


def test_text_is_fresh(recipe: Any) -> None:
    """No 160 bytes of the tests' text occur in what base or adapter were trained on: single lines do, being drawn from 14,400."""
    seen = recipe.templated(400_000, recipe.TRAINING_SEED) + recipe.templated(300_000, recipe.TRAINING_SEED + 1)
    fresh = recipe.templated(50 * 400 + 100, 77)
    assert not any(fresh[at : at + 160] in seen for at in range(0, 20_000, 400))
    assert hashlib.sha256(recipe.templated(10_000, 1).encode()).hexdigest()[:12] == "4cbdb278bf23"


def test_tokens_per_pass(recipe: Any, model: MtpDecoder) -> None:
    """Quadratic at least 1.8 and not below linear; the sampler head better than the plain head in both."""
    found = {}
    for mode in ("quadratic", "linear"):
        for sampler in (True, False):
            made = [decode(model, prompt, 64, mode=mode, sampler=sampler) for prompt in recipe.prompts(8)]
            found[mode, sampler] = 1 + sum(sum(m.accepted) for m in made) / sum(m.passes for m in made)
    assert found["quadratic", True] >= 1.8
    assert found["quadratic", True] >= found["linear", True]
    assert found["quadratic", False] >= found["linear", False]
    assert found["quadratic", True] > found["quadratic", False]
    assert found["linear", True] > found["linear", False]


def test_without_the_loras_drafts_are_useless(recipe: Any, model: MtpDecoder) -> None:
    """Masks and sampler head alone, the adapters' second halves zero: the same text, in far more passes."""
    tensors = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in model.adapter.tensors.items()}
    crippled = MtpDecoder(open_checkpoint(FOLDER / "model"), MtpAdapter(model.adapter.config, tensors))
    right = [decode(model, prompt, 48) for prompt in recipe.prompts(4)]
    wrong = [decode(crippled, prompt, 48) for prompt in recipe.prompts(4)]
    assert [m.ids for m in right] == [m.ids for m in wrong]
    assert sum(m.passes for m in wrong) > 2 * sum(m.passes for m in right)


def test_base_logits_are_changed_by_an_ungated_adapter_alone(recipe: Any, model: MtpDecoder) -> None:
    prompt = recipe.prompts(1)[0]
    visible, positions, masks = quadratic_rows(len(prompt), 4, 256)
    ids = torch.cat([torch.tensor(prompt), masks])[None]

    def logits(gated: bool) -> torch.Tensor:
        checkpoint = open_checkpoint(FOLDER / "model")
        return (
            MtpDecoder(checkpoint, model.adapter, gated=gated)
            .step(
                ids,
                KVCache.empty(checkpoint.config, ids.shape[1]),
                torch.tensor([0]),
                positions=positions[None],
                visible=visible,
                mask_rows=torch.arange(len(prompt), ids.shape[1]),
                logit_rows=torch.arange(len(prompt))[None],
            )
            .logits
        )

    plain = model.forward(torch.tensor([prompt]), KVCache.empty(model.config, 60), torch.tensor([0])).logits
    assert float((logits(True) - plain).abs().max()) <= 2e-5
    assert float((logits(False) - plain).abs().max()) > 1.0


def test_graphs_text_is_plain_text_on_50_prompts(recipe: Any, bundle: Bundle, model: MtpDecoder) -> None:
    """Token for token, in fewer than half the passes; and the passes are those of PyTorch."""
    loop, passes = Loop(bundle, library_path()), 0
    for number, prompt in enumerate(recipe.prompts(50)):
        made = loop.decode(prompt, 48)
        passes += loop.passes
        if number < 3:
            oracle = decode(model, prompt, 48)
            assert (made, loop.accepted) == (oracle.ids, oracle.accepted)
        assert made == loop.greedy(prompt, 48), f"prompt {number}"
    assert passes < 50 * 48 / 2


def test_committed_cache_is_that_of_plain_decoding(recipe: Any, bundle: Bundle) -> None:
    loop, prompt = Loop(bundle), recipe.prompts(1)[0]
    made = loop.decode(prompt, 60)
    length = len(prompt) + 59
    drafted = [c[:, :, :length].copy() for c in loop.cache]
    loop.start(length)
    loop.plain([*prompt, *made][:length], 0)
    for found, wanted in zip(drafted, loop.cache, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    assert max(loop.accepted) == 4


def test_shared_table_is_on_disk_once(bundle: Bundle) -> None:
    """0.6 M base and 0.18 M adapter weights in float32, and little else."""
    size = sum(
        (bundle.path / f).stat().st_size
        for e in bundle.manifest["graphs"].values()
        for f in {e["file"], *e["data"]} - {f"graphs/{names.MTP_STEP}.onnx.data"}
    )
    assert size < 500_000
