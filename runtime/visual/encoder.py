"""An image at a level -> the rows that go into the cache, with their positions: for the portable engine, recordings and checks."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from .. import tensors as names
from ..anyres import AnyRes
from . import native
from .prepare import Prepared, prepare
from .spec import Route, VisionSpec

CACHE_BYTES = 256 << 20
"""Features of images that were seen: a LLaVA-NeXT image has 12 MB, so some twenty."""

Open = Callable[[str], Any]
"""Graph name -> an open onnxruntime session."""


@dataclass(frozen=True)
class Rows:
    """An image as the decoder gets it.

    ``embeds`` float32 [1,K,D]; ``kept`` int64 [K], their numbers among the image's ``total`` rows; ``route`` its graphs. Where rows are dropped
    inside the decoder, embeds are all rows and kept is not known before the visual pass. ``grid``: rows and columns of an image whose rows
    have them as positions, (0, 0) of others.
    """

    embeds: np.ndarray
    kept: np.ndarray
    total: int
    route: Route
    grid: tuple[int, int] = (0, 0)

    def positions(self, start: int, compact: bool) -> tuple[np.ndarray, int]:
        """(rotary positions int64 [1,K], or [3,1,K] of a grid, behind a text that ended before ``start``; the position of the text behind)."""
        if self.grid != (0, 0):
            return native.positions(start, self.kept, self.grid)
        if compact:
            return start + np.arange(len(self.kept), dtype=np.int64)[None], start + len(self.kept)
        return start + self.kept[None], start + self.total


class VisualEncoder:
    """The vision and project graphs of a bundle. Features are kept by the SHA-256 of the pixels, so an image is encoded once."""

    def __init__(self, spec: VisionSpec, open_graph: Open) -> None:
        self.spec = spec
        self._open = open_graph
        self._sessions: dict[str, Any] = {}
        self._features: OrderedDict[str, tuple[Prepared, dict[str, np.ndarray]]] = OrderedDict()
        self.encoded = self.hits = 0

    def session(self, graph: str) -> Any:
        """The session of ``graph``, opened when first asked for."""
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        return self._sessions[graph]

    def features(
        self, pixels: np.ndarray, fits: Callable[[Prepared], None] = lambda prepared: None
    ) -> tuple[Prepared, dict[str, np.ndarray]]:
        """Views, and what the vision graph says of them by output name. ``fits`` may refuse them before the tower runs. Raises RequestError."""
        key = digest(pixels)
        if key in self._features:
            self.hits += 1
            self._features.move_to_end(key)
            return self._features[key]
        prepared = prepare(pixels, self.spec.entry["preprocess"])
        fits(prepared)
        session = self.session(names.VISION)
        wanted = [o.name for o in session.get_outputs()]
        found = dict(zip(wanted, session.run(wanted, {names.PIXELS: prepared.views}), strict=True))
        self.encoded += 1
        self._features[key] = (prepared, found)
        held = [sum(a.nbytes for a in f.values()) for _, f in self._features.values()]
        while len(self._features) > 1 and sum(held) > CACHE_BYTES:
            self._features.popitem(last=False)
            held.pop(0)
        return self._features[key]

    def rows(self, pixels: np.ndarray, level: str | None = None, room: int | None = None) -> Rows:
        """The rows of ``pixels`` uint8 [H,W,3] at ``level`` (None = the bundle's own).

        ``room``: slots that are left; an image of more is refused before the tower sees it. Raises RequestError.
        """
        prepared, found = self.features(pixels, lambda p: None if room is None else self._check_room(p, level, room))
        return self.rows_of(prepared, found, level)

    def _check_room(self, prepared: Prepared, level: str | None, room: int) -> None:
        grid = int(self.spec.entry["grid"])
        layout = prepared.layout(grid) if self.spec.entry["newline"] else None
        high, wide = prepared.grid if prepared.grid != (0, 0) else (grid, grid)
        total = high * wide if layout is None else layout.order.size
        route = self.spec.route(level, total, 0 if layout is None else layout.newlines)
        slots = total // route.pool**2
        if route.tokens is not None and self.spec.prune_layer is None:
            slots = route.tokens
        if slots > room:
            raise RequestError(
                found_wanted(
                    "prompt",
                    f"an image of {slots} tokens",
                    f"at most {room} tokens, the room that is left",
                    "open the bundle with a longer context, shrink the image, or choose a level with fewer tokens",
                )
            )

    def rows_of(self, prepared: Prepared, found: dict[str, np.ndarray], level: str | None) -> Rows:
        """The same from features that are there."""
        spec = self.spec
        grid = int(spec.entry["grid"])
        layout = prepared.layout(grid) if spec.entry["newline"] else None
        total = int(found[names.FEATURES].shape[1]) if layout is None else layout.order.size
        route = spec.route(level, total, 0 if layout is None else layout.newlines)
        if route.pool > 1:
            layout = prepared.layout(grid // route.pool) if layout is not None else None
        session = self.session(route.project)
        feeds = self._feeds(session, found, layout)
        outputs = [o.name for o in session.get_outputs()]
        made = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        embeds = made[names.VISUAL_EMBEDS]
        kept = made[names.KEPT][0] if names.KEPT in made else np.arange(embeds.shape[1], dtype=np.int64)
        return Rows(embeds, kept, embeds.shape[1] if route.pool > 1 else total, route, prepared.grid)

    def _feeds(self, session: Any, found: dict[str, np.ndarray], layout: AnyRes | None) -> dict[str, np.ndarray]:
        known: dict[str, Callable[[], np.ndarray]] = {name: (lambda a=array: a) for name, array in found.items()}  # type: ignore[misc]
        if layout is not None:
            known |= {
                names.ORDER: lambda: layout.order,
                names.GROUP: lambda: layout.group,
                names.TAP_INDEX: lambda: layout.taps()[0],
                names.TAP_WEIGHT: lambda: layout.taps()[1],
                names.REGIONS: layout.regions,
            }
        return {i.name: known[i.name]() for i in session.get_inputs()}


def digest(pixels: np.ndarray) -> str:
    """Hex SHA-256 of the size and the bytes of an image."""
    return hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode() + pixels.tobytes()).hexdigest()


def opener(graph: Callable[[str], Path], options: Callable[[], Any]) -> Open:
    """An `Open` over ``graph`` (name -> file) with fresh ``options`` each time."""
    import onnxruntime

    def open_graph(name: str) -> Any:
        return onnxruntime.InferenceSession(str(graph(name)), options(), providers=["CPUExecutionProvider"])

    return open_graph
