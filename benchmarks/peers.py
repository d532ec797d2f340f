"""Compare farthing with other runtimes on the same weights, the same prompt and the same clock.

    python benchmarks/peers.py                                      everything (the first time installs the peers)
    python benchmarks/peers.py --peers farthing genai llamacpp:int4 --models m100 --runs 3 --one-pass
    python benchmarks/peers.py --from-json build/peers/results.json --docs docs/benchmarks.md

Any Python 3.10 with venv will do to start it: where farthing is not installed, an environment is made for it from this
source tree. Each peer lives in its own virtual environment and process. One that cannot be installed, converted or run becomes a
line with its reason; the others go on. The gate is CPU seconds at one thread, because it hardly moves when other jobs
share the machine; a second pass with two threads gives wall rates with the load beside them.
"""

import argparse
import datetime
import importlib.util
import json
import os
import sys
from pathlib import Path

from _peers.driver import NEW, measure_pass, rates
from _peers.prepare import SetupError, Workspace, machine
from _peers.registry import PEERS, REFERENCE, select
from _peers.report import show, write_docs

MODELS = ("smollm2", "m100")


def leading(ids: list[int], reference: list[int]) -> int:
    """How many ids agree before the first difference."""
    for i, (a, b) in enumerate(zip(ids, reference)):
        if a != b:
            return i
    return min(len(ids), len(reference))


def reference_ids(space: Workspace, model: str, results: dict) -> list[int] | None:
    """Ids of transformers fp32, kept so that a later run without that peer can still compare."""
    path = space.root / "models" / f"{model}.ids.json"
    ids = results.get(REFERENCE, {}).get("ids")
    if ids:
        path.write_text(json.dumps(ids))
    return json.loads(path.read_text()) if path.exists() else None


def run_model(space: Workspace, model: str, chosen: list, args) -> list[dict]:
    """Convert, measure and gather one model; one dictionary per peer and precision."""
    print(f"{model}: preparing", flush=True)
    prompt = json.loads((space.model(model) / "prompt.json").read_text())
    jobs, reasons = {}, {}
    for peer, precision in chosen:
        try:
            bundle = space.converted(peer, precision, model)
            jobs[peer.name, precision] = (space.interpreter(peer), peer.name, bundle, precision)
        except (SetupError, OSError) as error:
            reasons[peer.name, precision] = str(error)
    print(f"{model}: measuring {len(jobs)} workers", flush=True)
    one = measure_pass(jobs, prompt, 1, args.runs, args.context)
    two = {} if args.one_pass else measure_pass(jobs, prompt, 2, args.runs, args.context)
    reference = reference_ids(space, model, one)
    rows = []
    for peer, precision in chosen:
        key = peer.name, precision
        row = {"peer": peer.name, "label": peer.label, "precision": precision, "new": NEW}
        result = one.get(key, {"reason": reasons.get(key)})
        if "reason" in result:
            rows.append({**row, "reason": result["reason"]})
            continue
        row |= {name: result[name] for name in ("bytes", "open", "rss", "versions", "same_ids", "ids")}
        row |= {
            "one": rates(result, len(prompt), "cpu"),
            "agree": leading(row["ids"], reference) if reference else None,
        }
        if two.get(key, {}).get("runs"):
            row["two"] = rates(two[key], len(prompt), "wall")
        rows.append(row)
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peers", nargs="+", default=[], metavar="PEER[:PRECISION]", help=f"from: {', '.join(PEERS)}")
    parser.add_argument("--runs", type=int, default=5, help="measured rounds after the warm-up")
    parser.add_argument("--context", type=int, default=512, help="cache capacity of runtimes that want one")
    parser.add_argument("--one-pass", action="store_true", help="skip the pass with two threads")
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument(
        "--farthing-python", help="interpreter that has farthing (default: this one, or one made for it)"
    )
    parser.add_argument(
        "--pip-args", nargs="*", default=[], help="passed to every pip install, for an index of CPU wheels say"
    )
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--docs", type=Path, help="Markdown page to update; the plot goes to img/ beside it")
    parser.add_argument("--from-json", type=Path, help="measure nothing, show these results again")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs is {args.runs}, expected at least 1")
    return args


def main() -> int:
    args = parse()
    if args.from_json:
        result = json.loads(args.from_json.read_text())
    else:
        chosen = select(args.peers)
        space = Workspace(args.work, args.pip_args, args.farthing_python or sys.executable)
        if not args.farthing_python and importlib.util.find_spec("farthing") is None:
            python = space.own()
            os.execv(python, [str(python), *sys.argv])  # the same again where farthing and its plots are
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "runs": args.runs,
            "prompt": 64,
            "new": NEW,
            "versions": {},
            "models": {},
        }
        for model in args.models:
            result["models"][model] = run_model(space, model, chosen, args)
        for row in sum(result["models"].values(), []):
            result["versions"] |= row.get("versions", {})
        for path in filter(None, [space.root / "results.json", args.json]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
    print(show(result))
    if args.docs:
        write_docs(result, args.docs)
        print(f"wrote {args.docs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
