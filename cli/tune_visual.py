"""``farthing tune-visual``: how few visual tokens are enough for your pictures and questions."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ..errors import RequestError, found_wanted

HELP = """Ask your questions about your pictures at every level of each BUNDLE, and choose the level with the fewest visual tokens that is good enough.

\b
  farthing tune-visual sparing --images photos --questions questions.jsonl
  farthing tune-visual sparing --images photos --questions questions.jsonl --most-loss 0.01 --apply
  farthing tune-visual idp zoo m3 --images photos --questions questions.jsonl --items 200 --plot sweep.png

\b
QUESTIONS has a JSON object on each line; "answer" (a text, or a list of texts that count as right) may be left out:
  {"image": "a.png", "question": "How many birds are there?", "answer": "two"}
  {"image": "trips/b.jpg", "question": "What is the sign for?"}

\b
Measured at each level, with one thread, levels in turn within a question:
  accuracy   greedy answer equal to the given one, without case, punctuation and articles
  loss       accuracy of level full on the same questions, less this level's
  KL         from full's next-token distribution to this level's along full's own answer, nats per token; needs no answers
  same top   positions of that answer with the same likeliest token
  GFLOP      of the decoder's prefill, reckoned from shapes;  KV kB: cache that the prompt fills
  prefill    CPU seconds from features of the picture to the first logits, median (quartiles)
  selector   part of them that choosing tokens takes; - where none are, or inside the decoder

\b
Chosen is the level with the fewest tokens whose loss (with answers) or KL (without) is at most --most-loss or --most-kl. The high end of
the 95 % interval must be within the bound, so few questions choose full: at 0.02 it takes 189 of them even if no answer
changes. --by-mean compares the mean, which lets lucky levels pass.
--apply makes the chosen level that of prompts which name none, and keeps the measurement in the bundle's manifest (`farthing inspect --json`).
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed.
"""


@click.command("tune-visual", help=HELP, short_help="Choose how few visual tokens are enough for your pictures.")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path())
@click.option("--images", required=True, type=click.Path(), help="Folder of pictures.")
@click.option("--questions", required=True, type=click.Path(), help="File of JSON lines, see above.")
@click.option("--items", type=int, help="Draw this many questions.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of that draw; same seed, same questions.")
@click.option("--most-loss", type=float, help="Largest loss of accuracy.  [default with answers: 0.02]")
@click.option("--most-kl", type=float, help="Largest KL, nats per token.  [default without answers: 0.05]")
@click.option("--by-mean", is_flag=True, help="Compare means with the bound, not high ends of intervals.")
@click.option("--max-new-tokens", type=int, default=16, show_default=True, help="Longest answer, in tokens.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw it to this file (.png, .svg, .pdf).")
@click.option("--apply", "write", is_flag=True, help="Write the choice into each bundle.")
@click.option("--context", type=int, help="Tokens of prompt and answer. [default: room for the largest picture]")
@click.option("--no-native", is_flag=True, help="Portable mode: no kernels of ours.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def tune_visual_command(
    bundles: tuple[str, ...],
    images: str,
    questions: str,
    items: int | None,
    seed: int,
    most_loss: float | None,
    most_kl: float | None,
    by_mean: bool,
    max_new_tokens: int,
    plot: str | None,
    write: bool,
    context: int | None,
    no_native: bool,
    as_json: bool,
) -> None:
    from ..calibration.visual import apply_choice, choose, read_data, show, sweep
    from ..calibration.visual.choice import check_bound
    from .export import progress_bar

    # What can be refused is refused before minutes are spent.
    if most_loss is not None and most_kl is not None:
        raise RequestError(found_wanted("bounds", "--most-loss and --most-kl", "one of them", "leave one out"))
    for name, bound in (("--most-loss", most_loss), ("--most-kl", most_kl)):
        if bound is not None:
            check_bound(name, bound)
    data = read_data(images, questions, items=items, seed=seed)
    if most_loss is not None and not data.answered:
        raise RequestError(
            found_wanted("--most-loss", "given for questions without answers", "--most-kl", "or add answers")
        )
    with progress_bar() as progress:
        found = sweep(
            bundles,
            data,
            native=False if no_native else None,
            context=context,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
    choices = choose(found, most_loss=most_loss, most_kl=most_kl, by_mean=by_mean)
    if plot:
        show.plot(found, plot, choices)
    if write:
        for choice in choices:
            apply_choice(choice, found)
    if as_json:
        click.echo(json.dumps({**found.as_json(), "choices": [asdict(c) for c in choices], "applied": write}))
        return
    click.echo(show.table(found, choices))
    for choice in choices if write else []:
        click.echo(f"{choice.path}: level {choice.level} from now on (was {choice.before})")
