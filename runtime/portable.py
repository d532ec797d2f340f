"""The portable engine: a thin decode loop over the onnxruntime package, graphs run by their bodies.

For machines where the native core is not built. It has the face of ``_core.Engine`` and gives the same tokens; it is slower.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, FarthingError, MissingDependencyError, RequestError, found_wanted
from . import tensors as names
from .bundle import Bundle
from .memory import memory_of
from .plain_feeds import plain_feeds
from .sampling import Sampling, choose
from .state import load_state, save_state
from .visual.passes import VisualPasses
from .visual.spans import AskedImage, Item, Spans, items_of, runs_of
from .visual.stepper import check_markers
from .weight_formats import check_onnxruntime_computes

CHUNK = 256
"""Rows of a prefill pass: scratch memory follows it, and beyond a few hundred rows matrix products gain nothing."""

_NO_GUESSES = {"drafts": 0, "drafted": 0, "accepted": 0, "judged": 0, "withheld": 0, "draft_seconds": 0.0}
"""This engine does not guess ahead."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


class PortableEngine:
    """One sequence over an open bundle. ``threads`` 0 = all cores; ``context`` is the number of cache slots.

    For one thread at a time, except `cancel`. Raises BundleError when ONNX Runtime refuses the graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int,
        context: int,
        chunk: int = CHUNK,
        configure: Callable[[Any], None] = lambda options: None,
    ) -> None:
        """``configure`` may change the onnxruntime.SessionOptions, e.g. register kernels."""
        check_onnxruntime_computes(bundle)
        self._bundle = bundle
        self._session = open_graph(bundle, threads, configure)
        self._capacity = context
        self._chunk = min(chunk, context)
        self._vocab = int(bundle.manifest["model"]["vocab_size"])
        self._memory = memory_of(bundle.manifest, context, self._chunk)
        self._has_past_len = "state" not in bundle.manifest
        self._ids = np.zeros(self._chunk, np.int64)
        self._positions = np.zeros(self._chunk, np.int64)
        self._past = np.zeros(1, np.int64)
        self._logits = np.zeros(self._vocab, np.float32)
        self._has_logits = False
        self._bindings: dict[tuple[int, int], _Bound] = {}
        self._tokens: list[int] = []
        self._vision = VisualPasses.of(
            bundle, self._memory, lambda graph: open_graph(bundle, threads, configure, graph)
        )
        self._spans = self._fresh_spans()
        self._mrope = self._vision is not None and self._vision.spec.mrope
        self._late = np.zeros(1, np.int64)
        if self._mrope:
            self._positions = np.zeros(3 * self._chunk, np.int64)
        self._cancelled = threading.Event()
        self._passes, self._rows, self._seconds = 0, 0, 0.0

    @property
    def session(self) -> Any:
        """The onnxruntime.InferenceSession underneath."""
        return self._session

    @property
    def capacity(self) -> int:
        """Cache slots."""
        return self._capacity

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self._vocab

    @property
    def length(self) -> int:
        """Filled cache slots."""
        return len(self._tokens)

    @property
    def tokens(self) -> list[int]:
        """The ids in the cache."""
        return list(self._tokens)

    def reset(self) -> None:
        """Forget the sequence."""
        self.rewind(0)

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens. Raises RequestError.

        A cache's slots are overwritten later; a recurrent state inside the last pass is taken from its window, and farther back
        made again from the last few tokens.
        """
        if not 0 <= length <= self.length:
            raise RequestError(
                found_wanted(
                    "length to rewind to", length, f"0 to {self.length}", "rewind to a length that was reached"
                )
            )
        if length != self.length:
            self._spans.rewind(length)
            first = self._memory.rewind(length)
            again = self._tokens[first:length]
            del self._tokens[first:]
            for at in range(0, len(again), self._chunk):
                self._run(again[at : at + self._chunk])
            self._has_logits = False

    def prefill(self, ids: Sequence[int]) -> None:
        """Append ``ids`` in passes of at most ``chunk`` rows; afterwards `logits` belongs to the last. Raises RequestError."""
        self._cancelled.clear()
        self._check_ids(ids)
        self._append(ids)

    def extend(self, ids: Sequence[int]) -> np.ndarray:
        """Append ``ids`` in one pass; float32 [len(ids), V], the logits of each. `rewind` into them costs nothing. Raises RequestError."""
        self._cancelled.clear()
        self._check_ids(ids)
        self._check_room(ids)
        if len(ids) > self._chunk:
            raise RequestError(
                found_wanted("rows to extend by", len(ids), f"at most {self._chunk}", "use prefill, or several calls")
            )
        return self._run(ids, every_row=True).copy()

    def logits(self) -> np.ndarray:
        """Float32 [V] of the last row, a copy. Raises RequestError when nothing was run."""
        if not self._has_logits:
            raise RequestError(
                found_wanted("logits", "not computed", "a prefill before", "call prefill() after a reset or rewind")
            )
        return self._logits.copy()

    def generate(
        self,
        prompt_ids: Sequence[int],
        options: dict[str, Any],
        on_token: Callable[[int], bool] | None = None,
        images: Sequence[tuple[np.ndarray, str]] = (),
    ) -> dict[str, Any]:
        """Prefill and decode. `Runtime.generate` is the comfortable face of this; docs/runtime.md lists options and result."""
        how = Sampling(**{k: options[k] for k in _SAMPLING if k in options})
        restart = int(options.get("restart_window", 0))
        self._check_restart(restart)
        limit, stop_ids = int(options.get("max_new_tokens", 128)), frozenset(options.get("stop_ids", ()))
        self._check_prompt(prompt_ids, len(images), restart)
        self._cancelled.clear()
        prompt = items_of(prompt_ids, [AskedImage(*i) for i in images], self._image_token)
        if options.get("reuse_prefix", False):
            kept, used = self._spans.common(self._tokens, prompt)
            self.rewind(kept)
            prompt = prompt[used:]
        elif not options.get("continue", False):
            self.reset()
        passes, rows, seconds = self._passes, self._rows, self._seconds
        seen = self._vision.counts() if self._vision else {}
        start, before = _Clock(), self.length
        if self._vision is not None:
            self._vision.look(prompt, self._spans, before)
        self._append_items(prompt)
        prefilled = _Clock()
        prefilled_tokens = self.length - before
        made = self._decode(how, limit, stop_ids, restart, on_token, start)
        end = _Clock()
        stats = {
            "prompt_tokens": prefilled_tokens,
            "new_tokens": len(made.ids),
            "passes": self._passes - passes,
            "rows": self._rows - rows,
            "prefill_seconds": prefilled.wall - start.wall,
            "decode_seconds": end.wall - prefilled.wall,
            "first_token_seconds": made.first_token_seconds,
            "prefill_cpu_seconds": prefilled.cpu - start.cpu,
            "decode_cpu_seconds": end.cpu - prefilled.cpu,
            "model_seconds": self._seconds - seconds,
            "restarts": made.restarts,
            "kernels": False,
            "speculation": dict(_NO_GUESSES),
        }
        if self._vision:
            stats["vision"] = {name: value - seen[name] for name, value in self._vision.counts().items()}
        return {"ids": made.ids, "stop_reason": made.reason, "stop_id": made.stop_id, "stats": stats}

    def cancel(self) -> None:
        """End a generation on another thread after the pass it is in."""
        self._cancelled.set()

    def save_state(self, path: str | Path) -> None:
        """Write cache and tokens as one file with a checksum. Raises RequestError, also with an image in the cache."""
        if self._spans.spans:
            raise RequestError(
                found_wanted("sequence to save", "one with an image in it", "text only", "rewind to before the image")
            )
        save_state(Path(path), self._bundle, self._tokens, self._memory.parts(self.length))

    def load_state(self, path: str | Path) -> None:
        """Take cache and tokens from a saved file. Raises RequestError, BundleError; then nothing has changed."""
        tokens, parts = load_state(Path(path), self._bundle, self._capacity, self._vocab)
        self._has_logits = False
        self._spans = self._fresh_spans()
        self._tokens = tokens
        for mine, theirs in zip(self._memory.parts(len(tokens)), parts, strict=True):
            mine[:] = theirs
        self._memory.loaded(len(tokens))

    def _decode(
        self,
        how: Sampling,
        limit: int,
        stop_ids: frozenset[int],
        restart: int,
        on_token: Callable[[int], bool] | None,
        start: _Clock,
    ) -> _Decoded:
        made = _Decoded()
        seen = set(self._tokens) if how.repetition_penalty != 1.0 else set()
        while True:
            if self._cancelled.is_set():
                made.reason = "cancelled"
                return made
            token = choose(self._logits, how, len(made.ids), seen)
            if not made.ids:
                made.first_token_seconds = time.perf_counter() - start.wall
            if token in stop_ids:
                made.reason, made.stop_id = "eos", token
                return made
            made.ids.append(token)
            if on_token is not None and not on_token(token):
                made.reason = "callback"
                return made
            if len(made.ids) >= limit:
                return made
            seen.add(token)
            if self.length < self._capacity:
                self._append([token])
            elif restart:
                kept = [*self._tokens, token][-restart:]
                self.reset()
                self._append(kept)
                made.restarts += 1
            else:
                made.reason = "context"
                return made

    def _check_restart(self, restart: int) -> None:
        if restart and not 1 <= restart < self._capacity:
            raise RequestError(
                found_wanted(
                    "restart_window",
                    restart,
                    f"0 (off) to {self._capacity - 1}",
                    "keep fewer tokens than the context has",
                )
            )

    @property
    def _image_token(self) -> int | None:
        return None if self._vision is None else self._vision.spec.image_token_id

    def _check_prompt(self, ids: Sequence[int], images: int, restart: int) -> None:
        self._check_ids(ids)
        if self._vision is None and images:
            raise RequestError(found_wanted("images", images, "none", "this bundle reads text only"))
        if self._vision is not None:
            check_markers(ids, images, self._vision.spec.image_token_id)
            if images and restart:
                raise RequestError(
                    found_wanted("restart_window", restart, "0 with images", "an image cannot be half remembered")
                )

    def _fresh_spans(self) -> Spans:
        return Spans() if self._vision is None else self._vision.spans()

    def _append_items(self, items: Sequence[Item]) -> None:
        for run in runs_of(items):
            if self._cancelled.is_set():
                self._has_logits = False
                return
            if isinstance(run, AskedImage):
                self._append_image(run)
            else:
                self._append(run)

    def _append_image(self, image: AskedImage) -> None:
        assert self._vision is not None and self._image_token is not None
        rows = self._vision.encode(image, self._capacity - self.length)
        count = rows.embeds.shape[1]
        self._check_room(range(count))
        self._has_logits = False
        start = time.perf_counter()
        late, following = self._vision.run(rows, self.length, self._spans)
        self._seconds += time.perf_counter() - start
        shift = following - self.length - self._spans.shift
        self._spans.add(self.length, count, image.key, positions=shift, dropped_late=count - late)
        self._tokens += [self._image_token] * count
        self._passes += count > 0
        self._rows += count

    def _append(self, ids: Sequence[int]) -> None:
        self._check_room(ids)
        for at in range(0, len(ids), self._chunk):
            if at > 0 and self._cancelled.is_set():
                self._has_logits = False
                return
            self._run(ids[at : at + self._chunk])

    def _check_room(self, ids: Sequence[int]) -> None:
        if len(ids) > self._capacity - self.length:
            raise RequestError(
                found_wanted(
                    "prompt",
                    f"{self.length} + {len(ids)} tokens",
                    f"at most {self._capacity}",
                    "shorten it, or open the bundle with a longer context",
                )
            )

    def _run(self, ids: Sequence[int], every_row: bool = False) -> np.ndarray:
        """One pass; logits [1,V] of the last row or [rows,V] of each, valid until the next."""
        rows, past = len(ids), self.length
        self._ids[:rows] = ids
        positions = np.arange(past, past + rows) + self._spans.shift
        self._positions[: rows * (3 if self._mrope else 1)] = np.tile(positions, 3) if self._mrope else positions
        self._past[0], self._late[0] = past, past - self._spans.gap
        bound = self._bound(rows, rows if every_row else 1)
        self._has_logits = False
        start = time.perf_counter()
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:  # onnxruntime's own classes are many and private
            raise FarthingError(f"ONNX Runtime stopped: {error}") from error
        self._seconds += time.perf_counter() - start
        self._memory.ran(past, rows)
        self._logits[:] = bound.logits[-1]
        self._has_logits = True
        self._tokens += [int(i) for i in ids]
        self._passes += 1
        self._rows += rows
        return bound.logits

    def _bound(self, rows: int, wanted: int) -> _Bound:
        """Bindings of a pass of ``rows`` rows whose last ``wanted`` get logits. Two are kept, decoding's one row and the last other:
        making one takes as long as a small model's pass."""
        key = (rows, wanted)
        if key not in self._bindings:
            self._bindings = {(1, 1): self._bindings[1, 1]} if (1, 1) in self._bindings else {}
            binding = self._session.io_binding()
            logits = np.zeros((wanted, self._vocab), np.float32)
            logit_rows = np.arange(rows - wanted, rows, dtype=np.int64)
            inputs: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
                names.INPUT_IDS: (self._ids, (1, rows)),
                names.POSITIONS: (self._positions, (3, 1, rows) if self._mrope else (1, rows)),
                names.LOGIT_ROWS: (logit_rows, (1, wanted)),
            }
            if self._has_past_len:
                inputs[names.PAST_LEN] = (self._past, (1,))
            if self._vision is not None and self._vision.spec.prune_layer is not None:
                inputs[names.LATE_LEN] = (self._late, (1,))
            if self._vision is not None:
                inputs |= {name: (array, array.shape) for name, array in self._vision.inputs().items()}
            for name, array in plain_feeds(self._bundle.step_inputs, 1, rows).items():
                inputs[name] = (array if array.size else np.zeros(1, array.dtype), array.shape)
            for name, (array, shape) in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype, shape, array.ctypes.data)
            binding.bind_output(names.LOGITS, "cpu", 0, np.float32, (1, wanted, self._vocab), logits.ctypes.data)
            self._memory.bind(binding, rows)
            self._bindings[key] = _Bound(binding, logits, [array for array, _ in inputs.values()])
        return self._bindings[key]

    def _check_ids(self, ids: Sequence[int]) -> None:
        if len(ids) == 0:
            raise RequestError(found_wanted("prompt", "empty", "at least one token", "give a prompt"))
        for i in ids:
            if not 0 <= i < self._vocab:
                raise RequestError(
                    found_wanted("token id", i, f"0 to {self._vocab - 1}", "use this bundle's tokenizer")
                )


class _Clock:
    """Wall and CPU seconds of the process at one moment."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()


@dataclass(frozen=True)
class _Bound:
    """A binding with the arrays that must live as long: ``logits`` float32 [wanted,V], and what it reads."""

    binding: Any
    logits: np.ndarray
    inputs: list[np.ndarray]


@dataclass
class _Decoded:
    ids: list[int] = field(default_factory=list)
    reason: str = "length"
    stop_id: int | None = None
    first_token_seconds: float = 0.0
    restarts: int = 0


def open_graph(bundle: Bundle, threads: int, configure: Callable[[Any], None], graph: str = "") -> Any:
    """ONNX Runtime's session of a graph of ``bundle``, the step graph if none is named. Raises BundleError, MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package onnxruntime", "not installed", "installed to run bundles", "pip install onnxruntime")
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Block-wise int4 weights with int8 activations inside the product: 3.5 times faster than float activations at one row.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    configure(options)
    path = bundle.graph(graph or bundle.step_graph)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes are many and private
        raise BundleError(
            found_wanted(
                f"{path}",
                f"refused by ONNX Runtime ({str(error)[:300]})",
                "a graph it can run",
                "update onnxruntime, or export the bundle again",
            )
        ) from error
