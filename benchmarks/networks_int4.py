"""What rounding by the inputs brings at 4 bits, on networks and decoders: a Markdown table of KL divergences on data that did not calibrate.

    python benchmarks/networks_int4.py build/minilm build/efficientnet build/mtp --images DIR --gate

Each argument is a float bundle, of a network run once per input or of a decoder; `BUNDLE,CALIBRATION,TEXT` names two texts for one. Of a network's
data every second text or picture calibrates, the others measure; KL is of its classes, similarities or pixels (docs/networks.md). ``--gate``
fails where a rounding by the inputs loses more than rounding to nearest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from farthing.calibration.network_int4 import WeightOptions, quantize_weights
from farthing.calibration.quantize import Options, quantize
from farthing.runtime.bundle import open_bundle

ROUNDINGS = ("nearest", "gptq", "awq", "awq+gptq")


def network(
    bundle: Path, out: Path, rounding: str, symmetric: bool, data: dict[str, Any], items: int
) -> tuple[str, float]:
    made = quantize_weights(bundle, out, WeightOptions(rounding=rounding, symmetric=symmetric), limit=items, **data)
    far = made.loss.divergence
    assert far is not None
    figure = made.loss.same_top or made.loss.rank_correlation or made.loss.correlation
    show = f"{far.kl} of {far.kind} | {made.source_bytes / 1e6:.1f} -> {made.bytes / 1e6:.1f} | {figure}, {made.scaled} scaled"
    return show, far.kl.value


def decoder(bundle: Path, out: Path, rounding: str, symmetric: bool, texts: list[str]) -> tuple[str, float]:
    calibration, text = texts if texts else (None, None)
    options = Options(rounding=rounding, symmetric=symmetric)
    made = quantize(bundle, out, options, text=text, calibration=calibration if rounding != "nearest" else None)
    assert made.loss is not None
    show = f"{made.loss['kl']:.4g} of tokens | {made.source_bytes / 1e6:.1f} -> {made.bytes / 1e6:.1f} | {made.loss['same_top']:.4f}"
    return show, float(made.loss["kl"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", help="BUNDLE, or of a decoder BUNDLE,CALIBRATION,TEXT")
    parser.add_argument("--images", help="folder of pictures, for vision models")
    parser.add_argument("--text", help="for encoders; default: Python's own library")
    parser.add_argument("--items", type=int, default=128, help="of each half, of a network's data")
    parser.add_argument("--roundings", default=",".join(ROUNDINGS))
    parser.add_argument("--symmetric", choices=("yes", "no", "both"), default="both")
    parser.add_argument("--gate", action="store_true")
    arguments = parser.parse_args()
    failed = []
    print(
        "| model | zero points | rounding | KL, nats | MB | same top or rank correlation | CPU s |\n|---|---|---|---|---|---|---|"
    )
    for argument in arguments.bundles:
        name, *texts = argument.split(",")
        bundle = open_bundle(name, hashes=False, networks=True)
        for symmetric in {"yes": (True,), "no": (False,), "both": (True, False)}[arguments.symmetric]:
            found: dict[str, float] = {}
            for rounding in arguments.roundings.split(","):
                begin = time.process_time()
                with tempfile.TemporaryDirectory() as folder:
                    out = Path(folder) / "int4"
                    if bundle.is_network:
                        vision = "image" in bundle.manifest["model"]
                        data = {"images": arguments.images} if vision else {"text": arguments.text}
                        shown, found[rounding] = network(bundle.path, out, rounding, symmetric, data, arguments.items)
                    else:
                        shown, found[rounding] = decoder(bundle.path, out, rounding, symmetric, texts)
                seconds = time.process_time() - begin
                kind = "no" if symmetric else "yes"
                print(f"| {bundle.path.name} | {kind} | {rounding} | {shown} | {seconds:.0f} |", flush=True)
            if "nearest" in found:
                failed += [f"{name} {r} {kl:.4g}" for r, kl in found.items() if "gptq" in r and kl >= found["nearest"]]
    for one in failed:
        print(f"no less than nearest: {one}", file=sys.stderr)
    return 1 if failed and arguments.gate else 0


if __name__ == "__main__":
    sys.exit(main())
