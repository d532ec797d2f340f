"""``farthing train-judge``: a judge of drafted tokens for a frozen checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..calibration.judge import JudgeResult

HELP = r"""Teach a frozen model which of a smaller model's words will do in place of its own (judge decoding; lossy).

\b
No labels are needed. Both models say what they would; where they differ, the draft's word is put in, the target
goes on, and the final answers are compared (AutoJudge). A linear head on the target's last state learns which
words change the answer. --answer is a regular expression whose last match is the answer: its first group, or all.
PROMPTS is .jsonl with {"prompt": "..."} or {"ids": [...]} a line; a few hundred will do.

\b
Examples:
  farthing train-judge sums.jsonl --checkpoint big --draft small --answer "answer is (-?[\d.,]+)" --out judge.safetensors
  farthing export judge --checkpoint big --judge judge.safetensors --out bundle

\b
The threshold is set so that at most --false-accept-rate of the words that change an answer pass, on prompts that
were not trained on. What is decoded with a judge is not the model's own text: measure it on your own task.
Exit codes: 0 done, 2 bad request, 3 bad checkpoint, 6 a package is missing.
"""


@click.command("train-judge", help=HELP, short_help="Teach a model which drafted words will do (lossy).")
@click.argument("prompts", type=click.Path())
@click.option("--checkpoint", required=True, type=click.Path(), help="The target, as for `farthing export decoder`.")
@click.option("--draft", required=True, type=click.Path(), help="The smaller model, with the same tokenizer.")
@click.option("--answer", required=True, help="Regular expression of the final answer.")
@click.option("--out", required=True, type=click.Path(), help="The judge, a .safetensors file.")
@click.option("--new-tokens", default=256, show_default=True, help="Longest answer.")
@click.option("--stop-id", "stop_ids", type=int, multiple=True, help="Ends a text, beside the tokenizer's own.")
@click.option("--false-accept-rate", default=0.05, show_default=True, help="Of words that change the answer.")
@click.option("--batch", default=16, show_default=True, help="Texts a pass.")
@click.option("--seed", default=0, show_default=True, help="Which prompts are held out.")
@click.option("--threads", default=0, show_default=True, help="0 = all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def train_judge_command(
    prompts: str, checkpoint: str, draft: str, out: str, threads: int, as_json: bool, **options: Any
) -> None:
    """The command itself; its help is HELP."""
    import torch

    from ..calibration.judge import train_judge
    from .export import progress_bar

    if threads > 0:
        torch.set_num_threads(threads)
    with progress_bar() as progress:
        result = train_judge(checkpoint, draft, prompts, out, progress=progress, **options)
    click.echo(json.dumps(result.as_json()) if as_json else _report(result))


def _report(result: JudgeResult) -> str:
    return (
        f"{result.path}: {result.mismatches} mismatches of {result.prompts} prompts, {result.important:.1%} change the answer, "
        f"{result.cpu_seconds:.0f} CPU seconds\n"
        f"on held-out prompts: AUC {result.auc:.3f}; above delta {result.delta:.4f} lie {result.accepts:.1%} of the words that will do "
        f"and {result.false_accepts:.1%} of those that change the answer"
    )
