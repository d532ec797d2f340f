"""What the runtime promises, measured on one bundle: each line has a limit, and a broken one makes the exit code 1.

    python benchmarks/runtime_promises.py build/smollm2 [--docs docs/benchmarks.md]

* a decode step costs what its length costs: capacity 8192 against 512 at past 128, <= 1.1 (medians of interleaved runs)
* time outside ONNX Runtime <= 100 us per token
* opening <= 2 s of CPU, all hashes checked
* peak RSS <= weights + cache + 150 MB

One thread, CPU seconds. Opening and time outside are the best of several, since other jobs on the machine can only add to them
(time outside is wall time: ONNX Runtime has no CPU clock of its own).
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BEGIN, END = "<!-- promises: begin -->", "<!-- promises: end -->"
PAST, NEW = 128, 64


def serve(bundle: str, context: int) -> None:
    """The measured process: opens, then answers every line on stdin with one measured generation."""
    import resource

    import farthing

    start = time.process_time()
    model = farthing.load(bundle, threads=1, context=context)
    opened = time.process_time() - start
    prompt = [i % 1000 + 10 for i in range(PAST)]
    print(json.dumps({"open": opened}), flush=True)
    for _ in sys.stdin:
        s = model.generate(prompt_ids=prompt, max_new_tokens=NEW, greedy=True, ignore_eos=True).stats
        line = {
            "decode": s["decode_cpu_seconds"] / (NEW - 1),
            "outside": (s["prefill_seconds"] + s["decode_seconds"] - s["model_seconds"]) / s["passes"],
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(line), flush=True)


def start(bundle: Path, context: int) -> tuple[subprocess.Popen[str], float]:
    command = [sys.executable, __file__, str(bundle), "--serve", str(context)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, json.loads(process.stdout.readline())["open"]


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def measure(bundle: Path, runs: int) -> list[tuple[str, str, str, bool]]:
    """(what, found, limit, whether it holds)."""
    from farthing.runtime.bundle import open_bundle

    openings = []
    for _ in range(3):
        process, seconds = start(bundle, 512)
        openings.append(seconds)
        process.stdin.close()
        process.wait()
    opened = min(openings)
    small, _ = start(bundle, 512)
    large, _ = start(bundle, 8192)
    for process in (small, large):
        ask(process)
    pairs = [(ask(small), ask(large)) for _ in range(runs)]
    for process in (small, large):
        process.stdin.close()
        process.wait()
    ratio = statistics.median(b["decode"] for _, b in pairs) / statistics.median(a["decode"] for a, _ in pairs)
    outside = min(a["outside"] for a, _ in pairs) * 1e6
    checked = open_bundle(bundle, hashes=False)
    needed = checked.weight_bytes + checked.kv_bytes(512)
    extra = (max(a["rss"] for a, _ in pairs) - needed) / 1e6
    return [
        ("decode step at past 128, capacity 8192 against 512", f"{ratio:.3f}", "<= 1.1", ratio <= 1.1),
        ("time outside ONNX Runtime per token", f"{outside:.0f} us", "<= 100 us", outside <= 100),
        ("opening, hashes checked", f"{opened:.2f} s", "<= 2 s", opened <= 2),
        (
            f"peak RSS above weights + cache ({needed / 1e6:.0f} MB)",
            f"{extra:.0f} MB",
            "<= 150 MB",
            extra <= 150,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--docs", type=Path, help="Markdown page whose block of these figures is replaced")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(str(args.bundles[0]), args.serve)
        return 0
    lines = [
        f"Measured {datetime.date.today()}, {platform.machine()}, one thread, by `benchmarks/runtime_promises.py`."
    ]
    good = True
    for bundle in args.bundles:
        lines += ["", f"### {bundle.name}", "", "| promise | found | limit | |", "|---|---:|---:|---|"]
        for what, found, limit, holds in measure(bundle, args.runs):
            good &= holds
            lines.append(f"| {what} | {found} | {limit} | {'holds' if holds else '**broken**'} |")
    print("\n".join(lines))
    if args.docs:
        text = args.docs.read_text() if args.docs.exists() else "# Benchmarks\n"
        if BEGIN not in text:
            text += f"\n## Promises of the runtime\n\n{BEGIN}\n{END}\n"
        args.docs.write_text(
            text[: text.index(BEGIN)] + BEGIN + "\n" + "\n".join(lines) + "\n" + text[text.index(END) :]
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
