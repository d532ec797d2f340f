"""Every way of drawing images side by side: passes, CPU seconds, right classes, Frechet distance, distance to the train set; contact sheets.

    python benchmarks/image_methods.py --out build/images/methods                 # the table of docs/images.md and the sheets
    python benchmarks/image_methods.py --only gsd --count 200                      # ways whose label begins so
    python benchmarks/image_methods.py --time 5                                    # CPU time alone, the ways taking turns
    python benchmarks/image_methods.py --sweep plain8 --count 500                  # scales and top-k

Rows and images are kept in --out: run it again to go on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from image_data import grey, load
from image_drawing import Bench, Way
from PIL import Image

from farthing.runtime.drawing import contact_sheet

SCALE, ELM_SCALE = 2.0, 3.0
GROUPS, DELTAS = (3, 8, 14, 25, 50), (0.0, 0.05, 0.2, 0.4)
RELATIVE = (1.0, 2.0, 4.0)


def ways() -> list[Way]:
    """Rows of the table, in its order."""
    found = [Way("plain8", "plain8", "llamagen", scale=SCALE)]
    gsd = {"scale": SCALE, "model": "plain8", "method": "gsd"}
    found += [Way("gsd-exact", **gsd, draw={"decode": "exact"})]
    found += [Way(f"gsd-{g}", **gsd, options={"group_size": g}, draw={"decode": "grouped"}) for g in GROUPS]
    found += [Way("gsd-14-w8", **gsd, options={"group_size": 14}, draw={"decode": "grouped", "draft_window": 8})]
    found += [Way("gsd-partition", **gsd, options={"group_size": 14}, draw={"decode": "partition"})]
    lantern = {"scale": SCALE, "model": "plain8", "method": "lantern"}
    found += [Way("lantern-exact", **lantern, draw={"decode": "exact"})]
    found += [Way(f"lantern-{d}", **lantern, options={"delta": d}, draw={"decode": "neighbourhood"}) for d in DELTAS]
    found += [
        Way(f"lantern-r{d}", **lantern, options={"delta": d, "relative": True}, draw={"decode": "neighbourhood"})
        for d in RELATIVE
    ]
    found += [Way("plain16", "plain16", "llamagen", scale=SCALE), Way("nar16", "nar16", "nar", scale=SCALE)]
    found += [Way("shuffle16", "shuffle16", "token-shuffle", scale=SCALE, schedule="half_linear")]
    found += [Way("elm8-linear", "elm8", "elm", scale=ELM_SCALE, schedule="linear")]
    found += [Way("elm8-constant", "elm8", "elm", scale=ELM_SCALE)]
    return found


def sweep(model: str) -> list[Way]:
    """Scales, constant and by the schedule that the method's paper has, and top-k."""
    if model == "gsd":
        options = {"group_size": 14}
        return [
            Way(f"gsd-{d}-s{s}-k{k}", "plain8", "gsd", options, s, draw={"decode": d, "top_k": k})
            for d in ("exact", "grouped", "partition")
            for s, k in ((1.5, 0), (2.0, 0), (3.0, 0), (2.0, 64))
        ]
    method, schedule = {
        "elm8": ("elm", "linear"),
        "nar16": ("nar", None),
        "shuffle16": ("token-shuffle", "half_linear"),
    }.get(model, ("llamagen", None))
    found = []
    for s in (1.0, 1.5, 2.0, 3.0, 4.0):
        found.append(Way(f"{model}-s{s}", model, method, scale=s))
        if schedule and s > 1:
            found.append(Way(f"{model}-s{s}-{schedule}", model, method, scale=s, schedule=schedule))
    return found + [Way(f"{model}-s{s}-k64", model, method, scale=s, draw={"top_k": 64}) for s in (1.5, 2.0)]


