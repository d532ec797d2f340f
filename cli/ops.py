"""``farthing ops``: the custom operators, what they are and whether every face of them agrees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..plugins.check import Cell

HELP = """The custom operators: what they are, and whether all their faces agree.

\b
Examples:
  farthing ops list                    every operator on one line
  farthing ops list --markdown         the page docs/operators.md
  farthing ops check                   the parity table: operators x faces
  farthing ops check --operator Linear --face body --json
"""

CHECK_HELP = """Run every operator's table of cases over every face, and print the matrix.

\b
A cell shows the rows that passed; "+2 -" means two rows skipped, with reasons below. A face that cannot run on this machine
is skipped with the reason, never passed. Exit code 0 if nothing failed, 5 otherwise.
--json prints a list of {operator, face, status, passed, skipped: {reason: rows}, failed: [[row, message]]}.
"""


MOST = 8
"""Failures printed per cell: a broken operator fails on all its rows, for one reason."""


@click.group("ops", help=HELP, short_help="List and check the custom operators.")
def ops_command() -> None:
    pass


@ops_command.command("list", short_help="What each operator is.")
@click.option("--markdown", is_flag=True, help="The whole documentation, as a page.")
@click.option("--json", "as_json", is_flag=True, help="Contracts as one JSON list, for scripts.")
def list_command(markdown: bool, as_json: bool) -> None:
    """Print what each operator is."""
    from ..plugins import operators
    from ..plugins.document import as_data, page

    if markdown:
        click.echo(page(), nl=False)
    elif as_json:
        click.echo(json.dumps([as_data(o) for o in operators().values()]))
    else:
        width = max(len(name) for name in operators())
        for name, contract in operators().items():
            click.echo(f"{name:<{width}}  {contract.summary}")


@ops_command.command("check", help=CHECK_HELP, short_help="Run the parity table.")
@click.option("--operator", "-o", "names", multiple=True, help="Only this operator (may be repeated).")
@click.option("--face", "-f", "face_names", multiple=True, help="Only this face (may be repeated).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, for scripts.")
def check_command(names: Sequence[str], face_names: Sequence[str], as_json: bool) -> int:
    """Run the parity table."""
    from ..errors import RequestError
    from ..plugins.check import run

    try:
        cells = list(run(names or None, face_names or None))
    except KeyError as error:
        raise RequestError(error.args[0]) from error
    if as_json:
        click.echo(json.dumps([cell.as_json() for cell in cells]))
    else:
        _print(cells)
    return 5 if any(cell.failed for cell in cells) else 0


def _print(cells: list[Cell]) -> None:
    """The matrix, then every reason and every failure."""
    columns = list(dict.fromkeys(cell.face for cell in cells))
    rows = sorted({cell.operator for cell in cells})
    by_place = {(cell.operator, cell.face): cell for cell in cells}
    widths = [max(len(face), 11) for face in columns]
    first = max(len(name) for name in rows)
    click.echo("  ".join([" " * first, *(f"{face:<{w}}" for face, w in zip(columns, widths, strict=True))]).rstrip())
    for name in rows:
        texts = [_text(by_place[name, face]) for face in columns]
        click.echo("  ".join([f"{name:<{first}}", *(f"{t:<{w}}" for t, w in zip(texts, widths, strict=True))]).rstrip())
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for reason, count in cell.skipped.items():
            whole = cell.status == "skipped"
            reasons.setdefault((cell.face, reason), []).append(cell.operator if whole else f"{cell.operator} ({count})")
    if reasons:
        click.echo("\nskipped (rows):")
    for (face, reason), where in reasons.items():
        click.echo(f"  {face}: {reason}: {', '.join(where)}")
    for cell in (c for c in cells if c.failed):
        click.echo(f"\nfailed: {cell.face} {cell.operator}")
        for row, message in cell.failed[:MOST]:
            click.echo(f"  {row}: {message}")
        if len(cell.failed) > MOST:
            click.echo(f"  and {len(cell.failed) - MOST} more; narrow it with --operator and --face, or use --json")


def _text(cell: Cell) -> str:
    if cell.failed:
        return f"FAILED {len(cell.failed)}/{cell.passed + len(cell.failed)}"
    if not cell.passed:
        return "skipped"
    skipped = sum(cell.skipped.values())
    return f"{cell.passed} ok" + (f" +{skipped} -" if skipped else "")
