"""``farthing bench``: speed and memory of one bundle on this machine."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import RequestError, found_wanted
from ..runtime.bundle import open_bundle
from .options import open_bundle_for

HELP = """Measure a bundle: opening, prefill, decoding, memory, and what the runtime adds to the model.

\b
Examples:
  farthing bench bundle
  farthing bench bundle --prompt-tokens 512 --new-tokens 64 --threads 2
  farthing bench bundle --json
  farthing bench bundle --draft all --plot drafts.png

\b
Tokens per CPU-second (all cores' time together) is the figure to compare: other programs on the machine hardly move it, while
wall time is shown beside it as information. The median of --runs is given, after one run that is not counted.
--draft all (or names, with commas) measures guessing ahead instead: tokens per CPU-second by drafter and kind of text (code, JSON, quotes,
prose, random ids), against plain decoding of the same prompts, and whether the ids are the same.
A bundle that is run once per input is timed per pass instead, at batch 1 and --prompt-tokens tokens.
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
@click.option("--draft", help="Measure guessing ahead: all, or names such as lookup,auto.")
@click.option("--plot", type=click.Path(), help="With --draft: also draw it, to this .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def bench_command(
    bundle: str,
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    threads: int,
    no_native: bool,
    draft: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """The command itself; its help is HELP."""
    if draft is not None:
        _bench_drafts(bundle, draft, new_tokens, runs, threads, no_native, plot, as_json)
        return
    if plot is not None:
        raise RequestError(found_wanted("--plot", "given without --draft", "only with it", "give --draft all"))
    if open_bundle(bundle, hashes=False, networks=True).is_network:
        from ._network import bench_network, bench_text

        measured = bench_network(bundle, batch=1, length=prompt_tokens, runs=runs, threads=threads)
        click.echo(json.dumps(measured) if as_json else bench_text(measured))
        return
    start = time.perf_counter()
    opening = {"threads": threads, "context": prompt_tokens + new_tokens, "no_native": no_native, "draft": "none"}
    with open_bundle_for(bundle, opening) as runtime:
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


def _bench_drafts(
    bundle: str, draft: str, new_tokens: int, runs: int, threads: int, no_native: bool, plot: str | None, as_json: bool
) -> None:
    from ..calibration.draft_speed import draft_table, drafts_of, measure_drafts, plot_drafts

    with open_bundle_for(bundle, {"threads": threads, "no_native": no_native, "draft": "none"}) as runtime:
        names = drafts_of(runtime) if draft == "all" else draft.split(",")
        before = set(_costs(bundle))
        runtime.tune()  # else every change of drafter would measure again
        tuned = set(_costs(bundle)) - before
        with click.progressbar(length=1, label="decoding", file=sys.stderr) as bar:

            def show(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            try:
                results = measure_drafts(runtime, names, new_tokens=new_tokens, rounds=runs, progress=show)
            finally:
                for path in tuned:  # a measurement does not change how the bundle runs afterwards
                    path.unlink()
    if plot is not None:
        plot_drafts(results, Path(plot), f"{Path(bundle).name}, {threads or 'all'} thread(s)")
    click.echo(json.dumps([r.as_json() for r in results]) if as_json else draft_table(results))


def _costs(bundle: str) -> list[Path]:
    return list(Path(bundle, "compiled", "costs").glob("*.json"))


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
