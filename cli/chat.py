"""``farthing chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..errors import RequestError, found_wanted
from .options import open_bundle_for, open_options, sampling_options, speed_report

HELP = """Talk with a bundle that has a chat template. Each turn reuses the cache of the turns before.

\b
Examples:
  farthing chat bundle
  farthing chat bundle --system "Answer in one sentence." --temperature 0.5
  farthing chat llava --level r75

\b
While talking:
  /image FILE   show a picture with what you say next (vision-language bundles)
  /reset   forget the conversation
  /stats   tokens, passes and time of the last answer
  /quit    leave (also Ctrl-D)
  Ctrl-C   cut an answer short; at the prompt, leave
"""

_PROMPT = "> "


@click.command("chat", help=HELP, short_help="Talk with a bundle.")
@click.argument("bundle", type=click.Path())
@click.option("--system", help="Instruction the conversation begins with.")
@click.option("--level", help="How many visual tokens each picture gets: a level of the bundle (`farthing inspect`).")
@click.option("--max-new-tokens", type=int, default=512, show_default=True, help="Longest answer, in tokens.")
@sampling_options
@open_options
def chat_command(
    bundle: str,
    system: str | None,
    **how: Any,
) -> None:
    with open_bundle_for(bundle, how) as runtime:
        if runtime.tokenizer is None or not runtime.tokenizer.has_chat_template:
            raise RequestError(
                found_wanted(
                    f"bundle {bundle}",
                    "a base model without chat template",
                    "a model made for conversations",
                    "use `farthing run`",
                )
            )
        click.echo(
            f"{runtime.bundle.manifest['name']}, context {runtime.context} tokens. /reset, /stats, /quit", err=True
        )
        _talk(runtime, [] if system is None else [{"role": "system", "content": system}], how)


def _talk(runtime: Any, opening: list[dict[str, Any]], how: dict[str, Any]) -> None:
    messages, stats = list(opening), None
    pictures: list[Any] = []
    while (line := _ask()) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            messages, stats, pictures = list(opening), None, []
        elif line.startswith("/image"):
            pictures += _picture(runtime, line.removeprefix("/image").strip())
        elif line == "/stats":
            click.echo("nothing yet" if stats is None else speed_report(stats, runtime.native), err=True)
        elif line:
            shown = [{"type": "image", "image": picture} for picture in pictures]
            messages.append({"role": "user", "content": [*shown, {"type": "text", "text": line}] if shown else line})
            try:
                text, latest = _answer(runtime, messages, how)
            except RequestError as error:
                messages.pop()  # too long, mostly: the conversation can go on from before
                click.echo(f"error: {error}\n/reset starts anew", err=True)
                continue
            stats, pictures = latest or stats, []
            messages.append({"role": "assistant", "content": text})


def _picture(runtime: Any, path: str) -> list[Any]:
    """The picture in file ``path``, as pixels; nothing, and the reason on stderr, where it cannot be shown."""
    from ..runtime.visual.images import as_rgb

    try:
        if "vision" not in runtime.bundle.manifest:
            raise RequestError(found_wanted("/image", "given to a bundle that reads text only", "text", "leave it out"))
        return [as_rgb(path, "picture")]
    except RequestError as error:
        click.echo(f"error: {error}", err=True)
        return []


def _answer(runtime: Any, messages: list[dict[str, Any]], how: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """(text, statistics) of one answer, shown as it comes; Ctrl-C cuts it short, and then there are no statistics."""
    pieces: list[str] = []

    def show(text: str) -> None:
        pieces.append(text)
        sys.stdout.write(text)
        sys.stdout.flush()

    stats = None
    try:
        stats = runtime.generate(messages=messages, reuse_prefix=True, on_text=show, **how).stats
    except KeyboardInterrupt:
        click.echo(" (cut short)", err=True)
    click.echo()
    return "".join(pieces), stats


def _ask() -> str | None:
    """A line from the user; None at the end of the input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input(_PROMPT).strip()
    except EOFError:
        return None
