"""Quantised vision-language bundles: visual passes share the decoder's codes, images still verify, also pruned inside the decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import vlm_models

from farthing.calibration.quantize import Options, quantize
from farthing.errors import RequestError
from farthing.export import export
from farthing.runtime.bundle import open_bundle
from farthing.runtime.verify import verify_vectors


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    checkpoint = vlm_models.write_llava(folder / "model", side=64)
    options = {"ratios": (0.5,), "importance": "norm", "prune_layer": 1}
    return export("idpruner", checkpoint, folder / "bundle", check=False, **options).path


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_images_verify_and_weights_are_there_once(bundle: Path, tmp_path: Path, weights: str) -> None:
    made = quantize(bundle, tmp_path / "small", Options(weights=weights, block=16), measure=False)
    found = open_bundle(made.path)
    graphs = found.manifest["graphs"]
    for name in ("visual_step", "visual_step_r50_32"):
        assert set(graphs[name]["data"]) <= set(graphs["decoder"]["data"]), "small tensors stay in the graph"
    results, _ = verify_vectors(found)
    assert all(r.ok for r in results), [r.failure() for r in results]


def test_a_cache_of_int8_is_refused_with_images(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="int8 for a bundle that reads images, expected float32"):
        quantize(bundle, tmp_path / "small", Options(kv="int8"), measure=False)
    assert not (tmp_path / "small").exists()


def test_nvfp4_is_refused_with_images(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nvfp4"):
        quantize(bundle, tmp_path / "small", Options(weights="nvfp4"), measure=False)
    assert not (tmp_path / "small").exists()
