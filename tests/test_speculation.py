"""Guessing ahead: the text, the cache and the statistics are those of plain decoding, whatever the drafts are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import gam_models
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mtp_models import random_adapter

import farthing
from farthing.calibration.draft_prompts import KINDS
from farthing.cli.main import cli
from farthing.errors import BundleError, FarthingError, RequestError
from farthing.export import export
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.mtp_adapter import save_adapter
from farthing.runtime.engines import native_parts
from farthing.runtime.speculation import Acceptor, Draft, Drafter, PassCosts
from tiny import write_hf

pytestmark = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")

PROMPT = [5, 17, 3, 250, 9, 44]
FLAT = PassCosts([1, 64], [0], np.array([[1.0, 1.0]]))
"""Costs under which every draft pays."""


class Oracle(Drafter):
    """Knows the text, and gives drafts of it with mistakes where ``wrong`` says so; ``branches`` adds a wrong twin to each node."""

    def __init__(self, text: list[int], wrong: list[bool] | None = None, chance: float = 0.9, branches: bool = False):
        self.text, self.chance, self.branches = text, chance, branches
        self.wrong = wrong or [False]
        self.at, self.calls, self.proposed = 0, 0, 0
        self.seen: list[int] = []
        self.paths: list[list[int]] = []

    def begin(self, tokens: list[int]) -> None:
        self.at, self.seen = 0, list(tokens)

    def observe(self, tokens: list[int]) -> None:
        self.at += len(tokens)
        self.seen += tokens

    def propose(self, nodes: int, depth: int, tree: bool) -> Draft:
        ids: list[int] = []
        parents: list[int] = []
        last = -1
        for token in self.text[self.at : self.at + depth]:
            self.calls += 1
            mistaken = self.wrong[self.calls % len(self.wrong)]
            if tree and self.branches and len(ids) + 2 <= nodes:
                ids.append((token + 1) % 16)
                parents.append(last)
            if len(ids) + 1 > nodes:
                break
            ids.append((token + 7) % 16 if mistaken else token)
            parents.append(last)
            last = len(ids) - 1
        self.proposed += len(ids)
        return ids, parents, [self.chance] * len(ids)

    def verified(self, ids: list[int], nodes: list[int], path: list[int]) -> None:
        assert set(path) <= set(nodes)
        self.paths.append(path)


@pytest.fixture(scope="module", params=["decoder", "trees", "mtp", "gam"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Chains only, branches, branches with masks, and a recurrent state."""
    folder = tmp_path_factory.mktemp("speculation")
    path = folder / "bundle"
    if request.param == "gam":
        path = gam_models.bundle()
    else:
        checkpoint = write_hf(folder / "checkpoint", "qwen3")
        if request.param == "mtp":
            base = open_checkpoint(checkpoint)
            save_adapter(folder / "adapter.safetensors", random_adapter(base, masks=3), base)
            export("mtp", checkpoint, folder / "bundle", adapter=folder / "adapter.safetensors", check=False)
        else:
            export("decoder", checkpoint, folder / "bundle", trees=request.param == "trees", check=False)
    with farthing.load(path, threads=1, context=96, draft="none") as runtime:
        yield runtime


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("speculation")
    write_hf(folder / "checkpoint", "qwen3")
    export("decoder", folder / "checkpoint", folder / "bundle", check=False)
    with farthing.load(folder / "bundle", threads=1, context=128, draft="none") as runtime:
        yield runtime


def plain(model: Any, **how: Any) -> Any:
    model.speculate("none")
    return model.generate(prompt_ids=PROMPT, ignore_eos=True, **{"greedy": True, "max_new_tokens": 24, **how})


