"""Drawing with an image model: codes under classifier-free guidance, in the model's order or speculatively, then pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BundleError, RequestError, found_wanted
from ...plugins import library_path
from .. import image_tensors as names
from ..bundle import Bundle, open_bundle
from ..tensors import LOGITS
from .chooser import Acceptor, Sampler, Warp
from .clock import Clock
from .condition import ClassStart, Start, TextStart, no_unconditional, text_rows
from .drafters import Drafter, Eagle, Jacobi
from .guidance import Guidance
from .native import native_loops
from .orders import order_of
from .pixels import Pixels
from .plain import draw_plain
from .request import (
    PLAIN,
    Abilities,
    Progress,
    Request,
    check_numbers,
    checked_classes,
    checked_length,
    checked_mode,
    checked_text,
)
from .result import Drawn, Speculation
from .speculate import Account, draw_image
from .step import Step, caches
from .uniforms import WORD

MOST_LOGITS, MOST_TOGETHER = 1 << 26, 64
"""Numbers of a pass's logits, and images; `runtime/core/drawing` has the same."""


class Drawer:
    """An open bundle that draws. ``native`` False keeps to standard operators, ``core`` False to the loops in Python. Raises BundleError.

    Where the native part is built, the loops are C++ (`native`) and our kernels run; they give the same codes.

    >>> drawn = Drawer("bundle").draw([207, 207], seed=1)            # doctest: +SKIP
    >>> drawn.pixels.shape                                          # doctest: +SKIP
    (2, 256, 256, 3)
    """

    def __init__(self, path: str | Path, *, threads: int = 0, native: bool = True, core: bool = True) -> None:
        self.bundle: Bundle = open_bundle(path)
        manifest = self.bundle.manifest
        if "image_codes" not in manifest:
            raise BundleError(
                found_wanted(
                    f"method of {path}",
                    repr(manifest["method"]["id"]),
                    "a model that draws",
                    "export llamagen, or use farthing run",
                )
            )
        self.can = Abilities.of(manifest)
        self._order = order_of(manifest["image_codes"])
        self._threads, self._native = threads, native and library_path() is not None
        self._sessions: dict[str, Any] = {}
        self._pixels = Pixels(self._open, manifest["image_codes"])
        self._core = native_loops(path, threads, self.tokens) if native and core else None
        for graph in self._graphs(PLAIN) if self._core is None else []:
            self._open(graph)

    @property
    def tokens(self) -> int:
        """Codes of an image."""
        return self.can.grid * self.can.grid

    @property
    def loops(self) -> str:
        """Who draws: ``native``, the C++ core, or ``python``."""
        return "python" if self._core is None else "native"

    @property
    def together(self) -> int:
        """Images of a request that share passes: as many as logits of 256 MiB allow, 64 at most, whose caches stay within bounds."""
        draws = max(len(turn.numbers) for turn in self._order.turns)
        return int(np.clip(MOST_LOGITS // (2 * draws * self.can.codes), 1, MOST_TOGETHER))

    @property
    def default_guidance(self) -> float:
        """Scale of the guidance where a request says none: 1 for models that cannot be guided."""
        return Guidance().scale if self.can.unconditional else 1.0

    def draw(
        self,
        classes: Sequence[int] | None = None,
        *,
        seed: int = 0,
        guidance: Guidance | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        decode: str | None = None,
        draft_window: int | None = None,
        draft_length: int | None = None,
        text_embeds: np.ndarray | None = None,
        prefix: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> Drawn:
        """One image for each of ``classes``, or of ``text_embeds`` float32 [T,dc] or [B,T,dc]; image i is drawn under seed + i.

        ``temperature`` 0 takes the best code. ``decode`` is plain, or how drafts are accepted (exact, grouped, partition,
        neighbourhood); None what the bundle was exported with. ``draft_window`` and ``draft_length`` are the drafts a round of Jacobi and
        of EAGLE. ``prefix`` int64 [B,n] gives the first n codes, with raster order and plain decoding. What stands beside an image
        changes nothing in it. Raises RequestError.
        """
        warp = Warp(temperature, top_k, top_p)
        guidance = guidance or Guidance(self.default_guidance)
        check_numbers(seed, guidance, warp)
        if text_embeds is None:
            condition = checked_classes(self.can, classes)
        else:
            condition = checked_text(self.can, classes, text_embeds)
        mode = checked_mode(self.can, decode, warp)
        request = Request(
            [(seed + i) % WORD for i in range(len(condition))],
            guidance,
            warp,
            mode,
            checked_length(self.can, mode, draft_window, draft_length),
            self._checked_prefix(prefix, len(condition), mode),
            progress or (lambda done, total: None),
        )
        if request.guided and not self.can.unconditional:
            raise no_unconditional()
        if self._core is not None:
            return self._core.draw(condition, request)
        for graph in self._graphs(mode):
            self._open(graph)
        clock = Clock()  # opening counts as nobody's
        codes, passes, speculation = (self._plain if mode == PLAIN else self._speculate)(condition, request, clock)
        pixels = self._pixels.decode(codes, clock)
        return Drawn(codes, pixels, passes, mode, clock.report(), speculation)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [B,H,W,3] of codes int64 [B,g*g]. Raises RequestError."""
        if self._core is None:
            return self._pixels.decode(codes)
        return self._core.decode(self._pixels.checked(codes, self.tokens))

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Codes int64 [B,g*g] of images uint8 [B,H,W,3]. Raises RequestError, BundleError where the bundle has no encoder."""
        return self._pixels.encode(pixels)

    def _graphs(self, mode: str) -> list[str]:
        """What a drawing runs."""
        graphs = [names.AR_STEP, names.SAMPLE, names.VQ_DECODE]
        if self.can.text_width:
            graphs += [names.CONDITION, names.AR_PREFILL]
        if mode != PLAIN:
            graphs.append(names.ACCEPT.format(mode))
            graphs += [names.DRAFT_STEP] if self.can.drafts == "eagle" else []
        return graphs

    def _plain(
        self, condition: np.ndarray, request: Request, clock: Clock
    ) -> tuple[np.ndarray, int, Speculation | None]:
        sampler = self._sampler(request, clock)
        together, codes, passes = self.together, [], 0
        for first in range(0, len(condition), together):
            some = condition[first : first + together]
            start = self._start(some, request, clock, self._caches(some, request))
            codes.append(draw_plain(start, self._order, sampler, request.part(first, len(some), self.tokens)))
            passes += start.passes
        return np.concatenate(codes), passes, None

    def _speculate(
        self, condition: np.ndarray, request: Request, clock: Clock
    ) -> tuple[np.ndarray, int, Speculation | None]:
        sampler, account = self._sampler(request, clock), Account()
        acceptor = Acceptor(self._open(names.ACCEPT.format(request.mode)), clock)
        drafter = self._drafter(request, sampler, clock)
        held = self._caches(condition[:1], request)
        codes = [
            draw_image(
                self._start(condition[i : i + 1], request, clock, held),
                sampler,
                acceptor,
                drafter,
                request,
                i,
                self.tokens,
                account,
            )
            for i in range(len(condition))
        ]
        return np.stack(codes), sum(account.passes), Speculation.of(account, request.mode)

    def _sampler(self, request: Request, clock: Clock) -> Sampler:
        return Sampler(self._open(names.SAMPLE), request.guided, clock)

    def _caches(self, condition: np.ndarray, request: Request) -> list[np.ndarray]:
        rows = condition.shape[1] if condition.ndim == 3 else 1
        slots = rows + sum(len(turn.positions) for turn in self._order.turns)
        return caches(self.bundle.manifest["kv"], len(condition) * (1 + request.guided), slots)

    def _start(self, condition: np.ndarray, request: Request, clock: Clock, held: list[np.ndarray]) -> Start:
        outputs = self._order.outputs + ((names.FEATURES,) if self.can.drafts == "eagle" else ())
        step = Step(self._open(names.AR_STEP), held, clock, outputs)
        if condition.ndim == 1:
            ids = self.can.codes + condition
            return ClassStart(step, self._order, ids, self.can.codes + self.can.classes, request.guided)
        rows = text_rows(self._open(names.CONDITION), condition, request.guided)
        prefill = Step(self._open(names.AR_PREFILL), held, clock, outputs)
        return TextStart(prefill, step, self._order, rows, request.guided, self.can.condition_rows)

    def _drafter(self, request: Request, sampler: Sampler, clock: Clock) -> Drafter:
        if self.can.drafts == "jacobi":
            return Jacobi(self.can.codes)
        batch = 1 + request.guided
        one_layer = caches({**self.bundle.manifest["kv"], "layers": 1}, batch, self.tokens)
        outputs = (LOGITS, names.FEATURES_OUT)
        step = Step(self._open(names.DRAFT_STEP), one_layer, clock, outputs)
        point = request.mode in self.can.certain
        return Eagle(step, sampler, batch, self.tokens, request.guidance, request.warp, point)

    def _checked_prefix(self, prefix: np.ndarray | None, count: int, mode: str) -> np.ndarray | None:
        if prefix is None:
            return None
        prefix = np.asarray(prefix)
        if self._order.name != "raster" or mode != PLAIN:
            raise RequestError(
                found_wanted(
                    "prefix",
                    f"given with {self._order.name} order and decode {mode}",
                    "raster order and plain decoding",
                    "use --decode plain, or leave the prefix out",
                )
            )
        if prefix.ndim != 2 or len(prefix) != count or not prefix.shape[1] < self.tokens:
            wanted = f"[{count},n] with n of 0 to {self.tokens - 1}"
            raise RequestError(found_wanted("prefix", list(prefix.shape), wanted, "give codes for each image"))
        return self._pixels.checked(prefix, prefix.shape[1])

    def _open(self, graph: str) -> Any:
        if graph not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            # Small graphs run between the model's passes: threads of their own would only spin.
            small = graph == names.SAMPLE or graph.startswith(names.ACCEPT.format(""))
            options.intra_op_num_threads = 1 if small else self._threads
            options.log_severity_level = 3
            if self._native:
                options.register_custom_ops_library(str(library_path()))
            path = str(self.bundle.graph(graph))
            self._sessions[graph] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return self._sessions[graph]
