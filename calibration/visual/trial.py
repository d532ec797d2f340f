"""One open bundle, tried on one question at one level: its answer, its distance from the unpruned model, and what it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError, found_wanted
from ...runtime.anyres import anyres
from ...runtime.tensors import VISION
from ...runtime.visual.encoder import Rows, VisualEncoder, opener
from ...runtime.visual.images import as_rgb
from ...runtime.visual.questions import Item
from ...runtime.visual.spec import VisionSpec, vision_spec
from .answers import is_right
from .cost import Load, cache_bytes, prefill_flops, skipped_layers

if TYPE_CHECKING:
    from ...runtime.api import Runtime
    from ...runtime.bundle import Bundle
    from ...runtime.request import Generation

FULL = "full"
MOST_NEW = 128
"""Tokens of an answer. Longer ones are no short answers, and their rows go through the decoder in one pass."""
BESIDE = 512
"""Cache slots beside an image's rows, for question and answer, where no context is asked for."""


@dataclass(frozen=True)
class Trial:
    """An item at a level. ``right`` None: it has no answer. Distances are sums over ``positions`` of the unpruned answer: ``kl`` in nats, ``same``
    positions with the same likeliest token. Seconds are of the CPU, at one thread; ``selector`` is the project graph's less the plain one's, None where it is the plain one."""

    rows: int
    right: bool | None
    kl: float
    same: int
    positions: int
    flops: float
    cache: int
    prefill: float
    selector: float | None


class Subject:
    """A bundle opened for trials, with one thread. Raises RequestError for one without images or without levels to choose from."""

    def __init__(self, path: str | Path, *, native: bool | None, context: int | None, max_new_tokens: int) -> None:
        from ...runtime.api import load
        from ...runtime.bundle import open_bundle

        if not 1 <= max_new_tokens <= MOST_NEW:
            raise RequestError(
                found_wanted("--max-new-tokens", max_new_tokens, f"1 to {MOST_NEW}", "answers should be short")
            )
        bundle = open_bundle(path, hashes=False)
        self.spec = levels_of(bundle)
        self.tower: list[float] = []
        """CPU seconds of the vision graph, an image each."""
        if context is None:
            longest = bundle.manifest["model"]["max_positions"]
            context = min(longest, most_rows(self.spec) + BESIDE)
        self.runtime: Runtime = load(path, threads=1, context=context, native=native, draft="none")
        self.bundle = self.runtime.bundle
        if self.runtime.tokenizer is None:
            raise RequestError(
                found_wanted(f"tokenizer of {path}", "missing", "one, to ask questions", "export from a whole folder")
            )
        self._new = max_new_tokens
        self._encoder = kernels_encoder(self.bundle, self.spec, kernels=self.runtime.native)
        self._encoder.session(VISION)
        self._warm: set[object] = set()
        """Graphs that have run once: the first run opens them."""

    def close(self) -> None:
        """Free the memory."""
        self.runtime.close()

    def try_levels(self, item: Item, first: int) -> dict[str, Trial]:
        """A trial for each level, beginning with number ``first`` and going round, so that no level is always the one behind another."""
        levels, pixels = self.spec.levels, as_rgb(item.image)
        start, encoded = time.process_time(), self._encoder.encoded
        prepared, features = self._encoder.features(pixels)
        if self._encoder.encoded > encoded:  # else its features were there
            self.tower.append(time.process_time() - start)
        plain, project_seconds = self._project(prepared, features, FULL)
        whole = self._ask(item, pixels, FULL)
        line = line_of(whole.ids, whole.stop_reason == "eos", self.spec.image_token_id)
        reference = self._along(whole, line)
        trials = {}
        for level in levels[first % len(levels) :] + levels[: first % len(levels)]:
            rows, seconds = (plain, project_seconds) if level == FULL else self._project(prepared, features, level)
            self._warm_up(("decoder", rows.route.project, rows.route.step), item, pixels, level)
            answer = self._ask(item, pixels, level)
            kl, same = _distance(reference, self._along(answer, line))
            load = self._load(answer, rows)
            trials[level] = Trial(
                rows=load.late,
                right=is_right(answer.text, item.answers) if item.answers else None,
                kl=kl,
                same=same,
                positions=len(reference),
                flops=prefill_flops(self.bundle.manifest["model"], load),
                cache=cache_bytes(self.bundle.manifest["kv"], load),
                prefill=answer.stats["prefill_cpu_seconds"],
                selector=None if rows.route.project == plain.route.project else seconds - project_seconds,
            )
        return trials

    def _ask(self, item: Item, pixels: np.ndarray, level: str, new: int | None = None) -> Generation:
        return self.runtime.generate(
            item.question, images=[pixels], level=level, greedy=True, max_new_tokens=new or self._new
        )

    def _along(self, answer: Generation, line: list[int]) -> np.ndarray:
        """Log-probabilities float64 [positions,V] of what follows the prompt, and each id of ``line``. The cache still holds the prompt."""
        prompt = answer.stats["prompt_tokens"]
        self.runtime.rewind(prompt - 1)
        # The prompt's last row once more: only passes of this kind give the logits of every row.
        return log_softmax(self.runtime.extend([answer.prompt_ids[-1], *line]))

    def _project(self, prepared: Any, features: dict[str, np.ndarray], level: str) -> tuple[Rows, float]:
        """The rows of a level, and CPU seconds of making them from features."""
        while True:
            start = time.process_time()
            rows = self._encoder.rows_of(prepared, features, level)
            seconds = time.process_time() - start
            if rows.route.project in self._warm:
                return rows, seconds
            self._warm.add(rows.route.project)

    def _warm_up(self, key: object, item: Item, pixels: np.ndarray, level: str) -> None:
        if key not in self._warm:
            self._warm.add(key)
            self._ask(item, pixels, level, 1)

    def _load(self, answer: Generation, rows: Rows) -> Load:
        visual, ids = int(rows.embeds.shape[1]), answer.prompt_ids
        before = ids.index(self.spec.image_token_id)
        no_ffn, no_attention = skipped_layers(self.spec.entry, rows.route.step)
        return Load(
            before=before,
            visual=visual,
            late=int(answer.stats["vision"]["rows"]),
            behind=len(ids) - 1 - before,
            prune_layer=self.spec.prune_layer,
            no_ffn=no_ffn,
            no_attention=no_attention,
        )


