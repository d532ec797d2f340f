"""Stream an answer, then show how a program steers the decoding itself.

    python examples/python/generate.py build/smollm2 "Why is the sky blue?"
    python examples/python/generate.py build/smollm2 "The capital of France is" --raw --tokens 16

Needs farthing's runtime only: neither torch nor onnx.
"""

from __future__ import annotations

import argparse

import numpy as np

import farthing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("prompt")
    parser.add_argument("--raw", action="store_true", help="the prompt as it is, without the chat template")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens at most")
    args = parser.parse_args()

    with farthing.load(args.bundle, threads=1) as model:
        for piece in model.stream(args.prompt, raw=args.raw, max_new_tokens=args.tokens, greedy=True):
            print(piece, end="", flush=True)
        print()

        # The same by hand: run the prompt once, look at the logits, append what we choose, step back when we think better of it.
        answer = model.generate(args.prompt, raw=args.raw, max_new_tokens=1, greedy=True)
        model.reset()
        model.prefill(answer.prompt_ids)
        prompt_length = model.length
        logits = model.logits()
        likely = np.argsort(-logits)[:3]
        print("\nthe three most likely first tokens, each continued by one greedy step:")
        for token in likely:
            model.prefill([int(token)])
            after = int(np.argmax(model.logits()))
            print(f"  {token:6d}  logit {logits[token]:8.3f}  then {after}")
            model.rewind(prompt_length)

        stats = answer.stats
        print(f"\n{stats['prompt_tokens']} prompt tokens in {stats['passes']} passes, kernels: {stats['kernels']}")


if __name__ == "__main__":
    main()
