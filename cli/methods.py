"""``farthing methods``: what can be compiled."""

from __future__ import annotations

import json

import click

HELP = """List the methods farthing knows: what works now and what is planned.

\b
GUARANTEE compares the output with what the checkpoint alone would give:
  exact    the same output; for sampling, the same distribution
  bounded  another output, within a stated bound
  lossy    another output, without a bound; quality is measured
  none     nothing to compare with (training recipes, analyses)

\b
Examples:
  farthing methods                     the table
  farthing methods --working           only what `farthing export` accepts today
  farthing methods --json              a list of {id, number, title, status, guarantee}
"""


@click.command("methods", help=HELP, short_help="List what can be compiled.")
@click.option("--working", is_flag=True, help="Only methods that `farthing export` accepts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, for scripts.")
def methods_command(working: bool, as_json: bool) -> None:
    from .catalog import entries

    shown = [m for m in entries() if m.status == "working" or not working]
    if as_json:
        click.echo(json.dumps([m.as_json() for m in shown]))
        return
    width = max(len(m.id) for m in shown)
    click.echo(f" no  {'method':<{width}}  status   guarantee  title")
    for m in shown:
        number = "" if m.number is None else f"{m.number:02}"
        click.echo(f" {number:>2}  {m.id:<{width}}  {m.status:<7}  {m.guarantee:<9}  {m.title}")
