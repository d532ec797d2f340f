"""The page's pictures, as SVG text that stands inside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ...errors import MissingDependencyError, found_wanted
from ...runtime.speculation import PassCosts
from ..draft_speed import DraftSpeed
from ..drift import Drift
from ..op_times import PassProfile

_SMALL = 0.01
"""Operators below this share of a pass are drawn together."""


def time_by_operator(profiles: Sequence[PassProfile]) -> str:
    """A bar for each pass, whole = 100 %, parted by operator."""
    names = sorted(
        {o.name for p in profiles for o in p.operators if o.seconds > _SMALL * p.seconds},
        key=lambda n: -sum(o.seconds / p.seconds for p in profiles for o in p.operators if o.name == n),
    )
    figure, axes = _figure(8, max(0.7 + 0.5 * len(profiles), 2.0))
    left = [0.0] * len(profiles)
    for i, name in enumerate([*names, "others", "between operators"]):
        shares = [_share(p, name, names) for p in profiles]
        axes.barh(range(len(profiles)), shares, left=left, label=name, color=_colour(i, len(names) + 2))
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(profiles)), [f"{p.rows} row{'s' if p.rows > 1 else ''}" for p in profiles])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the pass")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _svg(figure)


def _share(p: PassProfile, name: str, names: Sequence[str]) -> float:
    if name == "between operators":
        return 100 * p.between / p.seconds
    chosen = [o for o in p.operators if (o.name not in names if name == "others" else o.name == name)]
    return 100 * sum(o.seconds for o in chosen) / p.seconds


def cost_of_rows(costs: PassCosts) -> str:
    """T(rows) / T(1), a line for each past length, beside what plain decoding would take."""
    figure, axes = _figure(7, 3.4)
    for i, (past, seconds) in enumerate(zip(costs.past, costs.seconds, strict=True)):
        axes.plot(
            costs.rows,
            seconds / seconds[0],
            marker="o",
            markersize=3.5,
            color=_colour(i, len(costs.past)),
            label=f"over {past} tokens; 1 row takes {1e3 * seconds[0]:.1f} ms",
        )
    axes.plot(costs.rows, costs.rows, color="grey", linewidth=0.8, linestyle="--", label="one pass for each row")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(costs.rows, [str(n) for n in costs.rows])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("rows of a pass")
    axes.set_ylabel("cost, in passes of one row")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _svg(figure)


def memory_by_context(weights: int, memory: Sequence[tuple[int, int]]) -> str:
    """Weights, and on top of them the cache, by context."""
    figure, axes = _figure(7, 2.8)
    places = range(len(memory))
    axes.bar(places, [weights / 1e6] * len(memory), label="graph and weights", color=_colour(0, 2))
    cache = [b / 1e6 for _, b in memory]
    axes.bar(places, cache, bottom=weights / 1e6, label="cache or state", color=_colour(1, 2))
    axes.set_xticks(places, [str(n) for n, _ in memory])
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("MB")
    axes.legend(fontsize=8)
    return _svg(figure)


def drift_by_layer(drifts: Sequence[Drift]) -> str:
    """Relative error of the worst row after every layer."""
    figure, axes = _figure(8, 3.2)
    for i, one in enumerate(drifts):
        labels = [layer.name.removeprefix("layer ") for layer in one.layers]
        # A log axis has no zero: an exact layer is drawn at the resolution of float32.
        heights = [max(layer.relative, 1e-8) for layer in one.layers]
        axes.plot(
            range(len(labels)), heights, marker="o", markersize=3, color=_colour(i, len(drifts)), label=one.engine
        )
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_yscale("log")
    axes.set_xlabel("after layer")
    axes.set_ylabel("relative error, worst row")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _svg(figure)


def drafts_by_kind(drafts: Sequence[DraftSpeed]) -> str:
    """Tokens per CPU-second, a group of bars for each kind of text."""
    kinds, names = (list(dict.fromkeys(getattr(d, field) for d in drafts)) for field in ("kind", "draft"))
    figure, axes = _figure(8, 3.2)
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        rates = [next(d.tokens_per_cpu_second for d in drafts if (d.draft, d.kind) == (name, k)) for k in kinds]
        axes.bar([x + i * width for x in range(len(kinds))], rates, width, label=name, color=_colour(i, len(names)))
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(kinds))], kinds)
    axes.set_ylabel("decoded tokens per CPU-second")
    axes.legend(fontsize=8)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package matplotlib", "not installed", "installed to draw", "pip install 'farthing[export]'")
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _colour(i: int, count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](0.08 + 0.84 * i / max(count - 1, 1))


def _svg(figure: Any) -> str:
    """The <svg> element alone: text stays text, and nothing in it depends on the clock."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "farthing"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
