"""Memory and time of an export: about one tensor while writing, 1.5 x the model in all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import tiny
from farthing.export.checkpoint import open_checkpoint
from farthing.export.graph import GraphWriter, write_decoder

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(("stored", "dtype"), [("BF16", "float32"), ("F32", "float16"), ("F32", "float32")])
def test_writing_holds_one_tensor(stored: str, dtype: str, tmp_path: Path) -> None:
    """31 MB of weights, the largest tensor 3 MB: the writer's peak stays below two of it, whatever it converts.

    A bfloat16 tensor is widened whole (one tensor); float16 is made in pieces; float32 is not copied at all.
    """
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "vocab_size": 3000,
        "tokenizer": False,
    }
    checkpoint = open_checkpoint(tiny.write_hf(tmp_path / "hf", dtype=stored, **sizes))
    largest, total = 3000 * 256 * 4, checkpoint.config.parameters * 4
    assert total > 9 * largest
    # The graph itself: 80 nodes and their Python objects.
    with GraphWriter(tmp_path, "warm") as writer:
        write_decoder(writer, checkpoint, dtype=dtype)
    tracemalloc.start()
    with GraphWriter(tmp_path, "decoder") as writer:
        write_decoder(writer, checkpoint, dtype=dtype)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * largest, f"peak {peak / 1e6:.1f} MB for a largest tensor of {largest / 1e6:.1f} MB"


@pytest.mark.slow
def test_100m_model_in_20_seconds_and_one_and_a_half_times_its_size(tmp_path: Path) -> None:
    """Processor seconds, not wall time, so that a busy machine does not fail it; peak RSS includes Python, ONNX and torch."""
    pytest.importorskip("transformers")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, BENCHMARKS / "make_m100.py", tmp_path / "hf"], check=True, env=env, capture_output=True
    )
    code = (
        "import json, resource, sys, time; from farthing.export import export;"
        "r = export('decoder', sys.argv[1], sys.argv[2]);"
        "print(json.dumps([r.bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time(), r.seconds]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "hf", tmp_path / "out"], check=True, env=env, capture_output=True
    )
    size, peak, processor, wall = json.loads(run.stdout)
    print(
        f"{size / 1e6:.0f} MB bundle, peak {peak / 1e6:.0f} MB = {peak / size:.2f} x, {processor:.1f} CPU s, {wall:.1f} s"
    )
    assert peak <= 1.5 * size
    assert processor <= 20
