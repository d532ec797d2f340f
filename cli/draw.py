"""``farthing draw``: images of a class."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import click

from ..errors import MissingDependencyError, RequestError, found_wanted

HELP = """Draw images of one or more classes and write them as one PNG, side by side.

\b
Examples:
  farthing draw bundle --class 207 --seed 1 --out x.png
  farthing draw bundle --class 1,5,9 --count 4 --columns 4 --top-k 2000 --out grid.png
  farthing draw bundle --class 207 --cfg 2 --cfg-schedule linear --json --out x.png

\b
Image i is drawn under seed + i. The same seed gives the same codes.
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed, 130 interrupted.
"""


@click.command("draw", help=HELP, short_help="Draw images with a bundle.")
@click.argument("bundle", type=click.Path())
@click.option("--class", "classes", required=True, help="Class, or several separated by commas.")
@click.option("--out", required=True, type=click.Path(), help="PNG to write.")
@click.option("--count", type=int, default=1, show_default=True, help="Images of each class.")
@click.option("--columns", type=int, default=0, help="Images in a row; 0 = about as many as rows.")
@click.option("--seed", type=int, default=0, show_default=True, help="0 to 2^64 - 1.")
@click.option("--cfg", type=float, default=4.0, show_default=True, help="Guidance scale; 1 = none, and half the work.")
@click.option(
    "--cfg-interval", type=int, default=-1, show_default=True, help="Guide the first this many codes; -1 = all."
)
@click.option("--cfg-schedule", default="constant", show_default=True, help="constant, or linear from 1 to --cfg.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 = always the best code.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Among the k best codes; 0 = off.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Among the best with this share; 1 = off.")
@click.option("--threads", type=int, default=0, show_default=True, help="0 = all cores.")
@click.option("--no-native", is_flag=True, help="Standard operators only.")
@click.option("--json", "as_json", is_flag=True, help="Print codes and figures as one JSON object.")
def draw_command(
    bundle: str,
    classes: str,
    out: str,
    count: int,
    columns: int,
    seed: int,
    cfg: float,
    cfg_interval: int,
    cfg_schedule: str,
    temperature: float,
    top_k: int,
    top_p: float,
    threads: int,
    no_native: bool,
    as_json: bool,
) -> None:
    """The command itself; its help is HELP."""
    wanted = _classes(classes, count)
    if columns < 0:
        raise RequestError(found_wanted("--columns", columns, "0 or more", "correct it"))
    if not Path(out).resolve().parent.is_dir():
        raise RequestError(found_wanted(f"folder of {out}", "missing", "a folder", "make it, or choose another --out"))
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package pillow", "not installed", "installed to write PNG", "pip install pillow")
        ) from error
    from rich.console import Console
    from rich.progress import Progress

    from ..runtime.draw import Drawer, Guidance, contact_sheet

    drawer = Drawer(bundle, threads=threads, native=not no_native)
    start = time.perf_counter()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing", total=drawer.tokens)
        drawn = drawer.draw(
            wanted,
            seed=seed,
            guidance=Guidance(cfg, cfg_interval, cfg_schedule),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    sheet = contact_sheet(drawn.pixels, columns or math.ceil(math.sqrt(len(wanted))))
    try:
        Image.fromarray(sheet).save(out, format="PNG")
    except OSError as error:
        raise RequestError(
            found_wanted(f"--out {out}", f"not writable ({error.strerror})", "a place for a PNG", "choose another")
        ) from error
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps({"out": out, "codes": drawn.codes.tolist(), "passes": drawn.passes, "seconds": seconds}))
        return
    click.echo(f"{out}: {len(wanted)} images, {drawn.passes} passes, {seconds:.1f} s")


def _classes(text: str, count: int) -> list[int]:
    if count < 1:
        raise RequestError(found_wanted("--count", count, "1 or more", "correct it"))
    try:
        return [int(c) for c in text.split(",") for _ in range(count)]
    except ValueError as error:
        raise RequestError(
            found_wanted("--class", repr(text[:80]), "numbers such as 207 or 1,5", "correct it")
        ) from error
