"""Recipe of method ``lantern``: a LlamaGen model with an EAGLE drafter, whose guesses stand for their nearest codes (Jang, Park et al. 2025).

``exact`` keeps the model's distribution; ``neighbourhood`` borrows up to delta of probability mass, and is lossy.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError, found_wanted
from ..models.eagle import Drafter
from ..runtime.code_walk import MadeText
from ..runtime.image_tensors import DRAFT_STEP
from .checkpoint.eagle_drafter import read_drafter
from .checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from .drawing import DTYPES, export_drawing
from .drawing.acceptance import check_acceptances, whole, write_acceptances
from .drawing.codebook import nearest_codes
from .drawing.compare import Compare
from .drawing.draft_check import check_drafter
from .drawing.method import NewGraph, halve
from .drawing.record import Run
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.drawing import Acceptance
from .graph.eagle import write_draft_step
from .graph.llamagen import write_ar_step
from .llamagen import LlamaGenDrawing
from .recipe_types import ExportResult, Recipe

NEIGHBOURS = 100
"""Codes listed for each code where nothing else is asked for: 13 MB for a codebook of 16,384, a tenth of the authors' table."""


class _Lantern(LlamaGenDrawing):
    method = "lantern"
    guarantee = "lossy"
    procedure = "speculative"
    drafter: Drafter
    rules: list[Acceptance]
    numbers: dict[str, Any]
    length: int

    def write_step(self, writer: GraphWriter) -> None:
        write_ar_step(writer, self.source, self.dtype, features=True)

    def write_more(self, new: NewGraph, step: GraphWriter) -> None:
        write_draft_step(new(DRAFT_STEP), self.drafter, step, self.dtype)
        write_acceptances(new, self.source.config.codes, self.rules)

    def image_codes(self) -> dict[str, Any]:
        return {
            **super().image_codes(),
            "drafts": "eagle",
            "accept": [rule.mode for rule in self.rules],
            "default_accept": "neighbourhood",
            "draft_length": self.length,
            # An absolute budget bounds what certain guesses cost; of a drawn one, q < 1, nearly all would be accepted.
            "certain_drafts": [] if self.numbers["relative"] else ["neighbourhood"],
            "acceptance": self.numbers,
        }

    def round(self) -> None:
        super().round()
        if self.dtype == "float16":
            halve(self.drafter)

    def check_more(self, graphs: Path, compare: Compare, run: Run) -> None:
        assert not isinstance(run.conditions, MadeText)  # refused before anything was read
        check_drafter(graphs, self.source.model, self.drafter, run.conditions, run.drawn, compare)
        check_acceptances(graphs, self.source.config.codes, self.rules, compare)


def export_lantern(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    drafter: str | Path | None = None,
    neighbours: int | None = None,
    delta: float = 0.1,
    relative: bool = False,
    draft_length: int = 5,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the LlamaGen pair in folder ``checkpoint`` with a drafter (in that folder, or the file ``drafter``) to the bundle ``out``.

    A guess borrows the probability of its ``neighbours`` (default 100) nearest codes, nearest first, up to ``delta``; ``relative``: up to
    delta times its own probability, and guesses are then drawn from the drafter instead of its best codes. ``draft_length`` guesses a round. Everything else is as in `export_llamagen`.
    Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    check_dtype(dtype)
    if not (math.isfinite(delta) and delta >= 0 and (relative or delta < 1)):
        wanted = "0 or more" if relative else "0 or more and below 1, which would accept everything"
        raise RequestError(found_wanted("delta", delta, wanted, "correct --delta, or make it --relative"))
    whole("draft_length", draft_length, 1)
    source = LlamaGenCheckpoint(checkpoint)
    if source.text:
        raise CheckpointError(
            found_wanted(
                f"conditioning of {source.model_file}",
                "text",
                "classes: drafters of text-conditional models are not supported",
                "export it as gsd, which needs no drafter",
            )
        )
    codes = source.config.codes
    count = min(NEIGHBOURS, codes - 1) if neighbours is None else neighbours
    whole("neighbours", count, 1, codes, ", all other codes")
    method = _Lantern(source, dtype)
    file, method.drafter = read_drafter(Path(checkpoint if drafter is None else drafter), source.config)
    source.add(file, method.drafter)
    method.length = draft_length
    method.numbers = {"neighbours": count, "delta": delta, "relative": relative}
    table = nearest_codes(source.vq.table().detach().numpy(), count)
    method.rules = [
        Acceptance("exact"),
        Acceptance("neighbourhood", delta=delta, relative=relative, table=table),
    ]
    return export_drawing(method, out, check=check, progress=progress)


RECIPE = Recipe(
    method=_Lantern.method,
    title="LANTERN, images by relaxed speculation with a drafter",
    dtypes=DTYPES,
    export=export_lantern,
)
