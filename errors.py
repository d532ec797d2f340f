"""The errors farthing raises, and the one sentence form they all use.

Every message reads ``<what> is <found>, expected <wanted>; <how to fix>``. The classes say who can act on it:
a bad file (`CheckpointError`, `BundleError`), a bad request (`RequestError`), or a part that is not installed
(`MissingDependencyError`)
"""

from __future__ import annotations


class FarthingError(Exception):
    """Base of everything raised on purpose. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class RequestError(FarthingError, ValueError):
    """The caller asked for something impossible: an empty prompt, an id out of range, an unknown method."""

    exit_code = 2


class CheckpointError(FarthingError):
    """A checkpoint is truncated, incomplete, contradictory or of an unknown kind. Names the file and the field."""

    exit_code = 3


class BundleError(FarthingError):
    """A bundle is damaged, edited, from the future, or does not fit what is asked of it."""

    exit_code = 4


class VerificationError(FarthingError):
    """A bundle is well formed but does not compute what it should."""

    exit_code = 5


class MissingDependencyError(FarthingError, ImportError):
    """An optional part is not installed; the message names the extra that brings it."""

    exit_code = 6


def found_wanted(what: str, found: object, wanted: object, fix: str) -> str:
    """Build the house sentence: ``<what> is <found>, expected <wanted>; <fix>``."""
    return f"{what} is {found}, expected {wanted}; {fix}"
