"""A width for each matrix against uniform widths: KL against bytes, on the calibration data and on others, as a table and a plot.

    python benchmarks/budget_search.py build/smollm2 build/minilm build/efficientnet --images DIR --out build/budget --plot docs/img/budget.png

For each bundle the uniform choices are measured, then the search at ``--budgets`` sizes between the smallest and 8 bits throughout.
``--gate`` fails where on the calibration data the search is worse than a uniform choice that fits. Results are kept in --out as JSON and
not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from farthing.calibration.evaluate_network import spearman
from farthing.calibration.network_data import samples_of
from farthing.calibration.network_int4 import WeightOptions
from farthing.calibration.network_int4.run import Job
from farthing.calibration.network_int4.sensitivity import Search
from farthing.calibration.network_int4.stand_in import open_in_memory, results
from farthing.calibration.network_kl import divergence, kind_of
from farthing.calibration.quality import Stream, read_text, token_ids
from farthing.calibration.quantize import Options
from farthing.calibration.quantize.budget import DecoderSearch
from farthing.calibration.quantize.moments import InputMoments, calibration_text
from farthing.calibration.quantize.plan import LayerPlan
from farthing.export.graph import no_progress
from farthing.runtime.bundle import open_bundle
from farthing.runtime.network import open_network

Point = dict[str, Any]


class DecoderCase:
    """A decoder: ``tokens`` of held-out text, of the default one."""

    def __init__(self, path: Path, tokens: int, symmetric: bool) -> None:
        source = open_bundle(path)
        moments = InputMoments(source, calibration_text(None), tokens=4096)
        self.search = DecoderSearch(source, Options(rounding="gptq", symmetric=symmetric), moments, LayerPlan())
        self._ids = token_ids(source, read_text(None), tokens)[0]
        self._kv, self._graph = source.manifest["kv"], source.graph("decoder")
        self._wanted = self._read(self._graph)

    def _read(self, graph: Path) -> list[np.ndarray]:
        stream = Stream(graph, self._kv)
        return [stream.feed(self._ids[at : at + 64]) for at in range(0, len(self._ids), 64)]

    def within(self, budget: int) -> Any:
        return self.search.within(budget)

    def fixed(self) -> int:
        return self.search.fixed_bytes()

    def held_out(self, widths: dict[str, str], folder: Path) -> float:
        folder.mkdir(parents=True, exist_ok=True)
        self.search.write(widths, folder)
        pairs = zip(self._wanted, self._read(folder / self._graph.name), strict=True)
        for file in folder.iterdir():
            file.unlink()
        return float(np.concatenate([np.einsum("rv,rv->r", np.exp(p), p - q) for p, q in pairs]).mean())


class NetworkCase:
    """A network: the other half of its data is held out."""

    def __init__(self, path: Path, images: str | None, symmetric: bool) -> None:
        source = open_network(path)
        vision = "image" in source.bundle.manifest["model"]
        self._job = Job(source, WeightOptions(symmetric=symmetric), no_progress)
        samples = samples_of(source.bundle, images=images if vision else None, limit=256)
        self._rounder, _ = self._job.prepare(samples.half(0))
        self._feeds = [feeds for _, feeds in samples.half(1)]
        self._wanted = results(open_in_memory(self._job.model, self._job.folder), self._feeds)
        self._kind = kind_of(self._wanted, text=not vision)
        self.search: Search = self._job.searched(self._rounder, samples.half(0))

    def within(self, budget: int) -> Any:
        return self.search.within(budget, self.fixed())

    def fixed(self) -> int:
        return self._job.fixed_bytes()

    def held_out(self, widths: dict[str, str], folder: Path) -> float:
        found = results(self.search.session(widths), self._feeds)
        return divergence(self._kind, self._wanted, found).kl.value


def points(case: DecoderCase | NetworkCase, budgets: int, folder: Path) -> list[Point]:
    """Uniform choices, and the search at sizes between them."""
    items, fixed = case.search.items(), case.fixed()

    def size(widths: dict[str, str]) -> int:
        return fixed + sum(item.costs[widths[item.name]] for item in items)

    def predicted(widths: dict[str, str]) -> float:
        return sum(item.losses["divergence"][widths[item.name]] for item in items)

    alone = [[item.losses[way]["int4"] for item in items] for way in ("divergence", "output error")]
    print(f"rank correlation of the two predictions: {spearman(np.array(alone[0]), np.array(alone[1])):.3f}")
    made: list[Point] = []
    for name, widths in case.search.uniforms().items():
        if name.startswith(("int4", "int8")):
            made.append({"name": f"uniform {name}", "bytes": size(widths), "kl": case.search.measure(widths)})
            made[-1]["predicted"] = predicted(widths)
            made[-1]["held_out"] = case.held_out(widths, folder)
    least = min(p["bytes"] for p in made)
    most = size({item.name: "int8" for item in items})
    for part in np.linspace(0, 1, budgets + 2)[1:-1]:
        limit = int(least + part * (most - least))
        found = case.within(limit)
        best = found.best_uniform
        row = {"name": found.best.name, "limit": limit, "bytes": found.best.bytes, "kl": found.best.kl}
        row["held_out"] = case.held_out(found.best.widths, folder)
        row["predicted"] = predicted(found.best.widths)
        row["by_output_error"] = next(c.kl for c in found.candidates if c.name == "search by output error")
        row["best_uniform"] = None if best is None else best.kl
        made.append(row)
        print(row, flush=True)
    return made


def plot(found: dict[str, list[Point]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.6))
    for axis, (name, rows) in zip(np.atleast_1d(axes), found.items(), strict=True):
        for kind, style in (("held_out", "-"), ("kl", ":")):
            searched = sorted((p["bytes"], p[kind]) for p in rows if "limit" in p)
            label = "search" if kind == "held_out" else "search, on the calibration data"
            axis.plot(*np.array(searched).T / np.array([[1e6], [1]]), "o" + style, color="tab:blue", label=label, ms=4)
        uniform = np.array([(p["bytes"] / 1e6, p["held_out"]) for p in rows if "limit" not in p])
        axis.plot(*uniform.T, "s", color="tab:orange", label="uniform")
        axis.set(title=name, xlabel="MB", ylabel="KL to float, nats, held-out data", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--images", help="folder of pictures, for vision models")
    parser.add_argument("--budgets", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512, help="of held-out text, for decoders")
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/budget"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--gate", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found, worse = {}, []
    for bundle in arguments.bundles:
        kept = arguments.out / f"{bundle.name}.json"
        if not kept.exists():
            case: DecoderCase | NetworkCase
            if open_bundle(bundle, hashes=False, networks=True).is_network:
                case = NetworkCase(bundle, arguments.images, arguments.symmetric)
            else:
                case = DecoderCase(bundle, arguments.tokens, arguments.symmetric)
            kept.write_text(json.dumps(points(case, arguments.budgets, arguments.out / "graph"), indent=1))
        rows = found[bundle.name] = json.loads(kept.read_text())
        print(f"\n| {bundle.name} | MB | KL, calibration data | KL, held-out data |\n|---|---|---|---|")
        for row in sorted(rows, key=lambda r: r["bytes"]):
            print(f"| {row['name']} | {row['bytes'] / 1e6:.2f} | {row['kl']:.4g} | {row['held_out']:.4g} |")
        worse += [r for r in rows if r.get("best_uniform") is not None and r["kl"] > r["best_uniform"]]
    if arguments.plot:
        plot(found, arguments.plot)
    return 1 if worse and arguments.gate else 0


if __name__ == "__main__":
    sys.exit(main())
