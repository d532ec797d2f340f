"""``farthing quantize``: a float bundle in, a quantised bundle out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ..errors import RequestError, found_wanted
from ._quantize_network import candidates, counts, given_by_name, quantize_network_int8, quantize_network_weights

if TYPE_CHECKING:
    from ..calibration.quantize import Options, QuantizeResult

HELP = """Store the weights of a bundle in 4 or 8 bits, and measure what that costs.

\b
Every matrix becomes integers with one scale per block of inputs, as explicit DequantizeLinear
nodes: ONNX Runtime fuses them into its int4 and int8 kernels, other engines read them as they stand.
--weights is for the layers, --head for the output matrix, --embedding for the table of token vectors.

\b
Examples:
  farthing quantize smollm2 --out smollm2-int4
  farthing quantize smollm2 --out smollm2-int8 --weights int8 --embedding int8
  farthing quantize smollm2 --out small --embedding int8 --text my-domain.txt
  farthing quantize smollm2 --out for-tensorrt --symmetric
  farthing quantize smollm2 --out for-thor --weights nvfp4
  farthing quantize smollm2 --out better --rounding gptq --calibration my-domain.txt
  farthing quantize smollm2 --out long-texts --kv int8
  farthing quantize smollm2 --out cache-alone --weights same --kv int8
  farthing quantize minilm --out minilm-int8 --text my-domain.txt
  farthing quantize efficientnet --out efficientnet-int8 --images my-pictures
  farthing quantize smollm2 --out fits --budget 140 --rounding gptq
  farthing quantize minilm --out minilm-int4 --weights int4 --text my-domain.txt

\b
An encoder or vision model (`farthing import`, `export encoder | vision`) gets int8 weights (a scale per output) and int8
activations (one scale each) in its Conv, MatMul and Gemm, as explicit Q/DQ nodes. Half of the sentences or pictures
calibrates, the other half measures the loss. Layers stay in float until the calibrating half agrees (--target).
With --weights int4 or --budget its weights alone are stored in blocks.

\b
What happens, in this order; nothing appears at --out before the last step:
  1. the source bundle is checked, its weights are rounded one tensor at a time
  2. ONNX Runtime runs the new graph on the recorded prompts; the answers are recorded again
  3. both graphs read about 2000 tokens of text: perplexity, bits per byte and the KL divergence
     from the source go to the manifest and are printed (left out with --no-measure)
  4. everything is hashed and the finished folder is moved to --out

