"""How often the drafts of an mtp bundle come true on fresh prompts, by kind of text, and what a pass with them costs.

    python benchmarks/mtp_acceptance.py build/smollm2-mtp

For every kind: tokens a pass with all masks behind every row (quadratic) and with masks behind the last one (linear), as many as the bundle
has; then as the loop itself chooses, with the costs measured here: tokens a pass, and CPU seconds a token against plain decoding.
Greedy, one thread; every text is compared with the plain one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import farthing
from farthing.calibration.draft_prompts import texts

CHAT = (
    "What is the difference between a lake and a sea?",
    "Give me three tips for writing a good letter.",
    "Why do leaves change colour in autumn?",
    "Write a short story about a lighthouse keeper.",
)
"""None of their subjects is among those that the shipped adapter was trained on."""

RECORDS = (
    '{"user": "nina", "part": "compressor", "value": 17, "state": "low"}\n'
    '{"user": "omar", "part": "turbine", "value": 83, "state": "high"}\n'
    '{"user": "pia", "part": "compressor", "value": 61, "state": "high"}\n',
    '{"city": "Bern", "country": "Switzerland", "population": 134000}\n'
    '{"city": "Graz", "country": "Austria", "population": 292000}\n'
    '{"city": "Lyon", "country": "France", "population": 522000}\n',
)


def prompts(model: Any) -> dict[str, list[list[int]]]:
    """Ids of the prompts by kind."""
    encode = model.tokenizer.encode
    chats = [
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in CHAT
    ]  # the shipped adapter's base; other bases are asked in its form all the same
    found = {kind: [list(encode(t)) for t in texts(kind)[:4]] for kind in ("code", "json", "prose")}
    return {**found, "records": [list(encode(t)) for t in RECORDS], "chat": [list(encode(t)) for t in chats]}


def generate(model: Any, ids: list[int], new: int) -> tuple[list[int], int, float]:
    """(ids, passes, CPU seconds)."""
    model.reset()
    began = time.process_time()
    made = model.generate(prompt_ids=ids, greedy=True, max_new_tokens=new, stop_ids=[])
    return made.ids, made.stats["passes"], time.process_time() - began


def compare(plain: list[Any], cells: list[Any]) -> dict[str, Any]:
    """Tokens a pass, how many texts are the plain ones, and plain CPU seconds over these."""
    return {
        "tokens a pass": round(sum(len(c[0]) for c in cells) / sum(c[1] for c in cells), 2),
        "same": f"{sum(c[0] == p[0] for c, p in zip(cells, plain))} of {len(cells)}",
        "speed": round(sum(p[2] for p in plain) / sum(c[2] for c in cells), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--new", type=int, default=96, help="ids a text")
    parser.add_argument("--prompts", type=int, default=4, help="of each kind, at most")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load = {"threads": 1, "context": 1024}
    table: dict[str, dict[str, Any]] = {}
    with (
        farthing.load(args.bundle, draft="none", **load) as model,
        farthing.load(args.bundle, draft="mtp", **load) as choosing,
    ):
        masks, group = model.bundle.manifest["mtp"]["masks"], prompts(model)
        generate(choosing, group["prose"][0], 48)  # measures what passes cost
        for kind, ids in group.items():
            ids = ids[: args.prompts]
            model.engine.draft("none", "", {})
            plain = [generate(model, i, args.new) for i in ids]
            row = table.setdefault(kind, {})
            for name, how in (("quadratic", "all"), ("linear", "last")):
                model.engine.draft("mtp", "", {"nodes": masks, "masks": how, "always": True})
                row[name] = compare(plain, [generate(model, i, args.new) for i in ids])
            row["chosen"] = compare(plain, [generate(choosing, i, args.new) for i in ids])
            print(kind, row, flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
