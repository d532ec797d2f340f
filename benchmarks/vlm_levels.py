"""Right answers at the levels of exported bundles, on large held-out pictures: what a bundle keeps is what its own project graph chose.

    python benchmarks/vlm_levels.py --model examples/vlm/deep --out build/vlm-levels     # idpruner (two kinds of importance), zoo-prune, globalcom2

The choice is made by the bundle (`farthing.export`, our kernels), the answers by PyTorch, many questions a pass (vlm_model.py). Without
`--methods` all of METHODS. Differences to all rows are paired, with their standard error over pictures.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from vlm_bench import Bench, Score, load, wilson

from farthing.calibration.visual.trial import kernels_encoder
from farthing.export import export
from farthing.runtime.bundle import open_bundle
from farthing.runtime.visual.spec import VisionSpec

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "idpruner, sensitivity": ("idpruner", {"importance": "sensitivity"}),
    "idpruner, norm": ("idpruner", {"importance": "norm"}),
    "zoo-prune": ("zoo-prune", {}),
    "globalcom2": ("globalcom2", {}),
    "globalcom2, probs": ("globalcom2", {"scores": "probs"}),
}


def kept_rows(bundle: Path, bench: Bench, level: str) -> tuple[torch.Tensor, bool]:
    """(rows that ``level`` keeps of each picture int64 [n,k], whether they are renumbered)."""
    opened = open_bundle(bundle)
    spec = VisionSpec(opened.manifest["vision"])
    encoder = kernels_encoder(opened, spec)
    kept = [torch.from_numpy(encoder.rows(scene.image, level).kept) for scene in bench.scenes]
    return torch.stack(kept), spec.compact


def told(name: str, level: str, rows: int, score: Score, all_rows: Score) -> str:
    """One line of the table."""
    right, asked = int(score.good.sum()), len(score.good)
    low, high = wilson(right, asked)
    row = score.row()
    gap, error = score.minus(all_rows)
    cells = [f"{100 * row[k]:.1f}" for k in ("all", "coarse", "fine")]
    interval = f"{100 * low:.1f} to {100 * high:.1f}"
    return f"| {name} | {level} | {rows} | {' | '.join(cells)} | {interval} | {100 * gap:+.1f} +- {100 * error:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a LLaVA-NeXT folder of vlm_fixture.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--levels", nargs="+", default=["r50", "r75"])
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--seed", type=int, default=999)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.large(load(args.model), args.images, args.seed, quadrants=4)
    whole = bench.right()
    print(
        "| method | level | rows | all | coarse | fine | 95 % interval | against all rows |\n|---|---|--:|--:|--:|--:|--:|--:|"
    )
    print(told("all", "full", bench.rows.shape[1], whole, whole), flush=True)
    for name in args.methods:
        method, options = METHODS[name]
        bundle = args.out / name.replace(", ", "-")
        shutil.rmtree(bundle, ignore_errors=True)
        export(
            method, args.model, bundle, check=False, ratios=[int(level[1:]) / 100 for level in args.levels], **options
        )
        for level in args.levels:
            kept, compact = kept_rows(bundle, bench, level)
            score = bench.right(lambda n, k=kept: k[n], compact=compact)
            print(told(name, level, kept.shape[1], score, whole), flush=True)


if __name__ == "__main__":
    main()
