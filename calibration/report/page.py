"""The page itself: one HTML file that needs no network and runs no code."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from . import charts
from .gather import Report

TEMPLATE = Path(__file__).with_name("page.html")


def page(report: Report) -> str:
    """HTML text. Raises MissingDependencyError without matplotlib."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": _size, "svg": _trusted}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    manifest = report.bundle.manifest
    loss = manifest["quantization"].get("loss", {})
    drawn: dict[str, Any] = {
        "operators": charts.time_by_operator(report.profiles),
        "memory": charts.memory_by_context(report.bundle.weight_bytes, report.memory),
        "costs": charts.cost_of_rows(report.costs) if report.costs else None,
        "drift": charts.drift_by_layer(report.drifts) if report.drifts else None,
        "drafts": charts.drafts_by_kind(report.drafts) if report.drafts else None,
    }
    return template.render(
        report=report,
        m=manifest,
        charts=drawn,
        files=sorted(manifest["files"].items(), key=lambda item: -item[1]["bytes"]),
        quantization={k: v for k, v in manifest["quantization"].items() if k != "loss"},
        kl=loss.get("kl"),
        loss=_flat(loss),
        date=datetime.date.today().isoformat(),
    )


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested objects, with the names on the way to them."""
    rows: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{before} {key}".strip().replace("_", " ")
        rows += _flat(inner, name) if isinstance(inner, dict) else [(name, inner)]
    return rows


def _size(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"


def _trusted(svg: str) -> Any:
    """Our own drawing, whose texts matplotlib has escaped."""
    from markupsafe import Markup

    return Markup(svg)
