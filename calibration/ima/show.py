"""The report as text and as a picture."""

from __future__ import annotations

from pathlib import Path

from ...errors import MissingDependencyError, found_wanted
from ...export.visual.skipping import plan_text
from .report import ImaReport
from .subnets import by_chance


def table(report: ImaReport) -> str:
    """A line for each layer, and what was tried."""
    skipped = set(report.plan)
    lines = [
        f"{report.checkpoint}: {report.samples} questions, {report.answered} with answers",
        f"{'layer':>6}{'image to text':>15}{'median':>9}{'max_mean':>10}{'drift image':>13}{'text':>8}{'ffn image':>11}{'text':>8}",
    ]
    for s in report.layers:
        line = f"{s.layer:>6}{s.alike['cosine']:>15.3f}{s.alike['median']:>9.3f}{s.alike['max_mean']:>10.3f}"
        if s.drift:
            line += f"{s.drift['visual']:>13.3f}{s.drift['text']:>8.3f}{s.ffn['visual']:>11.3f}{s.ffn['text']:>8.3f}"
            line += "  skipped" if s.layer in skipped else ""
        lines.append(line)
    if report.sparsity is not None:
        means = [sum(s.overlap.values()) / len(s.overlap) for s in report.layers if s.overlap]
        lines.append(
            f"weights that images and text keep at sparsity {report.sparsity:g}: overlap {sum(means) / len(means):.3f} "
            f"({min(means):.3f} to {max(means):.3f}), {by_chance(report.sparsity):.3f} by chance"
        )
    lines.append(f"IMA {report.ima['cosine']:.3f} (median of pairs {report.ima['median']:.3f})")
    for t in report.tried:
        verdict = "" if t.guard.mean <= report.most_kl else "  too much"
        lines.append(
            f"{len(t.plan)} layers: mean KL {t.guard.mean:.4g}, worst {t.guard.worst:.4g}, same token {t.guard.same:.1%}{verdict}"
        )
    lines.append(f"plan: {plan_text(report.plan) or 'none within the bound'}")
    return "\n".join(lines)


def plot(report: ImaReport, path: str | Path) -> None:
    """Likeness, drift and share of the feed-forward networks over the layers. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package matplotlib", "not installed", "installed to draw", "pip install 'farthing[export]'")
        ) from error
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    numbers = [s.layer for s in report.layers]
    for kind, style in (("cosine", "o-"), ("median", "s:"), ("max_mean", "^--")):
        left.plot(numbers, [s.alike[kind] for s in report.layers], style, markersize=3.5, label=kind)
    left.set_title("image rows and text rows, before layer")
    for name, style in (("visual", "o-"), ("text", "s--")):
        label = {"visual": "image rows", "text": "text rows"}[name]
        middle.plot(numbers[:-1], [s.drift[name] for s in report.layers[:-1]], style, markersize=3.5, label=label)
        right.plot(numbers[:-1], [s.ffn[name] for s in report.layers[:-1]], style, markersize=3.5, label=label)
    middle.set_title("cosine of a row before and after")
    right.set_title("feed-forward network over row, norms")
    right.set_yscale("log")
    for layer in report.plan:
        right.axvspan(layer - 0.5, layer + 0.5, alpha=0.15, color="tab:green", linewidth=0)
    for axes in (left, middle, right):
        axes.set_xlabel("layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)
