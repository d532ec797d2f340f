"""TensorRT-RTX builds an engine of every token reduction, for both generations of graphs; nothing here runs on a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from reduction_graphs import class_scores, globalcom, idpruner, matryoshka, projector, sensitivity, zoo
from rtx import needs_rtx, python, write_plan
from test_globalcom import layer

from farthing.export.compile.process import build_in_subprocess
from farthing.export.lower import lower
from farthing.runtime.anyres import anyres

pytestmark = needs_rtx

GRID, LAYOUT = 6, anyres((480, 640), (2, 2), 6)
K = 45 + LAYOUT.newlines


def engine(graph: Path, trt: str, folder: Path) -> bytes:
    """The engine of ``graph``, lowered; T, L, N and B are those of one image, or N and B as many again."""
    folder.mkdir()
    onnx.save(lower(onnx.load(graph, load_external_data=False), trt), folder / "g.onnx")
    for data in graph.parent.glob("*.data"):
        shutil.copy(data, folder)
    model = onnx.load(graph, load_external_data=False)
    sizes = {"T": (1, 5, 5), "L": (20, LAYOUT.order.size, 400), "N": (36, 36, 36), "B": (1, 1, 2)}
    shapes = {}
    for value in model.graph.input:
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        if any(isinstance(d, str) for d in dims):
            shapes[value.name] = [[sizes[d][i] if isinstance(d, str) else d for d in dims] for i in range(3)]
    write_plan(folder, "g", [{"name": "run", "shapes": shapes}], in_place=False)
    build_in_subprocess(python() or "", folder, folder / "out")
    return (folder / "out" / "g.engine").read_bytes()


def made(piece: str, folder: Path) -> Path:
    p, b2 = projector(1, 16, 24, 20)
    rng = np.random.default_rng(0)
    selector = {n: rng.standard_normal((8, 12) if "weight" in n else 8).astype(np.float32) for n in SELECTOR}
    return {
        "exact": lambda: sensitivity(folder, p),
        "zo": lambda: sensitivity(folder, p, estimator="zo", count=8, rank=4),
        "zoo": lambda: zoo(folder, p, b2, GRID * GRID, K),
        "logits": lambda: class_scores(folder, layer(16, 4), GRID * GRID, "logits"),
        "probs": lambda: class_scores(folder, layer(16, 4), GRID * GRID, "probs"),
        "globalcom": lambda: globalcom(folder, GRID, K, 0.25),
        "idpruner": lambda: idpruner(folder, selector, 12, 9),
        "norm": lambda: idpruner(folder, None, 12, 9),
        "matryoshka": lambda: matryoshka(folder, 12, 36, 8),
    }[piece]()


SELECTOR = ("q_weight", "q_bias", "k_weight", "k_bias")
PIECES = ("exact", "zo", "zoo", "logits", "probs", "globalcom", "idpruner", "norm", "matryoshka")


@pytest.mark.parametrize("trt", ("10.16", "10.3"))
@pytest.mark.parametrize("piece", PIECES)
def test_every_reduction_builds(tmp_path: Path, piece: str, trt: str) -> None:
    (tmp_path / "graph").mkdir()
    assert engine(made(piece, tmp_path / "graph"), trt, tmp_path / "plan")[1:4] == b"trt"
