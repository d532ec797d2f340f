"""``farthing export``: checkpoint in, bundle out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..export.graph import Progress
    from ..export.recipe_types import ExportResult

HELP = """Turn a checkpoint into a bundle: a folder with ONNX graphs, tokenizer and recorded test vectors.

\b
METHOD is what the model does with its tokens; `decoder` is plain text generation (`farthing methods` lists all).
--checkpoint for `decoder` is one of
  * a Hugging Face folder: config.json, *.safetensors, tokenizer.json
  * a GGUF file: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K ...
of a Llama, SmolLM2, Mistral, Qwen2, Qwen2.5 or Qwen3 model; for `gam` the official class's state_dict:
a .safetensors or .pt file, or a folder with model.safetensors (or pytorch_model.bin) and tokenizer.json.
`vlm` and the methods that spare visual tokens (idpruner, zoo-prune, globalcom2, matryoshka) take folders of
LLaVA-1.5, LLaVA-NeXT and Qwen2.5-VL models.
`llamagen`, `nar`, `elm`, `token-shuffle`, `gsd` and `lantern` (both lossy) take a folder with the two files of an image model,
see docs/images.md.
`mtp` takes what `decoder` takes, and an adapter made by `farthing train-mtp`; `judge` (lossy) a judge made by
`farthing train-judge`.

\b
Examples:
  farthing export decoder --checkpoint SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  farthing export decoder --checkpoint ~/models/Qwen2.5-0.5B --out qwen --dtype float16
  farthing export gam --checkpoint gam.safetensors --out gam
  farthing export mtp --checkpoint model.gguf --adapter mtp.safetensors --out fast
  farthing export vlm --checkpoint llava-1.5-7b-hf --out llava
  farthing export idpruner --checkpoint llava-1.5-7b-hf --ratio 0.5 --ratio 0.75 --out sparing
  farthing export ima-skip --checkpoint llava-1.5-7b-hf --plan 4-11:ffn --images photos --out skipping
  farthing export judge --checkpoint model.gguf --judge judge.safetensors --out lossy
  farthing export gsd --checkpoint llamagen-pair --group-size 8 --out drawing

\b
What happens, in this order; nothing appears at --out before the last step:
  1. names and shapes of all weights are compared with the configuration
  2. the graph is written, one weight at a time
  3. ONNX Runtime runs it on a few prompts; the answers are recorded in the bundle
  4. the answers are compared with a PyTorch reference (left out with --no-check)
  5. everything is hashed and the finished folder is moved to --out

