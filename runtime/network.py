"""A network that is run once per input: opening its bundle, made-up inputs, and replaying the recorded vectors.

Needs numpy and onnxruntime only, as all of `runtime/`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from .bundle import Bundle, open_bundle
from .network_tensors import NETWORK

TOLERANCE = 2e-4
"""Largest allowed difference of an output, times its largest value where that exceeds 1: machines differ in the order of sums."""

QUANTIZED_TOLERANCE = 0.1
"""The same with activations in 8 bits: a value on the border of two codes may go either way, and takes what follows with it."""

SAMPLES = 256
"""Values of each output that are recorded, evenly spread."""

SIZES: Mapping[str, int] = MappingProxyType({"batch": 1, "length": 16})


@dataclass(frozen=True)
class Network:
    """An opened bundle of procedure single_pass. ``run`` maps the arrays of its inputs to those of its outputs."""

    bundle: Bundle
    session: Any

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One pass; names, dtypes and shapes are those of the manifest. Raises RequestError where they are not."""
        return run_session(self.session, feeds)


def open_network(path: str | Path, *, threads: int = 1) -> Network:
    """Open the bundle ``path`` by ONNX Runtime. Raises BundleError; RequestError where it decodes tokens instead."""
    bundle = open_bundle(path, networks=True)
    check_network(bundle)
    return Network(bundle, open_session(bundle.graph(NETWORK), threads))


def check_network(bundle: Bundle) -> None:
    """Raises RequestError unless ``bundle`` is run once per input."""
    if not bundle.is_network:
        raise RequestError(
            found_wanted(
                f"method of {bundle.path}",
                f"{bundle.manifest['method']['id']}, which decodes tokens",
                "a network that is run once per input",
                "open it with farthing.load",
            )
        )


