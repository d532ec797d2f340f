"""``farthing verify``: does a bundle compute what it should, here?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BundleError, RequestError, VerificationError, found_wanted

if TYPE_CHECKING:
    from ..calibration.drift import Drift
    from ..runtime.bundle import Bundle
    from ..runtime.verify import EngineResult

HELP = """Check that a bundle is whole and computes what it computed where it was exported.

\b
In this order, ending at the first that does not hold:
  1. manifest against its schema; every file's size and SHA-256
  2. the recorded prompts are run and compared, by standard operators alone (`bodies`) and,
     where the native library is installed, by our kernels: logits within tolerance, the same
     greedy ids (a step whose two best logits are closer than the tolerance may go either way);
     with integer weights once more with activations in 8 bits, as the runtime does
  3. with --against CHECKPOINT: the stream after every layer, and the logits, beside a PyTorch
     reference of the checkpoint (needs farthing[export]; steps 1 and 2 need no torch and no onnx)

\b
A bundle that is run once per input (`farthing import`, `export encoder`) is replayed by ONNX Runtime on recorded
inputs; there --against is the ONNX file it was made from, run beside it. So it is for a decoder that was imported.

\b
Examples:
  farthing verify smollm2
  farthing verify smollm2-int4 --against SmolLM2-135M-Instruct.Q4_1.gguf --plot drift.png

\b
Exit codes: 0 all holds, 2 bad request, 3 bad checkpoint, 4 bundle damaged or edited, 5 it computes something else,
6 a package is missing.
"""


@click.command("verify", help=HELP, short_help="Check that a bundle is whole and computes what it should.")
@click.argument("bundle", type=click.Path())
@click.option("--against", type=click.Path(), help="Checkpoint to compare with, layer by layer.")
@click.option(
    "--plot", type=click.Path(dir_okay=False), help="Draw the drift to this file (.png, .svg, .pdf); needs --against."
)
@click.option(
    "--tolerance",
    type=float,
    help="Largest relative error of a layer with --against (default 1e-4 for float weights, none for integer ones), of a logit without.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of onnxruntime and PyTorch."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, for scripts.")
def verify_command(
    bundle: str, against: str | None, plot: str | None, tolerance: float | None, threads: int, as_json: bool
) -> None:
    from ..runtime.bundle import open_bundle
    from ..runtime.verify import check_tolerance, verify_vectors

    if plot and not against:
        raise RequestError(
            found_wanted("--against", "missing", "a checkpoint, since --plot draws its drift", "give both")
        )
    if tolerance is not None:
        check_tolerance(tolerance)
    report: dict[str, Any] = {
        "bundle": str(bundle),
        "ok": False,
        "files": 0,
        "engines": [],
        "skipped": [],
        "drift": None,
    }
    try:
        opened = open_bundle(bundle, networks=True)
        report |= {"name": opened.manifest["name"], "files": len(opened.manifest["files"])}
        if opened.is_network:
            _verify_network(opened, against, plot, tolerance, threads, report, as_json)
            return
        results, skipped = verify_vectors(opened, tolerance=None if against else tolerance, threads=threads)
        report |= {"engines": [r.as_json() for r in results], "skipped": skipped}
        if not as_json:
            click.echo(_summary(opened, results, skipped))
        _raise_first(r.failure() for r in results)
        if against and _is_onnx(against):
            _compare_decoder(opened, against, plot, tolerance, threads, report, as_json)
        elif against:
            drifts = _drift(opened, against, tolerance, threads)
            report["drift"] = [d.as_json() for d in drifts]
            _show(opened, drifts, plot, as_json)
        report["ok"] = True
    except (BundleError, VerificationError) as error:
        report["error"] = str(error)
        raise
    finally:
        if as_json and ("error" in report or report["ok"]):
            click.echo(json.dumps(report))
    if not as_json:
        click.echo("all holds")


def _verify_network(
    bundle: Bundle,
    against: str | None,
    plot: str | None,
    tolerance: float | None,
    threads: int,
    report: dict[str, Any],
    as_json: bool,
) -> None:
    """Fills ``report``; raises VerificationError with what does not hold."""
    from ..runtime.network import verify_network
    from ._network import verify_text

    if plot:
        raise RequestError(
            found_wanted("--plot", "given", "absent for a network that is run once per input", "leave it out")
        )
    result = verify_network(bundle, tolerance=None if against else tolerance, threads=threads)
    report["engines"] = [result.as_json()]
    if not as_json:
        click.echo(verify_text(bundle, result))
    _raise_first([result.failure()])
    if against:
        from ..export.onnx_import import verify_against_onnx

        worst = verify_against_onnx(bundle, against, tolerance=tolerance, threads=threads)
        report["against"] = {"output": worst.name, "max_error": worst.error, "allowed": worst.allowed}
        if not as_json:
            click.echo(
                f"{against}: largest difference of output {worst.name} {worst.error:.1e} (allowed {worst.allowed:.1e})"
            )
        _raise_first([None if worst.ok else worst.failure("give the file the bundle was made from")])
    report["ok"] = True
    if not as_json:
        click.echo("all holds")


def _is_onnx(path: str) -> bool:
    """A file of somebody else's, or a folder that has such and no weights of another kind."""
    there = Path(path)
    return there.suffix == ".onnx" or (any(there.glob("*.onnx")) and not any(there.glob("*.safetensors")))


