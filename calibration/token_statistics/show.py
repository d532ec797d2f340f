"""Figures as a table with their definitions beside them, and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError, RequestError, found_wanted
from ..visual.intervals import Interval
from .hits import CONTEXTS
from .recommend import Recommendation
from .report import SEEN, Analysis

_Cell = Callable[[Analysis], str]


def table(found: Sequence[Analysis], advice: Recommendation | None = None) -> str:
    """A column for each of ``found``, the first being the images; what a figure means stands at the end of its line."""
    lines = ["".join(f"{a.name}: {a.images} x {a.grid[0]}x{a.grid[1]} codes of {a.vocab}   " for a in found).rstrip()]
    for title, rows in _sections(found[0]):
        body = [(label, [_try(cell, a) for a in found], meaning) for label, cell, meaning in rows]
        lines += ["", *_aligned(title, [a.name for a in found], body)]
    lines += ["", "[ ] 95 % intervals: bootstrap over whole images; of tokens and images, over random orders"]
    for each in found:
        lines += [f"warning ({each.name}): {w}" for w in each.warnings]
    if advice:
        lines += [
            "",
            f"for the model as it is: {advice.now}",
            f"worth training: {', '.join(advice.to_train) or 'nothing'}",
        ]
        lines += [f"  {'+' if a.worth else '-'} {a.method}: {a.reason}" for a in advice.advice]
        lines += [f"note: {note}" for note in advice.notes]
    return "\n".join(lines)


def _sections(first: Analysis) -> list[tuple[str, list[tuple[str, _Cell, str]]]]:
    orders = [e.n for e in first.entropy]
    fits = [f.n for f in first.rank_frequency]
    contexts = [h.context for h in first.hits]
    directions = [n.direction for n in first.neighbours]
    return [
        (
            "use",
            [
                ("codes used", lambda a: f"{a.usage.used} of {a.usage.vocab}", "that occur at all"),
                ("perplexity", lambda a: f"{a.usage.perplexity:.1f}", "2^H_1: as many equally likely codes"),
                ("H_1", lambda a: _interval(a.entropy[0].block), "bits a code, Miller-Madow"),
                ("H_1 / log2 V", lambda a: f"{a.normalised_entropy:.4f}", "1 = uniform"),
                ("KL to uniform", lambda a: f"{a.kl_uniform['1']:.4f}", "log2 V - H_1, bits"),
                ("KL of pairs", lambda a: f"{a.kl_uniform['2']:.4f}", "2 log2 V - H_2, bits"),
            ],
        ),
        (
            "conditional entropy, bits",
            [
                (
                    f"h_{n}",
                    lambda a, i=n - 1: f"{_interval(a.entropy[i].conditional)} ({a.entropy[i].coverage:.0%})",  # type: ignore[misc]
                    f"of a code when the {n - 1} to its left are known (share of {n}-grams to come that were seen)",
                )
                for n in orders[1:]
            ],
        ),
        (
            "compression, 1 - compressed / fixed-length",
            [
                ("Huffman", lambda a: _interval(a.compression.huffman, ".2%"), "codewords for single codes"),
                ("entropy", lambda a: f"{a.compression.entropy:.2%}", "bound of Huffman: 1 - H_1 / ceil(log2 V)"),
                ("zlib", lambda a: f"{a.compression.zlib:.2%}", "level 9 over whole bytes: finds repeats"),
                ("pack_codes", lambda a: f"{a.compression.packed:.2%}", "our file, table and all"),
            ],
        ),
        (
            "mutual information of neighbours, bits",
            [
                (
                    d,
                    lambda a, i=i: f"{_interval(a.neighbours[i].bits)} ({a.neighbours[i].share.value:.1%})",  # type: ignore[misc]
                    f"with the code {_PLACE[d]}, less that of random pairs (share of H_1)",
                )
                for i, d in enumerate(directions)
            ],
        ),
        (
            "right guesses on held-out images, by n-grams",
            [
                (
                    CONTEXTS[c],
                    lambda a, i=i: _guesses(a, i),  # type: ignore[misc]
                    "known: top-1, top-5, top-50 (contexts that were seen)",
                )
                for i, c in enumerate(contexts)
            ],
        ),
        (
            "innovation",
            [
                ("tokens to 90 %", lambda a: _interval(a.innovation[0].tokens_to["0.9"], ",.0f"), "of the used codes"),
                ("tokens to 99 %", lambda a: _interval(a.innovation[0].tokens_to["0.99"], ",.0f"), "of the used codes"),
                ("images to 99 %", lambda a: _interval(a.innovation[0].images_to["0.99"], ",.0f"), "of the used codes"),
                *[
                    (
                        f"Heaps beta, n={n}",
                        lambda a, i=n - 1: f"{_interval(a.innovation[i].beta)} ({a.innovation[i].new_share:.1%})",  # type: ignore[misc]
                        "U(t) = K t^beta (new types a token)",
                    )
                    for n in orders
                ],
            ],
        ),
        (
            "rank and frequency",
            [
                row
                for i, n in enumerate(fits)
                for row in (
                    (
                        f"Zipf a, n={n}",
                        lambda a, i=i: f"{_interval(a.rank_frequency[i].exponent)}",  # type: ignore[misc]
                        "p(r) ~ r^-a, maximum likelihood",
                    ),
                    (
                        "  KS",
                        lambda a, i=i: _ks(a, i),  # type: ignore[misc]
                        "Zipf, Zipf-Mandelbrot, lognormal",
                    ),
                    (
                        "  lognormal gain",
                        lambda a, i=i: f"{_interval(a.rank_frequency[i].lognormal_gain, '.4f')}",  # type: ignore[misc]
                        "nats a token over Zipf",
                    ),
                )
            ],
        ),
    ]


_PLACE = {"x": "to the right", "y": "below", "diagonal": "below to the left"}


def _guesses(found: Analysis, i: int) -> str:
    top, known = found.hits[i].top, found.hits[i].known
    return f"{_interval(top[1], '.1%')} {top[5].value:.1%} {top[50].value:.1%} ({known:.0%})"


def _ks(found: Analysis, i: int) -> str:
    fit = found.rank_frequency[i]
    return f"{fit.zipf.ks:.3f} {fit.mandelbrot.ks:.3f} {fit.lognormal.ks:.3f}"


def _try(cell: _Cell, found: Analysis) -> str:
    try:
        return cell(found)
    except (IndexError, KeyError):
        return "-"


def _interval(found: Interval, form: str = ".3f") -> str:
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _aligned(title: str, names: Sequence[str], rows: Sequence[tuple[str, list[str], str]]) -> list[str]:
    if not rows:
        return []
    left = max(len(title), *(len(label) for label, _, _ in rows))
    widths = [max(len(name), *(len(cells[i]) for _, cells, _ in rows)) for i, name in enumerate(names)]
    head = title.ljust(left) + "".join(f"  {n:<{w}}" for n, w in zip(names, widths, strict=True))
    return [head.rstrip()] + [
        label.ljust(left) + "".join(f"  {c:<{w}}" for c, w in zip(cells, widths, strict=True)) + f"  {meaning}"
        for label, cells, meaning in rows
    ]


def plot(found: Sequence[Analysis], path: str | Path) -> None:
    """Four panels: rank and frequency, new n-grams, conditional entropy, right guesses.

    Raises MissingDependencyError without matplotlib, RequestError for a file that cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package matplotlib", "not installed", "installed to draw", "pip install 'farthing[export]'")
        ) from error
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    (ranks, news), (order, guesses) = figure.subplots(2, 2)
    for i, analysis in enumerate(found):
        style = ("-", "--", ":", "-.")[i % 4]
        for curve, n in zip(analysis.curves, range(1, 5), strict=False):
            label = f"{analysis.name}, n={n}"
            ranks.plot(*zip(*curve, strict=True), style, color=f"C{n - 1}", linewidth=1.2, label=label)
        for one in analysis.innovation:
            label = f"{analysis.name}, n={one.n}"
            news.plot(*zip(*one.curve, strict=True), style, color=f"C{one.n - 1}", linewidth=1.2, label=label)
        bits = [e.conditional for e in analysis.entropy]
        reach = [[b.value - b.low for b in bits], [b.high - b.value for b in bits]]
        at = [e.n for e in analysis.entropy]
        order.errorbar(
            at, [b.value for b in bits], yerr=reach, fmt=style, capsize=3, color=f"C{i}", label=analysis.name
        )
        for e in analysis.entropy:
            inside = f"C{i}" if e.coverage >= SEEN else "white"
            order.plot(e.n, e.conditional.value, "o", color=f"C{i}", markerfacecolor=inside)
        _bars(guesses, analysis, i, len(found))
    for axes, title, across, up in (
        (ranks, "rank and frequency", "rank", "tokens"),
        (news, "n-grams seen, mean over orders of the images", "n-grams read", "different ones"),
        (
            order,
            "conditional entropy; hollow: most n-grams are unseen, too low",
            "n: codes of an n-gram",
            "bits of the last code",
        ),
        (guesses, "right first guesses on held-out images", "table is asked with", "share"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (ranks, news):
        axes.set_xscale("log")
        axes.set_yscale("log")
    order.set_xticks([e.n for e in found[0].entropy])
    order.set_ylim(bottom=0)
    names = [CONTEXTS[h.context] for h in found[0].hits]
    guesses.set_xticks(range(len(names)), names, fontsize=8)
    try:
        figure.savefig(path, dpi=120, metadata={"Software": None} if str(path).lower().endswith(".png") else None)
    except (OSError, ValueError) as error:
        fix = "correct the path"
        raise RequestError(
            found_wanted(f"--plot {path}", f"not writable ({error})", "a .png, .svg or .pdf to write", fix)
        ) from error


def _bars(axes: Any, found: Analysis, i: int, of: int) -> None:
    rates = [h.top[1] for h in found.hits]
    width = 0.8 / of
    at = [x + (i - (of - 1) / 2) * width for x in range(len(rates))]
    reach = [[r.value - r.low for r in rates], [r.high - r.value for r in rates]]
    axes.bar(at, [r.value for r in rates], width, yerr=reach, capsize=2, color=f"C{i}", label=found.name)
