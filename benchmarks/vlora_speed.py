"""What images as weights cost, beside images as rows: prefill, decoding, cache, and from how many tokens on it pays. Random weights, one core.

    python benchmarks/vlora_speed.py [--out build/vlora-speed]

The decoder has 12 layers of width 768 (12 heads, feed-forward 2048), an image 576 rows of width 1024; VLoRA has rank 64 and 3 adapted layers of q, k, v, o
and m, its generator width 256 and depth 4. The tower is the same for both and left out. CPU seconds, the least of several runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from farthing.export.graph import GraphWriter, write_decoder
from farthing.export.graph.visual_step import VisualStepGraph
from farthing.export.graph.vlora import VloraDecoderGraph, write_perceive
from farthing.models.config import DecoderConfig, Rope, expected_tensors
from farthing.models.vlora import VloraConfig, vlora_tensors
from farthing.plugins import library_path
from farthing.runtime import tensors as names
from farthing.runtime.memory import KvMemory

CONFIG = DecoderConfig("llama", 4000, 768, 2048, 12, 12, 12, 64, 2048, 1e-5, Rope(10000.0), False)
VLORA = VloraConfig(256, 4, 1024, 576, 768, 12, 64, "qkvom", 64.0, 4)
ROWS, TEXT, SLOTS = 576, 40, 1024


class Weights:
    """Random numbers in the place of a checkpoint."""

    def __init__(self) -> None:
        self.config, self._shapes = CONFIG, expected_tensors(CONFIG)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def tensor(self, name: str) -> np.ndarray:
        return drawn(name, self._shapes[name])


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = np.random.default_rng(len(name))
    return (draw.standard_normal(shape, np.float32) * shape[-1] ** -0.5 + (len(shape) == 1)).astype(np.float32)


def write(folder: Path) -> None:
    weights: Any = Weights()
    shaped = vlora_tensors(VLORA)
    with GraphWriter(folder, "plain") as plain:
        write_decoder(plain, weights, dtype="float32")
    with GraphWriter(folder, "visual_step") as rows:
        VisualStepGraph(rows, weights, plain, dtype="float32").write()
    with GraphWriter(folder, "adapted") as adapted:
        layers = len(VLORA.layers)
        outward = {t: drawn(t, (layers, VLORA.llm_dim, VLORA.rank)) for t in VLORA.types}
        VloraDecoderGraph(adapted, weights, VLORA, outward, dtype="float32").write()
    with GraphWriter(folder, "perceive") as perceive:
        write_perceive(perceive, VLORA, lambda n: drawn(n, shaped[n]))


def least(run: Callable[[], object], times: int) -> float:
    """CPU milliseconds."""
    found = []
    for _ in range(times):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return round(1000 * min(found), 2)


class Pass:
    """A step of ``rows`` rows behind ``past`` slots, bound in place."""

    def __init__(self, session: Any, memory: KvMemory, rows: int, past: int) -> None:
        self.session, self.binding = session, session.io_binding()
        memory.bind(self.binding, rows)
        feeds: dict[str, np.ndarray] = {
            names.INPUT_IDS: np.full((1, rows), 7),
            names.POSITIONS: past + np.arange(rows)[None],
            names.PAST_LEN: np.array([past]),
            names.LOGIT_ROWS: np.array([[rows - 1]]),
            names.VISUAL_EMBEDS: np.ones((1, rows, CONFIG.hidden_size), np.float32),
        }
        for i in session.get_inputs():
            if i.name.startswith("delta_"):
                feeds[i.name] = np.full((1, *i.shape[1:]), 1e-3, np.float32)
            if i.name in feeds:
                self.binding.bind_cpu_input(i.name, feeds[i.name])
        if names.LOGITS in {o.name for o in session.get_outputs()}:
            self.binding.bind_output(names.LOGITS)

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/vlora-speed"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out)
    sessions = {}
    for name in ("plain", "visual_step", "adapted", "perceive"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        if library_path():
            options.register_custom_ops_library(str(library_path()))
        sessions[name] = onnxruntime.InferenceSession(str(args.out / f"{name}.onnx"), options)
    c = CONFIG
    memory = KvMemory({"kv_heads": c.kv_heads, "head_dim": c.head_dim, "layers": c.layers}, SLOTS)
    features = np.random.default_rng(0).standard_normal((1, ROWS, VLORA.visual_dim), np.float32)

    def step(name: str, rows: int, past: int, times: int) -> float:
        return least(Pass(sessions[name], memory, rows, past), times)

    found: dict[str, Any] = {
        "kernels": library_path() is not None,
        "perceive ms": least(lambda: sessions["perceive"].run(None, {names.FEATURES: features}), 5),
        "rows: visual pass ms": step("visual_step", ROWS, 5, 5),
        "rows: text prefill ms": step("plain", TEXT, 5 + ROWS, 9),
        "rows: a token ms": step("plain", 1, ROWS + TEXT, 40),
        "rows: a token without image ms": step("plain", 1, TEXT, 40),
        "weights: text prefill ms": step("adapted", TEXT, 5, 9),
        "weights: a token ms": step("adapted", 1, TEXT, 40),
        "rows: cache bytes of the image": 8 * c.layers * c.kv_width * ROWS,
        "weights: bytes of the image": 4 * len(VLORA.types) * len(VLORA.layers) * VLORA.llm_dim * VLORA.rank,
    }
    first = {
        "rows": found["rows: visual pass ms"] + found["rows: text prefill ms"],
        "weights": found["perceive ms"] + found["weights: text prefill ms"],
    }
    gap = found["weights: a token ms"] - found["rows: a token ms"]
    found["first answer ms, tower left out"] = first
    found["tokens until rows catch up"] = None if gap <= 0 else round((first["rows"] - first["weights"]) / gap)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
