"""Build TensorRT engines from a plan. Runs alone: it needs TensorRT's Python module and nothing of farthing.

    python3 build_engine.py PLAN_FOLDER OUT_FOLDER

PLAN_FOLDER holds plan.json and the graphs (and plugin library) that it names; `farthing compile --plan` writes it. OUT_FOLDER gets
one engine per graph and index.json. The last line of the output is one JSON object: {"ok": true, ...} or {"ok": false, "error"}.
Exit codes: 0 built, 1 refused by TensorRT, 6 no device or no TensorRT.

In a process of its own for three reasons: TensorRT keeps one logger per process, TensorRT-RTX aborts the process at a plugin
node, and enterprise TensorRT gives a garbage runtime where no device is.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FORMAT, FORMAT_VERSION = "farthing-compiled", 1
UNUSED = "unused input"
"""A parser warning with these words is an error: the engine would compute something else than the graph (TensorRT-RTX
drops the sequence lengths of Attention so)."""

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class Refused(Exception):
    """The house sentence, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def device_sm() -> int:
    """Compute capability of device 0 as a number, e.g. 87. Raises Refused where there is none. Asks the driver, not TensorRT."""
    name = os.environ.get("FARTHING_CUDA_DRIVER", "libcuda.so.1")
    wanted, fix = (
        "at least 1",
        "run this on the machine with the GPU (`farthing compile --plan` writes what to carry there)",
    )
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise Refused(f"number of CUDA devices is 0 (no driver: {error}), expected {wanted}; {fix}", 6) from error
    count, device, major, minor = (ctypes.c_int() for _ in range(4))
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value < 1:
        raise Refused(f"number of CUDA devices is {count.value} (driver status {status}), expected {wanted}; {fix}", 6)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return 10 * major.value + minor.value


def load_tensorrt(name: str) -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``. Raises Refused."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = {"tensorrt_rtx": "pip install 'tensorrt-rtx-cu13>=1.7,<2'"}.get(
            name, "on a Jetson: apt-get install python3-libnvinfer; elsewhere pip install tensorrt"
        )
        raise Refused(f"Python module {name} is missing ({error}), expected installed; {package}", 6) from error


def plugin_about(library: Path) -> tuple[int, tuple[str, ...]]:
    """ABI and operators of the plugin library, from its ``farthing_tensorrt_about``: "abi 1; headers 10.14; operators A B".

    Raises Refused.
    """
    try:
        function = ctypes.CDLL(str(library)).farthing_tensorrt_about
        function.restype = ctypes.c_char_p
        fields = dict(part.strip().partition(" ")[::2] for part in function().decode().split(";"))
        return int(fields["abi"]), tuple(fields["operators"].split())
    except (OSError, AttributeError, KeyError, ValueError) as error:
        raise Refused(
            f"plugin library {library} is not usable ({error}), expected farthing's; build farthing_tensorrt again"
        ) from error


def check_plugins(library: Path, wanted: int) -> None:
    """Raises Refused for a plugin library of another ABI."""
    found = plugin_about(library)[0]
    if found != wanted:
        raise Refused(
            f"ABI of plugin library {library} is {found}, expected {wanted}; build the library and write the plan with one farthing"
        )


