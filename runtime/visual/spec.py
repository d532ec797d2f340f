"""What a bundle says about images (entry ``vision`` of its manifest), and which graphs an image of some size goes through."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import BundleError, RequestError, found_wanted
from ..bundle import Bundle
from ..keep import choose_bucket


@dataclass(frozen=True)
class Route:
    """Graphs for an image at a level. ``tokens``: rows that go into the cache; None where they are all rows of the image."""

    project: str
    step: str
    tokens: int | None
    pool: int = 1


@dataclass(frozen=True)
class VisionSpec:
    """The entry as it stands in the manifest, with what follows from it."""

    entry: Mapping[str, Any]

    @property
    def image_token_id(self) -> int:
        """The id that stands once for each image of a prompt."""
        return int(self.entry["image_token_id"])

    @property
    def compact(self) -> bool:
        """Whether kept rows are renumbered."""
        return bool(self.entry["positions"] == "compact")

    @property
    def mrope(self) -> bool:
        """Whether positions are (time, row, column)."""
        return "mrope_section" in self.entry

    def spread(self, positions: np.ndarray) -> np.ndarray:
        """``positions`` as the graphs take them: [1,S] as they are, with M-RoPE three times; [3,1,S] of an image's own grid as they are."""
        return np.repeat(positions[None], 3, axis=0) if self.mrope and positions.ndim == 2 else positions

    @property
    def prune_layer(self) -> int | None:
        """Layer of the decoder before which rows are dropped; None = before it."""
        return self.entry.get("prune_layer")

    @property
    def perceive(self) -> bool:
        """Whether images become weights of the decoder and no rows."""
        return bool(self.entry.get("perceive", False))

    @property
    def levels(self) -> list[str]:
        """Ids, in the order of the manifest."""
        return [str(level["id"]) for level in self.entry["levels"]]

    def level(self, name: str | None) -> Mapping[str, Any]:
        """The level called ``name``; None = the bundle's own. Raises RequestError naming the nearest."""
        wanted = str(self.entry["level"] if name is None else name)
        for level in self.entry["levels"]:
            if level["id"] == wanted:
                return level  # type: ignore[no-any-return]
        nearest = difflib.get_close_matches(wanted, self.levels, n=1, cutoff=0.0)[0]
        raise RequestError(
            found_wanted("level", repr(wanted), f"one of {', '.join(self.levels)}", f"the nearest is {nearest!r}")
        )

    def route(self, name: str | None, rows: int, always: int) -> Route:
        """Graphs for an image of ``rows`` rows, ``always`` of them kept whatever happens (line breaks). Raises RequestError.

        Of a level's buckets the smallest that keeps enough; the whole image where that is no fewer than it has.
        """
        level = self.level(name)
        if "buckets" not in level:
            return Route(level["project"], level["step"], None, int(level.get("pool", 1)))
        buckets = {int(b["tokens"]): b for b in level["buckets"]}
        tokens = choose_bucket(list(buckets), rows - always, level["ratio"], always=always)
        if tokens is not None:
            return Route(buckets[tokens]["project"], buckets[tokens]["step"], tokens)
        full = self.level("full")
        return Route(full["project"], full["step"], None)


def vision_spec(bundle: Bundle) -> VisionSpec | None:
    """The spec of a bundle that takes images, None of others. Raises BundleError where it contradicts itself."""
    entry = bundle.manifest.get("vision")
    if entry is None:
        return None
    spec, graphs = VisionSpec(entry), bundle.manifest["graphs"]
    used = ["vision"]
    for level in entry["levels"]:
        for where in level.get("buckets", [level]):
            used += [where["project"], where["step"]]
    missing = sorted({name for name in used if name not in graphs})
    if missing or len(set(spec.levels)) != len(spec.levels) or not {"full", entry["level"]} <= set(spec.levels):
        found = f"graphs {missing}" if missing else f"levels {spec.levels} with {entry['level']!r} as its own"
        raise BundleError(
            found_wanted(
                f"vision of {bundle.path}", found, "graphs that are listed, a level full", "export the bundle again"
            )
        )
    if spec.image_token_id >= bundle.manifest["model"]["vocab_size"]:
        raise BundleError(
            found_wanted(
                f"vision.image_token_id of {bundle.path}",
                spec.image_token_id,
                f"below {bundle.manifest['model']['vocab_size']}",
                "export the bundle again",
            )
        )
    return spec
