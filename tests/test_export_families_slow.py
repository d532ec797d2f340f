"""The benchmark's models (100M Llama, Qwen2-like, Qwen3-like, 20M each): exported from Hugging Face folders, 128 ids equal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3"])
def test_ids_equal_transformers(variant: str, tmp_path: Path) -> None:
    import torch
    from make_m100 import write
    from test_decoder_reference import their_greedy
    from test_export_decoder import greedy

    from farthing.export.checkpoint import open_checkpoint
    from farthing.export.decoder import export_decoder
    from farthing.models.decoder import Decoder
    from farthing.runtime.bundle import open_bundle

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = write(tmp_path / "hf", variant)
        prompt = json.loads((folder / "prompt.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        wanted = their_greedy(model, prompt, 128)
        assert len(set(wanted)) > 16, "a model that repeats itself proves little"
        assert Decoder(open_checkpoint(folder)).greedy(prompt, 128) == wanted
        bundle = open_bundle(export_decoder(folder, tmp_path / "out").path)
        assert greedy(bundle, prompt, 128) == wanted
    finally:
        torch.set_num_threads(threads)
