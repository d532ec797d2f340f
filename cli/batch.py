"""``farthing batch``: many prompts, several of them in one pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from ..errors import RequestError, found_wanted
from .options import open_bundle_for, open_options, sampling_options

HELP = """Continue every prompt of FILE (- is stdin) and print one JSON object a line, in the order of the prompts.

\b
Examples:
  farthing batch bundle prompts.txt --batch 8 --greedy > answers.jsonl
  farthing batch bundle prompts.jsonl --max-new-tokens 200 --out answers.jsonl

\b
A line of FILE is a prompt; or, beginning with {, a JSON object with one of
  "prompt" text, "messages" [{"role", "content"}, ...], "prompt_ids" [504, 3575, ...]   and, if it likes, "seed".
Empty lines are left out. Each answer is what `farthing run` gives for that prompt alone; up to --batch of them share a pass, which
reads the weights once. Objects have the fields of `farthing run --json`.
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed, 130 interrupted.
"""

_KEYS = ("prompt", "messages", "prompt_ids")


@click.command("batch", help=HELP, short_help="Generate text from many prompts at once.")
@click.argument("bundle", type=click.Path())
@click.argument("file", type=click.Path())
@click.option("--batch", type=int, default=8, show_default=True, help="Texts in one pass; each has a cache of its own.")
@click.option("--raw", is_flag=True, help="No chat template.")
@click.option("--max-new-tokens", type=int, default=128, show_default=True, help="Longest answer, in tokens.")
@sampling_options
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--ignore-eos", is_flag=True, help="Go on after the model's end-of-text token (for measuring).")
@open_options
@click.option("--out", type=click.Path(), help="Write to this file instead of stdout.")
def batch_command(
    bundle: str,
    file: str,
    batch: int,
    out: str | None,
    seed: int,
    **how: Any,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    asked = _prompts(file)
    how["stop"] = list(how["stop"])
    console = Console(stderr=True)
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn())
    tokens = how["max_new_tokens"] * len(asked)
    with (
        open_bundle_for(bundle, how) as runtime,
        Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("tokens (at most)", total=tokens)
        made = runtime.generate_all(
            [next(a[k] for k in _KEYS if k in a) for a in asked],
            batch=batch,
            seeds=[a.get("seed", seed) for a in asked],
            on_token=lambda _, __: bar.advance(task),
            **how,
        )
        bar.update(task, total=max(sum(len(m.ids) for m in made), 1))
    lines = "".join(json.dumps(m.as_json()) + "\n" for m in made)
    if out is None:
        click.echo(lines, nl=False)
    else:
        Path(out).write_text(lines, encoding="utf-8")
    passes = sum(m.stats["new_tokens"] for m in made)
    click.echo(f"{len(made)} texts, {passes} new tokens", err=True)


def _prompts(name: str) -> list[dict[str, Any]]:
    """The prompts of a file. Raises RequestError naming the line."""
    try:
        if name == "-":
            return _lines(sys.stdin)
        with Path(name).open(encoding="utf-8") as file:
            return _lines(file)
    except OSError as error:
        raise RequestError(
            found_wanted(f"FILE {name}", f"not readable ({error.strerror})", "a text file", "check the path")
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            found_wanted(f"FILE {name}", f"not UTF-8 (byte {error.start})", "UTF-8 text", "convert the file")
        ) from error


def _lines(file: TextIO) -> list[dict[str, Any]]:
    prompts: list[dict[str, Any]] = []
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        if not text.lstrip().startswith("{"):
            prompts.append({"prompt": text})
            continue
        try:
            given = json.loads(text)
        except ValueError as error:
            raise RequestError(
                found_wanted(f"line {number}", f"not JSON ({error})", "a prompt or a JSON object", "correct it")
            ) from error
        if sum(k in given for k in _KEYS) != 1 or set(given) - {*_KEYS, "seed"}:
            found = ", ".join(map(repr, given))[:80] or "nothing"
            raise RequestError(
                found_wanted(f"line {number}", f"an object of {found}", f"one of {', '.join(_KEYS)}", "correct it")
            )
        prompts.append(given)
    if not prompts:
        raise RequestError(found_wanted("FILE", "without a prompt", "at least one", "write one on a line"))
    return prompts
