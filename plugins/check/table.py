"""Fill the matrix of operators and faces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import cases, operators
from ..case import Case
from .face import Face, Skip
from .faces import faces


@dataclass
class Cell:
    """One operator on one face. ``skipped``: reason -> number of rows; ``failed``: (row, message)."""

    operator: str
    face: str
    passed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``failed`` if any row failed, else ``passed`` if any row passed, else ``skipped``."""
        return "failed" if self.failed else "passed" if self.passed else "skipped"

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "skipped": dict(self.skipped), "status": self.status}


def run(operator_names: Iterable[str] | None = None, face_names: Iterable[str] | None = None) -> Iterator[Cell]:
    """Every wanted cell, each yielded as soon as it is known. Names default to all; unknown ones raise KeyError."""
    import torch

    torch.set_num_threads(1)  # the rows are small: more threads wait for each other most of the time
    columns = faces()
    wanted_faces = [_known(name, columns, "face") for name in face_names or columns]
    wanted_operators = [_known(name, operators(), "operator") for name in operator_names or operators()]
    for face in (columns[name] for name in wanted_faces):
        away = face.unavailable()
        rows: dict[str, list[Case]] = {}
        for name in wanted_operators:
            reason = away or face.lacks(name)
            if reason is None:
                rows[name] = cases(name)
            else:
                yield Cell(name, face.name, skipped=Counter({reason: 1}))
        if rows:
            face.prepare([case for of_one in rows.values() for case in of_one])
        for name, of_one in rows.items():
            cell = Cell(name, face.name)
            for case in of_one:
                run_row(face, case, cell)
            if not of_one:
                cell.failed.append((name, "no cases, expected some in cases.py; add rows"))
            yield cell


def run_row(face: Face, case: Case, cell: Cell) -> None:
    """One row into ``cell``."""
    try:
        if face.name in case.skips:
            raise Skip(case.skips[face.name])
        face.run(case)
    except Skip as reason:
        cell.skipped[str(reason)] += 1
    except Exception as error:
        cell.failed.append((case.name, f"{type(error).__name__}: {error}"))
    else:
        cell.passed += 1


def _known(name: str, known: Iterable[str], what: str) -> str:
    if name not in known:
        raise KeyError(f"{what} is {name!r}, expected one of {', '.join(known)}; see `farthing ops list`")
    return name
