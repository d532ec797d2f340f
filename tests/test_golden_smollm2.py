"""SmolLM2 against golden ids made with transformers: 20 prompts, 128 greedy ids each (benchmarks/golden_smollm2.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import golden_smollm2 as golden
from golden_prompts import PROMPTS
from test_decoder_reference import smollm2

DATA = json.loads(golden.GOLDEN.read_text(encoding="utf-8"))


def test_golden_file_is_whole() -> None:
    """20 cases, 128 ids each, few near-ties: a golden full of ties would accept anything."""
    cases = DATA["cases"]
    assert [c["name"] for c in cases] == list(PROMPTS) and len(cases) == 20
    assert all(c["prompt"] == PROMPTS[c["name"]] and len(c["ids"]) == 128 for c in cases)
    assert max(len(c["prompt_ids"]) for c in cases) > 1900
    assert sum(len(c["near_ties"]) for c in cases) < 10


def test_comparison_can_fail() -> None:
    case = DATA["cases"][0]
    assert golden.compare_ids(case, case["ids"]) is None
    changed = [*case["ids"][:7], case["ids"][7] + 1, *case["ids"][8:]]
    assert "id 7" in (golden.compare_ids(case, changed) or "")
    assert golden.compare_ids({**case, "near_ties": [7]}, changed) is None


def test_prompt_ids() -> None:
    """The bundle's tokenizer gives the recorded ids."""
    from tokenizers import Tokenizer

    from farthing.export.checkpoint import open_checkpoint

    tokenizer = Tokenizer.from_str(open_checkpoint(smollm2()).tokenizer().json)
    for case in DATA["cases"]:
        assert tokenizer.encode(case["prompt"]).ids == case["prompt_ids"], case["name"]


def test_first_ids_by_reference_and_bodies(tmp_path: Path) -> None:
    """Two short prompts, 12 ids: a minute's worth of the slow test below."""
    from farthing.export.decoder import export_decoder

    path = smollm2()
    bundle = export_decoder(path, tmp_path / "out", check=False).path
    for greedy in (golden.reference_greedy(path), golden.bodies_greedy(bundle)):
        for name in ("german", "chat"):
            case = next(c for c in DATA["cases"] if c["name"] == name)
            assert greedy(case["prompt_ids"], 12) == case["ids"][:12]


@pytest.mark.slow
def test_all_ids_by_reference_and_bodies(tmp_path: Path) -> None:
    """About ten minutes on one core."""
    from farthing.export.decoder import export_decoder

    path = smollm2()
    assert golden.compare(path, export_decoder(path, tmp_path / "out").path) == 0
