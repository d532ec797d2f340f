"""TensorRT-RTX builds an engine for every graph of every image bundle, on a machine without a GPU. Nothing here runs on a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import drawing_models as models
import pytest
from rtx import needs_rtx, rtx

from farthing.export.compile import compile_bundle
from farthing.runtime.bundle.compiled import open_compiled

__all__ = ["rtx"]
pytestmark = [needs_rtx, pytest.mark.usefixtures("rtx")]


@pytest.mark.parametrize(
    ("kind", "trt"),
    [(kind, None) for kind in ("nar", "elm-2", "shuffle-2", "gsd", "lantern", "text")]
    + [("gsd", "10.3")]
    + [pytest.param(kind, "10.3", marks=pytest.mark.slow) for kind in ("nar", "elm-2", "shuffle-2", "lantern", "text")],
)
def test_every_graph_that_draws_builds(kind: str, trt: str | None, tmp_path: Path) -> None:
    bundle = models.bundle(kind)
    made = compile_bundle(bundle, "tensorrt-rtx", sm=[89], trt=trt, out=tmp_path, chunk=8, batch=2)
    assert set(made.graphs) == set(json.loads((bundle / "manifest.json").read_text())["graphs"])
    index = open_compiled(made.path).index
    assert not [w for w in index["warnings"] if "nused" in w]
    profiles = {name: graph["profiles"] for name, graph in index["graphs"].items()}
    if kind == "nar":  # one profile from one code to the longest diagonal
        assert [p["shapes"]["logit_rows"] for p in profiles["ar_step"]] == [[[2, 1], [2, 4], [2, 4]]]
    if kind == "gsd":
        assert profiles["accept_grouped"][0]["shapes"]["p"] == [[2, 40], [17, 40], [17, 40]]
