"""Everything the page shows, measured or read: plain data, no layout."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

from ... import __version__
from ...export.graph import Progress, no_progress
from ...plugins import library_path
from ...runtime.api import load
from ...runtime.bundle import Bundle, open_bundle
from ...runtime.engines import native_parts
from ...runtime.speculation import PassCosts
from ..draft_speed import DraftSpeed, drafts_of, measure_drafts
from ..drift import Drift, drift
from ..op_times import PassProfile, profile
from ..roofline import PassBound, Peaks, bounds, measure_peaks

PROFILED_ROWS = (1, 8, 64)
COST_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CONTEXTS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Report:
    """``missing``: a sentence for each part of the page that could not be made."""

    bundle: Bundle
    machine: dict[str, str]
    profiles: list[PassProfile]
    memory: list[tuple[int, int]]
    """(context, bytes of cache or state)."""
    peaks: Peaks | None = None
    passes: list[PassBound] = field(default_factory=list)
    costs: PassCosts | None = None
    drafts: list[DraftSpeed] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def gather(
    path: str | Path,
    *,
    checkpoint: str | Path | None = None,
    drafts: bool = False,
    context: int = 1024,
    progress: Progress = no_progress,
) -> Report:
    """Measure the bundle at one thread. ``checkpoint``: also the drift from it, layer by layer; ``drafts``: also what guessing ahead brings,
    which takes some minutes. Raises RequestError, BundleError, CheckpointError, MissingDependencyError."""
    parts = 4 + (checkpoint is not None) + drafts
    done = 0

    def next_part() -> None:
        nonlocal done
        done += 1
        progress("measuring", done, parts)

    progress("measuring", 0, parts)
    bundle = open_bundle(path)
    missing: list[str] = []
    trained = bundle.manifest["model"]["max_positions"]
    longest = min(context, trained)
    most = [n for n in PROFILED_ROWS if n + 64 <= longest] or [1]
    profiles = profile(bundle, most, past=64 if longest >= 128 else 0)
    next_part()
    peaks, passes = None, []
    if library_path() is None:
        missing.append("the machine's peaks: the native operator library is not installed (`farthing doctor`)")
    else:
        peaks = measure_peaks()
        passes = bounds(bundle, [(p.rows, p.past, p.seconds) for p in profiles], peaks)
    next_part()
    costs, speeds = None, []
    if native_parts().missing is not None:
        missing.append("what passes cost by their rows, and guessing ahead: the native core is not installed")
    else:
        with load(path, threads=1, context=longest, draft="none") as runtime:
            rows = [n for n in COST_ROWS if n <= longest // 2] or [1]
            costs = runtime.measure(rows, [0, longest // 2] if longest > 256 else [0], rounds=3)
            next_part()
            if drafts:
                runtime.tune()
                speeds = measure_drafts(runtime, drafts_of(runtime))
                next_part()
    drifts = [] if checkpoint is None else _drift(bundle, checkpoint)
    if checkpoint is None:
        missing.append("drift by layer: give --against CHECKPOINT")
    if not drafts:
        missing.append("guessing ahead by kind of text: give --drafts")
    sizes = sorted({n for n in CONTEXTS if n <= trained} | {trained if trained <= CONTEXTS[-1] else longest})
    progress("measuring", parts, parts)
    return Report(
        bundle=bundle,
        machine=_machine(),
        profiles=profiles,
        memory=[(n, bundle.kv_bytes(n)) for n in sizes],
        peaks=peaks,
        passes=passes,
        costs=costs,
        drafts=speeds,
        drifts=drifts,
        missing=missing,
    )


def _drift(bundle: Bundle, checkpoint: str | Path) -> list[Drift]:
    from ...export.checkpoint import open_checkpoint

    return drift(bundle, open_checkpoint(Path(checkpoint)))


def _machine() -> dict[str, str]:
    import onnxruntime

    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass  # no such file outside Linux
    return {
        "processor": cpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "farthing": __version__,
    }
