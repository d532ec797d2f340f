"""Time every operator's CPU kernel against its body in ONNX Runtime, and against what this machine can do.

    python benchmarks/operators.py                       print the table
    python benchmarks/operators.py --only TokenSelect    rows whose name contains this
    python benchmarks/operators.py --docs docs           also write docs/operator-speed.md and its plot
    python benchmarks/operators.py --check               fail if a kernel is slower than its row allows

Rows come from plugins/<operator>/bench.py. Times are process CPU seconds at one thread, the best of many calls; body and kernel take
turns, so both see the same machine. Peaks are measured in the same run, by `farthing.calibration.roofline`.
"""

import argparse
import ctypes
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import helper

from farthing import plugins
from farthing.calibration.roofline import Peaks, measure_peaks
from farthing.plugins.bench import Bench
from farthing.plugins.check.graph import constant
from farthing.plugins.contract import IR_VERSION, OPSET

BUDGET = 1.0
"""CPU seconds to spend on each row and face, in at least 3 calls."""


@dataclass
class Result:
    bench: Bench
    body: float
    kernel: float

    @property
    def ratio(self) -> float:
        return self.body / self.kernel

    def share(self, peaks: Peaks) -> float:
        """Least time that the work allows, by the tighter of the two peaks, over the time taken."""
        return max(self.bench.flops / peaks.flops, self.bench.bytes / peaks.bandwidth) / self.kernel


def rows() -> Iterator[Bench]:
    for folder in plugins.folders().values():
        if (folder / "bench.py").is_file():
            yield from importlib.import_module(f"{plugins.__name__}.{folder.name}.bench").rows()


