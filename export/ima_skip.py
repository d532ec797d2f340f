"""Recipe of method ``ima-skip``: rows of images leave parts of layers out (Shukor and Cord 2024, arXiv 2405.16700). Lossy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RequestError, found_wanted
from .checkpoint import open_vlm
from .checkpoint.vlm_folder import VlmFolder
from .decoder import DTYPES
from .graph import Progress, no_progress
from .recipe_types import ExportResult, Recipe
from .visual import export_visual
from .visual.guard import MOST_KL, divergence
from .visual.skipping import ImaSkip, Plan, read_plan


def export_ima_skip(
    checkpoint: str | Path | VlmFolder,
    out: str | Path,
    *,
    plan: str | Path | Mapping[int, str] = "",
    images: str | Path | None = None,
    questions: str | Path | None = None,
    samples: int = 16,
    max_kl: float = MOST_KL,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the Hugging Face folder ``checkpoint`` to the bundle ``out``, with levels ``full`` and ``skip``.

    ``plan``: what rows of images leave out of which layers, as `read_plan` takes it; empty leaves nothing out, and the bundle's graphs are
    those of method vlm. With ``images``, a folder, the plan is refused where the mean KL divergence of the next token over ``samples``
    ``questions`` is above ``max_kl``; without, nothing is measured, and the manifest says so. The rest as in
    `farthing.export.visual.export_visual`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if isinstance(max_kl, bool) or not isinstance(max_kl, (int, float)) or not max_kl >= 0:
        raise RequestError(found_wanted("--max-kl", repr(max_kl), "a number from 0 on", "correct it"))
    if questions is not None and images is None:
        raise RequestError(found_wanted("--images", "missing", "a folder, with --questions", "give the folder"))
    wanted = read_plan(plan)
    model = checkpoint if isinstance(checkpoint, VlmFolder) else open_vlm(checkpoint)
    ImaSkip(wanted, {}).check(model)
    measured: dict[str, Any] = {"guard": None, "guard_note": "not measured: the export was given no images"}
    if images is not None:
        measured = {"guard": _measure(model, wanted, images, questions, samples, max_kl), "max_kl": float(max_kl)}
    return export_visual(
        model, out, ImaSkip(wanted, measured), dtype=dtype, trees=trees, check=check, progress=progress
    )


def _measure(
    model: VlmFolder, plan: Plan, images: str | Path, questions: str | Path | None, samples: int, most: float
) -> dict[str, Any]:
    from ..models.decoder import Decoder
    from .visual.samples import read_samples

    decoder = Decoder(model, lazy=True)
    (guard,) = divergence(model, decoder, read_samples(model, images, questions, samples), [plan])
    guard.refuse_above(most)
    return guard.as_json()


RECIPE = Recipe(
    method="ima-skip",
    title="Vision-language model whose image rows leave parts of layers out (implicit multimodal alignment)",
    dtypes=DTYPES,
    export=export_ima_skip,
)
