"""Tokens per CPU-second with guesses and without, by kind of text, beside onnxruntime-genai's n-grams and OpenVINO's prompt lookup.

    python benchmarks/speculation.py --farthing-python build/env/bin/python            needs what benchmarks/peers.py has prepared
    python benchmarks/speculation.py --precisions fp32 --kinds code json --drafts none lookup --no-peers
    python benchmarks/speculation.py --docs docs                                       also docs/speculation-speed.md and its plot

Every worker gets every prompt in turn, one thread, greedy, end-of-text ignored. The ids of each are compared with those of farthing's
plain decoding. The gate is farthing against its own plain decoding and against the best peer (with or without its guesses).
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from _peers.driver import Worker, WorkerError
from _peers.prepare import Workspace, machine
from _peers.registry import PEERS

from farthing.calibration.draft_prompts import KINDS, random_ids, texts

NEW = 128
PLAIN = "farthing", "none"


def prompts(bundle: Path, kinds: list[str], vocab: int) -> dict[str, list[list[int]]]:
    """Ids of the prompts of each kind."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer" / "tokenizer.json"))
    return {
        kind: [random_ids(vocab, 96, i) for i in range(3)]
        if kind == "random"
        else [tokenizer.encode(text, add_special_tokens=False).ids for text in texts(kind)]
        for kind in kinds
    }


def measure(
    space: Workspace, model: str, precision: str, jobs: list[tuple[str, str]], kinds: list[str], rounds: int
) -> dict[str, Any]:
    """Medians of CPU seconds per decoded token by job and kind, with agreement and passes."""
    workers: dict[tuple[str, str], Worker] = {}
    bundle = space.converted(PEERS["farthing"], precision, model)
    asked = prompts(bundle, kinds, 49152)
    try:
        for peer, draft in jobs:
            path = bundle if peer == "farthing" else space.converted(PEERS[peer], precision, model)
            workers[peer, draft] = Worker(space.interpreter(PEERS[peer]), peer, path, precision, 1, 1024, draft)
        results: dict[str, Any] = {}
        for kind, all_ids in asked.items():
            for number, ids in enumerate(all_ids):
                runs: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in workers}
                for _ in range(rounds):
                    for key, worker in workers.items():
                        runs[key].append(worker.ask(ids))
                wanted = runs[PLAIN][0]["ids"]
                for key, answers in runs.items():
                    cell = results.setdefault("/".join(key), {}).setdefault(kind, [])
                    same = next(
                        (i for i, (a, b) in enumerate(zip(answers[0]["ids"], wanted, strict=True)) if a != b), NEW
                    )
                    cell.append(
                        {
                            "cpu": statistics.median(a["decode"]["cpu"] for a in answers),
                            "agree": same,
                            "passes": answers[0].get("passes"),
                            "guesses": answers[0].get("guesses"),
                        }
                    )
                print(
                    f"  {precision} {kind} {number + 1}: "
                    + ", ".join(
                        f"{'/'.join(k)} {(NEW - 1) / results['/'.join(k)][kind][-1]['cpu']:.1f}" for k in workers
                    ),
                    flush=True,
                )
        return results
    finally:
        for worker in workers.values():
            worker.close()


def rate(cells: list[dict[str, Any]]) -> float:
    """Tokens per CPU-second over all prompts of a kind."""
    return len(cells) * (NEW - 1) / sum(c["cpu"] for c in cells)


