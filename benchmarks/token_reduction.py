"""CPU seconds of every token reduction, one thread, beside the projector that stands in front of it. Prints the table of docs/token-reduction.md.

    python benchmarks/token_reduction.py [--quick]

576 tokens are one view of CLIP-L/336, 2880 a thumbnail and four tiles; features before the projector have 1024 numbers, behind it as
many as the language model is wide: 576 (SmolLM2-135M) or 4096 (LLaVA-7B). Selections keep a quarter.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime

from farthing.export.graph import token_reduction as tr
from farthing.export.graph.writer import GraphWriter, TensorInfo
from farthing.plugins import library_path
from farthing.runtime.anyres import anyres

TOWER, SELECTOR, HEADS = 1024, 1792, 16


def seconds(folder: Path, inputs: dict[str, np.ndarray], write, *, kernels: bool = True, times: int = 3) -> float:
    """Least CPU seconds of one call of the graph that ``write(writer)`` fills; it returns the outputs (name, dtype, shape)."""
    rng = np.random.default_rng(0)
    with GraphWriter(folder, f"g{rng.integers(1 << 30)}{len(list(folder.iterdir()))}") as w:
        w.inputs += [TensorInfo(n, str(a.dtype), a.shape) for n, a in inputs.items()]
        w.outputs += [TensorInfo(*o) for o in write(w)]
        w.save()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if kernels:
        options.register_custom_ops_library(str(library_path()))
    session = onnxruntime.InferenceSession(str(w.path), options, providers=["CPUExecutionProvider"])
    best = float("inf")
    for _ in range(times):
        begin = time.process_time()
        session.run(None, inputs)
        best = min(best, time.process_time() - begin)
        if best > 5:
            break
    del session
    for file in folder.iterdir():
        file.unlink()
    return best


def measure(views: int, width: int, quick: bool):
    """(name, seconds or None) of every piece."""
    rng = np.random.default_rng(1)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    n = 576 * views
    layout = anyres((800, 800), (2, 2), 24) if views > 1 else anyres((800, 800), (0, 0), 24, newline=False)
    rows = layout.order.size
    k = round(layout.candidates / 4) + layout.newlines
    v, x, score = floats(views, 576, TOWER), floats(1, rows, width), floats(1, rows)
    x += 3 * floats(1, 1, width)
    p = tr.Projector(floats(width, TOWER) / 32, floats(width), floats(width, width) / width**0.5)
    folder = Path(tempfile.mkdtemp())

    def projector(w):
        for name, array in (("w1", p.w1.T), ("b1", p.b1), ("w2", p.w2.T)):
            w.weight(name, array.shape, "float32", [np.ascontiguousarray(array)])
        w.node("MatMul", ["v", "w1"], ["a"])
        w.node("Add", ["a", "b1"], ["h"])
        w.node("Gelu", ["h"], ["g"])
        w.node("MatMul", ["g", "w2"], ["y"])
        return [("y", "float32", (views, 576, width))]

    def sensitivity(**options):
        def write(w):
            tr.add_sensitivity(w, "h", "s", projector=p, hidden="h", **options)
            return [("s", "float32", (views, 576))]

        return seconds(folder, {"h": floats(views, 576, width)}, write)

    def linear(w):
        weights = {"q_weight": floats(SELECTOR, width), "k_weight": floats(SELECTOR, width)}
        tr.add_linear_scorer(w, "x", "s", **weights, q_bias=floats(SELECTOR), k_bias=floats(SELECTOR))
        return [("s", "float32", (1, rows))]

    def norm(w):
        tr.add_norm_scores(w, "x", "s")
        return [("s", "float32", (1, rows))]

    def cls(w):
        square, vector = [floats(TOWER, TOWER) / 32 for _ in range(2)], [floats(TOWER) for _ in range(4)]
        layer = tr.LastLayer(vector[0], vector[1], square[0], vector[2], square[1], vector[3], HEADS)
        tr.add_cls_scores(w, "x", "s", layer=layer)
        return [("s", "float32", (views, 576))]

    def shares(w):
        names = ("order", "group", "tap_index", "tap_weight", "regions")
        tr.add_globalcom_scores(w, "gc", cls_score="c", k=k, keep=0.25, **{i: i for i in names})
        return [("gc.score", "float32", (1, rows)), ("gc.quota", "int64", (1, views))]

    def selection(mode, kernels):
        feeds = {"score": score, "x": x}
        if views > 1:
            feeds |= {"group": layout.group, "quota": np.array([[-(-(k - layout.newlines) // views)] * views])}

        def write(w):
            extra = {"group": "group", "quota": "quota"} if mode != "mmr" and views > 1 else {}
            if mode == "mmr" and views > 1:
                extra = {"group": "group"}
                w.inputs = [i for i in w.inputs if i.name != "quota"]
            made = tr.add_selection(w, tr.Selection(k, mode), scores="score", embeds="x", prefix="kept", **extra)
            return [(made["embeds"], "float32", (1, k, width)), (made["index"], "int64", (1, k))]

        if mode == "mmr":
            feeds.pop("quota", None)
        return seconds(folder, feeds, write, kernels=kernels)

    def pooling(w):
        tr.add_pooling(w, "y", "z", grid=(24, 24), pool=2, width=width)
        return [("z", "float32", (views, 144, width))]

    yield "projector itself", seconds(folder, {"v": v}, projector)
    yield "sensitivity, exact", sensitivity()
    yield "sensitivity, zo, 64 directions, rank 128", sensitivity(estimator="zo", rank=128)
    yield "sensitivity, zo, 64 directions", None if quick else sensitivity(estimator="zo")
    yield "linear scorer, H = 1792", seconds(folder, {"x": x}, linear)
    yield "norm", seconds(folder, {"x": x}, norm)
    yield "class scores", seconds(folder, {"x": floats(views, 577, TOWER)}, cls)
    if views > 1:
        index, weight = layout.taps()
        feeds = {"c": floats(views, 576), "order": layout.order, "group": layout.group}
        feeds |= {"tap_index": index, "tap_weight": weight, "regions": layout.regions()}
        yield "GlobalCom2 scores and quotas", seconds(folder, feeds, shares)
    else:
        yield "GlobalCom2 scores and quotas", None
    for mode in ("topk", "mmr", "sads"):
        for kernels in (True, False):
            yield f"select a quarter, {mode}, {'kernel' if kernels else 'body'}", selection(mode, kernels)
    yield "pooling to a quarter", seconds(folder, {"y": floats(views, 576, width)}, pooling)
    folder.rmdir()
    assert n == views * 576


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the full-rank finite differences (minutes)")
    quick = parser.parse_args().quick
    sizes = [(1, 576), (5, 576), (1, 4096), (5, 4096)]
    table: dict[str, list[float | None]] = {}
    for views, width in sizes:
        for name, value in measure(views, width, quick):
            table.setdefault(name, []).append(value)
    print("| CPU milliseconds, one thread | " + " | ".join(f"{576 * v} x {w}" for v, w in sizes) + " |")
    print("|---|" + "--:|" * len(sizes))
    for name, values in table.items():
        shown = ["" if t is None else f"{1e3 * t:,.2f}" if t < 0.1 else f"{1e3 * t:,.0f}" for t in values]
        print(f"| {name} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
