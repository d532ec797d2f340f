"""The tables and pictures of docs/visual-tokens.md: levels of four methods on made scenes, with the small model of examples/vlm.

    python benchmarks/vlm_fixture.py --next build/vlm-next
    python benchmarks/visual_sweep.py --model examples/vlm/model --next build/vlm-next --out build/visual-sweep --docs docs/img

One view: idpruner, zoo-prune and matryoshka on pictures of 96x96. Several views: idpruner, zoo-prune and globalcom2 on pictures of 192x192. Each on
questions about shapes and grounds (coarse) and about digits and dots of one patch (fine). One thread, some ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from visual_questions import write

from farthing.calibration.visual import choose, read_data, sweep
from farthing.calibration.visual.levels import Sweep
from farthing.calibration.visual.picture import draw
from farthing.calibration.visual.show import plot, table
from farthing.calibration.visual.view import panels
from farthing.export import export
from farthing.runtime.bundle import open_bundle
from farthing.runtime.visual.images import as_rgb

RATIOS = (0.5, 0.75, 0.9)
ONE, SEVERAL = ("idpruner", "zoo-prune", "matryoshka"), ("idpruner", "zoo-prune", "globalcom2")
SHOWN = {"idpruner": "one", "zoo-prune": "one", "matryoshka": "one", "globalcom2": "several"}
"""Of which views docs/img/prune-<method>.png is."""


def export_all(model: Path, methods: tuple[str, ...], out: Path) -> list[Path]:
    for method in methods:
        more = {} if method == "matryoshka" else {"ratios": RATIOS}
        export(method, model, out / method, check=False, **more)
    return [out / method for method in methods]


def save(picture: np.ndarray, path: Path) -> None:
    """As PNG; with 200 colours where it would be large, since noise of the ground is half of it. Maximum coverage keeps rare ones."""
    Image.fromarray(picture).save(path, optimize=True)
    if path.stat().st_size > 200_000:
        Image.fromarray(picture).quantize(200, method=Image.Quantize.MAXCOVERAGE, dither=0).save(path, optimize=True)


def markdown(found: Sweep) -> str:
    lines = [
        "| method | level | rows | accuracy | loss | KL, nats per token | GFLOP | prefill, CPU ms | selector | KV kB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for bundle in found.bundles:
        for level in bundle.levels:
            if level.level == "full" and bundle is not found.bundles[0]:
                continue
            assert level.accuracy is not None and level.loss is not None
            chooser = "-" if level.selector_share is None else f"{level.selector_share:.0%}"
            full = level.level == "full"
            loss = "0" if full else f"{level.loss.value:+.3f} [{level.loss.low:+.3f}, {level.loss.high:+.3f}]"
            cells = [
                "all" if full else bundle.method,
                level.level,
                f"{level.rows:.0f}",
                f"{level.accuracy.value:.3f} [{level.accuracy.low:.3f}, {level.accuracy.high:.3f}]",
                loss,
                "0" if full else f"{level.kl.value:.3f}",
                f"{level.flops / 1e9:.2f}",
                f"{1e3 * level.prefill_seconds.value:.1f}",
                chooser,
                f"{level.cache_bytes / 1e3:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="The LLaVA folder; without it one view is left out.")
    parser.add_argument("--next", type=Path, help="The LLaVA-NeXT folder; without it several views are left out.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="Folder for the pictures; without it they go to --out.")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--picture", default="003.png", help="The one that is shown.")
    args = parser.parse_args()
    images = args.docs or args.out
    for views, model, methods in (("one", args.model, ONE), ("several", args.next, SEVERAL)):
        if model is None:
            continue
        folder = args.out / views
        write(folder / "scenes", 100, large=views == "several")
        bundles = export_all(model, methods, folder)
        for method in methods:
            if SHOWN[method] == views:
                shown = draw(panels(open_bundle(folder / method), as_rgb(folder / "scenes" / args.picture)), method)
                save(shown, images / f"prune-{method}.png")
        for kind in ("coarse", "fine"):
            data = read_data(folder / "scenes", folder / "scenes" / f"{kind}.jsonl", items=args.items)
            found = sweep(bundles, data, max_new_tokens=3)
            choices = choose(found)
            print(f"\n## {views}, {kind}\n\n{table(found, choices)}\n\n{markdown(found)}", flush=True)
            name = "visual-sweep" + ("" if views == "one" else "-views") + ("" if kind == "coarse" else "-fine")
            plot(found, images / f"{name}.png", choices)


if __name__ == "__main__":
    main()