def table(precision: str, results: dict[str, Any], kinds: list[str]) -> str:
    """Markdown: tokens per CPU-second, and the two ratios that count."""
    lines = [
        f"| {precision} | " + " | ".join(kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    for name, cells in results.items():
        shown = []
        for kind in kinds:
            text = f"{rate(cells[kind]):.1f}"
            if (passes := [c["passes"] for c in cells[kind]]) and all(passes):
                text += f" ({len(passes) * (NEW - 1) / sum(passes):.2f} a pass)"
            agree = [c["agree"] for c in cells[kind]]
            shown.append(text + ("" if min(agree) == NEW else f" [{min(agree)}]"))
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    ours = max_by(results, kinds, lambda n: n.startswith("farthing/auto"))
    plain = max_by(results, kinds, lambda n: n == "/".join(PLAIN))
    peers = max_by(results, kinds, lambda n: not n.startswith("farthing"))
    if any(ours.values()):
        lines.append("| auto : own plain | " + " | ".join(f"{ours[k] / plain[k]:.2f} x" for k in kinds) + " |")
        if any(peers.values()):
            lines.append("| auto : best peer | " + " | ".join(f"{ours[k] / peers[k]:.2f} x" for k in kinds) + " |")
    return "\n".join(lines)


def max_by(results: dict[str, Any], kinds: list[str], wanted: Any) -> dict[str, float]:
    """The best rate of each kind among the named."""
    return {k: max((rate(c[k]) for n, c in results.items() if wanted(n)), default=0.0) for k in kinds}


def plot(path: Path, all_results: dict[str, Any], kinds: list[str]) -> None:
    """Bars of tokens per CPU-second by kind, one panel a precision."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(all_results), figsize=(6.5 * len(all_results), 4), squeeze=False)
    for axis, (precision, results) in zip(axes[0], all_results.items(), strict=True):
        width = 0.8 / len(results)
        for i, (name, cells) in enumerate(results.items()):
            colour = plt.get_cmap("Blues" if name.startswith("farthing") else "Greys")(0.35 + 0.5 * i / len(results))
            axis.bar(
                [x + i * width for x in range(len(kinds))],
                [rate(cells[k]) for k in kinds],
                width,
                label=name,
                color=colour,
            )
        axis.set_xticks([x + 0.4 for x in range(len(kinds))], kinds)
        axis.set_title(f"SmolLM2-135M, {precision}, one thread")
        axis.set_ylabel("decoded tokens per CPU-second")
        axis.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def text_of(found: dict[str, Any]) -> str:
    """The machine in words."""
    return f"{found['cpu']} ({', '.join(found['cpu_flags'])}), {found['cores']} cores"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int4"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--drafts", nargs="+", default=["none", "lookup", "aded", "auto"])
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--farthing-python", default=sys.executable)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--docs", type=Path, help="folder to write speculation-speed.md and its plot to")
    args = parser.parse_args()
    space = Workspace(args.work, [], args.farthing_python)
    jobs = [("farthing", draft) for draft in dict.fromkeys(["none", *args.drafts])]
    if not args.no_peers:
        jobs += [("genai", "none"), ("genai", "ngram"), ("openvino", "none"), ("openvino", "lookup")]
    try:
        results = {p: measure(space, "smollm2", p, jobs, args.kinds, args.rounds) for p in args.precisions}
    except WorkerError as error:
        print(f"stopped: {error}")
        return 1
    made = {"date": datetime.date.today().isoformat(), "machine": machine(), "results": results}
    if args.json:
        args.json.write_text(json.dumps(made, indent=1) + "\n")
    tables = "\n\n".join(table(p, r, args.kinds) for p, r in results.items())
    print(tables)
    if args.docs:
        plot(args.docs / "img" / "speculation.png", results, args.kinds)
        (args.docs / "speculation-speed.md").write_text(
            f"# Speed of guessing ahead\n\nMade by `benchmarks/speculation.py` on {made['date']}, {text_of(made['machine'])}.\n"
            "SmolLM2-135M, one thread, greedy, 128 tokens a prompt, three prompts a kind. Tokens per CPU-second in decoding; in brackets\n"
            "tokens a pass; in square brackets after how many tokens the ids differ from farthing's plain decoding, where they do.\n\n"
            f"{tables}\n\n![Tokens per CPU-second by kind of text](img/speculation.png)\n",
            encoding="utf-8",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
