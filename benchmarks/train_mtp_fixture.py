"""Train the small model of examples/mtp: a byte-level decoder on templated lines, frozen, and an adapter that guesses 4 bytes ahead.

    python benchmarks/train_mtp_fixture.py --out build/mtp           # model/, mtp.safetensors; resumable: run it again to go on

Three kinds of lines (a JSON record, a sentence, a function) with random names, things and numbers, so that most of a line can be
guessed and some of it cannot. `templated` makes them; a seed other than the training's gives fresh lines for tests.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import small_llama
import torch
from small_llama import llama_config

from farthing.calibration.train_mtp import Options, train
from farthing.models.mtp_decoding import decode

CONFIG = llama_config(vocab=256, width=128, layers=4)
NAMES = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
THINGS = ["pump", "valve", "motor", "sensor", "relay", "heater"]
TRAINING_SEED, LENGTH, BATCH, RATE, WARM_UP = 1, 128, 16, 3e-3, 30


def templated(count: int, seed: int) -> str:
    """At least ``count`` characters of lines."""
    draw, lines, size = random.Random(seed), [], 0
    while size < count:
        kind, name, thing, value = draw.randrange(3), draw.choice(NAMES), draw.choice(THINGS), draw.randrange(100)
        state = "high" if value > 49 else "low"
        lines.append(
            (
                f'{{"user": "{name}", "part": "{thing}", "value": {value}, "state": "{state}"}}\n',
                f"The {thing} reported by {name} has a value of {value} units.\n",
                f"def get_{name}_{thing}(x):\n    return x + {value}\n",
            )[kind]
        )
        size += len(lines[-1])
    return "".join(lines)


def byte_tokenizer() -> str:
    """tokenizer.json in which a byte is its own id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's alphabet: printable bytes are themselves, the others come from 256 on, in order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    signs = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab={signs[b]: b for b in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def train_base(out: Path, steps: int) -> None:
    """``out`` becomes a checkpoint folder, float16."""
    data = torch.tensor(list(templated(400_000, TRAINING_SEED).encode()))
    draw, even = torch.Generator().manual_seed(TRAINING_SEED), torch.ones(BATCH, LENGTH)

    def batches(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - LENGTH - 1, (BATCH, 1), generator=draw)
        return data[starts + torch.arange(LENGTH + 1)], even

    small_llama.train(CONFIG, batches, steps=steps, rate=RATE, out=out, seed=TRAINING_SEED, warm_up=WARM_UP)
    (out / "tokenizer.json").write_text(byte_tokenizer() + "\n")


def prompts(count: int, seed: int = 77) -> list[list[int]]:
    """Starts of 60 bytes of fresh text, each in another place of its line."""
    data = list(templated(count * 400 + 100, seed).encode())
    return [data[i * 400 : i * 400 + 60] for i in range(count)]


def measure(folder: Path, adapter: Path, count: int, new: int) -> dict[str, float]:
    """Tokens per pass in the four ways of drafting, and whether each text was that of plain greedy decoding."""
    from farthing.export.checkpoint import open_checkpoint
    from farthing.export.checkpoint.mtp_adapter import open_adapter
    from farthing.models.mtp import MtpDecoder

    checkpoint = open_checkpoint(folder)
    model = MtpDecoder(checkpoint, open_adapter(adapter, checkpoint))
    found: dict[str, float] = {}
    for mode in ("quadratic", "linear"):
        for sampler in (True, False):
            same = accepted = passes = 0
            for prompt in prompts(count):
                made = decode(model, prompt, new, mode=mode, sampler=sampler)
                same += made.ids == model.greedy(prompt, new)
                accepted, passes = accepted + sum(made.accepted), passes + made.passes
            name = f"{mode}, {'with' if sampler else 'without'} sampler"
            found[name] = 1 + accepted / passes
            print(f"{name}: {found[name]:.2f} tokens a pass, {same} of {count} texts as plain greedy", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/mtp"))
    parser.add_argument("--base-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.out / "model").exists():
        train_base(args.out / "model", args.base_steps)
    text = args.out / "lines.jsonl"
    data = list(templated(300_000, TRAINING_SEED + 1).encode())
    text.write_text("".join(json.dumps({"ids": data[i : i + 3000]}) + "\n" for i in range(0, len(data), 3000)))
    options = Options(
        masks=4, rank=16, steps=args.steps, batch=8, length=96, density=0.3, rate=4e-3, warm_up=20, seed=3
    )
    print(train(args.out / "model", [text], args.out / "mtp.safetensors", options))
    measure(args.out / "model", args.out / "mtp.safetensors", 12, 96)


if __name__ == "__main__":
    main()
