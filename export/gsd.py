"""Recipe of method ``gsd``: grouped speculative decoding of a LlamaGen model (So et al. 2025, arXiv 2508.07747).

No drafter: guesses are what the model said of later places a pass ago (Jacobi). ``exact`` keeps the model's distribution; ``grouped``
and ``partition`` accept more, and are lossy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from .drawing import DTYPES, export_drawing
from .drawing.acceptance import check_acceptances, not_negative, whole, write_acceptances
from .drawing.codebook import balanced_clusters
from .drawing.compare import Compare
from .drawing.method import NewGraph
from .drawing.record import Run
from .drawing.run import check_dtype
from .graph import GraphWriter, Progress, no_progress
from .graph.drawing import Acceptance
from .llamagen import LlamaGenDrawing
from .recipe_types import ExportResult, Recipe


class _Gsd(LlamaGenDrawing):
    method = "gsd"
    guarantee = "lossy"
    procedure = "speculative"
    rules: list[Acceptance]
    numbers: dict[str, Any]
    window: int

    def write_more(self, new: NewGraph, step: GraphWriter) -> None:
        super().write_more(new, step)
        write_acceptances(new, self.source.config.codes, self.rules)

    def image_codes(self) -> dict[str, Any]:
        return {
            **super().image_codes(),
            "drafts": "jacobi",
            "accept": [rule.mode for rule in self.rules],
            "default_accept": "grouped",
            "draft_window": self.window,
            "acceptance": self.numbers,
        }

    def check_more(self, graphs: Path, compare: Compare, run: Run) -> None:
        check_acceptances(graphs, self.source.config.codes, self.rules, compare)


def export_gsd(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    group_size: int = 14,
    prob_tol: float = 0.15,
    dist_tol: float = 0.5,
    clusters: int | None = None,
    draft_window: int = 16,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the LlamaGen pair in folder ``checkpoint`` to the bundle ``out``, with graphs that judge drafts.

    ``group_size``, ``prob_tol`` and ``dist_tol`` (squared distance of code rows of length 1) are those of mode grouped; ``clusters`` is the
    number of mode partition's, default V / group_size, all equally large up to one code; ``draft_window`` guesses a round. Everything else
    is as in `export_llamagen`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    check_dtype(dtype)
    whole("group_size", group_size, 1)
    not_negative("prob_tol", prob_tol)
    not_negative("dist_tol", dist_tol)
    whole("draft_window", draft_window, 2)
    source = LlamaGenCheckpoint(checkpoint)
    codes = source.config.codes
    count = max(1, -(-codes // group_size)) if clusters is None else clusters
    whole("clusters", count, 1, codes + 1, ", the codes of the codebook")
    rows = source.vq.table().detach().numpy()
    method = _Gsd(source, dtype)
    method.window = draft_window
    method.numbers = {"group_size": group_size, "prob_tol": prob_tol, "dist_tol": dist_tol, "clusters": count}
    method.rules = [
        Acceptance("exact"),
        Acceptance("grouped", group_size=group_size, prob_tol=prob_tol, dist_tol=dist_tol, embeds=rows),
        Acceptance("partition", table=balanced_clusters(rows, count)),
    ]
    return export_drawing(method, out, check=check, progress=progress)


RECIPE = Recipe(method=_Gsd.method, title="GSD, images by grouped speculation", dtypes=DTYPES, export=export_gsd)
