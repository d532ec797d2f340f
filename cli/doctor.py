"""``farthing doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import json

import click

HELP = """Say what is installed, what is missing, and how to get it.

\b
Examples:
  farthing doctor
  farthing doctor --json       {"version", "native", "findings": [{part, status, found, fix}]}

\b
Status:
  ok        there
  missing   needed: without it farthing is slower or does not run
  optional  not there, and only needed for what the line says
Exit codes: 0 if nothing needed to run bundles is missing (portable mode counts as running), 6 otherwise.
"""

PORTABLE = ("native core", "operator kernels", "libonnxruntime")
"""Parts without which the portable mode still runs."""


@click.command("doctor", help=HELP, short_help="What is installed and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def doctor_command(as_json: bool) -> int:
    from .. import __version__
    from ._look import MISSING, everything

    findings = everything()
    missing = [f.part for f in findings if f.status == MISSING]
    native = not set(PORTABLE) & set(missing)
    code = 6 if set(missing) - set(PORTABLE) else 0
    if as_json:
        result = {"version": __version__, "native": native, "findings": [f.as_json() for f in findings]}
        click.echo(json.dumps(result))
        return code
    width = max(len(f.part) for f in findings)
    click.echo(f"farthing {__version__}")
    for f in findings:
        click.echo(f"  {f.status:<8}  {f.part:<{width}}  {f.found}")
        if f.fix:
            click.echo(f"  {'':<8}  {'':<{width}}  -> {f.fix}")
    if code:
        click.echo("bundles cannot run here until what is missing is installed")
    else:
        click.echo("bundles run by the C++ core" if native else "bundles run in portable mode: it works, but slower")
    return code