def model(bench: Bench) -> onnx.ModelProto:
    """One node with its body; constants as initializers, everything else as inputs and outputs."""
    op = plugins.operator(bench.operator)
    given = list(zip(op.inputs, bench.inputs))
    names = [port.name if array is not None else "" for port, array in given]
    while not names[-1]:
        names.pop()
    graph = helper.make_graph(
        [helper.make_node(op.name, names, [p.name for p in op.outputs], domain=plugins.DOMAIN, **bench.attributes)],
        "bench",
        [
            helper.make_tensor_value_info(p.name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for p, a in given
            if a is not None and p.name not in bench.constants
        ],
        [onnx.ValueInfoProto(name=p.name) for p in op.outputs],
        [constant(p.name, a, dict(bench.nibbles)) for p, a in given if a is not None and p.name in bench.constants],
    )
    return helper.make_model(
        graph,
        functions=[op.body(bench.attributes, [bool(name) for name in names])],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(plugins.DOMAIN, plugins.DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )


def session(proto: onnx.ModelProto, kernels: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # As the runtime does: ONNX Runtime's product with 4-bit weights rounds inputs to 8 bits, which is its fastest way.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    if kernels:
        options.register_custom_ops_library(str(plugins.library_path()))
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def caller(bench: Bench, kernels: bool) -> Callable[[], None]:
    """A call of the operator with bound buffers, so that no copy of ours is timed."""
    op = plugins.operator(bench.operator)
    made = session(model(bench), kernels)
    binding = made.io_binding()
    values = {}
    for port, array in zip(op.inputs, bench.inputs):
        if array is not None and port.name not in bench.constants:
            values[port.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(port.name, values[port.name])
    for port in op.outputs:
        if port.alias in values:
            binding.bind_ortvalue_output(port.name, values[port.alias])
        else:
            binding.bind_output(port.name)
    return lambda: made.run_with_iobinding(binding)


def seconds(call: Callable[[], None], count: int) -> float:
    """CPU seconds of one call: the mean over ``count``, which is more than the clock's resolution."""
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def measure(bench: Bench) -> Result:
    calls = [caller(bench, kernels) for kernels in (False, True)]
    counts = []
    for call in calls:
        call()
        counts.append(max(1, int(0.02 / max(seconds(call, 1), 1e-6))))  # 20 ms at a time
    best = [float("inf")] * 2
    spent, turns = 0.0, 0
    while spent < 2 * BUDGET or turns < 3:
        for i, call in enumerate(calls):
            took = seconds(call, counts[i])
            best[i] = min(best[i], took)
            spent += took * counts[i]
        turns += 1
    return Result(bench, *best)


def instruction_set() -> str:
    library = ctypes.CDLL(str(plugins.library_path()))
    library.farthing_ops_isa.restype = ctypes.c_char_p
    return library.farthing_ops_isa().decode()


def duration(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def table(results: list[Result], peak: Peaks) -> list[str]:
    lines = [
        "| operator | size | body | kernel | ratio | MFLOP | MB | of peak |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        b = r.bench
        lines.append(
            f"| {b.operator} | {b.name} | {duration(r.body)} | {duration(r.kernel)} | {r.ratio:.1f} | {b.flops / 1e6:.4g} | "
            f"{b.bytes / 1e6:.3g} | {100 * r.share(peak):.0f} % |"
        )
    return lines


def write_docs(folder: Path, results: list[Result], peak: Peaks, isa: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "farthing"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.32 * len(results) + 1))
    axes.barh([str(r.bench) for r in results], [r.ratio for r in results], color="#7a5230")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("times faster than the body (CPU seconds, one thread)")
    axes.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(folder / "operator-speed.svg", metadata={"Date": None})
    notes = list(dict.fromkeys(f"- {r.bench}: {r.bench.note}" for r in results if r.bench.note))
    text = [
        "# Speed of the operators",
        "",
        "Written by `python benchmarks/operators.py --docs docs`. CPU seconds of one call at one thread, the best of many, body and "
        "kernel taking turns in one process. The body is the operator in standard ONNX operators, run by ONNX Runtime "
        f"{onnxruntime.__version__}; the kernel is ours, here its {isa} build. A GPU was not used: the CUDA kernels are untested on "
        "GPU.",
        "",
        f"Peaks of the same core, measured in the same run: {peak.flops / 1e9:.0f} GFLOP/s (float32 matrix product in ONNX Runtime), "
        f"{peak.bandwidth / 1e9:.1f} GB/s (a number of every cache line of 256 MB, on large pages). MFLOP and MB are what the result needs at least, as "
        "`plugins/<operator>/bench.py` derives it, and *of peak* is the least time they allow over the kernel's time. It can exceed "
        "100 % where the data stays in a cache, as weights of one layer do here and those of a whole model do not.",
        "",
        *table(results, peak),
        "",
        "![how many times faster than the body](operator-speed.svg)",
        *(["", *notes] if notes else []),
        "",
    ]
    (folder / "operator-speed.md").write_text("\n".join(text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose operator and name contain this")
    parser.add_argument("--docs", type=Path, help="folder to write operator-speed.md and .svg to")
    parser.add_argument("--check", action="store_true", help="fail if a kernel is slower than its row allows")
    args = parser.parse_args()
    if plugins.library_path() is None:
        print("native operator library is missing, expected plugins/libfarthing_ops.so; build it with `make build`")
        return 6
    peak, isa = measure_peaks(), instruction_set()
    print(
        f"{isa} kernels, {peak.flops / 1e9:.0f} GFLOP/s, {peak.bandwidth / 1e9:.1f} GB/s, load {os.getloadavg()[0]:.1f}"
    )
    results = []
    for bench in rows():
        if args.only in str(bench):
            results.append(measure(bench))
            print(table(results, peak)[-1], flush=True)
    if args.docs:
        write_docs(args.docs, results, peak, isa)
    slow = [r for r in results if r.ratio < r.bench.least]
    for r in slow:
        print(f"kernel of {r.bench} is {r.ratio:.2f} times as fast as its body, expected {r.bench.least} or more")
    return 1 if args.check and slow else 0


if __name__ == "__main__":
    sys.exit(main())
