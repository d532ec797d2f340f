"""Images that become weights (VLoRA, Ma et al. 2024, arXiv 2405.20339): no rows in the cache, but inputs of every step.

The changes that an image makes hold for the whole prompt, the text before it included. So a sequence has one image or none, what it shares with
the next prompt it shares only if that shows the same image, and the image is known before the first row is run. Where the image stands in the
prompt a position is left free: in training a row stood there that nothing could see.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from .. import tensors as names
from ..memory import Memory
from .encoder import Open, Rows, VisualEncoder, digest
from .passes import VisualPasses
from .spans import AskedImage, Item, Spans
from .spec import Route, VisionSpec

CACHE_BYTES = 256 << 20
"""Changes of images that were seen: at 7 B and rank 64 an image has 42 MB."""


class Perception:
    """The vision and perceive graphs of a bundle; `deltas` gives what the decoder takes."""

    def __init__(self, encoder: VisualEncoder, manifest: Mapping[str, Any]) -> None:
        self.encoder = encoder
        # From the manifest: the graph that makes them may be larger than the decoder, and text alone never opens it.
        inputs = manifest["graphs"][names.DECODER]["inputs"]
        self._shapes = {i["name"]: (1, *i["shape"][1:]) for i in inputs if i["name"].startswith(names.DELTA.format(""))}
        self._made: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()

    def nothing(self) -> dict[str, np.ndarray]:
        """The changes of no image."""
        return {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}

    def deltas(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """float32 [1,nL,D,r] by input of the decoder, of pixels uint8 [H,W,3]. Kept by their SHA-256. Raises RequestError."""
        key = digest(pixels)
        if key not in self._made:
            session, found = self.encoder.session(names.PERCEIVE), self.encoder.features(pixels)[1]
            outputs = [o.name for o in session.get_outputs()]
            made = dict(zip(outputs, session.run(outputs, {names.FEATURES: found[names.FEATURES]}), strict=True))
            for name, array in made.items():
                if not np.isfinite(array).all():
                    raise RequestError(
                        found_wanted(f"{name} of the image", "not finite", "finite weights", "give another image")
                    )
            self._made[key] = made
            held = [sum(a.nbytes for a in m.values()) for m in self._made.values()]
            while len(self._made) > 1 and sum(held) > CACHE_BYTES:
                self._made.popitem(last=False)
                held.pop(0)
        else:
            self.encoder.hits += 1
        self._made.move_to_end(key)
        return self._made[key]


class PerceivedSpans(Spans):
    """Where the image stands in a sequence. ``key`` is the image whose changes the rows of the cache were made with, None for none."""

    def __init__(self, forget: Callable[[], None]) -> None:
        super().__init__()
        self.key: str | None = None
        self._forget = forget

    def rewind(self, length: int) -> None:
        """To the beginning, or not before the image: what would be left was read with it, and nothing would say so. Raises RequestError."""
        if length == 0:
            self.spans, self.key = [], None
            self._forget()
        elif any(length <= span.begin for span in self.spans):
            raise RequestError(
                found_wanted(
                    "length to rewind to",
                    f"{length}, before the image",
                    f"0, or above {self.spans[0].begin}",
                    "go back to the beginning: the image changed what is before it, too",
                )
            )

    def common(self, cached: Sequence[int], items: Sequence[Item]) -> tuple[int, int]:
        """(slots, items) that cache and prompt begin with; none unless both have the same image at the same place."""
        shown = next((item.key for item in items if isinstance(item, AskedImage)), None)
        if shown != self.key:
            return 0, 0
        at = self.spans[0].begin if self.spans else None
        slots, used, passed = 0, 0, at is None
        for item in items[:-1]:
            if isinstance(item, AskedImage):
                if slots != at:
                    break
                passed = True
            elif slots >= len(cached) or cached[slots] != item or (slots == at and not passed):
                break
            else:
                slots += 1
            used += 1
        # What ends at the image or before is not worth keeping, nor could it be rewound to.
        return (slots, used) if at is None or slots > at else (0, 0)


class Perceiver(VisualPasses):
    """The visual part of the portable engine for such a bundle: `inputs` are bound to every step, `look` fills them for a prompt."""

    def __init__(self, spec: VisionSpec, memory: Memory, open_graph: Open, manifest: Mapping[str, Any]) -> None:
        super().__init__(spec, memory, open_graph)
        self._perception = Perception(self._encoder, manifest)
        self._inputs = self._perception.nothing()
        self._route = Route(names.PERCEIVE, names.DECODER, 0)

    def inputs(self) -> dict[str, np.ndarray]:
        """Inputs of the decoder, the same arrays for as long as the engine lives."""
        return self._inputs

    def spans(self) -> Spans:
        """Those of a fresh sequence; all changes are zero from now on."""
        self._forget()
        return PerceivedSpans(self._forget)

    def look(self, items: Sequence[Item], spans: Spans, length: int) -> None:
        """The changes for ``items``, to be run behind ``length`` slots. Raises RequestError for a second image."""
        assert isinstance(spans, PerceivedSpans)
        images = [item for item in items if isinstance(item, AskedImage)]
        if length == 0 and spans.key is not None:
            spans.rewind(0)
        if not images:
            return
        known = len(images) == 1 and not spans.spans and (length == 0 or spans.key == images[0].key)
        if not known:
            found = f"{len(images)} in a prompt" if len(images) > 1 else "one behind text that was read without it"
            raise RequestError(
                found_wanted(
                    "images", found, "one for a whole sequence", "ask about each image on its own; reset between them"
                )
            )
        start = time.perf_counter()
        for name, array in self._perception.deltas(images[0].pixels).items():
            self._inputs[name][:] = array
        self._seconds += time.perf_counter() - start
        spans.key = images[0].key

    def encode(self, image: AskedImage, room: int) -> Rows:
        """No rows: `look` has seen it."""
        return Rows(np.zeros((1, 0, 0), np.float32), np.zeros(0, np.int64), 0, self._route)

    def run(self, rows: Rows, past: int, spans: Spans) -> tuple[int, int]:
        """No pass: the position of the image stays free."""
        return 0, past + spans.shift + 1

    def _forget(self) -> None:
        for array in self._inputs.values():
            array[:] = 0.0
