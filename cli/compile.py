"""``farthing compile``: from a bundle to what one machine runs best."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..export.compile import CompileResult

HELP = """Compile a bundle for a target: cpu, tensorrt or tensorrt-rtx.

\b
  cpu           ONNX Runtime's optimised graph, so that opening the bundle costs less
  tensorrt      engines for the GPU of this machine, built and timed on it; with --plan, what to carry there
  tensorrt-rtx  engines for GeForce and RTX cards, built on any machine, with or without a GPU

\b
Examples:
  farthing compile smollm2 --target cpu
  farthing compile smollm2 --target tensorrt-rtx --sm 86,89,120
  farthing compile smollm2 --target tensorrt                        on the Jetson
  farthing compile smollm2 --target tensorrt --trt 10.3 --plan carry   anywhere, for JetPack 6.2

\b
Results go to BUNDLE/compiled/TARGET/KEY, where the runtime finds them. The key covers graph, profiles, TensorRT's version, compute
capability and plugins, so that asking again costs nothing and nothing stale is used. The bundle itself does not change.
An engine has fixed --context and a profile each for decoding, prefill (--chunk rows) and draft trees (--tree).
Exit codes: 0 done, 2 bad request, 4 damaged bundle or a graph that TensorRT refuses, 6 no device, or TensorRT is not installed.
"""


@click.command("compile", help=HELP, short_help="Compile a bundle for a CPU, a Jetson or an RTX card.")
@click.argument("bundle", type=click.Path())
@click.option("--target", required=True, help="cpu, tensorrt or tensorrt-rtx.")
@click.option(
    "--sm", default="", help="Compute capabilities for tensorrt-rtx: 75,80,86,89,120,121.  [default: 86,89,120]"
)
@click.option("--trt", help="TensorRT version to write graphs for: 10.3, 10.16, 11.4...  [default: the installed one]")
@click.option("--plan", type=click.Path(), help="tensorrt: write what a build on another machine needs to this folder.")
@click.option("--out", type=click.Path(), help="Where results go.  [default: BUNDLE/compiled/TARGET]")
@click.option(
    "--plugins", type=click.Path(), help="tensorrt: our plugin library.  [default: operators run by their bodies]"
)
@click.option("--context", type=int, help="Tokens of prompt and answer together.  [default: the model's, at most 2048]")
@click.option("--chunk", type=int, default=256, show_default=True, help="Most rows of one prefill pass.")
@click.option("--tree", help="Rows of draft trees, e.g. 8,16,32,64.  [default: by the bundle's procedure]")
@click.option(
    "--batch",
    type=int,
    default=1,
    show_default=True,
    help="Sequences or images at once; guided drawing takes 2 an image.",
)
@click.option("--dim", "dims", multiple=True, help="Range of another dimension: SYMBOL=SMALLEST:USUAL:LARGEST.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def compile_command(
    bundle: str,
    target: str,
    sm: str,
    trt: str | None,
    plan: str | None,
    out: str | None,
    plugins: str | None,
    context: int | None,
    chunk: int,
    tree: str | None,
    batch: int,
    dims: tuple[str, ...],
    as_json: bool,
) -> None:
    """The command itself; its help is HELP."""
    from ..export.compile import compile_bundle, parse_dims  # heavy: onnx

    result = compile_bundle(
        bundle,
        target,
        sm=_numbers("--sm", sm),
        trt=trt,
        plan=plan,
        out=out,
        plugins=plugins,
        context=context,
        chunk=chunk,
        tree=None if tree is None else _numbers("--tree", tree),
        batch=batch,
        dims=parse_dims(dims) or None,
    )
    click.echo(json.dumps(result.as_json()) if as_json else _report(result))


def _numbers(option: str, text: str) -> list[int]:
    from ..errors import RequestError, found_wanted

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RequestError(found_wanted(option, repr(text), "numbers separated by commas", "correct it")) from error


def _report(result: CompileResult) -> str:
    lines = [
        f"{result.path}: {'plan' if result.planned else result.target}{', was there already' if result.cached else ''}"
    ]
    for name, graph in result.graphs.items():
        seconds = f", {graph['seconds']:.1f} s" if "seconds" in graph else ""
        lines.append(f"  {name:<12} {graph['bytes'] / 1e6:>10.1f} MB{seconds}")
    if result.planned:
        lines += ["", "Carry this folder to the device. There, inside it:", f"  {result.commands[0]}"]
        lines += ["or with NVIDIA's tool:", *(f"  {c}" for c in result.commands[1:])]
    lines += [f"  {key}: {value}" for key, value in result.notes.items() if result.target == "cpu"]
    return "\n".join(lines)
