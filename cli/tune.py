"""``farthing tune``: measure what a pass costs on this machine, so that decoding may guess ahead by itself."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import open_bundle_for

HELP = """Measure what passes of 1 to 64 rows cost on this machine, and keep it beside the bundle (compiled/costs/).

\b
  farthing tune bundle
  farthing tune bundle --threads 1 --context 4096 --json

\b
Verifying a guess of n tokens is a pass of n + 1 rows. What that costs in units of a pass of one row differs between machines, thread
counts and weights: on a small CPU with float weights 8 rows cost little more than 1, with int4 weights several times as much.
Decoding weighs it against how often guesses were right, and guesses where that pays and never where it does not.
Afterwards `farthing run`, `farthing chat` and farthing.load guess ahead without being asked. Delete the file to stop that.
"""


@click.command("tune", help=HELP, short_help="Measure this machine, so that decoding can guess ahead.")
@click.argument("bundle", type=click.Path())
@click.option(
    "--threads", type=int, default=0, show_default=True, help="0 = all cores; each number is tuned by itself."
)
@click.option("--context", type=int, help="Tokens of prompt and answer together. [default: the model's, at most 2048]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def tune_command(bundle: str, threads: int, context: int | None, as_json: bool) -> None:
    """The command itself; its help is HELP."""
    with open_bundle_for(bundle, {"threads": threads, "context": context, "draft": "none"}) as runtime:
        path = runtime.tune()
    found = json.loads(path.read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps({"path": str(path), **found}))
        return
    click.echo(_table(found))
    click.echo(f"kept in {path}")


def _table(found: dict[str, Any]) -> str:
    """Cost of a pass in units of a pass of one row, a line for each past length."""
    lines = [
        f"{found['key']['device']}, {found['key']['threads']} thread(s); cost of a pass in units of one row",
        "  past    1 row" + "".join(f"{rows:7d}" for rows in found["rows"][1:]),
    ]
    for past, seconds in zip(found["past"], found["seconds"], strict=True):
        cells = "".join(f"{s / seconds[0]:7.2f}" for s in seconds[1:])
        lines.append(f"{past:6d} {1e3 * seconds[0]:6.1f} ms{cells}")
    return "\n".join(lines)
