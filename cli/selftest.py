"""``farthing selftest --gpu``: what only a GPU can tell, in one command, with a report to send back."""

from __future__ import annotations

import json
from pathlib import Path

import click

HELP = """Run on a GPU what could not be run where farthing is developed, and write a report to send back.

\b
  farthing selftest --gpu
  farthing selftest --gpu --bundle smollm2 --plugins libfarthing_tensorrt.so

\b
Asks for a device, runs the parity table of all operators through TensorRT (bodies and plugins), compiles the bundle, and decodes
its recorded prompts with the TensorRT backend, also as CUDA graphs. Everything found is in the report, failures too.
Please send it to the project: until somebody does, all of this is untested on GPU.
Exit codes: 0 all passed, 2 bad request, 5 something failed, 6 no device or no TensorRT: the report says what would be done.
"""


@click.command("selftest", help=HELP, short_help="Test on a GPU, and write a report.")
@click.option("--gpu", is_flag=True, help="Test on the GPU (needed; `farthing ops check` tests the rest).")
@click.option("--bundle", type=click.Path(), help="A bundle to compile and decode; small ones are quickest.")
@click.option("--plugins", type=click.Path(), help="Our plugin library, libfarthing_tensorrt.so.")
@click.option("--report", default="farthing-selftest.json", show_default=True, type=click.Path(), help="File to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object, too.")
def selftest_command(gpu: bool, bundle: str | None, plugins: str | None, report: str, as_json: bool) -> int:
    """The command itself; its help is HELP."""
    from ..calibration.selftest import selftest_gpu, write  # heavy: onnx
    from ..errors import RequestError, found_wanted
    from ..runtime.bundle import open_bundle

    if not gpu:
        raise RequestError(found_wanted("--gpu", "not given", "given", "for the CPU run `farthing ops check`"))
    if bundle:
        open_bundle(bundle)
    made = selftest_gpu(bundle, plugins)
    write(made, Path(report))
    if as_json:
        click.echo(json.dumps(made.as_json()))
    else:
        for step in made.steps:
            click.echo(f"  {step.status:<8} {step.name:<12} {step.detail}")
        click.echo(f"report: {report}")
    return made.exit_code
