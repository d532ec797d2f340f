"""The deeper model of examples/vlm: that it answers, with all rows and with a quarter, and that choosing them is 3 % of its prefill at most."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import farthing
from farthing.export import export
from farthing.runtime.engines import native_parts

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
DEEP, SMALL = ROOT / "examples" / "vlm" / "deep", ROOT / "examples" / "vlm" / "model"

scenes = pytest.importorskip("vlm_scenes")
prefill = pytest.importorskip("visual_prefill")
NATIVE = pytest.mark.skipif(bool(native_parts().missing), reason="not built")


@pytest.fixture(scope="module", params=["idpruner", "zoo-prune"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    return export(request.param, DEEP, folder, check=False, ratios=(0.5, 0.75)).path


def test_the_tower_is_the_small_ones() -> None:
    from safetensors.numpy import load_file

    deep, small = (load_file(folder / "model.safetensors") for folder in (DEEP, SMALL))
    tower = [name for name in small if name.startswith("vision_tower")]
    assert tower and all(np.array_equal(deep[name], small[name]) for name in tower)
    assert all(tensor.dtype == np.float16 for tensor in deep.values())
    assert (DEEP / "model.safetensors").stat().st_size < 13_000_000
    assert (
        len({name.split(".layers.")[1].split(".")[0] for name in deep if "language_model.model.layers" in name}) == 12
    )


@NATIVE
def test_it_answers_with_all_rows_and_with_a_quarter(bundle: Path) -> None:
    right, asked = {"full": 0, "r75": 0}, 0
    with farthing.load(bundle, threads=1) as model:
        for seed in range(3):
            draw = np.random.default_rng([124, seed])
            scene = scenes.make_scene(draw, large=True)
            for question in scenes.questions(scene, draw):
                asked += 1
                for level in right:
                    made = model.generate(
                        question.text, images=[scene.image], level=level, greedy=True, max_new_tokens=2
                    )
                    right[level] += made.text.strip() == question.answer
    assert asked > 25
    assert right["full"] >= 0.9 * asked, f"{right} of {asked}"
    assert right["r75"] >= 0.75 * asked, f"{right} of {asked}"


@NATIVE
def test_choosing_is_little_of_the_prefill(bundle: Path) -> None:
    """CPU seconds at one thread, medians, both sides of each ratio in one run. What else runs can only spoil it, so it may try three times."""
    for _ in range(3):
        found = prefill.measure(bundle, 7, (192, 192))
        assert found["full"]["rows"] == 744 and found["r50"]["rows"] == 384 and found["r75"]["rows"] == 204
        short = prefill.missed(found)
        if not short:
            return
    pytest.fail("; ".join(short))
