"""``farthing draft-table``: what ADED knows before it has seen a text."""

from __future__ import annotations

import json

import click

HELP = """Tables of what tends to follow what, with which decoding guesses ahead (ADED).

\b
A table is counted from text like that which will be written: code for code, letters for letters. It
changes the speed, never the text. It belongs to the tokenizer that it was counted with.

\b
Examples:
  farthing draft-table build src/ --bundle smollm2 --out code.table
  farthing draft-table inspect code.table
  farthing run smollm2 --draft aded --draft-table code.table --prompt "def main():"
"""

BUILD_HELP = """Count the tri-grams of CORPUS, a text file or a folder of them, with the tokenizer of a bundle.

\b
Of every two tokens that follow each other, the 12 likeliest third ones are kept: 108 bytes a pair,
mapped from the file and shared between processes. Files that are not UTF-8 are skipped.
--min-count 2, the default, leaves out what occurred once: most of the size and little of the use.

\b
Examples:
  farthing draft-table build src/ --bundle smollm2 --out code.table
  farthing draft-table build log.txt --bundle smollm2 --out log.table --min-count 5
Exit codes: 0 done, 2 bad request, 4 bundle damaged, 6 a package is missing.
"""


@click.group("draft-table", help=HELP, short_help="Count what tends to follow, to guess ahead.")
def draft_table_command() -> None:
    pass


@draft_table_command.command("build", help=BUILD_HELP, short_help="Count a corpus.")
@click.argument("corpus", type=click.Path())
@click.option("--bundle", required=True, type=click.Path(), help="Whose tokenizer to count with.")
@click.option("--out", required=True, type=click.Path(), help="The table, a file.")
@click.option("--min-count", default=2, show_default=True, help="Leave out tri-grams that occurred less often.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def build_command(corpus: str, bundle: str, out: str, min_count: int, as_json: bool) -> None:
    """The command itself; its help is BUILD_HELP."""
    from ..calibration.draft_table import build  # heavy: numpy
    from .export import progress_bar

    with progress_bar() as progress:
        result = build(corpus, bundle, out, min_count=min_count, progress=progress)
    click.echo(
        json.dumps(result.as_json())
        if as_json
        else f"{result.path}: {result.trigrams} tri-grams of {result.pairs} pairs from {result.tokens} tokens in "
        f"{result.files} files, {result.bytes / 1e6:.1f} MB"
    )


@draft_table_command.command("inspect", short_help="Show what is in a table.")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def inspect_command(file: str, as_json: bool) -> None:
    """Check a table and show what it is for and how much it holds."""
    import os

    from ..calibration.draft_table import read

    table = read(file)
    count, size = table.successors["count"], os.path.getsize(file)
    found = {
        "path": file,
        "bytes": size,
        "vocab_size": table.vocab_size,
        "tokenizer": table.tokenizer,
        "tokens": table.tokens,
        "min_count": table.min_count,
        "pairs": len(table.keys),
        "trigrams": int(count.sum()),
        "likeliest": float(table.successors["scores"][:, 0].mean()) if len(count) else 0.0,
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{file}: {size / 1e6:.1f} MB\n"
        f"tokenizer   {table.tokenizer[:12]}, {table.vocab_size} tokens\n"
        f"counted     {table.tokens} tokens, tri-grams from {table.min_count} times on\n"
        f"pairs       {found['pairs']}, with {found['trigrams']} successors\n"
        f"likeliest   successor of a pair: {found['likeliest']:.2f} on average"
    )
