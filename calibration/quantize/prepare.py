"""What is decided before a decoder's graph is written: AWQ's factors, and widths within a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...export.graph import Progress, no_progress
from ...runtime.bundle import Bundle
from ...runtime.tensors import DECODER
from .budget import DecoderSearch, check_source, described
from .folding import find_factors
from .moments import InputMoments
from .options import Options
from .plan import HEAD, LayerPlan


@dataclass(frozen=True)
class Prepared:
    """The ``plan``, and what the manifest says of widths and search, if a budget was given."""

    plan: LayerPlan
    said: dict[str, Any]


def reads_text(options: Options) -> bool:
    """Whether ``options`` need the moments of a calibration text."""
    return options.rounding != "nearest" or options.budget is not None


def prepare(
    source: Bundle, options: Options, moments: InputMoments | None, progress: Progress = no_progress
) -> Prepared:
    """Search factors and widths where ``options`` ask for them. Raises RequestError for a budget that leaves no choice, and for bundles whose
    visual passes share the decoder's weights."""
    plan = LayerPlan()
    if moments is None:
        return Prepared(plan, {})
    if options.rounding.startswith("awq"):
        check_source(source, f"--rounding {options.rounding}")
        plan.factors = find_factors(source.graph(DECODER), source.manifest, options, moments, progress=progress)
    if options.budget is None:
        return Prepared(plan, {})
    check_source(source, "--budget")
    search = DecoderSearch(source, options, moments, plan, progress)
    found = search.within(options.budget)
    plan.widths = found.best.widths
    widths = [width for name, width in plan.widths.items() if name != HEAD]
    said = {
        "weights": min(widths, key=_bits),
        "head": plan.widths[HEAD],
        "layers": plan.widths,
        "budget": described(found, search, options.budget),
    }
    return Prepared(plan, said)


def _bits(width: str) -> int:
    return int(width.removeprefix("int").removeprefix("float"))
