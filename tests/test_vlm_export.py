"""From pixels to logits: bundles of vision-language models against transformers, on random models of each family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import vlm_models

from farthing.errors import CheckpointError
from farthing.export import export
from farthing.plugins import library_path
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.stepper import PromptStepper

SHAPES = {"llava": [(24, 24), (40, 31)], "llava_next": [(48, 48), (20, 61), (90, 33)]}
BEFORE, BEHIND = [1, 40, 77], [90, 8, 13, 250]


def opener(bundle: Bundle, kernels: bool):
    def opened(name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if kernels:
            options.register_custom_ops_library(str(library_path()))
        return onnxruntime.InferenceSession(str(bundle.graph(name)), options)

    return opened


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Bundle]:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = vlm_models.write_llava(folder / "model", request.param)
    export("vlm", checkpoint, folder / "bundle")
    return request.param, checkpoint, open_bundle(folder / "bundle")


@pytest.mark.parametrize("kernels", [False, True], ids=["bodies", "kernels"])
def test_logits_are_those_of_transformers(exported: tuple[str, Path, Bundle], kernels: bool) -> None:
    family, checkpoint, bundle = exported
    if kernels and library_path() is None:
        pytest.skip("the operator library is not built")
    for shape in SHAPES[family]:
        images = [sample_image(3, *shape), sample_image(4, *shape[::-1])]
        token = vlm_models.IMAGE_ID
        ids = [*BEFORE, token, 55, token, *BEHIND]
        wanted = vlm_models.transformers_logits(checkpoint, family, ids, images)
        stepper = PromptStepper(bundle.manifest, opener(bundle, kernels), 400)
        found = [stepper.prompt([*BEFORE, token, 55, token, BEHIND[0]], images)]
        found += [stepper.text([i]) for i in BEHIND[1:]]
        np.testing.assert_allclose(np.stack(found), wanted, rtol=0, atol=2e-4 * max(1, np.abs(wanted).max()))


def test_the_same_image_is_encoded_once(exported: tuple[str, Path, Bundle]) -> None:
    _, _, bundle = exported
    stepper = PromptStepper(bundle.manifest, opener(bundle, False), 400)
    image, token = sample_image(1, 30, 40), vlm_models.IMAGE_ID
    stepper.prompt([1, token, 5, token, 6], [image, image.copy()])
    assert (stepper.encoder.encoded, stepper.encoder.hits) == (1, 1)


def test_export_is_repeatable(exported: tuple[str, Path, Bundle], tmp_path: Path) -> None:
    _, checkpoint, bundle = exported
    again = open_bundle(export("vlm", checkpoint, tmp_path / "again", check=False).path)
    assert again.manifest["files"] == bundle.manifest["files"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vision_feature_layer": 9}, "vision_feature_layer"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act"),
        ({"image_token_index": 100000}, "image_token_index"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "siglip"),
        ({"model_type": "blip"}, "blip"),
    ],
)
def test_configurations_that_are_refused(
    exported: tuple[str, Path, Bundle], tmp_path: Path, change: dict[str, object], word: str
) -> None:
    _, checkpoint, _ = exported
    copied = tmp_path / "model"
    copied.mkdir()
    for file in checkpoint.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    config = json.loads((copied / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=word):
        export("vlm", copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_processor_that_does_otherwise_is_refused(exported: tuple[str, Path, Bundle], tmp_path: Path) -> None:
    _, checkpoint, _ = exported
    copied = tmp_path / "model"
    copied.mkdir()
    for file in checkpoint.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    with pytest.raises(CheckpointError, match="do_normalize"):
        export("vlm", copied, tmp_path / "out")
