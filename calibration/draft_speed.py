"""What guessing ahead brings on this machine: tokens per CPU-second and tokens a pass, by drafter and kind of text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, found_wanted
from .draft_prompts import KINDS, random_ids, texts

if TYPE_CHECKING:
    from ..runtime.api import Runtime

Progress = Callable[[int, int], None]
_PREFILL = 256
"""Rows of a prefill pass; they are not counted as decoding."""


@dataclass(frozen=True)
class DraftSpeed:
    """One drafter on one kind of text, over its prompts. ``share``: drafted tokens that were right, of those drafted; None if none were.

    ``same``: the ids were those of plain decoding for every prompt.
    """

    draft: str
    kind: str
    tokens_per_cpu_second: float
    tokens_per_pass: float
    share: float | None
    draft_microseconds_per_pass: float
    same: bool

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def drafts_of(runtime: Runtime) -> list[str]:
    """Drafters that the bundle can have, plain decoding first."""
    own = [name for name in ("mtp", "ftp") if name in runtime.bundle.manifest]
    return ["none", "lookup", "aded", *own, "auto"]


def measure_drafts(
    runtime: Runtime,
    drafts: Sequence[str],
    *,
    new_tokens: int = 128,
    rounds: int = 1,
    progress: Progress = lambda done, total: None,
) -> list[DraftSpeed]:
    """Decode the prompts of each kind greedily with each of ``drafts``, in turn within a prompt so that a slow minute falls on all.

    Kinds of text need a tokenizer; without one only random ids are used. Prompts are cut at the front where the context is short. Raises RequestError.
    """
    names = list(dict.fromkeys(["none", *drafts]))
    room = max(runtime.context - new_tokens, 1)
    asked = {kind: [ids[-room:] for ids in _prompts(runtime, kind)] for kind in KINDS}
    total, done = sum(map(len, asked.values())) * rounds * len(names), 0
    how: dict[str, Any] = {"greedy": True, "ignore_eos": True, "max_new_tokens": new_tokens}
    results: list[DraftSpeed] = []
    for kind, prompts in asked.items():
        runs: dict[str, list[list[Any]]] = {name: [] for name in names}
        for ids in prompts:
            for name in names:
                runtime.speculate(name)
                made = []
                for _ in range(rounds):
                    made.append(runtime.generate(prompt_ids=ids, **how))
                    done += 1
                    progress(done, total)
                runs[name].append(made)
        if prompts:
            plain = [made[0].ids for made in runs["none"]]
            results += [_speed(name, kind, runs[name], plain) for name in names]
    runtime.speculate("none")
    return results


def _prompts(runtime: Runtime, kind: str) -> list[list[int]]:
    if kind == "random":
        return [random_ids(runtime.vocab_size, 96, i) for i in range(3)]
    if runtime.tokenizer is None:
        return []
    return [list(runtime.tokenizer.encode(text)) for text in texts(kind)]


def _speed(draft: str, kind: str, runs: list[list[Any]], plain: list[list[int]]) -> DraftSpeed:
    tokens = passes = drafted = accepted = 0
    seconds = guessing = 0.0
    for made in runs:
        stats = made[0].stats
        prefill = -(-stats["prompt_tokens"] // _PREFILL)
        seconds += statistics.median(m.stats["decode_cpu_seconds"] for m in made)
        tokens += stats["new_tokens"] - 1
        passes += stats["passes"] - prefill
        drafted += stats["speculation"]["drafted"]
        accepted += stats["speculation"]["accepted"]
        guessing += stats["speculation"]["draft_seconds"]
    return DraftSpeed(
        draft=draft,
        kind=kind,
        tokens_per_cpu_second=tokens / seconds,
        tokens_per_pass=tokens / passes,
        share=accepted / drafted if drafted else None,
        draft_microseconds_per_pass=1e6 * guessing / passes,
        same=[made[0].ids for made in runs] == plain,
    )


def draft_table(results: Sequence[DraftSpeed]) -> str:
    """Text: a line per drafter, a column per kind: tokens per CPU-second, tokens a pass, and how much faster than plain decoding."""
    kinds = list(dict.fromkeys(r.kind for r in results))
    plain = {r.kind: r.tokens_per_cpu_second for r in results if r.draft == "none"}
    lines = [f"{'draft':<8}" + "".join(f"{kind:>24}" for kind in kinds)]
    for name in dict.fromkeys(r.draft for r in results):
        cells = {r.kind: r for r in results if r.draft == name}
        line = f"{name:<8}"
        for kind in kinds:
            r = cells[kind]
            text = f"{r.tokens_per_cpu_second:.1f} ({r.tokens_per_pass:.2f}/pass) {r.tokens_per_cpu_second / plain[kind]:.2f}x"
            line += f"{text + ('' if r.same else ' !'):>24}"
        lines.append(line)
    lines.append(
        "tokens per CPU-second in decoding (tokens a pass) against plain decoding; ! = ids differ from plain decoding's"
    )
    return "\n".join(lines)


def plot_drafts(results: Sequence[DraftSpeed], path: Path, title: str) -> None:
    """A point per drafter and kind: tokens per CPU-second over tokens a pass. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package matplotlib", "not installed", "installed to draw", "pip install 'farthing[export]'")
        ) from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    markers = dict(zip(KINDS, "osD^x", strict=True))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(r.draft for r in results))}
    for r in results:
        axis.plot(r.tokens_per_pass, r.tokens_per_cpu_second, markers[r.kind], color=colours[r.draft])
    for name, colour in colours.items():
        axis.plot([], [], "s", color=colour, label=name)
    for kind in dict.fromkeys(r.kind for r in results):
        axis.plot([], [], markers[kind], color="grey", label=kind)
    axis.set_xlabel("tokens a pass")
    axis.set_ylabel("decoded tokens per CPU-second")
    axis.set_title(title)
    axis.legend(fontsize=8, ncol=2)
    figure.savefig(path, dpi=120)
