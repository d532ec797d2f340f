"""Microseconds that a draft takes, for vocabulary 49152: python benchmarks/draft_time.py

Texts of 2000 tokens, of which three of four follow from the two before; the last 1000 drafts, of 8 nodes at most, are timed at one thread,
with the call from Python.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from farthing.calibration.draft_table import Table, write
from farthing.calibration.draft_table.file import MOST, RECORD
from farthing.runtime.engines import native_parts

VOCAB = 49152
KINDS = 60
"""Different tokens of the texts: few, so that pairs come again and there is something to search."""


def text(count: int, seed: int) -> list[int]:
    """Ids of which three of four follow from the two before."""
    draw, ids = random.Random(seed), [1, 2]
    while len(ids) < count:
        ids.append((ids[-1] * 7 + ids[-2] * 3) % KINDS if draw.random() < 0.75 else draw.randrange(KINDS))
    return ids


def table(folder: str, pairs: int) -> Path:
    """A table with 12 successors for each pair of the texts' tokens, as many as fit."""
    side = int(pairs**0.5)
    keys = (np.repeat(np.arange(side), side) << 32 | np.tile(np.arange(side), side)).astype(np.uint64)
    successors = np.zeros(len(keys), RECORD)
    draw = np.random.default_rng(0)
    successors["ids"] = np.sort(draw.integers(0, side - MOST, (len(keys), MOST)), axis=1) + np.arange(MOST)
    successors["scores"] = np.linspace(0.3, 0.01, MOST, dtype=np.float32)
    successors["count"] = MOST
    path = Path(folder) / "table"
    write(Table(VOCAB, "0" * 64, 0, 1, keys, successors), path)
    return path


def main() -> None:
    """Print one line a drafter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400_000, help="pairs of the table")
    given = parser.parse_args()
    core = native_parts().core
    with tempfile.TemporaryDirectory() as folder:
        path = table(folder, given.pairs)
        started = time.process_time()
        mapped = core.TableFile(path, VOCAB, "0" * 64)
        print(
            f"table of {mapped.pairs} pairs, {mapped.bytes / 1e6:.1f} MB: opened in {time.process_time() - started:.3f} s"
        )
        print(f"{'drafter':<20}{'median':>8}{'p90':>8}{'nodes':>8}   (microseconds)")
        for name in ("lookup", "aded", "aded with table", "auto"):
            for tree in (False, True):
                drafter = core.TextDrafter(name.split()[0], 4096, mapped if "table" in name else None)
                times, nodes = measured(drafter, text(2000, 1), tree)
                label = f"{name}, {'tree' if tree else 'chain'}"
                p90 = sorted(times)[len(times) * 9 // 10]
                print(f"{label:<24}{statistics.median(times):>6.1f}{p90:>8.1f}{nodes:>8.1f}")


def measured(drafter: Any, ids: list[int], tree: bool) -> tuple[list[float], float]:
    """(microseconds of each draft of a session, nodes of a draft on average)."""
    drafter.begin(ids[:999])
    drafter.observe(ids[999:1000])
    times, nodes = [], 0
    for at in range(1000, len(ids)):
        started = time.perf_counter()
        draft = drafter.propose(8, 8, tree)
        times.append((time.perf_counter() - started) * 1e6)
        nodes += len(draft[0])
        drafter.observe(ids[at : at + 1])
    return times, nodes / len(times)


if __name__ == "__main__":
    main()
