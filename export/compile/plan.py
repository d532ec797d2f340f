"""The plan of a TensorRT build: a folder with lowered graphs, their weights, the builder script and plan.json.

It is what `build_engine.py` reads, here in a subprocess or on another machine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, found_wanted
from ...runtime.bundle import Bundle
from ...runtime.bundle.compiled import identity
from ...runtime.bundle.read import sha256_of
from ...runtime.weight_formats import LEAST_SM
from ..lower import lower, pin
from .build_engine import FORMAT_VERSION
from .profiles import Ranges, profiles

if TYPE_CHECKING:
    import onnx

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def write_plan(
    bundle: Bundle,
    folder: Path,
    *,
    target: str,
    trt: str,
    ranges: Ranges,
    capabilities: Collection[int] = (),
    plugins: Path | None = None,
    plugin_abi: int | None = None,
    plugin_operators: Collection[str] = (),
    share: bool = False,
) -> dict[str, Any]:
    """Write the plan for all graphs of ``bundle`` into the empty ``folder``; returns its plan.json.

    ``trt`` is the TensorRT version whose language the graphs get. ``share`` links weights to the bundle's files instead of copying
    them, where the file system can: for a build on this machine. Raises BundleError, RequestError.
    """
    import onnx

    entries: list[dict[str, Any]] = []
    for name, graph in bundle.manifest["graphs"].items():
        model = onnx.load(str(bundle.graph(name)), load_external_data=False)
        steps = profiles(name, graph, ranges)
        if not ranges.single_pass:
            model = pin(model, {"B": ranges.batch, "C": ranges.capacity})
        used = {n.op_type for n in model.graph.node}
        lowered = lower(model, trt, plugins=[p for p in plugin_operators if p in used])
        (folder / f"{name}.onnx").write_bytes(lowered.SerializeToString(deterministic=True))
        for relative in graph["data"]:
            _place(bundle.file(relative), folder / Path(relative).name, share)
        entries.append({"name": name, "file": f"{name}.onnx", "profiles": steps, "in_place": _in_place(lowered)})
    needs_device = target == "tensorrt"
    if plugins is not None:
        shutil.copyfile(plugins, folder / plugins.name)
    listed = sorted(p for p in folder.iterdir() if not (share and p.suffix == ".data"))
    plan = {
        "format": "farthing-plan",
        "format_version": FORMAT_VERSION,
        "target": target,
        "module": MODULES[target],
        "trt": trt if needs_device else None,
        "needs_device": needs_device,
        "least_sm": LEAST_SM.get(bundle.manifest["quantization"]["weights"], 0),
        "compute_capabilities": sorted(capabilities),
        "aliased_io": plugins is not None,
        "plugins": {"library": plugins.name, "abi": plugin_abi} if plugins is not None else None,
        "capacity": ranges.capacity,
        "key": build_key(bundle, trt, ranges, entries),
        "graphs": entries,
        "files": {p.name: sha256_of(p) for p in listed},
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("build_engine.py"), folder / "build_engine.py")
    return plan


def build_key(bundle: Bundle, trt: str, ranges: Ranges, graphs: list[dict[str, Any]]) -> dict[str, Any]:
    """What an engine depends on and is known before it is built; the builder adds TensorRT's version, SM and plugin ABI."""
    from ..lower import generation

    return {
        "bundle": identity(bundle),
        "generation": ".".join(map(str, generation(trt).first)),
        "capacity": ranges.capacity,
        "batch": ranges.batch,
        "profiles": [
            [g["name"], [p["name"] for p in g["profiles"]], [p["shapes"] for p in g["profiles"]]] for g in graphs
        ],
    }


def _in_place(model: onnx.ModelProto) -> bool:
    """Whether past and present may be one buffer: TensorScatter becomes TensorRT's KV-update layer and our plugin declares the alias,
    but what ScatterND reads and writes must be two.
    """
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    return all(makers.get(o.name) != "ScatterND" for o in model.graph.output)


def trtexec(plan: Mapping[str, Any]) -> list[str]:
    """The same build with NVIDIA's own tool, one command per graph: for those who rather trust that. Writes no index.json."""
    commands = []
    for graph in plan["graphs"]:
        parts = ["trtexec", f"--onnx={graph['file']}", f"--saveEngine={graph['name']}.engine", "--stronglyTyped"]
        if plan["plugins"]:
            parts.append(f"--staticPlugins={plan['plugins']['library']}")
        # A graph of fixed sizes has one profile with nothing in it, and the tool refuses an option without a value.
        for i, profile in enumerate(p for p in graph["profiles"] if p["shapes"]):
            parts.append(f"--profile={i}")
            for position, option in enumerate(("minShapes", "optShapes", "maxShapes")):
                shapes = ",".join(f"{n}:{'x'.join(map(str, s[position]))}" for n, s in profile["shapes"].items())
                parts.append(f"--{option}={shapes}")
        commands.append(" ".join(parts))
    return commands


def _place(source: Path, target: Path, share: bool) -> None:
    if target.exists():
        return
    try:
        if share:
            os.link(source, target)
            return
    except OSError:
        pass  # another file system: copy
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BundleError(
            found_wanted(
                f"copy of {source}", f"not written ({error})", "written", "free some space, or choose another --out"
            )
        ) from error