\b
A quantised bundle is lossy: it now and then chooses another token than the checkpoint.
Exit codes: 0 done, 2 bad request, 4 source bundle damaged or target not written, 6 a package is missing.
"""


@click.command("quantize", help=HELP, short_help="Store the weights of a bundle in 4 or 8 bits.")
@click.argument("bundle", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder to make; must not exist.")
@click.option(
    "--weights",
    default="int4",
    show_default=True,
    help="Matrices of the layers: int4 or int8; fp8 or nvfp4 for TensorRT; same as the source, and then head and embedding, too.",
)
@click.option("--block", default=32, show_default=True, help="Inputs that share a scale: 16, 32, 64, 128 or 256.")
@click.option(
    "--embedding", default="float16", show_default=True, help="float32, float16, int8, or same as the source."
)
@click.option("--head", default="int8", show_default=True, help="int4, int8, float16, float32, or same.")
@click.option(
    "--symmetric/--asymmetric",
    default=None,
    help="Zero points for no block, or for all.  [default: for 4-bit blocks; take --symmetric for TensorRT]",
)
@click.option(
    "--rounding",
    help="nearest; by what the inputs are like on a text: gptq, awq, awq+gptq.  [default: nearest; gptq for a network]",
)
@click.option(
    "--budget",
    type=float,
    metavar="MB",
    help="Each matrix gets int4, int8 or float, so that graph and weights take at most so many MB and lose least.",
)
@click.option(
    "--kv",
    default="float32",
    show_default=True,
    help="Keys and values in the cache: float32, or int8, a quarter of it.",
)
@click.option(
    "--calibration",
    type=click.Path(),
    help="With gptq, awq, --budget, --kv int8: the text, UTF-8.  [default: other parts of Python's library]",
)
@click.option("--text", type=click.Path(), help="Text to measure on, UTF-8.  [default: Python's own library]")
@click.option("--no-measure", is_flag=True, help="Do not measure the loss.")
@click.option("--images", type=click.Path(), help="Vision models: a folder of pictures to calibrate and measure on.")
@click.option(
    "--ranges",
    default="mse",
    show_default=True,
    help="Encoders, vision models: scales of activations by max, percentile, entropy or mse.",
)
@click.option(
    "--smooth/--no-smooth",
    default=True,
    show_default=True,
    help="The same: scale channels towards the weights where that helps, and centre outputs of ReLU.",
)
@click.option(
    "--keep",
    type=float,
    default=0.0,
    show_default=True,
    help="The same: share of the weights that stays in float, the most sensitive layers.",
)
@click.option(
    "--target",
    type=float,
    help="The same: layers stay in float until the calibrating half agrees this much.  [default: 0.995; none with --keep; 0 for none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def quantize_command(
    bundle: str,
    out: str,
    weights: str,
    block: int,
    embedding: str,
    head: str,
    symmetric: bool | None,
    rounding: str | None,
    budget: float | None,
    kv: str,
    calibration: str | None,
    text: str | None,
    no_measure: bool,
    images: str | None,
    ranges: str,
    smooth: bool,
    keep: float,
    target: float | None,
    as_json: bool,
) -> None:
    """The command itself; its help is HELP."""
    from ..calibration.quantize import Options, quantize  # heavy: numpy, onnx
    from ..calibration.static import StaticOptions
    from ..runtime.bundle import open_bundle
    from .export import progress_bar

    if budget is not None and not 0 < budget < 1e9:
        raise RequestError(found_wanted("--budget", budget, "megabytes, more than 0", "correct --budget"))
    limit = None if budget is None else int(budget * 1e6)
    if open_bundle(bundle, hashes=False, networks=True).is_network:
        if limit is not None or (given_by_name("weights") and weights == "int4"):
            quantize_network_weights(bundle, out, text or calibration, images, limit, as_json)
            return
        options8 = StaticOptions(ranges, smooth, keep, rounding or "gptq", target=target)
        quantize_network_int8(bundle, out, text or calibration, images, options8, as_json)
        return
    if images is not None:
        raise RequestError(found_wanted("--images", "given", "absent for a model that decodes tokens", "leave it out"))
    if limit is not None and (given_by_name("weights") or given_by_name("head")):
        what = "weights" if given_by_name("weights") else "head"
        found = repr(click.get_current_context().params[what])
        raise RequestError(found_wanted(f"--{what}", found, "absent with --budget, which chooses", "leave it out"))
    if weights == "same":
        embedding = embedding if given_by_name("embedding") else "same"
        head = head if given_by_name("head") else "same"
    options = Options(weights, block, embedding, head, symmetric, rounding or "nearest", limit, kv)
    with progress_bar() as progress:
        result = quantize(
            bundle, out, options, text=text, calibration=calibration, measure=not no_measure, progress=progress
        )
    click.echo(json.dumps(result.as_json()) if as_json else _report(result))


def _report(result: QuantizeResult) -> str:
    o, loss = result.options, result.loss
    what = f"{o.weights} {_blocks(o)}, head {o.head}"
    if result.layers is not None:
        what = f"{counts(result.layers)} {_blocks(o)}"
    lines = [
        f"{result.path}: {what}, embedding {o.embedding}, rounding {o.rounding}, {result.seconds:.1f} s",
        "",
        f"{'':<18}{'source':>12}{'quantised':>12}",
        f"{'graph, MB':<18}{result.source_bytes / 1e6:>12.1f}{result.bytes / 1e6:>12.1f}",
    ]
    if o.kv != "float32":
        lines.append(f"{'cache, bytes/token':<18}{result.source_cache_bytes:>12,}{result.cache_bytes:>12,}")
    if result.search is not None:
        lines += ["", *candidates(result.search)]
    if loss is None:
        return "\n".join([*lines, "loss not measured (--no-measure)"])
    for field in ("perplexity", "bits_per_byte"):
        lines.append(f"{field.replace('_', ' '):<18}{loss['source'][field]:>12.4g}{loss['quantized'][field]:>12.4g}")
    text = loss["text"]
    return "\n".join(
        [
            *lines,
            "",
            f"KL(source || quantised) {loss['kl']:.4g} nats per token (largest {loss['kl_max']:.4g}); "
            f"same likeliest token at {loss['same_top']:.1%} of positions",
            f"on {text['tokens']} tokens of {text['name']} (sha256 {text['sha256'][:12]})",
        ]
    )


def _blocks(options: Options) -> str:
    if options.weights in ("float32", "float16"):
        return "weights"
    if options.weights == "fp8":
        return "with a scale for each output"
    if options.weights == "nvfp4":
        return "in blocks of 16"
    symmetric = options.is_symmetric(int(options.weights[3:]))
    return f"in blocks of {options.block} ({'symmetric' if symmetric else 'with zero points'})"
