"""Mining, fitting and calibrating a judge, and the method's proof on the models of examples/judge."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tiny
from farthing.calibration.judge import Mismatch, answer_rule, auc, decode, fit, greedy, mine, threshold, train_judge
from farthing.calibration.judge.decode import JudgeScore, KlScore, NoScore
from farthing.calibration.judge.run import read_prompts
from farthing.cli.train_judge import train_judge_command
from farthing.errors import RequestError
from farthing.models.blocks import KVCache
from farthing.models.judge import Judge, Rule, StatesDecoder

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "judge"
sys.path.insert(0, str(ROOT / "benchmarks"))
import judge_fixture  # noqa: E402
import judge_task as task  # noqa: E402


def test_answer_rule() -> None:
    said = {0: "so 3. answer 1,200", 1: "answer 1200", 2: "answer 7, answer 12 00", 3: "nothing"}
    same = answer_rule(r"answer ([\d, ]+)", lambda ids: said[ids[0]])
    assert same(0, [0], [1]) and same(0, [0], [2])
    assert not same(0, [0], [3]) and not same(0, [3], [3])
    with pytest.raises(RequestError, match="answer pattern"):
        answer_rule("(", str)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(0)
    scores, good = draw.integers(0, 6, 60).astype(float), draw.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[good] for b in scores[~good]]
    assert auc(scores, good) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_threshold_keeps_its_rate(rate: float) -> None:
    draw = np.random.default_rng(1)
    chances, good = draw.random(400), draw.random(400) < 0.5
    delta = threshold(chances, good, rate)
    bad = chances[~good]
    assert (bad > delta).mean() <= rate
    # No lower one keeps the rate and lets more good ones through.
    for lower in np.sort(chances[chances < delta])[::-1][:30] - 1e-9:
        assert (bad > lower).mean() > rate or (chances[good] > lower).sum() == (chances[good] > delta).sum()


def test_threshold_lies_in_a_gap() -> None:
    chances = np.array([0.01, 0.02, 0.05, 0.95, 0.99])
    delta = threshold(chances, chances > 0.5, 0.5)
    assert delta == pytest.approx(0.5)


def planted(count: int, seed: int = 0) -> list[Mismatch]:
    """Mismatches that differ along one direction of eight, with noise; four a prompt."""
    draw, found = np.random.default_rng(seed), []
    for i in range(count):
        important = draw.random() < 0.3
        state = draw.standard_normal(8).astype(np.float32) * 5 + 100
        state[3] += -8 if important else 8
        found.append(Mismatch(i // 4, 0, 0, 1, bool(important), state))
    return found


def test_fit_finds_a_planted_direction() -> None:
    found = planted(400)
    fitted = fit(found, false_accept_rate=0.1)
    weight, _ = fitted.judge.folded()
    assert fitted.auc > 0.95 and np.abs(weight).argmax() == 3 and weight[3] > 0
    assert fitted.false_accepts <= 0.1 and fitted.accepts > 0.8
    shuffled = [Mismatch(m.prompt, 0, 0, 1, o.important, m.state) for m, o in zip(found, found[7:] + found[:7])]
    assert fit(shuffled).auc < 0.75
    with pytest.raises(RequestError, match="important mismatches for training is 0"):
        fit([m for m in found if not m.important])
    with pytest.raises(RequestError, match="false accept rate"):
        fit(found, false_accept_rate=0)


@pytest.fixture(scope="module")
def pair() -> tuple[StatesDecoder, StatesDecoder]:
    return judge_fixture.models(EXAMPLE)


def test_mining_is_the_plain_algorithm(pair: tuple[StatesDecoder, StatesDecoder]) -> None:
    """Against a walk over one text at a time, without a cache of several rows."""
    target, draft = pair
    prompts = [p for p, _ in task.items(3, 5)]

    def until_end(model: StatesDecoder, text: list[int], room: int) -> list[int]:
        made = model.greedy(text, room)
        return made[: made.index(task.END) + 1] if task.END in made else made

    wanted = []
    for number, prompt in enumerate(prompts):
        own = until_end(target, prompt, 64)
        text, place = list(own), 0
        while place < len(text):
            said = draft.greedy(prompt + text[:place], 1)[0]
            if said != text[place] and task.END not in (said, text[place]):
                changed = [*text[:place], said]
                changed += until_end(target, prompt + changed, 64 - len(changed))
                important = task.answer(changed) != task.answer(own)
                wanted.append((number, place, said, text[place], important, prompt + changed[: place + 1]))
                text = text if important else changed
            place += 1
    found = mine(
        target,
        draft,
        prompts,
        same=lambda _, own, new: task.answer(own) == task.answer(new),
        new_tokens=64,
        stop_ids={task.END},
        batch=2,
    )
    assert [(m.prompt, m.place, m.drafted, m.own, m.important) for m in found] == [w[:5] for w in wanted]
    assert len(found) > 10 and {m.important for m in found} == {True, False}
    for m, w in zip(found[::7], wanted[::7]):
        states = target.states(torch.tensor([w[5]]), KVCache.empty(target.config, len(w[5])), torch.tensor([0]))[1]
        np.testing.assert_allclose(m.state, states[0, -1].numpy(), atol=1e-4)


def test_proof_on_fresh_sums() -> None:
    """The claims of docs/judge.md on a part of their prompts."""
    rows = judge_fixture.measure(EXAMPLE, 80, wide=False)
    alone, standard = rows["target alone"], rows["standard rule"]
    judge, chance = rows["judge, no valves"], rows["random of the same rate, no valves"]
    assert standard["as target"] == 1.0 and standard["right"] == alone["right"]
    assert judge["accepted"] > 1.3 * standard["accepted"]
    assert judge["right"] >= alone["right"] - 0.01
    assert chance["right"] < judge["right"] - 0.1
    assert judge["as target"] < 0.5  # lossy: other words


def test_ranks_fresh_mismatches() -> None:
    found = judge_fixture.held_out_auc(EXAMPLE, 40)
    assert found["auc"] > 0.75 and found["false accepts"] <= 0.15 and found["important"] >= 10


def test_off_is_the_target_at_any_draft_length(pair: tuple[StatesDecoder, StatesDecoder]) -> None:
    target, draft = pair
    prompts = [p for p, _ in task.items(12, 8)]
    own = greedy(target, prompts, 48, {task.END})[0]
    for drafts in (1, 3, 7):
        done = decode(
            target, draft, prompts, score=NoScore(), rule=Rule(1.0), drafts=drafts, new_tokens=48, stop_ids={task.END}
        )
        assert done.texts == own and done.judged == 0
        assert sum(map(len, own)) <= done.accepted + done.passes + len(prompts) + drafts * len(prompts)


def test_scores_read_the_right_rows() -> None:
    """KL of a place lies in the row that reads its draft; the judge's is that of the token read."""
    draw = np.random.default_rng(0)
    logits, states = draw.standard_normal((1, 4, 5)), draw.standard_normal((1, 4, 3)).astype(np.float32)
    drafts = logits[:, :-1].copy()
    drafts[0, 1] = -drafts[0, 1]
    kl = KlScore()(states, logits, drafts)[0]
    assert kl[1] == kl[3] == 1 and kl[2] < 0.9
    judge = Judge(np.eye(3, dtype=np.float32)[0], 0.0, np.zeros(3, np.float32), np.ones(3, np.float32), "good")
    np.testing.assert_allclose(
        JudgeScore(judge)(states, logits, drafts)[0], 1 / (1 + np.exp(-states[0, :, 0])), rtol=1e-6
    )


