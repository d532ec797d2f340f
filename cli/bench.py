"""``farthing bench``: speed and memory of one bundle on this machine."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import click

from .options import open_bundle_for

HELP = """Measure a bundle: opening, prefill, decoding, memory, and what the runtime adds to the model.

\b
Examples:
  farthing bench bundle
  farthing bench bundle --prompt-tokens 512 --new-tokens 64 --threads 2
  farthing bench bundle --json

\b
Tokens per CPU-second (all cores' time together) is the figure to compare: other programs on the machine hardly move it, while
wall time is shown beside it as information. The median of --runs is given, after one run that is not counted.
"Outside" is wall time per pass that is not spent in ONNX Runtime: sampling, callbacks, bookkeeping.
"""


@click.command("bench", help=HELP, short_help="Measure speed and memory.")
@click.argument("bundle", type=click.Path())
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=64, show_default=True, help="Made-up prompt of this length."
)
@click.option(
    "--new-tokens", type=click.IntRange(2), default=128, show_default=True, help="Tokens to decode, greedily."
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Counted runs.")
@click.option("--threads", type=int, default=1, show_default=True, help="0 = all cores.")
@click.option("--no-native", is_flag=True, help="Portable mode, without our kernels.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def bench_command(
    bundle: str, prompt_tokens: int, new_tokens: int, runs: int, threads: int, no_native: bool, as_json: bool
) -> None:
    start = time.perf_counter()
    with open_bundle_for(bundle, threads, prompt_tokens + new_tokens, no_native) as runtime:
        opened = time.perf_counter() - start
        prompt = _prompt(runtime.vocab_size, prompt_tokens)
        samples = [
            runtime.generate(prompt_ids=prompt, max_new_tokens=new_tokens, greedy=True, ignore_eos=True).stats
            for _ in range(runs + 1)
        ][1:]
        result = {
            "bundle": str(bundle),
            "native": runtime.native,
            "threads": threads,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "runs": runs,
            "open_seconds": opened,
            **_medians(samples, prompt_tokens, new_tokens),
            "weight_bytes": runtime.bundle.weight_bytes,
            "kv_bytes": runtime.bundle.kv_bytes(prompt_tokens + new_tokens),
            "carries": "state" if "state" in runtime.bundle.manifest else "cache",
            "peak_rss_bytes": _peak_rss(),
            "load_average": os.getloadavg()[0],
        }
    click.echo(json.dumps(result) if as_json else _table(result))


def _prompt(vocab: int, count: int) -> list[int]:
    """Ids that look like nothing in particular, the same on every machine (Knuth's MMIX generator)."""
    state, ids = 20240229, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        ids.append((state >> 33) % vocab)
    return ids


def _medians(samples: list[dict[str, Any]], prompt: int, new: int) -> dict[str, float]:
    def median(value: Any) -> float:
        return statistics.median(value(s) for s in samples)

    steps = new - 1  # the first new token comes out of the prefill
    return {
        "prefill_tokens_per_cpu_second": median(lambda s: prompt / s["prefill_cpu_seconds"]),
        "prefill_tokens_per_second": median(lambda s: prompt / s["prefill_seconds"]),
        "decode_tokens_per_cpu_second": median(lambda s: steps / s["decode_cpu_seconds"]),
        "decode_tokens_per_second": median(lambda s: steps / s["decode_seconds"]),
        "first_token_seconds": median(lambda s: s["first_token_seconds"]),
        "outside_microseconds_per_pass": median(
            lambda s: 1e6 * (s["prefill_seconds"] + s["decode_seconds"] - s["model_seconds"]) / s["passes"]
        ),
    }


def _peak_rss() -> int | None:
    """Bytes: VmHWM of this process; None where /proc is not there."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _table(r: dict[str, Any]) -> str:
    peak = "unknown" if r["peak_rss_bytes"] is None else f"{r['peak_rss_bytes'] / 1e6:.0f} MB"
    return (
        f"{r['bundle']}: {'C++ core with kernels' if r['native'] else 'portable mode'}, "
        f"{r['threads'] or 'all'} thread(s), median of {r['runs']}, load {r['load_average']:.1f}\n"
        f"  opening   {r['open_seconds']:.2f} s\n"
        f"  prefill   {r['prefill_tokens_per_cpu_second']:8.1f} tokens/CPU-s   {r['prefill_tokens_per_second']:8.1f} tokens/s"
        f"   ({r['prompt_tokens']} tokens)\n"
        f"  decode    {r['decode_tokens_per_cpu_second']:8.1f} tokens/CPU-s   {r['decode_tokens_per_second']:8.1f} tokens/s"
        f"   ({r['new_tokens']} tokens)\n"
        f"  outside   {r['outside_microseconds_per_pass']:.0f} us per pass\n"
        f"  memory    {peak} at most, for {r['weight_bytes'] / 1e6:.0f} MB weights and {r['kv_bytes'] / 1e6:.3g} MB {r['carries']}"
    )