def test_right_drafts_save_passes_and_change_nothing(model: Any) -> None:
    wanted = plain(model)
    cached = model.tokens
    drafter = Oracle(wanted.ids)
    model.speculate(drafter, rows=7, costs=FLAT)
    made = model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=24)
    assert made.ids == wanted.ids and model.tokens == cached
    # 1 prefill, whose last row says the first token; then 8 tokens a pass.
    assert made.stats["passes"] == 1 + 3 and wanted.stats["passes"] == 24
    found = made.stats["speculation"]
    assert found["drafts"] == 3 and found["accepted"] == found["drafted"] == 7 + 7 + 6
    assert drafter.seen[: len(PROMPT)] == PROMPT


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wrong=st.lists(st.booleans(), min_size=1, max_size=12),
    rows=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 2**64 - 1),
    new=st.integers(1, 40),
    stop=st.integers(0, 60),
)
def test_any_drafts_give_the_text_and_cache_of_plain_decoding(
    any_model: Any, wrong: list[bool], rows: int, temperature: float, penalty: float, seed: int, new: int, stop: int
) -> None:
    how = {
        "greedy": temperature == 0,
        "temperature": temperature,
        "repetition_penalty": penalty,
        "seed": seed,
        "max_new_tokens": new,
        "top_p": 0.95,
    }
    long = plain(any_model, **{**how, "max_new_tokens": 40})
    if stop < 40:
        how["stop_ids"] = [long.ids[stop]]
    wanted = plain(any_model, **how)
    cached, logits = any_model.tokens, any_model.logits()
    any_model.speculate(Oracle(long.ids, wrong, branches=True), rows=rows, costs=FLAT)
    pieces: list[int] = []
    made = any_model.generate(prompt_ids=PROMPT, ignore_eos=True, on_token=pieces.append, **how)
    assert made.ids == wanted.ids == pieces and made.stop_reason == wanted.stop_reason
    assert any_model.tokens == cached
    np.testing.assert_array_equal(any_model.logits(), logits)
    # The cache, through what follows from it.
    after = any_model.extend([7])
    any_model.speculate("none")
    any_model.prefill(cached) if any_model.length == 0 else (any_model.reset(), any_model.prefill(cached))
    np.testing.assert_allclose(after, any_model.extend([7]), rtol=0, atol=1e-5)


def test_a_callback_ends_inside_a_draft(model: Any) -> None:
    wanted = plain(model)
    model.speculate(Oracle(wanted.ids), rows=7, costs=FLAT)
    said: list[int] = []
    made = model.generate(
        prompt_ids=PROMPT, ignore_eos=True, greedy=True, on_token=lambda i: said.append(i) or len(said) < 5
    )
    assert made.ids == said == wanted.ids[:5] and made.stop_reason == "callback"
    assert model.tokens == PROMPT + wanted.ids[:4]


def test_the_context_fills_up_without_a_pass_too_many(model: Any) -> None:
    wanted = plain(model, max_new_tokens=200)
    assert wanted.stop_reason == "context"
    model.speculate(Oracle(wanted.ids), rows=9, costs=FLAT)
    made = model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=200)
    assert made.ids == wanted.ids and made.stop_reason == "context"


def test_reuse_of_a_prefix_keeps_the_drafter_informed(model: Any) -> None:
    wanted = plain(model)
    model.speculate(drafter := Oracle(wanted.ids), rows=7, costs=FLAT)
    model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=8)
    again = model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=24, reuse_prefix=True)
    assert again.ids == wanted.ids and drafter.seen[: len(PROMPT)] == PROMPT


def test_where_rows_are_dear_nothing_runs(model: Any) -> None:
    wanted = plain(model)
    dear = PassCosts([1, 2, 64], [0], np.array([[1.0, 3.0, 200.0]]))
    model.speculate(Oracle(wanted.ids), rows=7, costs=dear)
    made = model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=24)
    assert made.ids == wanted.ids and made.stats["passes"] == 24 and made.stats["speculation"]["drafts"] == 0


def test_the_guard_bounds_what_confident_mistakes_cost(model: Any) -> None:
    wanted = plain(model, max_new_tokens=120)
    costs = PassCosts([1, 2, 8], [0], np.array([[1.0, 1.3, 1.6]]))
    model.speculate(Oracle(wanted.ids, [True], chance=1.0), rows=7, costs=costs)
    made = model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=120)
    found = made.stats["speculation"]
    assert made.ids == wanted.ids and found["accepted"] == 0 and found["withheld"] > 100
    rows = found["drafted"] / found["drafts"] + 1
    lost = found["drafts"] * (1.3 + (rows - 2) * 0.05 - 1)
    assert 0.5 < lost <= 1 + 0.01 * 120 + 1e-6


