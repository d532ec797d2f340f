"""Judge decoding and drafts by a second model in the C++ core, against the numpy rule over PyTorch's logits and states."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import farthing
import tiny
from farthing.calibration.judge import decode
from farthing.calibration.judge.decode import JudgeScore, NoScore
from farthing.cli.main import cli
from farthing.errors import BundleError, RequestError
from farthing.export import export
from farthing.export.checkpoint import Checkpoint, open_checkpoint
from farthing.export.checkpoint.judge_file import open_judge, save_judge
from farthing.models.blocks import KVCache
from farthing.models.judge import IMPORTANT, Judge, Rule, StatesDecoder, accept_run
from farthing.runtime.engines import native_parts
from farthing.runtime.speculation import Draft, Drafter

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "judge"
sys.path.insert(0, str(ROOT / "benchmarks"))
import judge_task  # noqa: E402

pytestmark = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")

PROMPT = [5, 17, 3, 250, 9, 44]
RULES = {
    "free": Rule(0.5, 0.0, 0),
    "streaks": Rule(0.4, 0.0, 2),
    "likely": Rule(0.3, 0.004, 0),
    "strict": Rule(0.8, 0.001, 3),
}


class Model:
    """A checkpoint in PyTorch: (logits, states) of the last ``rows`` rows of a text, with nothing kept between calls."""

    def __init__(self, checkpoint: Checkpoint):
        self.config, self.decoder = checkpoint.config, StatesDecoder(checkpoint, storage="float32")

    def __call__(self, text: list[int], rows: int) -> tuple[np.ndarray, np.ndarray]:
        cache = KVCache.empty(self.config, len(text))
        logits, states = self.decoder.states(torch.tensor([text]), cache, torch.tensor([0]))
        return logits[0, -rows:].numpy(), states[0, -rows:].numpy()

    def greedy(self, text: list[int], count: int) -> list[int]:
        said: list[int] = []
        for _ in range(count):
            said.append(int(self(text + said, 1)[0][0].argmax()))
        return said


def reference(model: Model, judge: Judge, rule: Rule, draft: Any, new: int, rows: int) -> tuple[list[int], int, int]:
    """(ids, passes with a draft, judge-only accepts): the loop of the method, one full forward a pass."""
    said, passes, judged = [int(model(PROMPT, 1)[0][0].argmax())], 0, 0
    while len(said) < new:
        text = PROMPT + said
        drafts = draft(text, min(rows, new - len(said) - 1))
        logits, states = model(text + drafts, len(drafts) + 1)
        verdict = accept_run(logits, drafts, judge.good(states), rule)
        said += [*drafts[: verdict.accepted], verdict.bonus]
        passes += 1 if drafts else 0
        judged += verdict.judged
    return said[:new], passes, judged


class Fixed(Drafter):
    """Drafts that depend on the text alone: now and then what the model would say, else any token."""

    def __init__(self, model: Model):
        self.model, self.text = model, list[int]()

    def __call__(self, text: list[int], count: int) -> list[int]:
        draw, ids = np.random.default_rng(len(text) * 1000 + text[-1]), list[int]()
        for _ in range(count):
            order = self.model(text + ids, 1)[0][0].argsort()[::-1]
            ids.append(int(order[min(draw.geometric(0.5) - 1, 40)]))
        return ids

    def begin(self, tokens: list[int]) -> None:
        self.text = list(tokens)

    def observe(self, tokens: list[int]) -> None:
        self.text += tokens

    def propose(self, nodes: int, depth: int, tree: bool) -> Draft:
        ids = self(self.text, min(nodes, depth))
        return ids, [i - 1 for i in range(len(ids))], [0.9] * len(ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint, its judge, and folders of bundles by rule."""
    folder = tmp_path_factory.mktemp("judge")
    target = open_checkpoint(tiny.write_hf(folder / "target", "llama"))
    model = Model(target)
    draw = np.random.default_rng(7)
    weight = draw.standard_normal(48).astype(np.float32) / 4
    states = np.concatenate([model(draw.integers(3, 290, 60).tolist(), 60)[1] for _ in range(4)])
    judge = Judge(weight, 0.0, states.mean(0), states.std(0) + 1e-3, IMPORTANT)
    for name, rule in RULES.items():
        save_judge(folder / "j.safetensors", replace(judge, delta=rule.delta), target)
        valves = {"min_probability": rule.min_probability, "max_consecutive": rule.max_consecutive}
        export("judge", target.path, folder / name, judge=folder / "j.safetensors", check=False, **valves)
    export("decoder", target.path, folder / "plain", check=False)
    return folder, target, model, judge


