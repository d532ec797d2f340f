"""``farthing draw``: images of a class, or of a text."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import click

from ..errors import MissingDependencyError, RequestError, found_wanted

HELP = """Draw images of one or more classes, or of a text, and write them as one PNG, side by side.

\b
Examples:
  farthing draw bundle --class 207 --seed 1 --out x.png
  farthing draw bundle --class 1,5,9 --count 4 --columns 4 --top-k 2000 --out grid.png
  farthing draw bundle --class 207 --cfg 2 --cfg-schedule linear --json --out x.png

\b
A bundle with drafts (gsd, lantern) guesses several codes and keeps those that its rule accepts. Ask for another rule, or for none:
  farthing draw bundle --class 207 --decode plain --out x.png          one code a pass
  farthing draw bundle --class 207 --decode exact --out x.png          fewer passes, the same distribution
  farthing draw bundle --class 207 --decode grouped --draft-window 24 --json --out x.png
The last prints passes, how many drafts held, and an estimate of how far codes are from the model's distribution.

\b
A model of texts takes features of its text encoder, float32 [T,width] without padding, or [B,T,width] for B images:
  farthing draw bundle --text-embeds a_red_boat.npy --cfg 7.5 --top-k 1000 --out boat.png

\b
The upper part of a picture may be given, where the order of codes is raster (not nar, token-shuffle):
  farthing draw bundle --class 3 --begin shirt.png --begin-rows 4 --decode plain --count 4 --out x.png