\b
Next: farthing verify BUNDLE, farthing quantize BUNDLE, farthing run BUNDLE --prompt "..."
Exit codes: 0 done, 2 bad request, 3 bad checkpoint, 4 bundle could not be written, 5 graph and reference differ,
6 a package is missing.
"""


@click.command("export", help=HELP, short_help="Turn a checkpoint into a bundle.")
@click.argument("method")
@click.option("--checkpoint", required=True, type=click.Path(), help="Folder or file with the weights, see above.")
@click.option("--out", required=True, type=click.Path(), help="Folder to make; an older bundle there is replaced.")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="How matrices are stored: float32, or float16 for half the size (gam: int8 is 8-bit memory banks). Arithmetic is float32 either way.",
)
@click.option(
    "--no-check", is_flag=True, help="Skip the comparison with PyTorch (large models: it reads all weights again)."
)
@click.option("--trees", is_flag=True, default=None, help="decoder: a pass may hold a tree of drafts (for aded).")
@click.option("--adapter", type=click.Path(), help="mtp: the trained adapter, .safetensors.")
@click.option("--masks", type=int, help="mtp: use this many of the trained masks.")
@click.option("--alpha", type=float, help="mtp: alpha of the adapter's LoRAs, where its file does not say it.")
@click.option("--draft-vocab", help="mtp: draft only among the first N ids, or the ids in a file.")
@click.option("--judge", type=click.Path(), help="judge: the trained judge, .safetensors or .npz.")
@click.option(
    "--delta",
    type=float,
    help="judge: threshold, instead of the file's; 1 accepts nothing more than the standard rule. lantern: mass that a draft borrows. [default: 0.1]",
)
@click.option(
    "--ratio",
    "ratios",
    type=float,
    multiple=True,
    help="idpruner, zoo-prune, globalcom2: part of the visual tokens to drop; a level for each, may be given several times. [default: 0.5 0.75 0.9]",
)
@click.option(
    "--scale",
    "scales",
    type=int,
    multiple=True,
    help="matryoshka: visual tokens of a view; several times for several levels.",
)
@click.option("--selector", type=click.Path(), help="idpruner: folder of a learned selector.")
@click.option("--importance", help="idpruner: sensitivity or norm, in place of a selector.")
@click.option("--lam", type=float, help="idpruner: importance (1) against diversity (0). [default: 0.5]")
@click.option("--estimator", help="zoo-prune: exact, or zo as in the paper. [default: exact]")
@click.option(
    "--rank",
    type=int,
    help="zoo-prune --estimator zo: rank that the projector is cut to; 128 as in the paper, 0 = whole. [default: 0]",
)
@click.option("--scores", help="globalcom2: logits, or probs. [default: logits]")
@click.option(
    "--positions", help="idpruner, zoo-prune, globalcom2: keep the positions of kept tokens, or compact them."
)
@click.option(
    "--prune-layer", type=int, help="idpruner: drop tokens before this layer of the decoder, not before the first."
)
@click.option(
    "--plan",
    help="ima-skip: what rows of images leave out, such as 4-11:ffn,13:attention, or a report of `farthing ima-report`.",
)
@click.option(
    "--images",
    type=click.Path(),
    help="ima-skip: a folder of pictures on which the plan is measured, and refused above --max-kl.",
)
@click.option("--questions", type=click.Path(), help="ima-skip: questions about them, .jsonl.")
@click.option("--samples", type=int, help="ima-skip: questions to measure. [default: 16]")
@click.option("--max-kl", type=float, help="ima-skip: nats a token, mean. [default: 0.05]")
@click.option(
    "--vision", type=click.Path(), help="vlora: folder of CLIP, where the checkpoint has no tower of its own."
)
@click.option("--group-size", type=int, help="gsd: codes of a group, the draft included. [default: 14]")
@click.option("--prob-tol", type=float, help="gsd: probability that codes of a group differ by. [default: 0.15]")
@click.option("--dist-tol", type=float, help="gsd: squared distance of their unit embeddings. [default: 0.5]")
@click.option("--clusters", type=int, help="gsd: clusters of mode partition. [default: codes / group size]")
@click.option("--draft-window", type=int, help="gsd: drafts a round. [default: 16]")
@click.option(
    "--drafter", type=click.Path(), help="lantern: the trained drafter. [default: drafter* in the checkpoint's folder]"
)
@click.option("--neighbours", type=int, help="lantern: nearest codes that a draft may stand for. [default: 100]")
@click.option(
    "--relative", is_flag=True, default=None, help="lantern: --delta counts in units of the draft's probability."
)
@click.option("--draft-length", type=int, help="lantern: drafts a round. [default: 5]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def export_command(
    method: str, checkpoint: str, out: str, dtype: str, no_check: bool, as_json: bool, **special: Any
) -> None:
    """The command itself; its help is HELP. ``special`` are options of single methods, passed on where they are given."""
    from ..export import export  # heavy: numpy, onnx

    given = {name: value for name, value in special.items() if value is not None and value != ()}
    with progress_bar() as progress:
        result = export(method, checkpoint, out, dtype=dtype, check=not no_check, progress=progress, **given)
    click.echo(json.dumps(result.as_json()) if as_json else _report(result))


def _report(result: ExportResult) -> str:
    check = result.check
    compared = "not compared with PyTorch (--no-check)"
    if check:
        compared = f"largest difference from PyTorch {check['max_abs']:.1e} over {check['rows']} rows of logits"
    return (
        f"{result.path}: {result.parameters / 1e6:.1f} M parameters, {result.bytes / 1e6:.1f} MB, "
        f"{result.nodes} nodes ({result.nodes_per_layer} per layer), {result.seconds:.1f} s\n{compared}"
    )


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr, so that stdout stays clean for --json; one task per stage. No terminal, no bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
