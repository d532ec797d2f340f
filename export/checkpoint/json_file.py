"""Reading JSON objects and their fields with errors that name file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, found_wanted

LIMIT = 2**31 - 1
"""Largest size or count; lengths are int32 in other runtimes, and no model comes near."""


class Fields:
    """A JSON object (or any mapping of metadata) with typed getters. ``source`` names it in messages."""

    def __init__(self, values: dict[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    @classmethod
    def load(cls, path: Path) -> Fields:
        """The object in file ``path``. Raises CheckpointError if it is no JSON object."""
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                found_wanted(str(path), f"not readable as JSON ({error})", "a JSON object", "fetch it again")
            ) from error
        if not isinstance(values, dict):
            raise CheckpointError(
                found_wanted(str(path), f"a {type(values).__name__}", "a JSON object", "fetch it again")
            )
        return cls(values, str(path))

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(key) is not None

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least ``least``; ``default`` stands for a missing field, None makes it required."""
        value = self._get(key, default)
        if type(value) is not int or not least <= value <= LIMIT:
            raise self.bad(key, value, f"a whole number from {least} to {LIMIT}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise self.bad(key, value, "a finite number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.bad(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.bad(key, value, "a string")
        return value

    def ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them; empty when missing."""
        value = self.values.get(key)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(v) is int and 0 <= v <= LIMIT for v in listed):
            raise self.bad(key, value, "a token id or a list of them")
        return tuple(listed)

    def bad(self, key: str, found: object, wanted: object, fix: str = "correct the configuration") -> CheckpointError:
        """The error for field ``key``."""
        shown = repr(found)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return CheckpointError(found_wanted(f"field {key!r} of {self.source}", shown, wanted, fix))

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise self.bad(key, "missing", "a value")
        return default
