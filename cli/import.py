"""``farthing import``: somebody else's ONNX file in, bundle out."""

from __future__ import annotations

import json

import click

HELP = """Make a bundle of a plain ONNX file: an encoder, a vision model, a network that is run once per input, or a decoder with past.

\b
SOURCE is the file, or a folder with one (as `optimum-cli export onnx` writes it; tokenizer.json is taken
along, and sizes and means of pictures from config.json and preprocessor_config.json).
A network's graph stays as it is; its weights go to a file of their own that can be mapped. Of a decoder with past
(`--task text-generation-with-past`; Llama, Qwen2, Qwen3 in float32, config.json beside it) the weights are taken by the
names of the nodes and put into the graph that `farthing export decoder` writes: same speed, and all commands for decoders.
ONNX Runtime then runs the bundle's graph and the file itself on the same inputs (a decoder: prompts and 16 greedy steps);
they must agree, and the answers of the file are recorded for `farthing verify`.

\b
Examples:
  farthing import bert-onnx/ --out bert
  farthing import smollm2-onnx/ --out smollm2
  farthing import vit.onnx --out vit --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
  farthing verify vit --against vit.onnx

\b
Refused by name: operators that ONNX Runtime does not have; decoders that are merged, in two files, quantised, fused, or
hold a weight without a role (export those from their checkpoint).
Exit codes: 0 done, 2 bad request, 3 bad file, 4 bundle could not be written, 5 graph and file differ, 6 a package is missing.
"""


@click.command("import", help=HELP, short_help="Make a bundle of somebody else's ONNX file.")
@click.argument("source", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder to make; an older bundle there is replaced.")
@click.option(
    "--mean",
    help="Vision: what is taken from R,G,B in 0 to 1.  [default: as preprocessor_config.json says, or 0.485,0.456,0.406]",
)
@click.option("--std", help="Vision: what they are divided by then.  [default: the same file's, or 0.229,0.224,0.225]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def import_command(source: str, out: str, mean: str | None, std: str | None, as_json: bool) -> None:
    """The command itself; its help is HELP."""
    from ..export.onnx_import import import_onnx
    from .export import progress_bar

    with progress_bar() as progress:
        result = import_onnx(source, out, mean=_triple("--mean", mean), std=_triple("--std", std), progress=progress)
    click.echo(
        json.dumps(result.as_json())
        if as_json
        else f"{result.path}: {result.parameters / 1e6:.1f} M parameters, {result.bytes / 1e6:.1f} MB, {result.nodes} nodes, "
        f"{result.seconds:.1f} s\nlargest difference from the file itself, by ONNX Runtime: {result.max_error:.1e}"
    )


def _triple(option: str, text: str | None) -> tuple[float, float, float] | None:
    from ..errors import RequestError, found_wanted

    if text is None:
        return None
    try:
        r, g, b = (float(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(
            found_wanted(option, repr(text), "three numbers, as 0.5,0.5,0.5", f"correct {option}")
        ) from error
    if option == "--std" and not min(r, g, b) > 0:
        raise RequestError(found_wanted(option, repr(text), "three numbers above 0", f"correct {option}"))
    return r, g, b
