"""``farthing prune-view``: a picture of what a level keeps of a picture."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import RequestError, found_wanted

HELP = """Draw IMAGE once for each level of a bundle, with the visual tokens that are kept in light and the others in the dark.

\b
  farthing prune-view cat.jpg --bundle sparing --out view.png
  farthing prune-view cat.jpg --bundle sparing --level r50 --level r90 --out view.png

\b
Each panel says how many of the picture's tokens go into the language model. The picture is as the model sees it: cut to a square, or
stitched from tiles, with the thumbnail below. Pooled levels (matryoshka) keep all of it, in squares that became one token each.
What is asked about the picture has no say in the choice, even where tokens are dropped inside the decoder: it comes later.
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed.
"""


@click.command("prune-view", help=HELP, short_help="Show which parts of a picture are kept.")
@click.argument("image", type=click.Path())
@click.option("--bundle", required=True, type=click.Path(), help="A bundle with levels.")
@click.option("--level", "levels", multiple=True, help="A level; several times for several.  [default: all]")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="The picture to write (.png, .jpg).")
@click.option("--no-native", is_flag=True, help="No kernels of ours; the same tokens are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what is kept as one JSON object, for scripts.")
def prune_view_command(
    image: str, bundle: str, levels: tuple[str, ...], out: str, no_native: bool, as_json: bool
) -> None:
    from ..calibration.visual.picture import draw, save
    from ..calibration.visual.view import panels
    from ..runtime.bundle import open_bundle
    from ..runtime.visual.images import as_rgb

    target = Path(out)
    if not target.parent.is_dir():
        raise RequestError(found_wanted(f"--out {out}", "in no folder", "a file in a folder that exists", "make it"))
    opened = open_bundle(bundle)
    shown = panels(opened, as_rgb(image), levels, kernels=not no_native)
    save(draw(shown, f"{Path(image).name}  {opened.manifest['method']['id']}"), target)
    if as_json:
        told = [{"level": p.level, "kept": p.kept, "total": p.total} for p in shown]
        click.echo(json.dumps({"out": out, "levels": told}))
        return
    for panel in shown:
        click.echo(f"{panel.level:<9}{panel.kept} of {panel.total} tokens")
    click.echo(out)