def rule_of(folder: Path, name: str) -> Rule:
    """The rule as the manifest has it: with control ids."""
    entry = json.loads((folder / name / "manifest.json").read_text())["judge"]
    assert entry["control_ids"] == [0, 1, 2]
    return replace(RULES[name], control_ids=frozenset(entry["control_ids"]))


@pytest.mark.parametrize("name", RULES)
def test_core_decodes_as_the_reference(made: Any, name: str) -> None:
    folder, _, model, judge = made
    drafts = Fixed(model)
    wanted, passes, judged = reference(model, judge, rule_of(folder, name), drafts, 40, 6)
    with farthing.load(folder / name, threads=1, context=96, draft="none") as runtime:
        plain = runtime.generate(prompt_ids=PROMPT, greedy=True, max_new_tokens=40, ignore_eos=True)
        runtime.speculate(drafts, rows=6, always=True)
        assert runtime.acceptor == "judge"
        found = runtime.generate(prompt_ids=PROMPT, greedy=True, max_new_tokens=40, ignore_eos=True)
        assert found.ids == wanted
        stats = found.stats["speculation"]
        assert (stats["drafts"], stats["judged"]) == (passes, judged)
        assert judged > 0 and found.ids != plain.ids  # it is lossy, and here it shows
        # The cache is that of the text that was said.
        logits = runtime.engine.logits()
        np.testing.assert_allclose(logits, model(PROMPT + found.ids[:-1], 1)[0][0], atol=1e-4)


@pytest.mark.parametrize("off", [False, 1.0])
def test_judge_off_is_plain_decoding(made: Any, off: bool | float) -> None:
    folder, _, model, _ = made
    with farthing.load(folder / "free", threads=1, context=96, draft="none") as runtime:
        how = {"prompt_ids": PROMPT, "max_new_tokens": 40, "ignore_eos": True}
        for sampling in ({"greedy": True}, {"seed": 3}):
            runtime.speculate("none")
            plain = runtime.generate(**how, **sampling)
            runtime.speculate(Fixed(model), rows=6, always=True, judge=off)
            found = runtime.generate(**how, **sampling)
            assert found.ids == plain.ids and found.stats["speculation"]["judged"] == 0
            assert found.stats["speculation"]["accepted"] > 0


def test_threshold_replaces_the_bundles(made: Any) -> None:
    folder, _, model, judge = made
    drafts = Fixed(model)
    rule = replace(rule_of(folder, "free"), delta=0.7)
    wanted, _, judged = reference(model, judge, rule, drafts, 40, 6)
    with farthing.load(folder / "free", threads=1, context=96, draft="none") as runtime:
        runtime.speculate(drafts, rows=6, always=True, judge=0.7)
        found = runtime.generate(prompt_ids=PROMPT, greedy=True, max_new_tokens=40, ignore_eos=True)
    assert found.ids == wanted and found.stats["speculation"]["judged"] == judged


def test_the_judge_never_ends_a_text(made: Any) -> None:
    folder, _, model, judge = made
    drafts = Fixed(model)
    rule = rule_of(folder, "free")
    long, _, _ = reference(model, judge, rule, drafts, 40, 6)
    with farthing.load(folder / "free", threads=1, context=96, draft="none") as runtime:
        runtime.speculate(drafts, rows=6, always=True)
        ended = 0
        for stop in sorted(set(long))[::4]:
            # A stop id is a control token for this text, whether or not the tokenizer knows that.
            control = replace(rule, control_ids=rule.control_ids | {stop})
            wanted, _, _ = reference(model, judge, control, drafts, 40, 6)
            wanted = wanted[: wanted.index(stop)] if stop in wanted else wanted
            found = runtime.generate(
                prompt_ids=PROMPT, greedy=True, max_new_tokens=40, stop_ids=[stop], ignore_eos=True
            )
            assert found.ids == wanted, stop
            ended += stop in long and long.index(stop) != len(wanted)
    assert ended > 0  # somewhere the judge alone would have ended it