\b
Image i is drawn under seed + i. The same seed gives the same codes, whatever is drawn beside it.
--cfg-schedule is constant, or grows from 1 to --cfg: linear, half_linear (there by half of the codes), cosine, log, square, square_root.
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed, 130 interrupted.
"""


@click.command("draw", help=HELP, short_help="Draw images with a bundle.")
@click.argument("bundle", type=click.Path())
@click.option("--class", "classes", help="Class, or several separated by commas.")
@click.option("--text-embeds", type=click.Path(), help="Features of a text instead, a .npy file.")
@click.option("--out", required=True, type=click.Path(), help="PNG to write.")
@click.option("--count", type=int, default=1, show_default=True, help="Images of each class, or of the text.")
@click.option("--columns", type=int, default=0, help="Images in a row; 0 = about as many as rows.")
@click.option("--seed", type=int, default=0, show_default=True, help="0 to 2^64 - 1.")
@click.option("--cfg", type=float, help="Guidance scale; 1 = none, and half the work. 4 where the model can be guided.")
@click.option(
    "--cfg-interval", type=int, default=-1, show_default=True, help="Guide the first this many codes; -1 = all."
)
@click.option("--cfg-schedule", default="constant", show_default=True, help="How the scale grows; see above.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 = always the best code.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Among the k best codes, ties included; 0 = off.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Among the best with this share; 1 = off.")
@click.option("--decode", help="plain, or a rule for drafts: exact, grouped, partition, neighbourhood.")
@click.option("--draft-window", type=int, help="Codes guessed at a time by the model itself (gsd), 2 or more.")
@click.option("--draft-length", type=int, help="Codes guessed at a time by a drafter (lantern).")
@click.option(
    "--begin", type=click.Path(), help="A picture whose upper part is kept; it is scaled to the size of images."
)
@click.option("--begin-rows", type=int, help="Rows of its codes that are kept, from the top.")
@click.option("--threads", type=int, default=0, show_default=True, help="0 = all cores.")
@click.option("--no-native", is_flag=True, help="Standard operators only.")
@click.option("--json", "as_json", is_flag=True, help="Print codes and figures as one JSON object.")
def draw_command(
    bundle: str,
    classes: str | None,
    text_embeds: str | None,
    out: str,
    count: int,
    columns: int,
    begin: str | None,
    begin_rows: int | None,
    threads: int,
    no_native: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """The command itself; its help is HELP."""
    if count < 1:
        raise RequestError(found_wanted("--count", count, "1 or more", "correct it"))
    if columns < 0:
        raise RequestError(found_wanted("--columns", columns, "0 or more", "correct it"))
    if (classes is None) == (text_embeds is None):
        found = "neither" if classes is None else "both"
        raise RequestError(found_wanted("--class and --text-embeds", found, "one of the two", "say what to draw"))
    wanted: dict[str, Any] = {}
    if classes is not None:
        wanted["classes"] = _classes(classes, count)
    if text_embeds is not None:
        wanted["text_embeds"] = _features(text_embeds, count)
    if not Path(out).resolve().parent.is_dir():
        raise RequestError(found_wanted(f"folder of {out}", "missing", "a folder", "make it, or choose another --out"))
    from ..runtime.drawing import Drawer, write_png

    if (begin is None) != (begin_rows is None):
        found = "--begin alone" if begin_rows is None else "--begin-rows alone"
        raise RequestError(found_wanted("given beginning", found, "both or none", "give --begin and --begin-rows"))
    drawer = Drawer(bundle, threads=threads, native=not no_native)
    if begin is not None and begin_rows is not None:
        images = len(wanted["classes"] if classes is not None else wanted["text_embeds"])
        wanted["prefix"] = _beginning(drawer, begin, begin_rows, images)
    start = time.perf_counter()
    drawn = _draw(drawer, wanted, how)
    images = len(drawn.pixels)
    write_png(out, drawn.pixels, columns or math.ceil(math.sqrt(images)))
    if as_json:
        click.echo(json.dumps({"out": out, **drawn.as_json()}))
        return
    seconds = time.perf_counter() - start
    click.echo(
        f"{out}: {images} {'image' if images == 1 else 'images'}, {drawn.passes} passes, {seconds:.1f} s{_guesses(drawn)}"
    )


def _draw(drawer: Any, wanted: dict[str, Any], how: dict[str, Any]) -> Any:
    """The drawing, with a bar that counts codes."""
    from rich.console import Console
    from rich.progress import Progress

    from ..runtime.drawing import Guidance

    scale, interval, schedule = (how.pop(name) for name in ("cfg", "cfg_interval", "cfg_schedule"))
    scale = drawer.default_guidance if scale is None else scale
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("codes", total=None)
        return drawer.draw(
            **wanted,
            **how,
            guidance=Guidance(scale, interval, schedule),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _beginning(drawer: Any, path: str, rows: int, images: int) -> Any:
    """Codes int64 [images,n] of the first ``rows`` rows of the picture at ``path``. Raises RequestError."""
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        fix = "pip install 'farthing[images]'"
        raise MissingDependencyError(
            found_wanted("package pillow", "not installed", "installed to read a picture", fix)
        ) from error

    grid = drawer.can.grid
    if not 1 <= rows < grid:
        raise RequestError(found_wanted("--begin-rows", rows, f"1 to {grid - 1}, as images have {grid}", "correct it"))
    side = drawer.bundle.manifest["image_codes"]["size"]
    try:
        with Image.open(path) as picture:
            scaled = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RequestError(found_wanted(f"--begin {path}", f"unreadable ({error})", "a picture", "give one")) from error
    return np.repeat(drawer.encode(np.asarray(scaled)[None])[:, : rows * grid], images, axis=0)


def _guesses(drawn: Any) -> str:
    """How guessing went, in words."""
    s = drawn.speculation
    if s is None:
        return ""
    moved = f", total variation about {s.total_variation:.3f} a draft" if s.total_variation else ""
    return f"; {drawn.decode}: {s.accepted} of {s.judged} drafts held, {drawn.codes.size / drawn.passes:.2f} codes a pass{moved}"


def _classes(text: str, count: int) -> list[int]:
    try:
        return [int(c) for c in text.split(",") for _ in range(count)]
    except ValueError as error:
        raise RequestError(
            found_wanted("--class", repr(text[:80]), "numbers such as 207 or 1,5", "correct it")
        ) from error


def _features(path: str, count: int) -> Any:
    """The array in a .npy file, each text ``count`` times. Raises RequestError."""
    import numpy as np

    fix = "save it with numpy.save, as float32"
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(
            found_wanted(f"--text-embeds {path}", f"unreadable ({error})", "a .npy file", fix)
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
        found = list(array.shape) if isinstance(array, np.ndarray) else "several arrays"
        raise RequestError(found_wanted(f"--text-embeds {path}", found, "an array [T,width] or [B,T,width]", fix))
    return np.repeat(array[None] if array.ndim == 2 else array, count, axis=0)
