"""What the commands say of a bundle that is run once per input."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from ..runtime.network import NetworkResult


def verify_text(bundle: Bundle, result: NetworkResult) -> str:
    """Lines of ``farthing verify``."""
    size = sum(f["bytes"] for f in bundle.manifest["files"].values())
    r = result.as_json()
    error = "not a number" if r["max_error"] is None else f"{r['max_error']:.1e}"
    return (
        f"{bundle.path}: {len(bundle.manifest['files'])} files, {size / 1e6:.1f} MB, schema and hashes as recorded\n"
        f"onnxruntime: {'holds' if r['ok'] else 'FAILS'}; {r['cases']} inputs, largest difference of an output {error} "
        f"(allowed {r['allowed']:.1e}), {r['seconds']:.1f} s"
    )


def inspect_network(bundle: Bundle, graph: dict[str, Any] | None, margin: int) -> dict[str, Any]:
    """What ``farthing inspect`` shows, as plain data; sizes in bytes."""
    m = bundle.manifest
    entry = m["graphs"]["network"]
    return {
        "path": str(bundle.path),
        "name": m["name"],
        "format_version": m["format_version"],
        "method": m["method"],
        "model": m["model"],
        "inputs": entry["inputs"],
        "outputs": entry["outputs"],
        "tokenizer": m["tokenizer"],
        "quantization": m["quantization"],
        "provenance": m["provenance"],
        "files": {name: file["bytes"] for name, file in sorted(m["files"].items())},
        "memory": {"weights": bundle.weight_bytes, "margin": margin, "total": bundle.weight_bytes + margin},
        "graphs": {"network": graph},
    }


def inspect_text(r: dict[str, Any]) -> str:
    """The same as lines."""
    origin, memory = r["provenance"], r["memory"]
    lines = [
        f"{r['name']}  ({r['path']}, format {r['format_version']})",
        f"  method      {r['method']['id']}: run once per input, {r['method']['guarantee']}",
        f"  model       {r['model']['family']}, {r['model']['parameters'] / 1e6:.1f} M parameters",
        f"  weights     {_widths(r['quantization'])}"
        + (f", activations {r['quantization']['activations']}" if "activations" in r["quantization"] else ""),
        f"  tokenizer   {'none' if r['tokenizer'] is None else str(r['tokenizer']['vocab_size']) + ' ids'}",
        f"  from        {origin['checkpoint']['kind']} {origin['checkpoint']['name']} "
        f"(sha256 {origin['checkpoint']['sha256'][:12]}...), "
        + ", ".join(f"{name} {version}" for name, version in sorted(origin["versions"].items())),
    ]
    for side in ("inputs", "outputs"):
        lines += [f"  {side[:-1]:<11} {t['name']}: {t['dtype']} {t['shape']}" for t in r[side]]
    lines += ["  files", *(f"    {size:>14,}  {name}" for name, size in r["files"].items())]
    lines.append(
        f"  memory      {memory['weights'] / 2**20:.1f} MiB weights + {memory['margin'] / 2**20:.0f} MiB for the rest"
    )
    return "\n".join(lines)


def _widths(quantization: dict[str, Any]) -> str:
    from .inspect import widths_text

    return widths_text(quantization) if "layers" in quantization else str(quantization["weights"])


def bench_network(path: str, *, batch: int, length: int, runs: int, threads: int) -> dict[str, Any]:
    """Time of one pass on made-up inputs: median of ``runs``, after one that is not counted."""
    from ..runtime.network import made_up, open_network

    start = time.perf_counter()
    network = open_network(path, threads=threads)
    opened = time.perf_counter() - start
    manifest = network.bundle.manifest
    feeds = made_up(
        manifest["graphs"]["network"]["inputs"],
        seed=0,
        sizes={"batch": batch, "length": length},
        id_limit=min(1000, manifest["model"].get("vocab_size", 1000)),
    )
    network.run(feeds)
    clock = time.perf_counter()
    network.run(feeds)
    # Process time may tick in hundredths of a second only.
    passes = max(1, round(0.2 / max(time.perf_counter() - clock, 1e-6)))
    cpu, wall = [], []
    for _ in range(runs):
        begin, clock = time.process_time(), time.perf_counter()
        for _ in range(passes):
            network.run(feeds)
        cpu.append((time.process_time() - begin) / passes)
        wall.append((time.perf_counter() - clock) / passes)
    return {
        "bundle": path,
        "threads": threads,
        "shapes": {name: list(array.shape) for name, array in feeds.items()},
        "runs": runs,
        "open_seconds": opened,
        "cpu_seconds_per_pass": statistics.median(cpu),
        "seconds_per_pass": statistics.median(wall),
        "weight_bytes": network.bundle.weight_bytes,
        "load_average": os.getloadavg()[0],
    }


def bench_text(r: dict[str, Any]) -> str:
    """The same as lines."""
    return (
        f"{r['bundle']}: ONNX Runtime, {r['threads'] or 'all'} thread(s), median of {r['runs']}, load {r['load_average']:.1f}\n"
        f"  opening   {r['open_seconds']:.2f} s\n"
        f"  one pass  {1e3 * r['cpu_seconds_per_pass']:.2f} CPU-ms   {1e3 * r['seconds_per_pass']:.2f} ms\n"
        f"  inputs    {r['shapes']}\n"
        f"  weights   {r['weight_bytes'] / 1e6:.1f} MB"
    )
