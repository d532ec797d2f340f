"""The table of docs/quantize.md: what each choice of `farthing quantize` costs in quality, bytes and time.

    python benchmarks/quantization_table.py build/smollm2 --out build/quantization

Every row is one `farthing quantize` with the loss it measured itself, then one `farthing bench` at one thread (64 tokens of prompt,
128 new, best of the runs, CPU seconds). Bundles that exist in --out are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import farthing
from farthing.calibration.quantize import Options, quantize

ROWS = {
    "int4 (default)": Options(),
    "int4 --symmetric": Options(symmetric=True),
    "int4 --block 64": Options(block=64),
    "int4 --block 128": Options(block=128),
    "int4 --head int4": Options(head="int4"),
    "int4 --embedding int8": Options(embedding="int8"),
    "int8": Options(weights="int8"),
    "int4 --rounding gptq": Options(rounding="gptq"),
    "int4 --symmetric --rounding gptq": Options(symmetric=True, rounding="gptq"),
    "int4 --block 64 --rounding gptq": Options(block=64, rounding="gptq"),
}


def megabytes(bundle: Path) -> float:
    return sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6


def speed(bundle: Path, runs: int) -> float:
    """Decoded tokens per CPU-second at one thread, best of ``runs``."""
    with farthing.load(bundle, threads=1, context=256) as model:
        prompt = list(range(1000, 1064))
        best = 0.0
        for _ in range(runs):
            stats = model.generate(prompt_ids=prompt, max_new_tokens=129, greedy=True, ignore_eos=True).stats
            best = max(best, 128 / stats["decode_cpu_seconds"])
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/quantization"))
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| choice | MB | KL to fp32, nats | perplexity | decode, tokens per CPU-second |")
    print("|---|---|---|---|---|")
    first = True
    for name, options in ROWS.items():
        target = args.out / name.replace(" ", "").replace("(default)", "")
        if not target.exists():
            quantize(args.bundle, target, options)
        loss = json.loads((target / "manifest.json").read_text())["quantization"]["loss"]
        if first:
            source, first = loss["source"]["perplexity"], False
            print(f"| source | {megabytes(args.bundle):.0f} | 0 | {source:.2f} | {speed(args.bundle, args.runs):.1f} |")
        print(
            f"| {name} | {megabytes(target):.0f} | {loss['kl']:.4f} | {loss['quantized']['perplexity']:.2f} | {speed(target, args.runs):.1f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
