"""Open a bundle and generate.

>>> import farthing                                                          # doctest: +SKIP
>>> with farthing.load("build/smollm2") as model:
...     print(model.generate("What is a farthing?", max_new_tokens=64).text)
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from . import options as check
from .bundle import Bundle, open_bundle
from .engines import Engine, open_engine
from .request import Asked, Generation, Request
from .speculation import Acceptor, Drafter, PassCosts, check_draft, check_judge
from .text import Tokenizer, tokenizer_of

DEFAULT_CONTEXT = 2048
"""Cache slots unless asked for more: the cache of a large context can outweigh a small model."""


BACKENDS = ("onnxruntime", "tensorrt")


def load(
    bundle: str | Path,
    *,
    threads: int = 0,
    context: int | None = None,
    native: bool | None = None,
    hashes: bool = True,
    backend: str = "onnxruntime",
    cuda_graphs: bool = False,
    draft: str | Drafter = "tuned",
    draft_table: str | Path | None = None,
    draft_rows: int = 15,
    draft_bundle: str | Path | None = None,
    judge: bool | float = True,
) -> Runtime:
    """Open the bundle in folder ``bundle``.

    ``threads``: 0 = all cores. ``context``: tokens of prompt and answer together, default min(max_positions, 2048); memory is
    reserved for all of them. ``native``: None = the C++ core with its kernels where it is built, True = that or an error, False =
    onnxruntime's Python package only. ``hashes``: check every file's SHA-256 first. ``backend``: ``onnxruntime``, or ``tensorrt`` for
    the engines that `farthing compile` made on this machine (untested on GPU); ``cuda_graphs``: with tensorrt, replay passes of one
    row as a CUDA graph. ``draft``: how to guess ahead, a name of `farthing.runtime.speculation.DRAFTS` or a `Drafter`; the text stays the
    same, token by token. ``tuned`` guesses only where `farthing tune` has measured this machine; other names measure it when opening,
    about 30 passes. ``draft_table``: a table of `farthing draft-table`; ``draft_rows``: most drafted tokens of a pass; ``draft_bundle``: the
    small model of draft ``model``. ``judge``: whether the judge of a bundle of `farthing export judge` may accept drafted tokens, which
    is **lossy**, or above which P(good) instead of the bundle's threshold; False gives the model's own text, as with all other bundles.

    Raises RequestError (bad argument), BundleError (damaged bundle), MissingDependencyError (part not installed).
    """
    threads = check.whole_number("threads", threads, 0, 1024, "choose another number; 0 is all cores")
    if native not in (None, True, False):
        raise RequestError(found_wanted("native", repr(native), "None, True or False", "choose one"))
    if backend not in BACKENDS:
        raise RequestError(found_wanted("backend", repr(backend), f"one of {', '.join(BACKENDS)}", "choose one"))
    if cuda_graphs and backend != "tensorrt":
        raise RequestError(found_wanted("cuda_graphs", True, "False without backend tensorrt", "leave it out"))
    check_draft(draft, draft_rows)
    path = Path(bundle)
    # The manifest alone first: a context that cannot be should not cost the reading of all weights.
    manifest = open_bundle(path, hashes=False).manifest
    if "image_codes" in manifest:
        raise BundleError(
            found_wanted(
                f"method of {path}",
                f"{manifest['method']['id']!r}, which draws",
                "a model of text",
                "use farthing draw, or farthing.runtime.drawing.Drawer",
            )
        )
    longest = manifest["model"]["max_positions"]
    if context is None:
        context = min(longest, DEFAULT_CONTEXT)
    context = check.whole_number(
        "context", context, 1, min(longest, check.INT32_MAX), "choose a length the model was trained for"
    )
    engine, checked = open_engine(
        path,
        threads=threads,
        context=context,
        native=native,
        hashes=hashes,
        tensorrt=backend == "tensorrt",
        cuda_graphs=cuda_graphs,
    )
    runtime = Runtime(engine, checked)
    runtime.speculate(draft, table=draft_table, rows=draft_rows, draft_bundle=draft_bundle, judge=judge)
    return runtime


class Runtime:
    """An open bundle with one sequence: its cache, and what decodes it. Made by `load`; a context manager.

    For one thread at a time, except `cancel`; a second call meanwhile raises RequestError. Any number of runtimes may be open
    on one bundle.
    """

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        self._engine: Engine | None = engine
        self._bundle = bundle
        self._tokenizer = tokenizer_of(bundle)
        self._busy = threading.Lock()
        self._native = type(engine).__module__.endswith("_core")

    @property
    def bundle(self) -> Bundle:
        """The open bundle; ``bundle.manifest`` describes it."""
        return self._bundle

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None for a bundle that takes ids only."""
        return self._tokenizer

    @property
    def engine(self) -> Engine:
        """The decode loop underneath. Raises RequestError once closed."""
        if self._engine is None:
            raise RequestError(found_wanted("runtime", "closed", "open", "load the bundle again"))
        return self._engine

    @property
    def native(self) -> bool:
        """Whether the C++ core runs, not the portable loop."""
        return self._native

    def speculate(
        self,
        draft: str | Drafter,
        acceptor: Acceptor | None = None,
        *,
        table: str | Path | None = None,
        rows: int = 15,
        tree: bool = True,
        costs: PassCosts | None = None,
        always: bool = False,
        draft_bundle: str | Path | None = None,
        judge: bool | float = True,
    ) -> None:
        """Guess ahead from now on, or stop doing so with ``none``. Arguments as in `load`.

        With a `Drafter` of one's own: ``acceptor`` None = exact, or the bundle's judge; ``costs`` None = measured now; ``always`` runs every draft whatever
        it costs. Forgets the text where it measures. Raises RequestError, also in portable mode for all but ``none`` and ``tuned``.
        """
        check_draft(draft, rows)
        delta = check_judge(judge)
        if draft_bundle is not None and draft != "model":
            raise RequestError(
                found_wanted("draft_bundle", f"given with draft {str(draft)[:60]!r}", "draft model", "leave it out")
            )
        if not self._native:
            if draft in ("none", "tuned"):
                return
            raise RequestError(
                found_wanted(
                    "draft",
                    repr(draft)[:60],
                    "none in portable mode",
                    "leave it out, or install the native part (`farthing doctor`)",
                )
            )
        engine: Any = self.engine
        options = {
            "nodes": min(rows, engine.capacity - 1, 63),
            "tree": tree,
            "always": always,
            "judge": judge is not False,
        }
        if delta is not None:
            options["delta"] = delta
        if engine.capacity < 4:  # nothing fits beside the newest token
            draft = "none"
        if isinstance(draft, Drafter):
            if costs is None and not always:
                costs = self.measure()
            engine.speculate(draft, acceptor, options, ([], [], []) if costs is None else costs.grid())
        else:
            engine.draft(draft, str(table or ""), options, str(draft_bundle or ""))

    @property
    def drafter(self) -> str:
        """Name of what guesses ahead; ``none`` where nothing does."""
        return str(getattr(self.engine, "drafter", "none"))

    @property
    def acceptor(self) -> str:
        """Name of what accepts drafts: ``exact``, ``judge`` (lossy), or a class of one's own."""
        return str(getattr(self.engine, "acceptor", "exact"))

    def measure(self, rows: Sequence[int] = (1, 2, 4, 8, 16), past: Sequence[int] = (0,), rounds: int = 2) -> PassCosts:
        """What passes cost here, for `speculate`. Forgets the text. Raises RequestError; native only."""
        engine: Any = self.engine
        return PassCosts.of_grid(engine.measure([r for r in rows if r <= engine.capacity], list(past), rounds))

    def tune(self) -> Path:
        """Measure what passes cost on this machine and keep that beside the bundle; the path of the file. Forgets the text.

        Later `load` guesses ahead by itself (``draft="tuned"``). Raises RequestError; native only.
        """
        if not self._native:
            raise RequestError(
                found_wanted("engine", "portable", "native, to be tuned", "`farthing doctor` says what is missing")
            )
        engine: Any = self.engine
        return Path(engine.tune())

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.engine.capacity

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: ids are below it."""
        return self.engine.vocab_size

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.engine.length

    @property
    def tokens(self) -> list[int]:
        """The ids in the cache. The last generated id is not: it was never run."""
        return list(self.engine.tokens)

    def generate(
        self,
        prompt: str | None = None,
        *,
        prompt_ids: Sequence[int] | np.ndarray | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        raw: bool = False,
        images: Sequence[Any] | None = None,
        level: str | None = None,
        max_new_tokens: int = 128,
        greedy: bool = False,
        temperature: float = 0.7,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        reuse_prefix: bool = False,
        restart_window: int = 0,
        on_text: Callable[[str], bool | None] | None = None,
        on_token: Callable[[int], bool | None] | None = None,
    ) -> Generation:
        """Continue one of ``prompt``, ``prompt_ids`` or ``messages`` (a list of {"role", "content"}).

        A ``prompt`` becomes a user's message where the bundle has a chat template, unless ``raw``: then it is taken as it is, with a
        beginning-of-text token where the model wants one. Either way special tokens *written in the text* become their ids, so
        text from strangers can pretend to be another speaker; remove such tokens from it first.

        ``images``: a list of paths, PIL images or uint8 arrays [H,W,3], for vision-language bundles. They come first in the user's message, or
        where the prompt says ``<image>`` (the model's own marker); parts of ``messages`` may hold theirs. ``level``: how many visual tokens they
        get, one of the bundle's levels (``farthing inspect``), None = its own. An image that was shown before is not encoded again.

        Sampling: ``greedy``, or draws by ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty`` and ``seed`` (see
        `farthing.runtime.sampling`); the same seed gives the same ids, from Python and C++. Ends at the model's end-of-text ids
        (unless ``ignore_eos``), at ``stop_ids``, before a ``stop`` string, after ``max_new_tokens`` or with the context full.

        ``reuse_prefix`` keeps the cache of what the prompt and the last sequence begin with, which makes the next turn of a
        conversation cheap. ``restart_window`` above 0: with the context full, begin again at position 0 with the last that many tokens
        and go on; what was before them is forgotten, and ``stats["restarts"]`` counts how often. ``on_text`` gets each piece of final text, ``on_token`` each id; returning False ends the generation.

        Raises RequestError before anything runs; FarthingError if the model gives NaN.
        """
        request = Request(
            self._bundle,
            self._tokenizer,
            self.engine,
            Asked(prompt, prompt_ids, messages, raw, images, level),
            max_new_tokens=max_new_tokens,
            greedy=greedy,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            stop_ids=stop_ids,
            ignore_eos=ignore_eos,
            reuse_prefix=reuse_prefix,
            restart_window=restart_window,
            on_text=on_text,
            on_token=on_token,
        )
        with self._alone():
            # Always with a callback, if an idle one: between two tokens of the C++ loop it lets Ctrl-C through.
            if request.images:
                shown = [(i.pixels, i.level) for i in request.images]
                made = self.engine.generate(request.ids, request.options, request.token, shown)
            else:
                made = self.engine.generate(request.ids, request.options, request.token)
        return request.finished(made)

    def generate_all(
        self,
        prompts: Sequence[str | Sequence[int] | Sequence[Mapping[str, Any]]],
        *,
        batch: int = 8,
        seeds: Sequence[int] | None = None,
        raw: bool = False,
        on_text: Callable[[int, str], bool | None] | None = None,
        on_token: Callable[[int, int], bool | None] | None = None,
        **arguments: Any,
    ) -> list[Generation]:
        """Continue every prompt: exactly the texts that `generate` would give one by one, at most ``batch`` of them in one pass.

        The weights are read once for all texts of a pass, so tokens come faster the more of them there are; when a text ends, the next prompt
        takes its place. Each prompt is text, ids, or messages. ``seeds``: one for each prompt, instead of one ``seed`` for all.
        ``on_text`` and ``on_token`` get the number of the prompt first; False ends that text. ``arguments``: those of `generate` but ``reuse_prefix`` and
        ``restart_window``. Forgets the text so far. Memory: a cache for each of the ``batch``.

        Raises RequestError: also in portable mode, for models with a recurrent state, on TensorRT, and with drafts that follow
        one text only (mtp, ftp, model, a `Drafter` of one's own), where ``speculate("none")`` or ``"lookup"`` helps.
        """
        if not self._native:
            raise RequestError(
                found_wanted(
                    "engine", "portable", "native, for several texts", "`farthing doctor` says what is missing"
                )
            )
        if "images" in arguments or "level" in arguments:
            raise RequestError(
                found_wanted(
                    "images", "given to generate_all", "none", "show images with generate, one prompt at a time"
                )
            )
        if isinstance(prompts, str | bytes):
            raise RequestError(found_wanted("prompts", "one text", "a list of prompts", "put it into a list"))
        many = list(prompts)
        if seeds is not None and ("seed" in arguments or len(seeds) != len(many)):
            raise RequestError(
                found_wanted("seeds", f"{len(seeds)} of them", f"one for each of {len(many)} prompts", "give one each")
            )
        requests = []
        for i, prompt in enumerate(many):
            own = dict(arguments) if seeds is None else {**arguments, "seed": seeds[i]}
            own["on_text"] = None if on_text is None else partial(on_text, i)
            own["on_token"] = None if on_token is None else partial(on_token, i)
            requests.append(Request(self._bundle, self._tokenizer, self.engine, Asked.any(prompt, raw), **own))
        if not requests:
            return []
        engine: Any = self.engine
        with self._alone():
            made = engine.generate_all(
                [r.ids for r in requests],
                [r.options for r in requests],
                check.whole_number("batch", batch, 1, 256),
                lambda i, token_id: requests[i].token(token_id),
            )
        return [request.finished(one) for request, one in zip(requests, made, strict=True)]

    def stream(self, prompt: str | None = None, **arguments: Any) -> Iterator[str]:
        """`generate`, with the text as an iterator; its arguments but ``on_text``. Leaving the loop early ends the generation.

        The generation runs on a thread of its own while the iterator is open.
        """
        if arguments.get("on_text") is not None:
            raise RequestError(found_wanted("on_text", "given to stream", "absent", "use generate, or iterate"))
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        failed: list[BaseException] = []
        left = threading.Event()

        def give(text: str) -> bool:
            pieces.put(text)
            return not left.is_set()

        def work() -> None:
            try:
                self.generate(prompt, **{**arguments, "on_text": give})
            except BaseException as error:  # handed to the caller's thread
                failed.append(error)
            finally:
                pieces.put(None)

        worker = threading.Thread(target=work, name="farthing-stream", daemon=True)
        worker.start()
        try:
            while (piece := pieces.get()) is not None:
                yield piece
        finally:
            left.set()
            if worker.is_alive() and self._engine is not None:
                self._engine.cancel()
            worker.join()
        if failed:
            raise failed[0]

    def prefill(self, ids: Sequence[int] | np.ndarray) -> None:
        """Append ``ids`` to the sequence; afterwards `logits` is that of the last. Raises RequestError."""
        checked = check.token_ids("prompt", ids, self.vocab_size)
        with self._alone():
            self.engine.prefill(checked)

    def extend(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Append ``ids`` in one pass and return the logits of each, float32 [len(ids), V]: what a verifier of drafted tokens wants.

        Keep the first a of them by ``rewind(length_before + a)``, which then runs nothing. Raises RequestError.
        """
        checked = check.token_ids("ids to extend by", ids, self.vocab_size)
        with self._alone():
            return self.engine.extend(checked)

    def logits(self) -> np.ndarray:
        """Float32 [V] of the last row that ran, a copy. Raises RequestError after a reset or rewind."""
        with self._alone():
            return self.engine.logits()

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens. Raises RequestError.

        Costs nothing with a key/value cache; with a recurrent state nothing inside the last pass, else a pass over a few tokens.
        """
        length = check.whole_number(
            "length to rewind to", length, 0, self.length, "rewind to a length that was reached"
        )
        with self._alone():
            self.engine.rewind(length)

    def reset(self) -> None:
        """Forget the sequence."""
        with self._alone():
            self.engine.reset()

    def save_state(self, path: str | Path) -> None:
        """Write the sequence with its cache to one file with a checksum. Raises RequestError."""
        with self._alone():
            self.engine.save_state(str(path))

    def load_state(self, path: str | Path) -> None:
        """Take a sequence from `save_state`, of this bundle, by either engine. Raises RequestError, BundleError."""
        with self._alone():
            self.engine.load_state(str(path))

    def cancel(self) -> None:
        """End a generation that runs on another thread, after the pass it is in; its result so far is returned there."""
        self.engine.cancel()

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        if self._engine is not None:
            with self._alone():
                self._engine = None

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RequestError(
                found_wanted("runtime", "busy", "one call at a time", "wait, or load the bundle once more")
            )
        try:
            yield
        finally:
            self._busy.release()
