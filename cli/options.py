"""Options that several commands share, and the report they print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..errors import RequestError, found_wanted

_Command = Callable[..., None]


def open_options(command: _Command) -> _Command:
    """How a bundle is opened: ``threads``, ``context``, ``no_native``, ``backend``, ``cuda_graphs``, ``draft``, ``draft_table``, ``draft_rows``, ``draft_bundle``, ``judge``."""
    for option in (
        click.option(
            "--judge/--no-judge",
            default=True,
            help="Whether the judge of a bundle of `farthing export judge` may accept drafts (lossy).  [default: judge]",
        ),
        click.option("--draft-bundle", type=click.Path(), help="With --draft model: the small model's bundle."),
        click.option("--draft-rows", type=int, default=15, show_default=True, help="Most drafted tokens of a pass."),
        click.option(
            "--draft-table", type=click.Path(), help="A table of `farthing draft-table build`, for aded and auto."
        ),
        click.option(
            "--draft",
            default="tuned",
            show_default=True,
            help="Guess ahead: none, auto, lookup, aded, model, ... ; tuned = auto where `farthing tune` was run. The text stays the same.",
        ),
        click.option("--cuda-graphs", is_flag=True, help="With tensorrt: replay passes of one row as a CUDA graph."),
        click.option(
            "--backend",
            default="onnxruntime",
            show_default=True,
            help="onnxruntime, or tensorrt: engines that `farthing compile` made here.",
        ),
        click.option(
            "--no-native", is_flag=True, help="Portable mode: onnxruntime's Python package only, no kernels of ours."
        ),
        click.option(
            "--context", type=int, help="Tokens of prompt and answer together. [default: the model's, at most 2048]"
        ),
        click.option("--threads", type=int, default=0, show_default=True, help="0 = all cores."),
    ):
        command = option(command)
    return command


def sampling_options(command: _Command) -> _Command:
    """How ids are chosen: ``greedy``, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``, ``seed``."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same tokens."),
        click.option(
            "--repetition-penalty", type=float, default=1.0, show_default=True, help="Above 1 discourages; 1 = off."
        ),
        click.option(
            "--min-p",
            type=float,
            default=0.0,
            show_default=True,
            help="Drop ids below this share of the best; 0 = off.",
        ),
        click.option(
            "--top-p", type=float, default=1.0, show_default=True, help="Keep this share of the probability; 1 = off."
        ),
        click.option("--top-k", type=int, default=0, show_default=True, help="Keep the k most likely; 0 = off."),
        click.option(
            "--temperature", type=float, default=0.7, show_default=True, help="Above 0; higher is more varied."
        ),
        click.option("--greedy", is_flag=True, help="Always the most likely token; the options below are then unused."),
    ):
        command = option(command)
    return command


_OPEN = frozenset(
    [
        "threads",
        "context",
        "no_native",
        "backend",
        "cuda_graphs",
        "draft",
        "draft_table",
        "draft_rows",
        "draft_bundle",
        "judge",
    ]
)


def open_bundle_for(bundle: str, options: dict[str, Any]) -> Any:
    """`farthing.load` with the options of `open_options`, which are taken out of ``options``."""
    from ..runtime.api import load  # heavy: numpy, tokenizers

    opening = {name: options.pop(name) for name in _OPEN & options.keys()}
    native = False if opening.pop("no_native", False) else None
    return load(bundle, native=native, **opening)


def speed_report(stats: dict[str, Any], native: bool) -> str:
    """Two or three lines: tokens per second, passes, where the time went, and what guessing brought."""
    seconds = stats["prefill_seconds"] + stats["decode_seconds"]
    steps = max(stats["new_tokens"] - 1, 0)  # the first new token comes out of the prefill
    outside = max(seconds - stats["model_seconds"], 0.0)
    return (
        f"prompt {stats['prompt_tokens']} tokens in {stats['prefill_seconds']:.2f} s "
        f"({_rate(stats['prompt_tokens'], stats['prefill_seconds'])}), "
        f"{stats['new_tokens']} new in {stats['decode_seconds']:.2f} s ({_rate(steps, stats['decode_seconds'])})\n"
        f"{stats['passes']} passes of {stats['rows']} rows; {stats['model_seconds']:.2f} s in the model, "
        f"{outside:.3f} s outside; {'C++ core with kernels' if native else 'portable mode, without kernels'}"
        + _guesses(stats)
    )


def _guesses(stats: dict[str, Any]) -> str:
    """What guessing brought; empty where nothing was guessed."""
    found = stats["speculation"]
    if not found["drafts"]:
        return ""
    return (
        f"\n{found['accepted']} of {found['drafted']} drafted tokens were right, in {found['drafts']} passes; "
        f"{1e6 * found['draft_seconds'] / stats['passes']:.0f} us per pass for guessing"
    )


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f} tokens/s" if seconds > 0 and count else "-"


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers from 1 on, separated by commas. Raises RequestError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise RequestError(
            found_wanted(option, repr(text[:60]), "whole numbers from 1 on, such as 1,8,64", "correct it")
        )
    return numbers
