"""The shipped adapter on SmolLM2-135M: the model's own text, in fewer passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from mtp_models import Loop
from test_decoder_reference import smollm2

from farthing.export import export
from farthing.plugins import library_path
from farthing.runtime.bundle import open_bundle

FOLDER = Path(__file__).parents[1] / "examples" / "mtp-smollm2"
RECORDS = (
    '{"user": "nina", "part": "compressor", "value": 17, "state": "low"}\n'
    '{"user": "omar", "part": "turbine", "value": 83, "state": "high"}\n'
    '{"user": "pia", "part": "compressor", "value": 61, "state": "high"}\n'
)
PROSE = "The lighthouse stood at the end of the long pier, and every evening the keeper"


@pytest.mark.slow
def test_same_text_in_fewer_passes(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    adapter, ids = FOLDER / "mtp.safetensors", FOLDER / "draft_ids.txt"
    export("mtp", smollm2(), tmp_path / "bundle", adapter=adapter, draft_vocab=str(ids))
    bundle = open_bundle(tmp_path / "bundle", hashes=False)
    tokenizer = Tokenizer.from_str(bundle.text("tokenizer/tokenizer.json"))
    loop, new = Loop(bundle, library_path()), 40
    for text, most in ((RECORDS, 24), (PROSE, 32)):
        prompt = tokenizer.encode(text, add_special_tokens=False).ids
        assert loop.decode(prompt, new) == loop.greedy(prompt, new)
        assert loop.passes <= most, text[:20]