def open_session(graph: Path, threads: int = 1) -> Any:
    """ONNX Runtime's session of the file ``graph``, on the CPU. Raises BundleError where it refuses the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        # Without VNNI the quick int8 product of x86 saturates in 16 bits: the same codes would give other results there. ONNX Runtime's way
        # around it breaks weights in blocks, which need none: they are multiplied by another kernel.
        if b"block_size" not in graph.read_bytes():
            options.add_session_config_entry("session.x64quantprecision", "1")
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise BundleError(
            found_wanted(
                f"graph {graph}",
                f"refused by onnxruntime {onnxruntime.__version__} ({str(error)[:300]})",
                "a graph of operators that it has",
                "update onnxruntime, or export the model for its operators",
            )
        ) from error


def run_session(session: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs by name. Raises RequestError for inputs the graph does not take."""
    names = [o.name for o in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        given = {name: f"{array.dtype} {list(array.shape)}" for name, array in feeds.items()}
        raise RequestError(
            found_wanted("input", f"{given} ({str(error)[:200]})", "what the graph takes", "see `farthing inspect`")
        ) from error


def made_up(
    inputs: Sequence[Mapping[str, Any]], *, seed: int, sizes: Mapping[str, int], id_limit: int
) -> dict[str, np.ndarray]:
    """Inputs that look like nothing in particular, the same everywhere: numpy's legacy generator is frozen by its policy.

    Floats are normal; integers named ``*mask*`` are 1 with a padded end in every second row, those named ``*type*`` 0, other integers
    ids below ``id_limit``. A symbolic first dimension is ``sizes['batch']``, any other ``sizes['length']``.
    """
    state = np.random.RandomState(seed)  # the only stream that numpy promises to keep
    feeds = {}
    array: np.ndarray
    for one in inputs:
        shape = tuple(
            d if isinstance(d, int) else sizes["batch" if axis == 0 else "length"]
            for axis, d in enumerate(one["shape"])
        )
        name, dtype = one["name"], np.dtype(one["dtype"])
        if dtype.kind == "f":
            array = state.standard_normal(shape)
        elif "mask" in name or dtype.kind == "b":
            array = np.ones(shape)
            if len(shape) == 2 and shape[1] > 3:
                array[1::2, -(shape[1] // 3) :] = 0
        elif "type" in name:
            array = np.zeros(shape)
        else:
            array = state.randint(0, 256 if dtype == np.uint8 else id_limit, shape)
        feeds[name] = array.astype(dtype)
    return feeds


def describe(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is recorded of outputs: shape, evenly spread values with their places, and the norm over all."""
    described = {}
    for name, array in outputs.items():
        flat = np.asarray(array, np.float64).reshape(-1)
        places = np.unique(np.linspace(0, max(flat.size - 1, 0), min(SAMPLES, flat.size)).astype(np.int64))
        described[name] = {
            "shape": list(array.shape),
            "places": places.tolist(),
            "values": [float(f"{v:.8g}") for v in flat[places]],
            "l2": float(f"{np.linalg.norm(flat):.10g}"),
        }
    return described


@dataclass(frozen=True)
class OutputResult:
    """One output of one case: the largest difference of a recorded value and what is allowed, and the same of the norm."""

    case: int
    name: str
    error: float
    allowed: float
    l2_error: float
    l2_allowed: float

    @property
    def ok(self) -> bool:
        """Whether both are within tolerance; a NaN never is."""
        return self.error <= self.allowed and self.l2_error <= self.l2_allowed

    def failure(self, fix: str = "see docs/verify.md for what may cause it") -> str:
        """The house sentence."""
        what, found, allowed = (
            ("difference of a value", self.error, self.allowed)
            if not self.error <= self.allowed
            else ("difference of the norm", self.l2_error, self.l2_allowed)
        )
        return found_wanted(
            f"{what} of output {self.name}, case {self.case}", f"{found:.3g}", f"at most {allowed:.3g}", fix
        )


@dataclass(frozen=True)
class NetworkResult:
    """All outputs of all recorded cases, by ONNX Runtime here."""

    outputs: list[OutputResult]
    cases: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every output of every case holds."""
        return all(o.ok for o in self.outputs)

    @property
    def worst(self) -> OutputResult:
        """The output that uses most of what is allowed."""
        return max(self.outputs, key=lambda o: np.nan_to_num(o.error / o.allowed, nan=np.inf))

    def failure(self) -> str | None:
        """The house sentence about the first output that does not hold, or None."""
        return next((o.failure() for o in self.outputs if not o.ok), None)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``farthing verify --json``."""
        error = self.worst.error
        return {
            "engine": "onnxruntime",
            "ok": self.ok,
            "cases": self.cases,
            "max_error": error if np.isfinite(error) else None,
            "allowed": self.worst.allowed,
            "failure": self.failure(),
            "seconds": round(self.seconds, 3),
        }


def read_network_cases(bundle: Bundle) -> list[dict[str, Any]]:
    """The recorded cases: ``feeds`` made again, and ``outputs`` as `describe` gives them. Raises BundleError."""
    name = bundle.manifest["vectors"]
    inputs = bundle.manifest["graphs"][NETWORK]["inputs"]
    try:
        raw = json.loads(bundle.text(name))
        limit = int(raw["id_limit"])
        cases = [
            {
                "feeds": made_up(inputs, seed=int(c["seed"]), sizes=c["sizes"], id_limit=limit),
                "outputs": {str(n): _described(o) for n, o in c["outputs"].items()},
            }
            for c in raw["cases"]
        ]
        if not cases or not all(c["outputs"] for c in cases):
            raise ValueError("no case, or one without outputs")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            found_wanted(f"{bundle.path / name}", f"unusable ({error!r})", "recorded vectors", "make the bundle again")
        ) from error
    return cases


def _described(raw: dict[str, Any]) -> dict[str, Any]:
    shape, places = [int(d) for d in raw["shape"]], np.array(raw["places"], np.int64)
    values = np.array(raw["values"], np.float64)
    if places.shape != values.shape or not places.size or places.min() < 0 or places.max() >= np.prod(shape):
        raise ValueError("values without a place inside the shape for each")
    return {"shape": shape, "places": places, "values": values, "l2": float(raw["l2"])}


def verify_network(bundle: Bundle, *, tolerance: float | None = None, threads: int = 1) -> NetworkResult:
    """Replay the recorded vectors. A difference is returned, not raised; BundleError where the bundle cannot be run."""
    start = time.perf_counter()
    check_network(bundle)
    if tolerance is None:
        said = bundle.manifest["quantization"]
        # ONNX Runtime rounds activations to 8 bits inside products with 4- and 8-bit weights, too.
        rounds = "activations" in said or said["weights"] in ("int4", "int8")
        tolerance = QUANTIZED_TOLERANCE if rounds else TOLERANCE
    session = open_session(bundle.graph(NETWORK), threads)
    cases, results = read_network_cases(bundle), []
    for number, case in enumerate(cases):
        found = run_session(session, case["feeds"])
        for name, recorded in case["outputs"].items():
            if name not in found or list(found[name].shape) != recorded["shape"]:
                have = list(found[name].shape) if name in found else "missing"
                raise BundleError(
                    found_wanted(f"output {name}, case {number}", have, recorded["shape"], "make the bundle again")
                )
            results.append(compare_values(number, name, found[name], recorded, tolerance))
    return NetworkResult(results, len(cases), time.perf_counter() - start)


def compare_values(
    case: int, name: str, found: np.ndarray, recorded: Mapping[str, Any], tolerance: float
) -> OutputResult:
    """``found`` beside what `describe` recorded."""
    flat = np.asarray(found, np.float64).reshape(-1)
    errors = np.nan_to_num(np.abs(flat[recorded["places"]] - recorded["values"]), nan=np.inf)
    allowed = tolerance * max(1.0, float(np.abs(recorded["values"]).max()))
    l2_error = float(np.nan_to_num(abs(np.linalg.norm(flat) - recorded["l2"]), nan=np.inf))
    return OutputResult(case, name, float(errors.max()), allowed, l2_error, allowed * flat.size**0.5)
