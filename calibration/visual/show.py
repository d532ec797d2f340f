"""A sweep as text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError, RequestError, found_wanted
from .choice import Choice
from .intervals import Interval
from .levels import BundleResult, LevelResult, Sweep
from .trial import FULL

_MARKERS = "osD^vP"


def table(sweep: Sweep, choices: Sequence[Choice] = ()) -> str:
    """A block for each bundle, a line for each level; ``>`` marks the chosen one, ``*`` that of requests which name none."""
    told = sweep.data
    repeated = f" ({told['repeated']} repeated, left out)" if told["repeated"] else ""
    lines = [
        f"{told['name']}: {sweep.items} of {told['found']} items{repeated}, {told['pictures']} pictures, "
        f"sha256 {told['sha256'][:12]}",
    ]
    chosen = {choice.path: choice for choice in choices}
    for bundle in sweep.bundles:
        lines += ["", *_block(bundle, chosen.get(bundle.path))]
    last = "half of the prompts lie in the brackets of CPU seconds; the others are 95 % intervals. * the bundle's own level"
    return "\n".join([*lines, "", last + (", > the chosen one" if choices else "")])


def _block(bundle: BundleResult, choice: Choice | None) -> list[str]:
    engine = "C++ core" if bundle.native else "portable"
    lines = [
        f"{bundle.path} ({bundle.method}, {engine}, 1 thread; vision tower {bundle.tower_seconds:.3g} CPU s at every level)"
    ]
    full = bundle.level(FULL)
    rows = [
        [
            "level",
            "rows",
            "of full",
            "accuracy",
            "loss",
            "KL, nats",
            "same top",
            "GFLOP",
            "prefill CPU s",
            "selector",
            "KV kB",
        ]
    ]
    for level in bundle.levels:
        mark = (">" if choice and choice.level == level.level else " ") + (
            "*" if bundle.current == level.level else " "
        )
        rows.append([mark + level.level, *_cells(level, full)])
    if all(level.accuracy is None for level in bundle.levels):
        rows = [[cell for i, cell in enumerate(row) if i not in (3, 4)] for row in rows]
    rows[0][0] = "  " + rows[0][0]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    if choice:
        bound = f"{'high end of' if choice.by == 'interval' else 'mean'} {choice.measure} at most {choice.most:g}"
        lines.append(f"chosen: {choice.level} ({bound}{'; ' + choice.remark if choice.remark else ''})")
    return [line.rstrip() for line in lines]


def _cells(level: LevelResult, full: LevelResult) -> list[str]:
    return [
        f"{level.rows:.0f}",
        f"{level.rows / full.rows:.0%}",
        "-" if level.accuracy is None else _interval(level.accuracy, ".3f"),
        "-" if level.loss is None else "0" if level.level == FULL else _interval(level.loss, "+.3f"),
        "0" if level.level == FULL else str(level.kl),
        f"{level.same_top.value:.1%}",
        f"{level.flops / 1e9:.3g}",
        str(level.prefill_seconds),
        "-" if level.selector_share is None else f"{level.selector_share:.1%}",
        f"{level.cache_bytes / 1e3:.0f}",
    ]


def _interval(found: Interval, form: str) -> str:
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def plot(sweep: Sweep, path: str | Path, choices: Sequence[Choice] = ()) -> None:
    """Accuracy, or KL without answers, over rows, and beside it CPU seconds of the prefill; rings mark what was chosen.

    Raises MissingDependencyError without matplotlib, RequestError for a file that cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package matplotlib", "not installed", "installed to draw", "pip install 'farthing[export]'")
        ) from error
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    quality, speed = figure.subplots(1, 2)
    answered = sweep.answered > 0
    labels = _labels(sweep)
    for number, bundle in enumerate(sweep.bundles):
        levels = sorted(bundle.levels, key=lambda level: level.rows)
        style = {"color": f"C{number}", "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4.5, "linewidth": 1.4}
        found = [level.accuracy if answered and level.accuracy else level.kl for level in levels]
        seconds = [level.prefill_seconds for level in levels]
        # Bundles of one model share their numbers of rows: a small step aside keeps error bars apart.
        rows = [level.rows * 1.02 ** (number - (len(sweep.bundles) - 1) / 2) for level in levels]
        _bars(quality, rows, found, labels[number], style)
        _bars(speed, rows, seconds, labels[number], style)
        for choice in choices:
            if choice.path == bundle.path:
                i = next(i for i, level in enumerate(levels) if level.level == choice.level)
                ring = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.3}
                quality.plot(rows[i], found[i].value, color=f"C{number}", linestyle="none", **ring)
    _axes(quality, sweep, "accuracy" if answered else "KL from all rows, nats per token")
    _axes(speed, sweep, "prefill, CPU seconds at one thread")
    if answered:
        quality.set_ylim(0, 1.05)
    else:
        quality.set_ylim(bottom=0)
    speed.set_ylim(bottom=0)
    quality.legend(fontsize=9, frameon=False, loc="best")
    note = "rings: chosen.  " if choices else ""
    figure.suptitle(
        f"{sweep.items} questions of {sweep.data['name']} about {sweep.data['pictures']} pictures", fontsize=11
    )
    figure.supxlabel(f"{note}bars: 95 % intervals (left), quartiles of prompts (right)", fontsize=8, color="0.4")
    try:
        figure.savefig(path, dpi=120, metadata={"Software": None} if str(path).lower().endswith(".png") else None)
    except (OSError, ValueError) as error:
        raise RequestError(
            found_wanted(
                f"--plot {path}", f"not writable ({error})", "a .png, .svg or .pdf to write", "correct the path"
            )
        ) from error


def _labels(sweep: Sweep) -> list[str]:
    """Methods, with the bundle's folder where two have the same."""
    methods = [bundle.method for bundle in sweep.bundles]
    return [
        m if methods.count(m) == 1 else f"{m} ({Path(b.path).name})"
        for m, b in zip(methods, sweep.bundles, strict=True)
    ]


def _bars(axis: Any, rows: Sequence[float], found: Sequence[Interval], label: str, style: dict[str, Any]) -> None:
    reach = [[f.value - f.low for f in found], [f.high - f.value for f in found]]
    axis.errorbar(rows, [f.value for f in found], yerr=reach, label=label, capsize=2.5, elinewidth=0.9, **style)


def _axes(axis: Any, sweep: Sweep, what: str) -> None:
    axis.set_xscale("log", base=2)
    rows = sorted({round(level.rows) for bundle in sweep.bundles for level in bundle.levels})
    # Neighbours closer than a sixth would write over each other.
    ticks: list[int] = []
    for row in reversed(rows):
        if not ticks or ticks[-1] / max(row, 1) > 1.17:
            ticks.append(max(row, 1))
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("visual tokens an image keeps, mean")
    axis.set_ylabel(what)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