def test_model_drafts_are_greedy_and_exact(made: Any, tmp_path: Path) -> None:
    folder, _, model, judge = made
    small = open_checkpoint(tiny.write_hf(tmp_path / "small", "qwen3", seed=5))
    export("decoder", small.path, tmp_path / "draft", check=False)
    drafter = Model(small)
    with farthing.load(folder / "free", threads=1, context=96, draft="none") as runtime:
        how = {"prompt_ids": PROMPT, "max_new_tokens": 30, "ignore_eos": True}
        plain = [runtime.generate(**how, **s).ids for s in ({"greedy": True}, {"seed": 9})]
        runtime.speculate("model", draft_bundle=tmp_path / "draft", rows=4, always=True, judge=False)
        assert runtime.drafter == "model" and runtime.acceptor == "exact"
        assert [runtime.generate(**how, **s).ids for s in ({"greedy": True}, {"seed": 9})] == plain
        # With the judge: drafts of the small model, whose cache follows the text that was accepted.
        runtime.speculate("model", draft_bundle=tmp_path / "draft", rows=4, always=True)
        wanted, passes, judged = reference(model, judge, rule_of(folder, "free"), drafter.greedy, 30, 4)
        found = runtime.generate(**how, greedy=True)
        assert found.ids == wanted and judged > 0
        assert (found.stats["speculation"]["drafts"], found.stats["speculation"]["judged"]) == (passes, judged)


def test_a_model_that_drafts_for_itself_is_always_right(made: Any) -> None:
    folder = made[0]
    with farthing.load(folder / "plain", threads=1, context=128, draft="none") as runtime:
        how = {"prompt_ids": PROMPT, "greedy": True, "max_new_tokens": 41, "ignore_eos": True}
        plain = runtime.generate(**how)
        runtime.speculate("model", draft_bundle=folder / "plain", rows=4, always=True)
        found = runtime.generate(**how)
        stats = found.stats["speculation"]
        assert found.ids == plain.ids and stats["accepted"] == stats["drafted"] == 32
        assert found.stats["passes"] == 1 + 8 < plain.stats["passes"]
        # A second text, and one with costs measured: still the same words.
        assert runtime.generate(**{**how, "prompt_ids": PROMPT[::-1]}).stats["speculation"]["accepted"] == 32
        runtime.speculate("model", draft_bundle=folder / "plain")
        assert runtime.generate(**how).ids == plain.ids


def test_small_context_of_the_draft_model(made: Any, tmp_path: Path) -> None:
    folder = made[0]
    export("decoder", tiny.write_hf(tmp_path / "s", "llama", max_position_embeddings=24), tmp_path / "d", check=False)
    with farthing.load(folder / "plain", threads=1, context=200, draft="none") as runtime:
        how = {"prompt_ids": PROMPT, "greedy": True, "max_new_tokens": 120, "ignore_eos": True}
        plain = runtime.generate(**how)
        runtime.speculate("model", draft_bundle=tmp_path / "d", rows=5, always=True)
        found = runtime.generate(**how)
        assert found.ids == plain.ids
        # Its weights are the target's: as long as it sees all of the text it is right, and behind that it still drafts.
        assert found.stats["speculation"]["accepted"] >= 12
        assert found.stats["speculation"]["drafts"] >= 15


