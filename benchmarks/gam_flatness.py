"""Does a decode step of a GAM cost the same at every position? CPU time of steps early and late in the text, for one bundle.

    python benchmarks/gam_flatness.py BUNDLE

Prints one JSON object: microseconds of process CPU time a step over the first and the last eighth of the positions (minimum of 15
rounds that take turns), their ratio, and the bytes of state there.
"""

from __future__ import annotations

import argparse
import json

import farthing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--no-native", action="store_true")
    args = parser.parse_args()
    with farthing.load(args.bundle, threads=1, native=False if args.no_native else None) as model:
        window, best = model.context // 8, [float("inf")] * 2
        for _round in range(15):
            for place, start in enumerate((1, model.context - window)):
                model.reset()
                model.prefill([1] * start)
                made = model.engine.generate(
                    [1], {"max_new_tokens": window, "temperature": 0.0, "continue": True}, None
                )
                spent = made["stats"]["decode_cpu_seconds"] / (len(made["ids"]) - 1)
                best[place] = min(best[place], spent)
        result = {
            "bundle": args.bundle,
            "native": model.native,
            "positions": model.context,
            "early_us": round(1e6 * best[0], 1),
            "late_us": round(1e6 * best[1], 1),
            "ratio": round(best[1] / best[0], 3),
            "state_bytes": model.bundle.kv_bytes(model.context),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
