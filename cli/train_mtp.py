"""``farthing train-mtp``: masks, gated adapters and a sampler head for a frozen checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..calibration.train_mtp import TrainResult

HELP = """Teach a frozen model to guess several tokens ahead (gated-LoRA multi-token prediction).

\b
The checkpoint itself is not changed: mask tokens, low-rank branches that act on them alone, and a small
sampler head are trained, so what the exported bundle decodes is what the checkpoint decodes.
TEXT is UTF-8 text, or .jsonl with {"ids": [...], "prompt": n} or {"text": "..."} a line. Text that the
model wrote itself teaches most: its own words are what drafts are compared with.

\b
Examples:
  farthing train-mtp book.txt code.py --checkpoint model.gguf --out mtp.safetensors
  farthing train-mtp own.jsonl --checkpoint model.gguf --out mtp.safetensors --targets model --compute bfloat16
  farthing export mtp --checkpoint model.gguf --adapter mtp.safetensors --out bundle

\b
The state is kept in OUT.resume.pt: the same command goes on where it was stopped. OUT.log.jsonl has the
losses of every step. Exit codes: 0 done, 2 bad request, 3 bad checkpoint, 6 a package is missing.
"""


@click.command("train-mtp", help=HELP, short_help="Teach a frozen model to guess several tokens ahead.")
@click.argument("text", nargs=-1, required=True, type=click.Path())
@click.option("--checkpoint", required=True, type=click.Path(), help="As for `farthing export decoder`.")
@click.option("--out", required=True, type=click.Path(), help="The adapter, a .safetensors file.")
@click.option("--masks", default=4, show_default=True, help="Tokens to guess beyond the next.")
@click.option("--rank", default=16, show_default=True, help="Of the LoRA behind every linear of every layer.")
@click.option("--alpha", type=float, help="The LoRAs are scaled by alpha / rank.  [default: twice the rank]")
@click.option("--steps", default=1000, show_default=True)
@click.option("--batch", default=2, show_default=True, help="Sequences a step.")
@click.option("--length", default=256, show_default=True, help="Tokens a sequence.")
@click.option("--density", default=0.5, show_default=True, help="Share of the tokens behind which masks are put.")
@click.option("--rate", default=2e-3, show_default=True, help="Learning rate after warm-up.")
@click.option("--warm-up", default=50, show_default=True, help="Steps.")
@click.option(
    "--targets", default="text", show_default=True, help="text: its next tokens; model: the distribution of the model."
)
@click.option("--consistency", default=1.0, show_default=True, help="Weight of the latent consistency loss.")
@click.option("--decay", default=1.0, show_default=True, help="Mask i counts decay ** i.")
@click.option("--compute", default="float32", show_default=True, help="float32, or bfloat16 where the CPU has it.")
@click.option("--residual", default="latent", show_default=True, help="Of the sampler head: latent, block or none.")
@click.option("--seed", default=0, show_default=True)
@click.option("--save-every", default=50, show_default=True, help="Steps.")
@click.option("--threads", default=0, show_default=True, help="0 = all cores.")
@click.option("--pause-while", type=click.Path(), help="Rest while this file exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def train_mtp_command(
    text: tuple[str, ...],
    checkpoint: str,
    out: str,
    threads: int,
    pause_while: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """The command itself; its help is HELP."""
    import torch

    from ..calibration.train_mtp import Options, train
    from .export import progress_bar

    if threads > 0:
        torch.set_num_threads(threads)
    with progress_bar() as progress:
        result = train(checkpoint, text, out, Options(**options), pause_while=pause_while, progress=progress)
    click.echo(json.dumps(result.as_json()) if as_json else _report(result))


def _report(result: TrainResult) -> str:
    found = ", ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
    return (
        f"{result.path}: {result.parameters / 1e6:.2f} M weights, {result.steps} steps, {result.tokens} masks, "
        f"{result.cpu_seconds:.0f} CPU seconds\nlosses (smoothed): {found}\n"
        f"draft tokens accepted on held-out text: {result.accepted:.2f} ({result.without_sampler:.2f} without the sampler head)"
    )
