"""A cache of int8 against one of float32: bytes, CPU time of a decode step behind a long past, and the loss near the beginning and far from it.

    python benchmarks/kv_cache.py build/smollm2 build/smollm2-kv8 --gate

The second bundle is made of the first by `farthing quantize --weights same --kv int8`. Times are of one thread; both models take turns, step by
step, in one process, and the least of each is compared. A past is not read but loaded, as a saved state of random numbers: what a step costs does not
depend on them. The loss is measured in windows of 512 tokens that stand at the beginning of a text, and again at its end, where rotary angles are large.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import farthing
from farthing.calibration.quality import PIECE, Stream, Text, read_text, token_ids
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.cache_dtype import cache_dtype
from farthing.runtime.state import save_state

PASTS = (128, 512, 2048, 8000)
STEPS = 12
"""Steps of each model at each past; the least counts."""
SLOWER = 1.05
"""A step over codes may take so much longer than one over floats."""
MOST_KL = 0.01
"""Nats per token that the cache alone may lose, near the beginning and far from it."""
WINDOW = 512


def state_of(bundle: Bundle, past: int, folder: Path) -> Path:
    """A saved sequence of ``past`` tokens whose keys and values are random."""
    rng, kv = np.random.default_rng(past), bundle.manifest["kv"]
    shape, dtype = (kv["kv_heads"], past, kv["head_dim"]), cache_dtype(kv)
    parts = [
        rng.integers(-128, 128, shape).astype(np.int8) if dtype == np.int8 else rng.standard_normal(shape, np.float32)
        for _ in range(2 * kv["layers"])
    ]
    path = folder / f"{dtype}-{past}"
    save_state(path, bundle, [5] * past, parts)
    return path


def step_times(bundles: list[Bundle], past: int) -> list[float]:
    """Least CPU seconds of one decode step behind ``past`` tokens, of each bundle."""
    found: list[list[float]] = [[] for _ in bundles]
    with tempfile.TemporaryDirectory() as folder:
        models = [farthing.load(b.path, threads=1, context=past + 8, draft="none") for b in bundles]
        for model, bundle in zip(models, bundles, strict=True):
            model.load_state(state_of(bundle, past, Path(folder)))
        for _ in range(STEPS):
            for model, seconds in zip(models, found, strict=True):
                start = time.process_time()
                model.prefill([7])
                seconds.append(time.process_time() - start)
                model.rewind(past)
        for model in models:
            model.close()
    return [min(seconds) for seconds in found]


def losses(source: Bundle, coded: Bundle, text: Text, position: int, tokens: int) -> dict[str, float]:
    """KL(source || coded) in nats per token and perplexities, of windows that begin at ``position``."""
    ids, _ = token_ids(source, text, tokens)
    streams = [Stream(b.graph(b.step_graph), b.manifest["kv"]) for b in (source, coded)]
    kl, nll, ends = [], np.zeros(2), []
    for start in range(0, len(ids), WINDOW):
        for stream in streams:
            stream.reset(position)
        stop = min(start + WINDOW, len(ids))
        for first in range(start, stop, PIECE):
            piece = ids[first : min(first + PIECE, stop)]
            said = [stream.feed(piece) for stream in streams]
            following = ids[first + 1 : first + 1 + len(piece)]
            for i, p in enumerate(said):
                nll[i] -= p[np.arange(len(following)), following].sum(dtype=np.float64)
            kl.append(np.einsum("rv,rv->r", np.exp(said[0]), said[0] - said[1], dtype=np.float64))
        held = [c[0, :, : stop - start] for c in streams[1].cache]
        ends.append(np.mean([np.mean((c == 127) | (c == -128)) for c in held]))
    perplexity = np.exp(nll / (len(ids) - 1))
    return {
        "kl": float(np.concatenate(kl).mean()),
        "source": float(perplexity[0]),
        "coded": float(perplexity[1]),
        "ends": float(np.mean(ends)),
    }


def main() -> int:
    """Print the tables; with ``--gate`` the exit code says whether they are as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("coded", type=Path)
    parser.add_argument("--text", type=Path, action="append", default=[], help="measure on this text, too")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--gate", action="store_true")
    given = parser.parse_args()
    bundles = [open_bundle(p, hashes=False) for p in (given.source, given.coded)]
    failed: list[str] = []
    sizes = [b.kv_bytes(1) for b in bundles]
    print(
        f"cache, bytes a token: {sizes[0]:,} and {sizes[1]:,}; at 8192 tokens {8192 * sizes[0] / 1e6:.1f} and {8192 * sizes[1] / 1e6:.1f} MB"
    )
    if sizes[0] != 4 * sizes[1]:
        failed.append("bytes are not a quarter")
    print("| past | float32, ms | int8, ms | ratio |\n|---|---|---|---|")
    for past in PASTS:
        slow, fast = step_times(bundles, past)
        print(f"| {past} | {slow * 1e3:.1f} | {fast * 1e3:.1f} | {slow / fast:.2f} |", flush=True)
        if fast > SLOWER * slow:
            failed.append(f"a step behind {past} tokens takes {fast / slow:.2f} times as long")
    longest: int = bundles[0].manifest["model"]["max_positions"]
    texts = [read_text(None), *(read_text(p) for p in given.text)]
    print("| text | first position | KL, nats | perplexity | with int8 | codes at an end |\n|---|---|---|---|---|---|")
    for text in texts:
        for position in (0, longest - WINDOW):
            r: dict[str, Any] = losses(*bundles, text, position, given.tokens)
            print(
                f"| {text.name} | {position} | {r['kl']:.5f} | {r['source']:.3f} | {r['coded']:.3f} | {r['ends']:.1e} |",
                flush=True,
            )
            if r["kl"] > MOST_KL:
                failed.append(f"KL on {text.name} at {position} is {r['kl']:.4f}")
    for what in failed:
        print(f"FAILED: {what}")
    return 1 if failed and given.gate else 0


if __name__ == "__main__":
    sys.exit(main())