def make_logger(trt: Any) -> Any:
    """A logger that keeps warnings and errors in ``lines``."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                self.lines.append(message)

    return Logger()


def build(
    trt: Any, logger: Any, plan: dict[str, Any], graph: dict[str, Any], folder: Path, timing: Path | None
) -> bytes:
    """One engine. Raises Refused with the offending node."""
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    first_line = len(logger.lines)
    if not parser.parse_from_file(str(folder / graph["file"])):
        raise Refused(
            f"graph {graph['name']} is refused by the parser ({_parser_errors(parser)}), expected readable; "
            "compile with --trt set to this TensorRT's version"
        )
    check_warnings(graph["name"], logger.lines[first_line:])
    config = builder.create_builder_config()
    capabilities = plan.get("compute_capabilities") or []
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, number in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), index)
    if plan.get("aliased_io") and hasattr(trt, "PreviewFeature"):
        feature = getattr(trt.PreviewFeature, "ALIASED_PLUGIN_IO_10_03", None)
        if feature is not None:
            config.set_preview_feature(feature, True)
    for shapes in graph["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes["shapes"].items():
            profile.set_shape(name, low, best, high)
        config.add_optimization_profile(profile)
    if timing is not None and hasattr(config, "create_timing_cache"):
        cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b"")
        config.set_timing_cache(cache, False)
    engine = builder.build_serialized_network(network, config)
    check_warnings(graph["name"], logger.lines[first_line:])
    if engine is None:
        lines = "; ".join(logger.lines[first_line:])[-1500:]
        raise Refused(
            f"graph {graph['name']} is refused by the builder ({lines}), expected an engine; see docs/jetson.md"
        )
    if timing is not None and hasattr(config, "get_timing_cache"):
        timing.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def check_warnings(graph: str, lines: list[str]) -> None:
    """Raises Refused if a line says that an input is unused."""
    dropped = [line for line in lines if UNUSED in line.lower()]
    if dropped:
        raise Refused(
            f"parser's report on graph {graph} is {dropped[0].strip()!r}, expected every input to be used; "
            "the engine would compute something else: compile for another --trt, or report it"
        )


def _network_flags(trt: Any) -> int:
    # Since 11 every network is strongly typed; before, it must be asked for. TensorRT-RTX knows no other.
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None or trt.__name__ == "tensorrt_rtx" else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    parts = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        node = "/".join(str(getattr(error, f)()) for f in ("node_name", "node_operator") if hasattr(error, f))
        parts.append(f"node {node}: {error.desc()}")
    return "; ".join(parts)[:1500] or "it gave no reason"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(4 << 20):
            digest.update(piece)
    return digest.hexdigest()


def run(folder: Path, out: Path) -> dict[str, Any]:
    """Build everything in the plan. ``out`` appears whole or not at all."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    if plan.get("format") != "farthing-plan" or plan.get("format_version") != FORMAT_VERSION:
        raise Refused(
            f"{folder / 'plan.json'} is of another kind or version, expected farthing-plan {FORMAT_VERSION}; "
            "write the plan and build with one farthing"
        )
    sm = [device_sm()] if plan["needs_device"] else plan["compute_capabilities"]
    if min(sm) < plan.get("least_sm", 0):
        raise Refused(
            f"compute capability is {min(sm)}, expected {plan['least_sm']} or later for these weights; quantize with --weights int4 or "
            "int8 for this device (Jetson Orin is 87)"
        )
    for relative, digest in plan["files"].items():
        if (found := _sha256(folder / relative)) != digest:
            raise Refused(f"sha256 of {folder / relative} is {found}, expected {digest}; carry the folder again")
    trt = load_tensorrt(plan["module"])
    if (wanted := plan.get("trt")) and not _same_generation(trt.__version__, wanted):
        raise Refused(
            f"TensorRT here is {trt.__version__}, expected {wanted} as the plan was made for; plan again with "
            f"--trt {trt.__version__}"
        )
    logger = make_logger(trt)
    plugins = plan.get("plugins")
    if plugins:
        library = (folder / plugins["library"]).resolve()
        check_plugins(library, plugins["abi"])
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(logger, "")
        trt.get_plugin_registry().load_library(str(library))
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    graphs, files = {}, {}
    timing = folder / "timing.cache" if plan["needs_device"] else None
    for graph in plan["graphs"]:
        begin = time.perf_counter()
        engine = build(trt, logger, plan, graph, folder, timing)
        path = staged / f"{graph['name']}.engine"
        path.write_bytes(engine)
        files[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
        graphs[graph["name"]] = {
            "file": path.name,
            "seconds": round(time.perf_counter() - begin, 3),
            "profiles": graph["profiles"],
            "in_place": graph["in_place"],
        }
    index = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": plan["target"],
        "key": {
            **plan["key"],
            "tensorrt": trt.__version__,
            "sm": sm,
            "plugin_abi": plugins["abi"] if plugins else None,
        },
        "capacity": plan["capacity"],
        "graphs": graphs,
        "files": files,
        "warnings": sorted(set(logger.lines)),
    }
    (staged / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    staged.chmod(0o755)
    os.replace(staged, out)
    return index


def _same_generation(found: str, wanted: str) -> bool:
    """Whether one lowered graph serves both: see export/lower/generations.py, whose spans these are."""

    def span(version: str) -> int:
        numbers = [int(n) for n in version.split(".")[:2]]
        return sum(tuple(numbers) >= first for first in ((10, 10), (10, 15)))

    return span(found) == span(wanted)


def main() -> int:
    """The command."""
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    try:
        index = run(Path(sys.argv[1]), Path(sys.argv[2]))
        print(json.dumps({"ok": True, "index": index}))
        return 0
    except Refused as error:
        print(json.dumps({"ok": False, "error": str(error), "code": error.code}))
        return error.code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Some TensorRT versions crash while the interpreter takes them apart; everything is written by now.
    with contextlib.suppress(Exception):
        os._exit(code)