class Yes(Acceptor):
    """Takes every draft."""

    guarantee = "lossy"

    def accept(self, logits: np.ndarray, drawn: int, children: dict[int, int]) -> int | None:
        return next(iter(children), None)


def test_an_acceptor_of_ones_own(model: Any) -> None:
    wanted = plain(model)
    model.speculate(Oracle(wanted.ids, [True]), Yes(), rows=4, costs=FLAT)
    made = model.generate(prompt_ids=PROMPT, ignore_eos=True, greedy=True, max_new_tokens=11)
    assert made.ids[1:5] == [(i + 7) % 16 for i in wanted.ids[1:5]]
    assert model.tokens == (PROMPT + made.ids)[:-1]


@pytest.mark.parametrize(
    "draft",
    [
        ([1, 2], [-1], [0.5, 0.5]),  # parents missing
        ([1, 2], [-1, 1], [0.5, 0.5]),  # its own parent
        ([1, 2, 3], [-1, -1, 0], [0.5] * 3),  # a tree for a graph without branches
        (list(range(12)), list(range(-1, 11)), [0.5] * 12),  # too many
    ],
)
def test_malformed_drafts_are_refused(model: Any, draft: Draft) -> None:
    class Bad(Oracle):
        def propose(self, nodes: int, depth: int, tree: bool) -> Draft:
            return draft

    model.speculate(Bad([]), rows=7, costs=FLAT)
    with pytest.raises(FarthingError, match="malformed, expected parents before"):
        model.generate(prompt_ids=PROMPT, greedy=True)


def test_drafted_ids_outside_the_vocabulary_are_refused(model: Any) -> None:
    class Outside(Oracle):
        def propose(self, nodes: int, depth: int, tree: bool) -> Draft:
            return [100000], [-1], [1.0]

    model.speculate(Outside([]), rows=7, costs=FLAT)
    with pytest.raises(FarthingError, match="100000"):
        model.generate(prompt_ids=PROMPT, greedy=True)


def test_an_exception_in_a_drafter_comes_out(model: Any) -> None:
    class Broken(Oracle):
        def propose(self, nodes: int, depth: int, tree: bool) -> Draft:
            raise ZeroDivisionError("mine")

    model.speculate(Broken([]), rows=7, costs=FLAT)
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.generate(prompt_ids=PROMPT, greedy=True)
    assert plain(model).stop_reason == "length"