def test_refusals(made: Any, tmp_path: Path) -> None:
    folder = made[0]
    export("decoder", tiny.write_hf(tmp_path / "s", "llama", vocab_size=310), tmp_path / "other", check=False)
    with farthing.load(folder / "plain", threads=1, context=64, draft="none") as runtime:
        for arguments, message in (
            ({"draft": "model"}, "draft bundle is not given"),
            ({"draft": "model", "draft_bundle": tmp_path / "other"}, "vocabulary of draft bundle .* is 310 ids"),
            ({"draft": "lookup", "draft_bundle": folder / "plain"}, "draft_bundle is given with draft 'lookup'"),
            ({"draft": "model", "draft_bundle": folder / "plain", "table": "t"}, "draft table is given for 'model'"),
            ({"draft": "lookup", "judge": 1.5}, "judge is 1.5, expected True, False or a threshold"),
        ):
            with pytest.raises(RequestError, match=message):
                runtime.speculate(**arguments)
        with pytest.raises(BundleError, match="not a folder"):
            runtime.speculate("model", draft_bundle=tmp_path / "none")
        runtime.speculate("lookup", always=True)
        assert runtime.acceptor == "exact"  # the bundle has no judge
    manifest = folder / "strict" / "manifest.json"
    good = manifest.read_text()
    try:
        broken = json.loads(good)
        broken["judge"]["control_ids"] = [300]
        manifest.write_text(json.dumps(broken))
        with pytest.raises(BundleError, match="control_ids"):
            farthing.load(folder / "strict", native=True)
    finally:
        manifest.write_text(good)


def test_command(made: Any) -> None:
    folder = made[0]
    ids = ",".join(str(i) for i in PROMPT)
    base = ["run", str(folder / "plain"), "--prompt-ids", ids, "--greedy", "--max-new-tokens", "12", "--json"]
    plain = CliRunner().invoke(cli, [*base, "--draft", "none"])
    made_ = CliRunner().invoke(cli, [*base, "--draft", "model", "--draft-bundle", str(folder / "plain"), "--no-judge"])
    assert plain.exit_code == 0 and made_.exit_code == 0, made_.output
    assert json.loads(made_.stdout)["ids"] == json.loads(plain.stdout)["ids"]
    assert json.loads(made_.stdout)["stats"]["speculation"]["judged"] == 0


def test_the_trained_pair_decodes_as_in_pytorch(tmp_path: Path) -> None:
    """The models of examples/judge, exported: texts, accepted drafts and right answers of the core are those of the method's proof."""
    target, draft = open_checkpoint(EXAMPLE / "target"), open_checkpoint(EXAMPLE / "draft")
    judge = open_judge(EXAMPLE / "judge.safetensors", target)
    export("judge", target.path, tmp_path / "judged", judge=EXAMPLE / "judge.safetensors", check=False)
    export("decoder", draft.path, tmp_path / "draft", check=False)
    items = judge_task.items(40, 987_654)
    how = {"drafts": 16, "new_tokens": 64, "stop_ids": {judge_task.END}}
    found: dict[str, tuple[float, int]] = {}
    with farthing.load(tmp_path / "judged", threads=1, context=160, draft="none") as runtime:
        for name, score, on in (("standard", NoScore(), False), ("judge", JudgeScore(judge), True)):
            wanted = decode(
                StatesDecoder(target),
                StatesDecoder(draft),
                [p for p, _ in items],
                score=score,
                rule=Rule(judge.delta),
                **how,
            )
            runtime.speculate("model", draft_bundle=tmp_path / "draft", rows=16, always=True, judge=on)
            accepted = passes = right = 0
            for (prompt, answer), text in zip(items, wanted.texts):
                made_ = runtime.generate(
                    prompt_ids=prompt, greedy=True, max_new_tokens=64, stop_ids=[judge_task.END], ignore_eos=True
                )
                assert made_.ids == [t for t in text if t != judge_task.END], (name, prompt)
                accepted += made_.stats["speculation"]["accepted"]
                passes += made_.stats["speculation"]["drafts"]
                right += judge_task.answer([*made_.ids, judge_task.END]) == answer
            found[name] = (accepted / passes, right)
    assert found["judge"][0] > 2 * found["standard"][0]
    assert found["standard"][1] == 40 and found["judge"][1] >= 39