def _compare_decoder(
    bundle: Bundle,
    against: str,
    plot: str | None,
    tolerance: float | None,
    threads: int,
    report: dict[str, Any],
    as_json: bool,
) -> None:
    """Logits of a decoder beside those of the graph with past it was made from. Raises VerificationError."""
    from ..export.onnx_import import verify_decoder_against_onnx

    if plot:
        raise RequestError(
            found_wanted("--plot", "given", "absent beside an ONNX file, which has no named layers", "leave it out")
        )
    worst = verify_decoder_against_onnx(bundle, against, tolerance=tolerance, threads=threads)
    report["against"] = {"output": "logits", "max_error": worst}
    if not as_json:
        click.echo(f"{against}: largest difference of logits {worst:.1e}")


def _raise_first(failures: Any) -> None:
    for failure in failures:
        if failure is not None:
            raise VerificationError(failure)


def _drift(bundle: Bundle, against: str, tolerance: float | None, threads: int) -> list[Drift]:
    from ..errors import MissingDependencyError
    from ..runtime.tensors import DECODER

    if DECODER not in bundle.manifest["graphs"]:
        raise RequestError(
            found_wanted(
                f"--against for method {bundle.manifest['method']['id']}",
                "not supported",
                "a bundle of method decoder",
                "the exporter compares such a bundle with PyTorch; export it again without --no-check",
            )
        )
    try:
        from ..calibration.drift import drift
        from ..export.checkpoint import open_checkpoint
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                f"package {error.name}", "not installed", "installed for --against", "pip install 'farthing[export]'"
            )
        ) from error
    return drift(bundle, open_checkpoint(against), tolerance=tolerance, threads=threads)


def _show(bundle: Bundle, drifts: list[Drift], plot: str | None, as_json: bool) -> None:
    """Table and plot come before the verdict: they are most wanted where a layer is over tolerance."""
    from ..calibration.drift import plot as draw
    from ..calibration.drift import table

    if not as_json:
        click.echo(table(drifts))
    if plot:
        try:
            draw(drifts, f"{bundle.manifest['name']}: drift by layer", Path(plot))
        except (OSError, ValueError) as error:
            raise RequestError(
                found_wanted(
                    f"--plot {plot}", f"not writable ({error})", "a .png, .svg or .pdf to write", "correct the path"
                )
            ) from error
    for one in drifts:
        if first := one.first_over:
            raise VerificationError(
                found_wanted(
                    f"relative error of {first.name} against the reference (by {one.engine}; the first over tolerance)",
                    f"{first.relative:.3g}",
                    f"at most {one.embedding_tolerance if first.name == 'embedding' else one.tolerance}",
                    "give the checkpoint the bundle was exported from, or see docs/verify.md",
                )
            )


def _summary(bundle: Bundle, results: list[EngineResult], skipped: list[str]) -> str:
    size = sum(f["bytes"] for f in bundle.manifest["files"].values())
    lines = [
        f"{bundle.path}: {len(bundle.manifest['files'])} files, {size / 1e6:.1f} MB, schema and hashes as recorded"
    ]
    for result in results:
        r = result.as_json()
        error = "not a number" if r["max_error"] is None else f"{r['max_error']:.1e}"
        ids = r["ids"]
        ties = f", {ids['ties']} ties" if ids["ties"] else ""
        lines.append(
            f"{r['engine']}: {'holds' if r['ok'] else 'FAILS'}; {r['cases']} prompts, largest difference of a logit {error} "
            f"(allowed {r['allowed']:.1e}), {ids['equal']} of {result.steps} greedy ids equal{ties}, {r['seconds']:.1f} s"
        )
    return "\n".join([*lines, *(f"skipped {reason}" for reason in skipped)])
