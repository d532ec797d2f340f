"""What the ways of having fewer visual tokens cost on the scenes of vlm_scenes.py: accuracy on held-out pictures.

    python benchmarks/vlm_pruning.py --model build/vlm/gaze-next --plain build/vlm/plain-next --out build/vlm/pruning.json
    python benchmarks/vlm_pruning.py --only idpruner,zoo --images 100

Measured in PyTorch with the selection rules of ``farthing::TokenSelect`` (its reference). Each proof states the claims of its paper;
a claim that does not hold is printed as FAILS with its numbers. Differences are paired: the same questions of the same pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import vlm_proofs
from vlm_bench import Bench, load

PROOFS = ("accuracy", "idpruner", "zoo", "matryoshka", "globalcom2", "ima")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/vlm/gaze-next"), help="LLaVA-NeXT folder")
    parser.add_argument(
        "--plain", type=Path, default=Path("build/vlm/plain-next"), help="the same, trained at full scale only"
    )
    parser.add_argument(
        "--selector", type=Path, default=Path("examples/vlm/selector"), help="trained here if it does not exist"
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=999)
    parser.add_argument("--only", default=",".join(PROOFS))
    parser.add_argument("--out", type=Path, default=Path("build/vlm/pruning.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load(args.model)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.only.split(","):
        began = time.process_time()
        result = run(name, model, args)
        found[f"{name}/{args.seed}"] = result
        print(f"\n## {name}, {args.images} pictures, seed {args.seed}: {time.process_time() - began:.0f} CPU s")
        show(result)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run(name: str, model: Any, args: argparse.Namespace) -> dict[str, Any]:
    if name == "accuracy":
        small = Bench.small(model, args.images, args.seed)
        benches = {q: Bench.large(model, args.images // 2, args.seed, quadrants=q) for q in (1, 4)}
        return vlm_proofs.accuracy({"small": small} | {f"large, detail in {q} of 4": b for q, b in benches.items()})
    if name == "idpruner":
        return vlm_proofs.idpruner(Bench.small(model, args.images, args.seed), args.selector)
    if name == "zoo":
        return vlm_proofs.zoo(Bench.small(model, args.images, args.seed))
    if name == "matryoshka":
        other = Bench.small(load(args.plain), args.images, args.seed)
        return vlm_proofs.matryoshka(Bench.small(model, args.images, args.seed), other)
    if name == "globalcom2":
        return vlm_proofs.globalcom2(
            {q: Bench.large(model, args.images // 2, args.seed, quadrants=q) for q in (1, 2, 4)}
        )
    if name == "ima":
        return vlm_proofs.ima(Bench.small(model, args.images // 2, args.seed))
    raise SystemExit(f"unknown proof {name}; there are {', '.join(PROOFS)}")


def show(result: dict[str, Any]) -> None:
    """The rows of one proof and its claims."""
    for name, row in result["rows"].items():
        print(f"{name:44}", "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    for claim, (holds, text) in result["claims"].items():
        print(f"{'holds' if holds else 'FAILS'}: {claim} ({text})", flush=True)


if __name__ == "__main__":
    main()