HEAD = (
    "| way | passes | CPU ms | right classes, % | Frechet | nearest train image (5 %) | accepted | TV |\n"
    "|---|---|---|---|---|---|---|---|"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    (a, b), (c, d) = row["accuracy95"], row["frechet95"]
    passes = f"{row['passes']:.1f}" if "passes" in row else ""
    seconds = f"{1000 * row['seconds']:.0f}" if "seconds" in row else ""
    accepted, tv = (f"{row[n]:.2f}" if row.get("acceptance") else "" for n in ("acceptance", "tv"))
    return (
        f"| {row['label']} | {passes} | {seconds} | {100 * row['accuracy']:.1f} ({100 * a:.1f} to {100 * b:.1f}) "
        f"| {row['frechet']:.2f} ({c:.2f} to {d:.2f}) | {row['nearest']:.1f} ({row['nearest05']:.1f}) | {accepted} | {tv} |"
    )


def references(bench: Bench, count: int) -> list[dict[str, Any]]:
    """What cannot be beaten: other real images, and test images through each tokenizer."""
    train, labels = load("train")
    rows = np.random.default_rng(0).permutation(len(train))[:count]
    found = [{"label": "train images", **bench.quality(train[rows], labels[rows])}]
    test, labels = bench.test[:count], bench.labels[:count]
    found.append({"label": "test images", **bench.quality(test, labels)})
    for label, way in (
        ("test images by vq8", Way("", "plain8", "llamagen")),
        ("test images by bae8", Way("", "elm8", "elm")),
        ("test images by vq16", Way("", "nar16", "nar")),
    ):
        if (bench.examples / way.model).is_dir():
            drawer = bench.drawer(way)
            seen = [
                drawer.decode(drawer.encode(test[i : i + 50, ..., None].repeat(3, -1))) for i in range(0, count, 50)
            ]
            found.append({"label": label, **bench.quality(grey(np.concatenate(seen)), labels)})
    return found


def sheet(bench: Bench, way: Way, folder: Path) -> None:
    """Four images of each class, a column a class, under the seeds 0 to 39 of every way."""
    images = bench.drawn(way, 40)["pixels"]
    large = contact_sheet(images, 10).repeat(2, 0).repeat(2, 1)
    Image.fromarray(grey(large[None])[0]).save(folder / f"images-{way.label}.png", optimize=True)


def clock(bench: Bench, chosen: list[Way], rounds: int, images: int = 4) -> None:
    """CPU milliseconds an image, one at a time at one thread, the ways taking turns; the median of ``rounds``, and their range."""
    drawers, spent = {w.label: bench.open(w) for w in chosen}, {w.label: [] for w in chosen}  # type: ignore[var-annotated]
    for turn in range(rounds + 1):
        for way in chosen:
            began = time.process_time()
            for i in range(images):
                bench.ask(way, [(turn * images + i) % 10], 100 + turn * images + i, drawers[way.label])
            if turn:  # the first warms caches up
                spent[way.label].append(1000 * (time.process_time() - began) / images)
    for label, found in spent.items():
        print(f"| {label} | {np.median(found):.1f} | {min(found):.1f} to {max(found):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=Path, default=Path("examples/images"))
    parser.add_argument("--out", type=Path, default=Path("build/images/methods"))
    parser.add_argument("--only", default="", help="Ways whose label begins so, or references.")
    parser.add_argument("--sweep", help="Scales and top-k of this model, or of gsd on plain8, in place of the table.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--sheets", type=Path, help="Folder for contact sheets.")
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="CPU time alone, the ways taking turns.")
    args = parser.parse_args()
    bench = Bench(args.examples, args.out)
    if args.time:
        there = [w for w in ways() if w.label.startswith(args.only) and (args.examples / w.model).is_dir()]
        clock(bench, there, args.time)
        return
    print(HEAD)
    if "references".startswith(args.only) and not args.sweep:
        for row in references(bench, args.count):
            print(line(row), flush=True)
    for way in sweep(args.sweep) if args.sweep else ways():
        if way.label.startswith(args.only) and (args.examples / way.model).is_dir():
            print(line(bench.measure(way, args.count)), flush=True)
            if args.sheets:
                sheet(bench, way, args.sheets)


if __name__ == "__main__":
    main()
