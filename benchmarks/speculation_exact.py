"""Greedy text with guesses is plain greedy text, id for id: 50 prompts of 128 tokens on a real model.

    python benchmarks/speculation_exact.py build/smollm2 --drafts lookup aded auto
    python benchmarks/speculation_exact.py build/smollm2-mtp --drafts mtp

Also compares the committed keys and values with those of plain decoding, through a saved state, and counts near-ties: steps where the
two best logits of plain decoding lie within 1e-3, so that another order of summation could have chosen otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from golden_prompts import PROMPTS

import farthing
from farthing.calibration.draft_prompts import KINDS, random_ids, texts

NEW, COUNT, TIE = 128, 50, 1e-3


def prompts(runtime: Any) -> list[list[int]]:
    """50 prompts: those of the golden file, all kinds of draft_prompts, halves of them, and random ids."""
    written = [text for kind in KINDS if kind != "random" for text in texts(kind)]
    golden = list(PROMPTS.values())
    halves = [text[: len(text) // 2] for text in written] + [text[: len(text) // 3] for text in written]
    encode = runtime.tokenizer.encode
    made = [list(encode(text)) for text in [*written, *golden, *halves]]
    made += [random_ids(runtime.vocab_size, 40 + i, i) for i in range(COUNT)]
    return [ids[-700:] for ids in made][:COUNT]


def state(runtime: Any) -> np.ndarray:
    """The saved cache as bytes of float32, without its header."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        runtime.save_state(path)
        data = path.read_bytes()
    return np.frombuffer(data[len(data) % 4 :], np.uint8)


def near_ties(runtime: Any, prompt: list[int], ids: list[int]) -> int:
    """Steps of plain decoding at which the two best logits lie within TIE."""
    runtime.reset()
    runtime.prefill(prompt)
    count = 0
    for token in ids:
        best = np.partition(runtime.logits(), -2)[-2:]
        count += int(best[1] - best[0] < TIE)
        runtime.prefill([token])
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--drafts", nargs="+", default=["lookup", "aded", "auto"])
    parser.add_argument("--ties", action="store_true", help="also count near-ties, which decodes every text once more")
    parser.add_argument("--always", action="store_true", help="run every draft, whatever it costs")
    args = parser.parse_args()
    with farthing.load(args.bundle, threads=1, context=1024, draft="none") as runtime:
        asked = prompts(runtime)
        how = {"greedy": True, "ignore_eos": True, "max_new_tokens": NEW}
        plain, caches, ties = [], [], 0
        for ids in asked:
            plain.append(runtime.generate(prompt_ids=ids, **how).ids)
            caches.append(hash(state(runtime).tobytes()))
            ties += near_ties(runtime, ids, plain[-1]) if args.ties else 0
        print(f"plain: {len(asked)} prompts x {NEW} tokens" + (f", {ties} near-ties" if args.ties else ""), flush=True)
        failed = 0
        for draft in args.drafts:
            runtime.speculate(draft, always=args.always)
            same = cached = passes = drafted = accepted = 0
            for ids, wanted, cache in zip(asked, plain, caches, strict=True):
                made = runtime.generate(prompt_ids=ids, **how)
                same += made.ids == wanted
                cached += hash(state(runtime).tobytes()) == cache
                passes += made.stats["passes"]
                drafted += made.stats["speculation"]["drafted"]
                accepted += made.stats["speculation"]["accepted"]
            failed += same != len(asked)
            print(
                f"{draft}: {same} of {len(asked)} texts and {cached} caches the same (bit for bit); "
                f"{len(asked) * NEW / passes:.2f} tokens a pass, {accepted} of {drafted} drafted tokens right",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
