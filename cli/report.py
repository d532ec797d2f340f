"""``farthing report``: a page about a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import RequestError, found_wanted

HELP = """Measure BUNDLE and write one HTML page about it: what it is, where time goes by operator, what passes cost by their rows,
memory by context, loss of quantisation, drift by layer.

\b
Examples:
  farthing report bundle --out bundle.html
  farthing report bundle --out bundle.html --against SmolLM2-135M-Instruct.Q4_1.gguf --drafts

\b
The page needs no network, runs no code, and can be sent to somebody. Times are of one thread on this machine: run it while nothing else is
running. --drafts also decodes 15 prompts with every drafter and takes some minutes.
Exit codes: 0 done, 2 bad request, 3 bad checkpoint, 4 bad bundle, 6 a part is not installed.
"""


@click.command("report", help=HELP, short_help="Write a page about a bundle: speed, memory, loss.")
@click.argument("bundle", type=click.Path())
@click.option("--out", type=click.Path(), required=True, help="The HTML file to write.")
@click.option("--against", type=click.Path(), help="The checkpoint, for the drift by layer.")
@click.option("--drafts", is_flag=True, help="Also measure guessing ahead by kind of text.")
@click.option("--context", type=int, default=1024, show_default=True, help="Tokens to measure with, at most.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
def report_command(bundle: str, out: str, against: str | None, drafts: bool, context: int, overwrite: bool) -> None:
    from ..calibration.report import gather, page
    from .export import progress_bar

    target = Path(out)
    if target.exists() and not overwrite:
        raise RequestError(
            found_wanted(f"--out {out}", "there already", "a new file", "choose another, or --overwrite")
        )
    if not target.parent.is_dir():
        raise RequestError(found_wanted(f"--out {out}", "in no folder", "a file in a folder that exists", "make it"))
    if context < 2:
        raise RequestError(found_wanted("--context", context, "2 or more", "correct it"))
    with progress_bar() as progress:
        text = page(gather(bundle, checkpoint=against, drafts=drafts, context=context, progress=progress))
    target.write_text(text, encoding="utf-8")
    click.echo(f"{out}: {len(text) / 1e3:.0f} kB")
