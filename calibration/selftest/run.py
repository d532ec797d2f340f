"""The steps of the self-test and their report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import FarthingError
from ...export.compile import build_engine

PLAN = (
    ("device", "ask the driver for a device and its compute capability"),
    ("tensorrt", "import TensorRT's module and note its version"),
    ("plugins", "load our plugin library and compare its ABI"),
    ("operators", "run the parity table on the device: every operator by its lowered body and by its plugin"),
    ("engines", "compile the bundle for this device"),
    ("vectors", "decode the bundle's recorded prompts with the TensorRT backend and compare ids"),
    ("cuda graphs", "decode them again as CUDA graphs"),
)
"""Name of each step and what it does, in order. A step whose predecessor did not pass is skipped."""

CLEAR = 0.01
"""Margin of the two best logits above which another id is an error: TensorRT may use TF32, with 10 bits of mantissa."""


@dataclass
class Step:
    """One step. ``status``: passed, failed, or skipped; ``detail`` says why, or what was found."""

    name: str
    status: str
    detail: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """What to send back. ``exit_code``: 0 if nothing failed, 5 if something did, 6 if there was no device to test."""

    steps: list[Step]
    versions: dict[str, str]

    @property
    def exit_code(self) -> int:
        """See the class."""
        if self.steps[0].status != "passed":
            return 6
        return 5 if any(s.status == "failed" for s in self.steps) else 0

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"farthing": __version__, "versions": self.versions, "steps": [asdict(s) for s in self.steps]}


class _Later(Exception):
    """A step has nothing to do here; the text says why."""


class _Run:
    """State that passes from step to step."""

    def __init__(self, bundle: Path | None, plugins: Path | None) -> None:
        self.bundle, self.plugins = bundle, plugins
        self.trt: Any = None
        self.operators: tuple[str, ...] = ()
        self.context = 0
        self.ids: list[list[int]] = []

    def device(self) -> tuple[str, dict[str, Any]]:
        sm = build_engine.device_sm()
        return f"compute capability {sm}", {"sm": sm}

    def tensorrt(self) -> tuple[str, dict[str, Any]]:
        self.trt = build_engine.load_tensorrt("tensorrt")
        return f"TensorRT {self.trt.__version__}", {"version": self.trt.__version__}

    def load_plugins(self) -> tuple[str, dict[str, Any]]:
        if self.plugins is None:
            raise _Later("no --plugins given: operators run by their bodies only")
        from ...export.compile.tensorrt import PLUGIN_ABI

        library = self.plugins.resolve()
        build_engine.check_plugins(library, PLUGIN_ABI)
        self.operators = build_engine.plugin_about(library)[1]
        self.trt.get_plugin_registry().load_library(str(library))
        return f"ABI {PLUGIN_ABI}, {len(self.operators)} operators", {"operators": list(self.operators)}

    def table(self) -> tuple[str, dict[str, Any]]:
        from .rows import run_table

        cells = [cell.as_json() for cell in run_table(self.trt, self.operators)]
        failed = [f"{c['operator']} on {c['face']}" for c in cells if c["status"] == "failed"]
        if failed:
            raise _Failed(f"wrong: {', '.join(failed)}", {"cells": cells})
        return f"{sum(c['passed'] for c in cells)} rows", {"cells": cells}

    def engines(self) -> tuple[str, dict[str, Any]]:
        if self.bundle is None:
            raise _Later("no --bundle given")
        from ...export.compile import compile_bundle

        made = compile_bundle(self.bundle, "tensorrt", plugins=self.plugins)
        self.context = int(made.notes["capacity"])
        return f"{'found' if made.cached else 'built'} {made.path}", made.as_json()

    def vectors(self, *, cuda_graphs: bool = False) -> tuple[str, dict[str, Any]]:
        if self.bundle is None:
            raise _Later("no --bundle given")
        from ...runtime.api import load
        from ...runtime.bundle import open_bundle
        from ...runtime.verify import read_cases

        cases = read_cases(open_bundle(self.bundle, hashes=False))
        found, stats = [], []
        with load(self.bundle, backend="tensorrt", context=self.context, cuda_graphs=cuda_graphs) as model:
            for case in cases:
                how: dict[str, Any] = {"greedy": True, "ignore_eos": True, "max_new_tokens": len(case.greedy_ids)}
                made = model.generate(prompt_ids=case.prompt_ids, **how)
                found.append(made.ids)
                stats.append(made.stats)
        data = {"ids": found, "stats": stats}
        if cuda_graphs and found != self.ids:
            raise _Failed("other ids than without CUDA graphs", data)
        for number, (ids, case) in enumerate(zip(found, cases, strict=True)):
            if (step := first_wrong(ids, case.greedy_ids, case.margins)) is not None:
                raise _Failed(f"case {number}, step {step}: another id than the recorded one, which won clearly", data)
        self.ids = found
        return f"{len(cases)} prompts, ids as recorded", data


class _Failed(Exception):
    def __init__(self, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.data = data


def first_wrong(ids: list[int], recorded: list[int], margins: list[float]) -> int | None:
    """The first step that differs where the recorded id won by more than CLEAR; None when there is none.

    After a narrow choice went the other way the sequences have nothing more to do with each other.
    """
    for step, (id_, wanted, margin) in enumerate(zip(ids, recorded, margins, strict=True)):
        if id_ != wanted:
            return step if margin > CLEAR else None
    return None


def selftest_gpu(bundle: str | Path | None = None, plugins: str | Path | None = None) -> Report:
    """Run all steps; nothing is raised for what fails, it is in the report. Untested on GPU but for its first step."""
    run = _Run(Path(bundle) if bundle else None, Path(plugins) if plugins else None)
    actions: list[Callable[[], tuple[str, dict[str, Any]]]] = [
        run.device,
        run.tensorrt,
        run.load_plugins,
        run.table,
        run.engines,
        run.vectors,
        lambda: run.vectors(cuda_graphs=True),
    ]
    return Report(run_steps(actions), _versions())


def run_steps(actions: list[Callable[[], tuple[str, dict[str, Any]]]]) -> list[Step]:
    """Run ``actions``, the steps of PLAN, in order.

    Without a device or TensorRT nothing further can run; a wrong operator does not keep the bundle from being tried.
    """
    needed = {"device", "tensorrt"}
    steps: list[Step] = []
    stopped: str | None = None
    for (name, doc), action in zip(PLAN, actions, strict=True):
        if stopped:
            steps.append(Step(name, "skipped", f"would {doc}; but {stopped}"))
            continue
        try:
            steps.append(Step(name, "passed", *action()))
        except _Later as reason:
            steps.append(Step(name, "skipped", str(reason)))
        except _Failed as error:
            steps.append(Step(name, "failed", str(error), error.data))
        except (FarthingError, build_engine.Refused) as error:
            steps.append(Step(name, "failed", str(error)))
        except Exception as error:
            steps.append(Step(name, "failed", f"{type(error).__name__}: {error}"))
        if steps[-1].status == "failed" and name in needed:
            stopped = {"device": "there is no device", "tensorrt": "there is no TensorRT"}[name]
        elif steps[-1].status == "failed" and name == "engines":
            stopped = "the engines were not built"
    return steps


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.release()}
    for name in ("numpy", "onnx", "onnxruntime", "tensorrt"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    release = Path("/etc/nv_tegra_release")  # a Jetson's Linux says its version here
    if release.is_file():
        found["l4t"] = release.read_text(encoding="utf-8", errors="replace").splitlines()[0][:120]
    return found


def write(report: Report, path: Path) -> None:
    """The report as JSON."""
    path.write_text(json.dumps(report.as_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
