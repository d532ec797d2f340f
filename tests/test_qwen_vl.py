"""Qwen2.5-VL from pixels to logits against transformers, on random models: tower, sizes, positions, pruning, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import vlm_models
from farthing.export import export
from farthing.export.checkpoint import open_vlm
from farthing.plugins import library_path
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.prepare import prepare
from farthing.runtime.visual.stepper import PromptStepper
from test_vlm_export import opener

TOKEN = vlm_models.IMAGE_ID
BEFORE, BEHIND = [1, 40, 77], [90, 8, 13, 250]
SHAPES = [(32, 32), (24, 56), (61, 20), (8, 300), (13, 13), (400, 380)]
"""Whole windows; three rows of seven tokens; a size to round; a strip; one that is enlarged; one that is shrunk."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint = vlm_models.write_qwen(folder / "model")
    export("vlm", checkpoint, folder / "bundle")
    return checkpoint, open_bundle(folder / "bundle")


@pytest.mark.parametrize("kernels", [False, True], ids=["bodies", "kernels"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_those_of_transformers(exported: tuple[Path, Bundle], shape: tuple[int, int], kernels: bool) -> None:
    checkpoint, bundle = exported
    if kernels and library_path() is None:
        pytest.skip("the operator library is not built")
    images = [sample_image(3, *shape), sample_image(4, *shape[::-1])]
    ids = [*BEFORE, TOKEN, 55, TOKEN, *BEHIND]
    wanted = vlm_models.qwen_logits(checkpoint, ids, images)
    stepper = PromptStepper(bundle.manifest, opener(bundle, kernels), 400)
    found = [stepper.prompt([*BEFORE, TOKEN, 55, TOKEN, BEHIND[0]], images)]
    found += [stepper.text([i]) for i in BEHIND[1:]]
    np.testing.assert_allclose(np.stack(found), wanted, rtol=0, atol=2e-4 * max(1, np.abs(wanted).max()))
