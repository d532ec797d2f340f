"""What every worker shares: the command line, the JSON-lines conversation and the clocks.

    python <peer>_worker.py convert --model HF_DIR --out OUT --precision int4
    python <peer>_worker.py serve --bundle OUT --precision int4 --threads 1 --context 512

`serve` opens the model, prints one line about it, then answers each line {"prompt": [ids], "new": 128} with the
ids and the time of prefill and decode. The standard library is all it may import: it runs in every peer's environment.
"""

import argparse
import ctypes
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class Lap:
    """CPU seconds of all threads of this process, and wall seconds, since it was made."""

    def __init__(self):
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def read(self) -> dict:
        return {"cpu": time.process_time() - self.cpu, "wall": time.perf_counter() - self.wall}


def minus(a: dict, b: dict) -> dict:
    return {key: a[key] - b[key] for key in a}


def measure(engine, prompt: list[int], new: int) -> dict:
    """One request, split at the first new token.

    An engine with `streams = True` calls `first()` when it has the first id. For the others a request for one
    token is timed separately and subtracted: prefill is then that request, decode the rest, in both cases `new` - 1 tokens.
    Another such request goes first, untimed: we were stopped a moment ago and others have used the caches since, and
    with a cold prefill in the difference the second kind would look faster than it is.
    """
    engine.generate(prompt, 1, lambda: None)
    if engine.streams:
        marks = []
        lap = Lap()
        ids = engine.generate(prompt, new, lambda: marks.append(lap.read()))
        total, prefill = lap.read(), marks[0]
    else:
        lap = Lap()
        engine.generate(prompt, 1, None)
        prefill = lap.read()
        lap = Lap()
        ids = engine.generate(prompt, new, None)
        total = lap.read()
    if len(ids) != new:
        raise RuntimeError(f"number of new ids is {len(ids)}, expected {new}; is EOS really ignored?")
    return {"ids": [int(i) for i in ids], "prefill": prefill, "decode": minus(total, prefill)}


def peak_rss() -> int:
    """High-water mark of resident memory in bytes (Linux), memory-mapped weights included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def weight_bytes(path: Path) -> int:
    """Bytes of the converted model without tokenizer and other text files."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    text = (".json", ".jinja", ".txt", ".md", ".xml", ".py", ".model")
    return sum(
        p.stat().st_size
        for p in files
        if p.suffix not in text and "tokenizer" not in p.name and p.parent.name not in ("tokenizer", "vectors")
    )  # farthing's tokenizer and recorded test vectors


def die_with_parent() -> None:
    """Ask the kernel to kill us when the driver ends: a worker stopped by SIGSTOP would never see its pipe close."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(args, engine_type, packages) -> None:
    die_with_parent()
    # Libraries print progress on standard output. The conversation keeps the real one; everybody else gets stderr.
    talk = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(message: dict) -> None:
        talk.write(json.dumps(message) + "\n")

    try:
        lap = Lap()
        engine = engine_type(
            args.bundle, args.precision, args.threads, args.context, **({"draft": args.draft} if args.draft else {})
        )
        opened = lap.read()
        found = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
        versions = {name: found[name] for name in packages if name in found}
        say({"ok": True, "open": opened, "bytes": weight_bytes(args.bundle), "versions": versions})
        for line in sys.stdin:
            request = json.loads(line)
            answer = measure(engine, request["prompt"], request["new"])
            told = {name: getattr(engine, name) for name in ("passes", "guesses") if hasattr(engine, name)}
            say({"ok": True, "rss": peak_rss(), **told, **answer})
    except Exception as error:  # the driver reports it in the table and goes on with the other peers
        say({"ok": False, "reason": f"{type(error).__name__}: {error}"})
        raise


def main(convert, engine_type, packages: list[str]) -> None:
    """Entry point of a worker: `convert(model, out, precision)` and `engine_type(bundle, precision, threads, context)`; with --draft also `draft=`."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("convert")
    one.add_argument("--model", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("serve")
    two.add_argument("--bundle", type=Path, required=True)
    two.add_argument("--threads", type=int, required=True)
    two.add_argument("--context", type=int, default=512)
    two.add_argument("--draft", default="", help="how to guess ahead, for workers that can")
    for command in (one, two):
        command.add_argument("--precision", required=True)
    args = parser.parse_args()
    if args.command == "convert":
        try:
            convert(args.model, args.out, args.precision)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)  # no traceback of ours: the tool's own last line is the reason to show
    else:
        serve(args, engine_type, packages)