def line_of(ids: list[int], ended: bool, image_token: int) -> list[int]:
    """What is fed behind a prompt to compare levels at every token of the answer ``ids``, and at its end if it ``ended`` by itself.

    The last token is fed only if something is to follow it. A model out of its depth may name the image token, which no pass of text takes:
    there the line is cut.
    """
    fed = ids if ended else ids[:-1]
    return fed[: fed.index(image_token)] if image_token in fed else fed


def levels_of(bundle: Bundle) -> VisionSpec:
    """The spec of a bundle with at least one level besides ``full``. Raises RequestError."""
    spec = vision_spec(bundle)
    found = "absent" if spec is None else "full alone" if spec.levels == [FULL] else ""
    if spec is None or found:
        raise RequestError(
            found_wanted(
                f"levels of visual tokens of {bundle.path}",
                found,
                "full and others",
                "export with a method that spares visual tokens (`farthing export --help`)",
            )
        )
    return spec


def most_rows(spec: VisionSpec) -> int:
    """Rows of the largest image there can be; of images that keep their shape 4096, since theirs may be more than memory holds."""
    how, grid = spec.entry["preprocess"], int(spec.entry["grid"])
    if how["kind"] == "anyres":
        side = int(how["crop"])
        return max(int(anyres((h, w), (h // side, w // side), grid).order.size) for h, w in how["pinpoints"])
    return grid * grid if how["kind"] == "clip" else 4096


def kernels_encoder(bundle: Bundle, spec: VisionSpec, *, kernels: bool = True) -> VisualEncoder:
    """An encoder over the bundle's graphs, with our ``kernels`` where they are built."""
    from ...plugins import library_path
    from ...runtime.verify import session_options

    engine = "kernels" if kernels and library_path() else "bodies"
    return VisualEncoder(spec, opener(bundle.graph, lambda: session_options(bundle, engine)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # type: ignore[no-any-return]


def _distance(p: np.ndarray, q: np.ndarray) -> tuple[float, int]:
    """(sum over rows of KL(p || q) in nats, rows with the same likeliest token) of log-probabilities [rows,V]."""
    each = (np.exp(p) * (p - q)).sum(-1)
    # At least 0, where rounding would give less.
    return float(np.maximum(each, 0.0).sum()), int((p.argmax(-1) == q.argmax(-1)).sum())
