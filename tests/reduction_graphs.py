"""Whole token reductions as small graphs, for the tests: features of an image's views in, kept rows out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from farthing.export.graph import token_reduction as tr
from farthing.export.graph.writer import GraphWriter, TensorInfo
from farthing.plugins import library_path
from farthing.runtime.anyres import AnyRes

LIBRARIES = [None] + ([library_path()] if library_path() else [])


def run(path: Path, feeds: dict, library: Path | None = None) -> list[np.ndarray]:
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def projector(seed: int, width: int, hidden: int, out: int) -> tuple[tr.Projector, np.ndarray]:
    """A random two-layer projector whose units differ in how steep they are, and its last bias."""
    rng = np.random.default_rng(seed)
    w1 = rng.standard_normal((hidden, width)) / np.sqrt(width)
    w2 = rng.standard_normal((out, hidden)) / np.sqrt(hidden)
    b1, b2 = rng.standard_normal(hidden), rng.standard_normal(out)
    return tr.Projector(w1.astype(np.float32), b1.astype(np.float32), w2.astype(np.float32)), b2.astype(np.float32)


def sensitivity(folder: Path, p: tr.Projector, *, stem: str = "sensitivity", **options: object) -> Path:
    """features [T,N,dv] -> s [T,N]."""
    with GraphWriter(folder, stem) as w:
        w.inputs.append(TensorInfo("features", "float32", ("T", "N", p.w1.shape[1])))
        tr.add_sensitivity(w, "features", "s", projector=p, **options)
        w.outputs.append(TensorInfo("s", "float32", ("T", "N")))
        w.save()
        return w.path


def zoo(folder: Path, p: tr.Projector, b2: np.ndarray, tokens: int, k: int) -> Path:
    """features, order, group -> kept [1,k], rows [1,k,D], s [T,N], x [1,L,D]."""
    out = p.w2.shape[0]
    with GraphWriter(folder, "zoo") as w:
        w.inputs += [
            TensorInfo("features", "float32", ("T", tokens, p.w1.shape[1])),
            TensorInfo("order", "int64", ("L",)),
            TensorInfo("group", "int64", (1, "L")),
        ]
        for name, array in (("w1", p.w1.T), ("b1", p.b1), ("w2", p.w2.T), ("b2", b2), ("newline", np.ones((1, out)))):
            w.weight(name, array.shape, "float32", [np.ascontiguousarray(array, np.float32)])
        w.constant("table", np.array([-1, out], np.int64))
        w.constant("batch", np.array([0], np.int64))
        w.node("MatMul", ["features", "w1"], ["first"])
        w.node("Add", ["first", "b1"], ["hidden"])
        w.node("Gelu", ["hidden"], ["active"])
        w.node("MatMul", ["active", "w2"], ["second"])
        w.node("Add", ["second", "b2"], ["projected"])
        w.node("Reshape", ["projected", "table"], ["flat"])
        w.node("Concat", ["flat", "newline"], ["all"], axis=0)
        w.node("Gather", ["all", "order"], ["ordered"], axis=0)
        w.node("Unsqueeze", ["ordered", "batch"], ["x"])
        tr.add_sensitivity(w, "features", "s", projector=p, hidden="hidden")
        tr.add_row_scores(w, "s", "order", "row_scores")
        quota, seen = tr.add_equal_quotas(w, "zoo", group="group", views="features", k=k)
        made = tr.add_selection(
            w,
            tr.Selection(k, "sads", epsilon=1e-8),
            scores="row_scores",
            embeds="x",
            group=seen.group,
            quota=quota,
            prefix="kept",
        )
        w.outputs += [
            TensorInfo(made["index"], "int64", (1, k)),
            TensorInfo(made["embeds"], "float32", (1, k, out)),
            TensorInfo("s", "float32", ("T", tokens)),
            TensorInfo("x", "float32", (1, "L", out)),
        ]
        w.save()
        return w.path


def globalcom(folder: Path, grid: int, k: int, keep: float, *, width: int = 3) -> Path:
    """cls_score, rows and the layout -> kept [1,k], quota [1,T], score [1,L]."""
    with GraphWriter(folder, f"globalcom{k}") as w:
        w.inputs += [
            TensorInfo("cls_score", "float32", ("T", grid * grid)),
            TensorInfo("rows", "float32", (1, "L", width)),
            TensorInfo("order", "int64", ("L",)),
            TensorInfo("group", "int64", (1, "L")),
            TensorInfo("tap_index", "int64", ("L", 4)),
            TensorInfo("tap_weight", "float32", ("L", 4)),
            TensorInfo("regions", "float32", ("T", grid * grid)),
        ]
        score, quota, seen = tr.add_globalcom_scores(
            w,
            "gc",
            cls_score="cls_score",
            order="order",
            group="group",
            tap_index="tap_index",
            tap_weight="tap_weight",
            regions="regions",
            k=k,
            keep=keep,
        )
        made = tr.add_selection(
            w, tr.Selection(k, "topk"), scores=score, embeds="rows", group=seen.group, quota=quota, prefix="kept"
        )
        w.outputs += [
            TensorInfo(made["index"], "int64", (1, k)),
            TensorInfo(quota, "int64", (1, "T")),
            TensorInfo(score, "float32", (1, "L")),
        ]
        w.save()
        return w.path


def layout_feeds(layout: AnyRes) -> dict[str, np.ndarray]:
    """What a graph with several views is told besides the features."""
    index, weight = layout.taps()
    return {
        "order": layout.order,
        "group": layout.group,
        "tap_index": index,
        "tap_weight": weight,
        "regions": layout.regions(),
    }


def class_scores(folder: Path, layer: tr.LastLayer, tokens: int, kind: str) -> Path:
    """hidden [T,1+N,D] -> cls_score [T,N]."""
    with GraphWriter(folder, f"class-{kind}") as w:
        w.inputs.append(TensorInfo("hidden", "float32", ("T", 1 + tokens, layer.norm_weight.size)))
        tr.add_cls_scores(w, "hidden", "cls_score", layer=layer, kind=kind)
        w.outputs.append(TensorInfo("cls_score", "float32", ("T", tokens)))
        w.save()
        return w.path


def idpruner(folder: Path, weights: dict[str, np.ndarray] | None, width: int, k: int) -> Path:
    """embeds [B,N,D] -> kept [B,k], scores [B,N]; by the length where there is no selector."""
    with GraphWriter(folder, "idpruner") as w:
        w.inputs.append(TensorInfo("embeds", "float32", ("B", "N", width)))
        if weights is None:
            tr.add_norm_scores(w, "embeds", "scores")
        else:
            tr.add_linear_scorer(w, "embeds", "scores", **weights)
        made = tr.add_selection(w, tr.Selection(k, "mmr"), scores="scores", embeds="embeds", prefix="kept")
        w.outputs += [TensorInfo(made["index"], "int64", ("B", k)), TensorInfo("scores", "float32", ("B", "N"))]
        w.save()
        return w.path


def matryoshka(folder: Path, grid: int, scale: int, width: int) -> Path:
    """x [T,N,D], order of the reduced grid -> rows [L,D]; the last row of the table is a line break of zeros."""
    with GraphWriter(folder, f"m3-{scale}") as w:
        w.inputs += [TensorInfo("x", "float32", ("T", grid * grid, width)), TensorInfo("order", "int64", ("L",))]
        pool = tr.scale_pool(grid, scale)
        tr.add_pooling(w, "x", "pooled", grid=(grid, grid), pool=pool, width=width)
        w.constant("table", np.array([-1, width], np.int64))
        w.constant("newline", np.zeros((1, width), np.float32))
        w.node("Reshape", ["pooled", "table"], ["flat"])
        w.node("Concat", ["flat", "newline"], ["all"], axis=0)
        w.node("Gather", ["all", "order"], ["rows"], axis=0)
        w.outputs.append(TensorInfo("rows", "float32", ("L", width)))
        w.save()
        return w.path
