"""``farthing ima-report``: how near images come to text inside a model, and which work their rows can leave out."""

from __future__ import annotations

import json
from pathlib import Path

import click

HELP = """Measure a vision-language checkpoint layer by layer, and find what rows of images can leave out (lossy).

\b
For every layer: how alike rows of images and of text are (implicit multimodal alignment, IMA), how far a layer turns
them, and how much its feed-forward network adds to them. Layers whose networks add least to rows of images are
skipped in that order, as many as --budget allows and the guard lets pass: the mean KL divergence of the next token
between the whole model and the one that skips.

\b
QUESTIONS is .jsonl with {"image": "a.png", "question": "...", "answer": "..."} a line, pictures from --images; the
answer may be missing: then only its first token is judged. Without --questions every picture is to be described.

\b
Examples:
  farthing ima-report llava-1.5-7b --images pictures --questions asked.jsonl --out report.json --plot report.png
  farthing export ima-skip --checkpoint llava-1.5-7b --plan report.json --out bundle

\b
Reads the checkpoint folder with PyTorch, one layer at a time. Use pictures and questions of your own task: what can
be left out depends on them.
Exit codes: 0 done, 2 bad request, 3 bad checkpoint, 6 a package is missing.
"""


@click.command("ima-report", help=HELP, short_help="Find what rows of images can leave out (lossy).")
@click.argument("checkpoint", type=click.Path())
@click.option("--images", required=True, type=click.Path(), help="Folder of pictures.")
@click.option("--questions", type=click.Path(), help="Questions about them, .jsonl.")
@click.option("--samples", default=16, show_default=True, type=click.IntRange(1), help="Questions, drawn with --seed.")
@click.option("--budget", type=click.IntRange(0), help="Most layers to skip; default: half of those that could be.")
@click.option("--what", default="ffn", show_default=True, help="Left out of them: ffn, attention or block.")
@click.option("--max-kl", default=0.05, show_default=True, type=click.FloatRange(0), help="Nats a token, mean.")
@click.option("--sparsity", type=float, help="Compare the weights that images and text need, this share left out.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=0, show_default=True, help="0 = all cores.")
@click.option("--out", type=click.Path(), help="The report, a .json file; `farthing export ima-skip --plan` reads it.")
@click.option("--plot", "picture", type=click.Path(), help="The same as a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object, for scripts.")
def ima_report_command(
    checkpoint: str,
    images: str,
    questions: str | None,
    samples: int,
    budget: int | None,
    what: str,
    max_kl: float,
    sparsity: float | None,
    seed: int,
    threads: int,
    out: str | None,
    picture: str | None,
    as_json: bool,
) -> None:
    """The command itself; its help is HELP."""
    import torch

    from ..calibration.ima import ima_report
    from ..calibration.ima.show import plot, table
    from .export import progress_bar

    if threads > 0:
        torch.set_num_threads(threads)
    with progress_bar() as progress:
        report = ima_report(
            checkpoint,
            images,
            questions,
            samples=samples,
            budget=budget,
            what=what,
            most_kl=max_kl,
            sparsity=sparsity,
            seed=seed,
            progress=progress,
        )
    if out is not None:
        Path(out).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    if picture is not None:
        plot(report, picture)
    click.echo(json.dumps(report.as_json()) if as_json else table(report))