@pytest.mark.parametrize("any_model", ["mtp"], indirect=True)
@pytest.mark.parametrize("masks", ["all", "last", "paying"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_masks_change_nothing(any_model: Any, masks: str, temperature: float) -> None:
    how = {"greedy": temperature == 0, "temperature": temperature, "seed": 4, "max_new_tokens": 60}
    wanted = plain(any_model, **how)
    cached = any_model.tokens
    any_model.engine.draft("mtp", "", {"nodes": 3, "masks": masks, "always": masks != "paying"})
    made = any_model.generate(prompt_ids=PROMPT, ignore_eos=True, **how)
    assert made.ids == wanted.ids and any_model.tokens == cached
    found = made.stats["speculation"]
    if masks == "all":  # a draft of 3 for every pass but the prefill, the first, and the last, which has no room
        assert found["drafts"] == made.stats["passes"] - 3
        assert made.stats["rows"] > 4 * found["drafts"] * 4 * 0.8


@pytest.mark.parametrize("any_model", ["mtp"], indirect=True)
@pytest.mark.parametrize("prompt", [PROMPT, [7, 8, 9] * 6])
def test_auto_has_masks_and_text(any_model: Any, prompt: list[int]) -> None:
    """The model's own guesses beside those of the text, whichever expects more: the ids stay."""
    how: dict[str, Any] = {"prompt_ids": prompt, "greedy": True, "max_new_tokens": 60, "ignore_eos": True}
    any_model.speculate("none")
    wanted = any_model.generate(**how)
    any_model.speculate("auto", always=True)
    assert any_model.drafter == "auto"
    made = any_model.generate(**how)
    assert made.ids == wanted.ids and made.stats["speculation"]["drafts"] > 10


@pytest.mark.parametrize(("draft", "rows"), [("nonsense", 7), ("lookup", 0), ("lookup", 64), (3, 7)])
def test_bad_requests(model: Any, draft: Any, rows: int) -> None:
    with pytest.raises(RequestError, match="expected"):
        model.speculate(draft, rows=rows)


def test_a_model_without_masks_has_no_mtp(model: Any) -> None:
    with pytest.raises(RequestError, match="without it"):
        model.speculate("mtp")


def test_portable_mode_does_not_guess(model: Any) -> None:
    with farthing.load(model.bundle.path, native=False, context=64) as portable:
        assert portable.drafter == "none"
        with pytest.raises(RequestError, match="none in portable mode"):
            portable.speculate("lookup")


def test_tuned_guesses_where_it_was_tuned(model: Any) -> None:
    path = model.bundle.path
    with farthing.load(path, threads=1, context=128) as runtime:
        assert runtime.drafter == "none"
        costs = runtime.tune()
    try:
        found = json.loads(costs.read_text())
        assert found["rows"][0] == 1 and len(found["seconds"]) == len(found["past"])
        wanted = plain(model)
        with farthing.load(path, threads=1, context=128) as runtime:
            assert runtime.drafter != "none"
            assert (
                runtime.generate(prompt_ids=PROMPT, greedy=True, ignore_eos=True, max_new_tokens=24).ids == wanted.ids
            )
        for damage in (
            "{",
            json.dumps({**found, "format": "other"}),
            json.dumps({**found, "seconds": [[-1.0]]}),
            json.dumps({**found, "rows": found["rows"][::-1]}),
            json.dumps({**found, "key": {**found["key"], "threads": 7}}),
            "[" * 20000,
        ):
            costs.write_text(damage)
            with pytest.raises(BundleError, match="expected"):
                farthing.load(path, threads=1, context=128)
    finally:
        costs.unlink()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    write_hf(folder / "checkpoint", "llama", vocab_size=12, bos_token_id=0, eos_token_id=1, tokenizer=False)
    export("decoder", folder / "checkpoint", folder / "bundle", check=False)
    return folder / "bundle"


def chi_square(first: Counter[Any], second: Counter[Any]) -> float:
    """Share of the 99.9 % quantile that the two-sample statistic reaches (Wilson-Hilferty); below 1 they look alike."""
    keys = [k for k in first | second if first[k] + second[k] >= 10]
    n, m = sum(first[k] for k in keys), sum(second[k] for k in keys)
    ratio = (n / m) ** 0.5
    statistic = sum((first[k] / ratio - second[k] * ratio) ** 2 / (first[k] + second[k]) for k in keys)
    degrees = len(keys) - 1
    quantile = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    return statistic / quantile


def test_sampled_texts_are_distributed_as_without_drafts(small: Path) -> None:
    prompt, draws = [3, 5, 7], 1500

    def texts(runtime: Any, seeds: range) -> Counter[Any]:
        return Counter(
            tuple(
                runtime.generate(prompt_ids=prompt, temperature=1.0, seed=seed, ignore_eos=True, max_new_tokens=3).ids[
                    :2
                ]
            )
            for seed in seeds
        )

    with farthing.load(small, threads=1, context=16, draft="none") as runtime:
        plain_texts = texts(runtime, range(draws))
        # Always the same guess, whatever the text is: the hardest for a biased acceptor.
        favourite = [plain_texts.most_common(1)[0][0][1]] * 4
        runtime.speculate(Oracle(favourite), rows=3, costs=FLAT)
        assert chi_square(plain_texts, texts(runtime, range(draws, 2 * draws))) < 1
        runtime.speculate(Oracle(favourite), Yes(), rows=3, costs=FLAT)  # and the test can fail
        assert chi_square(plain_texts, texts(runtime, range(draws, 2 * draws))) > 1


def test_bench_measures_drafters_by_kind(model: Any, tmp_path: Path) -> None:
    plot = tmp_path / "drafts.png"
    arguments = ["bench", str(model.bundle.path), "--draft", "lookup", "--new-tokens", "12", "--runs", "1"]
    done = CliRunner().invoke(cli, [*arguments, "--plot", str(plot), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert {(r["draft"], r["kind"]) for r in found} == {(d, k) for d in ("none", "lookup") for k in KINDS}
    assert all(r["same"] and r["tokens_per_pass"] >= 1 for r in found)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert not list(model.bundle.path.glob("compiled/costs/*.json"))
