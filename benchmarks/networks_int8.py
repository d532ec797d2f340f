"""What int8 costs encoders and vision models, and what each means against it brings: a Markdown table.

    python benchmarks/networks_int8.py minilm efficientnet vit --images DIR [--text F] [--gate]

Each argument is a float bundle (`farthing export encoder | vision`, `farthing import`). Half of the data calibrates, the other half
measures. Times are CPU milliseconds of one pass at one thread, of float and int8 in turn. With --gate only the defaults run, and the exit code is 1
if an encoder's rank correlation is below 0.99 or the same likeliest class is below 98 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from farthing.calibration.static import RANGES, StaticOptions, quantize_network
from farthing.runtime.network import made_up, open_network

GATES = {"rank_correlation": 0.99, "same_top": 0.98}

BARE = {"smooth": False, "rounding": "nearest", "correct": False, "target": 0.0}
CHOICES = {
    **{f"ranges {r} alone": StaticOptions(r, **BARE) for r in RANGES},
    "mse, shifted biases": StaticOptions(**{**BARE, "correct": True}),
    "the same, GPTQ": StaticOptions(**{**BARE, "correct": True, "rounding": "gptq"}),
    "the same, smoothed, centred": StaticOptions(target=0.0),
    "default: the same, target 0.995": StaticOptions(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--images", help="folder of pictures, for vision models")
    parser.add_argument("--text", help="for encoders; default: Python's own library")
    parser.add_argument("--items", type=int, default=128, help="of each half")
    parser.add_argument("--gate", action="store_true")
    arguments = parser.parse_args()
    missed = []
    print(
        "| model | choice | MB | weights in float | measure | where it is clear | correlation | CPU s | CPU ms, int8 / float |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for bundle in arguments.bundles:
        vision = "image" in open_network(bundle).bundle.manifest["model"]
        data = {"images": arguments.images} if vision else {"text": arguments.text}
        for name, options in list(CHOICES.items())[-1 if arguments.gate else 0 :]:
            with tempfile.TemporaryDirectory() as folder:
                out, begin = Path(folder) / "int8", time.process_time()
                made = quantize_network(bundle, out, options, limit=arguments.items, **data)
                spent = time.process_time() - begin
                slow, quick = times(bundle, out)
            loss = made.loss
            main_figure = loss.same_top or loss.rank_correlation or "none: the output is a map"
            clear = f"{loss.same_top_clear} of {loss.clear_items}" if loss.same_top_clear else ""
            print(
                f"| {bundle.name} | {name} | {made.source_bytes / 1e6:.1f} -> {made.bytes / 1e6:.1f} | {made.kept_share:.2%} | {main_figure} of "
                f"{loss.items} | {clear} | {loss.correlation} | {spent:.0f} | {quick:.1f} / {slow:.1f} |"
            )
            sys.stdout.flush()
            for field, least in GATES.items():
                found = getattr(loss, field)
                if options == StaticOptions() and found is not None and found.value < least:
                    missed.append(f"{bundle.name}: {field} is {found.value:.4f}, expected {least} at least")
    if arguments.gate and missed:
        sys.exit("\n".join(missed))


def times(first: Path, second: Path, rounds: int = 5) -> tuple[float, float]:
    """CPU milliseconds of one pass of each, medians of ``rounds`` taken in turn."""
    networks = [open_network(first), open_network(second)]
    inputs = networks[0].bundle.manifest["graphs"]["network"]["inputs"]
    feeds = made_up(inputs, seed=0, sizes={"batch": 1, "length": 64}, id_limit=100)
    found: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for network, results in zip(networks, found, strict=True):
            begin, passes = time.process_time(), 0
            while time.process_time() - begin < 0.2:
                network.run(feeds)
                passes += 1
            results.append(1e3 * (time.process_time() - begin) / passes)
    return statistics.median(found[0][1:]), statistics.median(found[1][1:])


if __name__ == "__main__":
    main()
