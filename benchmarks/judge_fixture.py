"""The proof of judge decoding on a small scale: train two models, mine, train the judge, and compare ways to accept drafts.

    python benchmarks/judge_fixture.py --out build/judge         # resumable: run it again to go on
    python benchmarks/judge_fixture.py --out examples/judge --measure    # measure what is there

The target has 4 layers; the draft has 2 and is stopped early, so that one in ten of its results is wrong. See judge_task.py for the task.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import judge_task as task
import torch
from small_llama import llama_config, train

from farthing.calibration.judge import (
    JudgeScore,
    KlScore,
    NoScore,
    RandomScore,
    auc,
    decode,
    fit,
    greedy,
    mine,
)
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.judge_file import open_judge, save_judge
from farthing.models.judge import Rule, StatesDecoder

TRAINING, TEST = 77, 999
"""Seeds of the prompts that are mined and of those that are measured."""

NEW, DRAFTS, STOP = 64, 16, {task.END}


def train_models(out: Path) -> None:
    """target/ and draft/ in ``out``, float16."""
    shape = {"vocab": task.VOCAB, "eos": task.END}
    if not (out / "target").exists():
        config = llama_config(**shape, width=128, layers=4)
        train(config, lambda s: task.batch(32, s), steps=1500, rate=2e-3, out=out / "target", seed=1)
    if not (out / "draft").exists():
        config = llama_config(**shape, width=64, layers=2)
        train(
            config,
            lambda s: task.batch(32, 10**7 + s),
            steps=1500,
            rate=3e-3,
            out=out / "draft",
            seed=2,
            until=lambda _, step: step >= 500,
        )


def models(out: Path) -> tuple[StatesDecoder, StatesDecoder]:
    """(target, draft)."""
    return StatesDecoder(open_checkpoint(out / "target")), StatesDecoder(open_checkpoint(out / "draft"))


def mined(out: Path, count: int, seed: int) -> list[Any]:
    """Mismatches of ``count`` prompts; the checker compares the final numbers."""
    prompts = [p for p, _ in task.items(count, seed)]
    return mine(
        *models(out),
        prompts,
        same=lambda _, own, changed: task.answer(own) is not None and task.answer(changed) == task.answer(own),
        new_tokens=NEW,
        stop_ids=STOP,
        batch=100,
    )


def train_head(out: Path) -> dict[str, float]:
    """judge.safetensors in ``out``, from 200 prompts."""
    fitted = fit(mined(out, 200, TRAINING))
    save_judge(out / "judge.safetensors", fitted.judge, open_checkpoint(out / "target"))
    return {
        "mismatches": fitted.trained_on + fitted.validated_on,
        "important": fitted.important,
        "auc": fitted.auc,
        "false_accepts": fitted.false_accepts,
        "accepts": fitted.accepts,
        "delta": fitted.judge.delta,
        "C": fitted.strength,
    }


def measure(out: Path, count: int, *, wide: bool = True) -> dict[str, dict[str, float]]:
    """Accepted drafts a pass and right answers of ``count`` fresh prompts, by way of accepting. ``wide``: also valves and the KL rule."""
    target, draft = models(out)
    judge = open_judge(out / "judge.safetensors", open_checkpoint(out / "target"))
    items = task.items(count, TEST)
    prompts = [p for p, _ in items]
    own, _ = greedy(target, prompts, NEW, STOP)

    def right(texts: list[list[int]]) -> float:
        return sum(task.answer(t) == a for t, (_, a) in zip(texts, items)) / count

    rows = {
        "target alone": {"right": right(own)},
        "draft alone": {"right": right(greedy(draft, prompts, NEW, STOP)[0])},
    }

    def run(name: str, score: Any, rule: Rule) -> float:
        done = decode(target, draft, prompts, score=score, rule=rule, drafts=DRAFTS, new_tokens=NEW, stop_ids=STOP)
        rows[name] = {
            "accepted": done.accepted_length,
            "right": right(done.texts),
            "let through": done.judged_share,
            "as target": sum(a == b for a, b in zip(done.texts, own)) / count,
        }
        return done.judged_share

    bare = Rule(judge.delta, min_probability=0, max_consecutive=0)
    run("standard rule", NoScore(), bare)
    share = run("judge, no valves", JudgeScore(judge), bare)
    run("random of the same rate, no valves", RandomScore(share), replace(bare, delta=0.5))
    if wide:
        share = run("judge", JudgeScore(judge), Rule(judge.delta))
        run("random of the same rate", RandomScore(share), Rule(0.5))
        run("valves alone", RandomScore(1.0), Rule(0.5))
        for kl in (0.05, 0.1, 0.3, 1.0):
            run(f"KL below {kl}, no valves", KlScore(), replace(bare, delta=float(torch.tensor(-kl).exp())))
    return rows


def held_out_auc(out: Path, count: int) -> dict[str, float]:
    """AUC and false accepts of the judge on mismatches of prompts that nobody has seen."""
    import numpy as np

    judge = open_judge(out / "judge.safetensors", open_checkpoint(out / "target"))
    found = mined(out, count, TEST + 1)
    chances, good = judge.good(np.stack([m.state for m in found])), np.array([not m.important for m in found])
    return {
        "mismatches": len(found),
        "important": int((~good).sum()),
        "auc": auc(chances, good),
        "false accepts": float((chances[~good] > judge.delta).mean()),
        "accepts": float((chances[good] > judge.delta).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/judge"))
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--measure", action="store_true", help="Train nothing.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    if not args.measure:
        train_models(args.out)
        print(json.dumps(train_head(args.out)), f"{time.process_time() - began:.0f} CPU s", flush=True)
    print(json.dumps(held_out_auc(args.out, 200)), flush=True)
    for name, row in measure(args.out, args.items).items():
        print(f"{name:36}", "  ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    print(f"{time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