def test_command(tmp_path: Path) -> None:
    prompts = tmp_path / "sums.jsonl"
    prompts.write_text("".join(json.dumps({"ids": p}) + "\n" for p, _ in task.items(24, 3)))
    arguments = [
        str(prompts), "--checkpoint", str(EXAMPLE / "target"), "--draft", str(EXAMPLE / "draft"), "--out", str(tmp_path / "j.safetensors"),
        "--answer", rf"^.*?\b{task.ID['answer']} (\d+) {task.END}\b", "--new-tokens", "64", "--threads", "1", "--json", "--batch", "24", "--stop-id", str(task.END),
    ]  # fmt: skip
    done = CliRunner().invoke(train_judge_command, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert result["auc"] > 0.75 and 0 < result["important"] < 0.5 and Path(result["path"]).exists()


def test_refusals(tmp_path: Path) -> None:
    target, other = tiny.write_hf(tmp_path / "a", "llama"), tiny.write_hf(tmp_path / "b", "llama", seed=1)
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["the"], vocab["th"] = vocab["th"], vocab["the"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    out = tmp_path / "j.safetensors"
    with pytest.raises(RequestError, match="vocabulary of the draft .* use two models of one family"):
        train_judge(target, other, [[1, 2]], out, answer="x")
    for wrong in ({}, {"answer": "x", "same": lambda *_: True}):
        with pytest.raises(RequestError, match="answer checker"):
            train_judge(target, target, [[1, 2]], out, **wrong)
    with pytest.raises(RequestError, match="prompt 0 is id 300"):
        train_judge(target, target, [[300]], out, answer="x")
    with pytest.raises(RequestError, match="important mismatches"):  # a model does not differ from itself
        train_judge(target, target, [[5, 6, 7]], out, answer="x", new_tokens=8)
    assert not out.exists()
    (tmp_path / "p.jsonl").write_text('{"ids": [1]}\n{"text": "x"}\n')
    with pytest.raises(RequestError, match="line 2 of"):
        read_prompts(tmp_path / "p.jsonl", None)
    shutil.rmtree(other)
