"""``farthing run``: one prompt, one answer."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import RequestError, found_wanted
from .options import open_bundle_for, open_options, sampling_options, speed_report

HELP = """Generate text from a prompt. The text streams to stdout, a short report goes to stderr.

\b
Examples:
  farthing run bundle --prompt "What is a farthing?"
  farthing run bundle --prompt-file question.txt --greedy --max-new-tokens 200
  farthing run bundle --raw --prompt "Once upon a time" --temperature 0.9 --top-p 0.95 --seed 7
  farthing run bundle --prompt "Name three coins." --stop "3." --json
  farthing run llava --image cat.jpg --prompt "What is the cat doing?" --level r75
  cat notes.txt | farthing run bundle --prompt-file -

\b
A prompt becomes a user's message where the bundle has a chat template. --raw takes it as it is, special tokens in it included.
--json prints one object {prompt_ids, ids, text, stop_reason, stats}; stop_reason is one of
  eos          the model ended its text
  stop_string  a --stop was met (the text ends before it)
  length       --max-new-tokens were made
  context      prompt and answer fill the context
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed, 130 interrupted.
"""


@click.command("run", help=HELP, short_help="Generate text from a prompt.")
@click.argument("bundle", type=click.Path())
@click.option("--prompt", help="The prompt.")
@click.option("--prompt-file", type=click.Path(), help="A file with the prompt, UTF-8; - is stdin.")
@click.option("--prompt-ids", help="The prompt as token ids, separated by commas: for bundles without a tokenizer.")
@click.option("--raw", is_flag=True, help="No chat template.")
@click.option(
    "--image", "images", type=click.Path(), multiple=True, help="A picture to ask about; several times for several."
)
@click.option("--level", help="How many visual tokens each picture gets: a level of the bundle (`farthing inspect`).")
@click.option("--max-new-tokens", type=int, default=128, show_default=True, help="Longest answer, in tokens.")
@sampling_options
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option(
    "--restart-window",
    type=int,
    default=0,
    show_default=True,
    help="With the context full, begin again with the last this many tokens; 0 = stop.",
)
@click.option("--ignore-eos", is_flag=True, help="Go on after the model's end-of-text token (for measuring).")
@open_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def run_command(
    bundle: str,
    prompt: str | None,
    prompt_file: str | None,
    prompt_ids: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    asked = _prompt(prompt, prompt_file, prompt_ids)
    start = time.perf_counter()
    with open_bundle_for(bundle, how) as runtime:
        opened = time.perf_counter() - start
        speaks = runtime.tokenizer is not None
        how["stop"], how["images"] = list(how["stop"]), list(how["images"])
        made = runtime.generate(**asked, **how, on_text=_show if speaks and not as_json else None)
        if as_json:
            click.echo(json.dumps(made.as_json()))
            return
        click.echo("" if speaks else ",".join(map(str, made.ids)))
        held, restarts = runtime.bundle, made.stats["restarts"]
        again = f"; began again {restarts} times with the last {how['restart_window']} tokens" if restarts else ""
        state = "state" in held.manifest
        carried = held.kv_bytes(runtime.context)
        click.echo(
            f"\n{made.stop_reason}{again}; opened in {opened:.2f} s; {held.weight_bytes / 1e6:.0f} MB of graphs and weights, "
            + (
                f"{carried:,} bytes of state"
                if state
                else f"{carried / 1e6:.0f} MB of cache for {runtime.context} tokens"
            ),
            err=True,
        )
        click.echo(speed_report(made.stats, runtime.native), err=True)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _prompt(prompt: str | None, prompt_file: str | None, prompt_ids: str | None) -> dict[str, Any]:
    given = {"--prompt": prompt, "--prompt-file": prompt_file, "--prompt-ids": prompt_ids}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise RequestError(
            found_wanted(
                "the prompt", " and ".join(names) or "missing", f"one of {', '.join(given)}", "give exactly one"
            )
        )
    if prompt_ids is not None:
        try:
            return {"prompt_ids": [int(i) for i in prompt_ids.replace(",", " ").split()]}
        except ValueError as error:
            raise RequestError(
                found_wanted("--prompt-ids", repr(prompt_ids[:80]), "ids such as 504,3575", "correct it")
            ) from error
    return {"prompt": prompt if prompt_file is None else _read(prompt_file)}


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise RequestError(
            found_wanted(f"--prompt-file {name}", f"not readable ({error.strerror})", "a text file", "check the path")
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            found_wanted(f"--prompt-file {name}", f"not UTF-8 (byte {error.start})", "UTF-8 text", "convert the file")
        ) from error
