"""Optimisation profiles: which shapes an engine is tuned for, from the symbols in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError, found_wanted
from ...plugins.cached_attention.visible import words

TREE_BUCKETS = (8, 16, 32, 64)
"""Rows of verification passes that get a profile, for procedures that verify drafts."""

PINNED = ("B", "C")
"""Symbols that become numbers in the graph (`farthing.export.lower.pin`), and are no part of a profile."""

IMAGES = ("B", "N", "n", "batch", "batch_size")
LENGTHS = ("S", "sequence", "sequence_length", "seq_len", "length")
"""Names that exporters give to the number of inputs, and of tokens, of a network that is run once."""

Range = tuple[int, int, int]
"""Smallest, most usual and largest size of a dimension."""


@dataclass(frozen=True)
class Ranges:
    """What the profiles are made from. ``capacity``: cache slots; ``chunk``: most rows of a prefill pass; ``tree``: buckets of
    verification rows, rising; ``batch``: sequences. ``extra``: ranges of symbols that only some methods have. ``single_pass``: of a
    network that is run once per input, with texts of up to ``capacity`` tokens or up to ``batch`` images.
    """

    capacity: int = 2048
    chunk: int = 256
    tree: tuple[int, ...] = ()
    batch: int = 1
    extra: Mapping[str, Range] | None = None
    single_pass: bool = False

    def checked(self) -> Ranges:
        """Itself. Raises RequestError for values that make no profile."""
        for name, value in (("context", self.capacity), ("chunk", self.chunk), ("batch", self.batch)):
            if value < 1:
                raise RequestError(found_wanted(name, value, "1 or more", f"correct --{name}"))
        if self.chunk > self.capacity:
            raise RequestError(
                found_wanted(
                    "chunk", self.chunk, f"at most the context, {self.capacity}", "correct --chunk or --context"
                )
            )
        if list(self.tree) != sorted(set(self.tree)) or any(not 2 <= t <= self.capacity for t in self.tree):
            raise RequestError(
                found_wanted("tree", list(self.tree), f"rising numbers from 2 to {self.capacity}", "correct --tree")
            )
        for symbol, (low, best, high) in (self.extra or {}).items():
            if not 0 < low <= best <= high:
                raise RequestError(
                    found_wanted(
                        f"range of {symbol}", f"{low}:{best}:{high}", "smallest:usual:largest", "correct --dim"
                    )
                )
        return self

    def steps(self) -> dict[str, dict[str, Range]]:
        """Name of the profile -> range of each symbol."""
        if self.single_pass:
            sizes = dict.fromkeys(IMAGES, (1, self.batch, self.batch)) | dict.fromkeys(
                LENGTHS, (1, self.chunk, self.capacity)
            )
            return {"run": {**sizes, **(self.extra or {})}}
        common: dict[str, Range] = {
            "B": (self.batch,) * 3,
            "C": (self.capacity,) * 3,
            **(self.extra or {}),
        }
        none = (0, 0, 0)
        steps: dict[str, dict[str, Range]] = {"decode": {"S": (1, 1, 1), "R": (1, 1, 1), "M": none}}
        if self.chunk > 1:
            steps["prefill"] = {"S": (1, self.chunk, self.chunk), "R": (1, 1, 1), "M": none}
        low = 2
        for rows in self.tree:
            steps[f"tree{rows}"] = {"S": (low, rows, rows), "R": (low, rows, rows), "M": (0, rows // 2, rows)}
            low = rows + 1
        for sizes in steps.values():
            low, best, high = (words(n) for n in sizes["S"])
            sizes["W"] = (low, best, high)
        return {name: {**sizes, **common} for name, sizes in steps.items()}


def profiles(name: str, graph: Mapping[str, Any], ranges: Ranges) -> list[dict[str, Any]]:
    """Profiles of the graph ``name`` of a manifest: ``[{"name", "shapes": {input: [min, opt, max]}}]``; equal ones once.

    Inputs of fixed size are left out. Raises RequestError for a symbol without a range.
    """
    made: list[dict[str, Any]] = []
    symbols = {d for tensor in graph["inputs"] for d in tensor["shape"]}
    for step, sizes in ranges.checked().steps().items():
        if "M" in symbols and sizes["M"][2]:  # masks are rows that want no logits
            sizes["R"] = (1, *sizes["R"][1:])
        shapes = {}
        for tensor in graph["inputs"]:
            if any(isinstance(d, str) and (ranges.single_pass or d not in PINNED) for d in tensor["shape"]):
                dims = [_size(name, tensor["name"], d, sizes) for d in tensor["shape"]]
                shapes[tensor["name"]] = [[d[i] for d in dims] for i in range(3)]
        if all(shapes != p["shapes"] for p in made):
            made.append({"name": step, "shapes": shapes})
    return made


def default_tree(procedure: str, capacity: int) -> tuple[int, ...]:
    """Buckets for the decode procedure of a manifest: none where every pass after the prompt has one row."""
    return () if procedure != "speculative" else tuple(t for t in TREE_BUCKETS if t <= capacity)


def parse_dims(options: Sequence[str]) -> dict[str, Range]:
    """``["N=1:64:256"]`` -> ``{"N": (1, 64, 256)}``. Raises RequestError."""
    found: dict[str, Range] = {}
    for option in options:
        symbol, _, text = option.partition("=")
        try:
            low, best, high = (int(part) for part in text.split(":"))
        except ValueError as error:
            raise RequestError(
                found_wanted("--dim", repr(option), "SYMBOL=SMALLEST:USUAL:LARGEST, e.g. N=1:64:256", "correct it")
            ) from error
        found[symbol] = (low, best, high)
    return found


def _size(graph: str, tensor: str, dim: int | str, sizes: Mapping[str, Range]) -> Range:
    if isinstance(dim, int):
        return dim, dim, dim
    if dim not in sizes:
        raise RequestError(
            found_wanted(
                f"range of dimension {dim} of {tensor} in graph {graph}",
                "unknown",
                f"one of {', '.join(sorted(sizes))}, or given",
                f"add --dim {dim}=SMALLEST:USUAL:LARGEST",
            )
        )
    return sizes[dim]
