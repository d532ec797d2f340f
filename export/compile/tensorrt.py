"""Target ``tensorrt``: engines timed and built on the device that will run them, or a plan of that to carry there."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from ...errors import BundleError, MissingDependencyError, RequestError, found_wanted
from ...runtime.bundle import Bundle
from ...runtime.bundle.compiled import key_folder
from ...runtime.weight_formats import check_capability
from . import build_engine
from .plan import trtexec, write_plan
from .process import build_in_subprocess
from .profiles import Ranges
from .result import CompileResult, engines_in

PLUGIN_ABI = 1
"""The ABI that `farthing_tensorrt_about` of our plugin library must say (kAbi in plugins/tensorrt/plugin.h); changes when a plugin's inputs, attributes or serialised form do."""


def compile_tensorrt(
    bundle: Bundle, root: Path, ranges: Ranges, trt: str | None = None, plugins: str | Path | None = None
) -> CompileResult:
    """Build one engine per graph into ``root``, or find them there: by graph, TensorRT version, SM, plugin ABI and profiles.

    Asks for the device first. Raises MissingDependencyError without one, BundleError for a graph that TensorRT refuses.
    """
    try:
        sm = build_engine.device_sm()
    except build_engine.Refused as error:
        raise MissingDependencyError(str(error)) from error
    check_capability(bundle.manifest["quantization"]["weights"], sm, "compute capability of this device")
    version = installed_version()
    if trt is not None and not build_engine._same_generation(version, trt):
        raise RequestError(found_wanted("--trt", trt, f"{version}, as installed here", "leave it out, or use --plan"))
    library, abi, operators = plugin_library(plugins)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".plan.", dir=root) as name:
        folder = Path(name)
        plan = write_plan(
            bundle,
            folder,
            target="tensorrt",
            trt=version,
            ranges=ranges,
            plugins=library,
            plugin_abi=abi,
            plugin_operators=operators,
            share=True,
        )
        out = root / key_folder({**plan["key"], "tensorrt": version, "sm": sm, "plugin_abi": abi})
        if out.exists():
            try:
                return engines_in(out, cached=True)
            except BundleError:
                shutil.rmtree(out)
        # Kernel timings outlive an engine: the next build for this device is quicker.
        timing = root / f"timing-{version}-sm{sm}.cache"
        if timing.is_file():
            shutil.copyfile(timing, folder / "timing.cache")
        build_in_subprocess(sys.executable, folder, out)
        if (folder / "timing.cache").is_file():
            shutil.copyfile(folder / "timing.cache", timing)
    return engines_in(out, cached=False)


def plan_tensorrt(
    bundle: Bundle, folder: Path, ranges: Ranges, trt: str | None = None, plugins: str | Path | None = None
) -> CompileResult:
    """Write to ``folder`` all that a build on another machine needs, with the commands. Raises RequestError, BundleError.

    The device needs Python and TensorRT's module (on a Jetson python3-libnvinfer), and neither farthing nor onnx.
    """
    if trt is None:
        raise RequestError(
            found_wanted(
                "--trt",
                "not given",
                "the device's TensorRT version",
                "add e.g. --trt 10.3 (JetPack 6.2) or 10.16 (7.2)",
            )
        )
    library, abi, operators = plugin_library(plugins)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(found_wanted(f"--plan {folder}", "not empty", "a new or empty folder", "choose another"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        plan = write_plan(
            bundle,
            staged,
            target="tensorrt",
            trt=trt,
            ranges=ranges,
            plugins=library,
            plugin_abi=abi,
            plugin_operators=operators,
        )
        place = f"compiled/tensorrt/{key_folder(plan['key'])}"
        commands = (f"python3 build_engine.py . {shlex.quote('out/' + place)}", *trtexec(plan))
        (staged / "README.md").write_text(_readme(bundle, trt, commands, place), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        staged.chmod(0o755)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sizes = {g["name"]: {"file": g["file"], "bytes": (folder / g["file"]).stat().st_size} for g in plan["graphs"]}
    return CompileResult(
        path=folder, target="tensorrt", graphs=sizes, planned=True, commands=commands, notes=plan["key"]
    )


def installed_version() -> str:
    """Version of the TensorRT module of this Python, without importing it. Raises MissingDependencyError."""
    import importlib.metadata

    if importlib.util.find_spec("tensorrt") is not None:
        for package in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return str(importlib.import_module("tensorrt").__version__)
    raise MissingDependencyError(
        found_wanted(
            "package tensorrt",
            "not installed",
            "TensorRT's Python module",
            "on a Jetson: apt-get install python3-libnvinfer; elsewhere: pip install tensorrt",
        )
    )


def plugin_library(path: str | Path | None) -> tuple[Path | None, int | None, tuple[str, ...]]:
    """(path, ABI, operators) of our plugin library; nothing without one. Raises BundleError for one of another ABI."""
    if path is None:
        return None, None, ()
    library = Path(path).resolve()
    try:
        build_engine.check_plugins(library, PLUGIN_ABI)
        return library, PLUGIN_ABI, build_engine.plugin_about(library)[1]
    except build_engine.Refused as error:
        raise BundleError(str(error)) from error


def _readme(bundle: Bundle, trt: str, commands: tuple[str, ...], place: str) -> str:
    name = bundle.manifest["name"]
    tools = "\n".join(f"    {c}" for c in commands[1:])
    return f"""# Engines of {name}, to be built on the device

Carry this folder to a machine with a GPU and TensorRT {trt} (same generation), and there:

    {commands[0]}

It needs Python 3 and TensorRT's module (on a Jetson: apt-get install python3-libnvinfer). Then put `out/compiled` into the bundle's
folder, beside its manifest.json: `farthing run BUNDLE --backend tensorrt` finds it.

The same with NVIDIA's tool; it writes no index.json, so farthing will not take its engines:

{tools}
"""
