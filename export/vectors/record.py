"""Running a freshly written decoder graph by its bodies, and recording what it says.

Plain ONNX Runtime without our kernels: a bundle must be right by itself. Constant folding and weight packing are off, because
they would hold a second and a third copy of every weight; so the weights stay in the mapped file. One thread, so that a
re-export gives the same vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, found_wanted
from ...models.config import DecoderConfig
from ...runtime import tensors as names
from ...runtime.plain_feeds import places
from ..graph import Progress, no_progress

NEW_TOKENS = 16
LENGTHS = (3, 8, 21)
"""Lengths of the made-up prompts: one below, one at and one above a vector register of rows."""

SENTENCE = "The farthing was the smallest coin of the realm, and people counted every one of them."
_SAMPLES, _TOP = 64, 8


@dataclass(frozen=True)
class Case:
    """One prompt with its greedy continuation. ``logits`` [NEW_TOKENS, V] float32: the row each new id was taken from."""

    prompt_ids: list[int]
    greedy_ids: list[int]
    logits: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """As vectors/decoder.json stores it: of the last prompt row's logits 64 evenly spaced ones, the top 8 and the norm.

        ``margins`` are the gaps between the two best logits of each step: a small one says that another arithmetic may
        rightly choose another id there.
        """
        row = self.logits[0]
        best = np.argsort(-row, kind="stable")[:_TOP]
        ids = sorted({*range(0, row.size, -(-row.size // _SAMPLES)), *(int(i) for i in best)})
        pairs = -np.partition(-self.logits, 1, axis=1)[:, :2] if row.size > 1 else np.zeros((NEW_TOKENS, 2))
        return {
            "prompt_ids": self.prompt_ids,
            "greedy_ids": self.greedy_ids,
            "margins": [decimal(a - b) for a, b in pairs],
            "logits": {
                "ids": ids,
                "values": [decimal(row[i]) for i in ids],
                "l2": decimal(np.linalg.norm(row.astype(np.float64))),
            },
        }


@dataclass(frozen=True)
class Recording:
    """All cases of a graph."""

    cases: list[Case]

    def as_json(self) -> dict[str, Any]:
        """The content of vectors/decoder.json."""
        return {"cases": [case.as_json() for case in self.cases]}


def no_more(batch: int, rows: int) -> dict[str, np.ndarray]:
    """No inputs beside those of a plain decoder."""
    return {}


def record_decoder(
    graph: Path,
    config: DecoderConfig,
    prompts: list[list[int]],
    *,
    more: Callable[[int, int], dict[str, np.ndarray]] = no_more,
    cache_dtype: str = "float32",
    progress: Progress = no_progress,
) -> Recording:
    """Continue ``prompts`` greedily by NEW_TOKENS ids with the graph in file ``graph``. Raises MissingDependencyError.

    ``more`` (sequences, rows) gives the inputs of a pass that a plain decoder does not have; ``cache_dtype`` is what the graph's cache is made of.

    All prompts run as one batch, so the weights are read 16 times and not 16 times per prompt. Shorter prompts are padded on the
    right: rows beyond a prompt write cache slots that the next step overwrites before anything sees them.
    """
    session = open_graph(graph)
    batch, width = len(prompts), max(map(len, prompts))
    lengths = np.array([len(p) for p in prompts], np.int64)
    ids = np.zeros((batch, width), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    shape = (batch, config.kv_heads, width + NEW_TOKENS, config.head_dim)
    cache = [np.zeros(shape, cache_dtype) for _ in range(2 * config.layers)]
    past = [n.format(i) for i in range(config.layers) for n in (names.PAST_K, names.PAST_V)]
    wanted = [names.LOGITS, *(n.format(i) for i in range(config.layers) for n in (names.PRESENT_K, names.PRESENT_V))]
    past_len, rows = np.zeros(batch, np.int64), (lengths - 1)[:, None]
    logits, chosen = [], []
    for step in range(NEW_TOKENS):
        feeds = {
            names.INPUT_IDS: ids,
            names.LOGIT_ROWS: rows,
            **places(session, past_len[:, None] + np.arange(ids.shape[1]), past_len),
            **more(batch, ids.shape[1]),
            **dict(zip(past, cache, strict=True)),
        }
        out, *cache = session.run(wanted, feeds)
        logits.append(out[:, 0])
        chosen.append(out[:, 0].argmax(-1))
        past_len = lengths + step
        ids, rows = chosen[-1][:, None].astype(np.int64), np.zeros((batch, 1), np.int64)
        progress("recording vectors", step + 1, NEW_TOKENS)
    return Recording(
        [Case(p, [int(c[b]) for c in chosen], np.stack([row[b] for row in logits])) for b, p in enumerate(prompts)]
    )


def prompts_for(config: DecoderConfig, sentence_ids: list[int] | None) -> list[list[int]]:
    """Three made-up prompts of LENGTHS ids, the same on every machine, and a real sentence if there is a tokenizer."""
    stream = _lcg(config.vocab_size)
    room = max(1, config.max_positions - NEW_TOKENS)
    prompts = [[next(stream) for _ in range(min(n, room))] for n in LENGTHS]
    return prompts + ([sentence_ids[:room]] if sentence_ids else [])


def _lcg(below: int) -> Iterator[int]:
    """Knuth's MMIX generator, high bits; numpy's generators may change between versions."""
    state = 20240229
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 33) % below


def open_graph(graph: Path) -> Any:
    """A session that runs ``graph`` by its bodies, on one thread. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                "package onnxruntime", "not installed", "installed to record vectors", "pip install onnxruntime"
            )
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena keeps the largest scratch it ever needed
    options.log_severity_level = 3  # TensorScatter warns about every copy of a cache that is not bound in place
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def decimal(value: Any) -> float:
    """The shortest decimal that is this float32."""
    return float(str(np.float32(value)))
