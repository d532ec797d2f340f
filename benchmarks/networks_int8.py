"""What int8 costs encoders and vision models, by range method, with and without smoothing: a Markdown table.

    python benchmarks/networks_int8.py minilm efficientnet --images DIR [--text F]

Each argument is a float bundle (`farthing export encoder | vision`, `farthing import`). Half of the data calibrates, the other half
measures. Times are CPU milliseconds of one pass at one thread, of float and int8 in turn.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--images", help="folder of pictures, for vision models")
    parser.add_argument("--text", help="for encoders; default: Python's own library")
    parser.add_argument("--items", type=int, default=128, help="of each half")
    arguments = parser.parse_args()
    print("| model | ranges | smoothed | MB | rank correlation or same top | correlation | CPU ms, int8 / float |")
    print("|---|---|---|---|---|---|---|")
    for bundle in arguments.bundles:
        vision = "image" in open_network(bundle).bundle.manifest["model"]
        data = {"images": arguments.images} if vision else {"text": arguments.text}
        choices = [StaticOptions(r, smooth) for r in RANGES for smooth in ((False,) if vision else (False, True))]
        for options in choices:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "int8"
                made = quantize_network(bundle, out, options, limit=arguments.items, **data)
                slow, quick = times(bundle, out)
            main_figure = made.loss.same_top or made.loss.rank_correlation or "none: the output is a map"
            print(
                f"| {bundle.name} | {options.ranges} | {made.smoothed} of {made.quantized} | "
                f"{made.source_bytes / 1e6:.1f} -> {made.bytes / 1e6:.1f} | {main_figure} | {made.loss.correlation} | "
                f"{quick:.1f} / {slow:.1f} |"
            )
            sys.stdout.flush()


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
