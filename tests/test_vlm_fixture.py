"""The small vision-language model of examples/vlm: its scenes, its two layouts, and that it answers (benchmarks/vlm_*.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
MODEL, SELECTOR = ROOT / "examples" / "vlm" / "model", ROOT / "examples" / "vlm" / "selector"

scenes = pytest.importorskip("vlm_scenes")


@pytest.mark.parametrize("large", [False, True])
def test_a_seed_gives_one_scene(large):
    one, other = (scenes.make_scene(np.random.default_rng(4), large=large) for _ in range(2))
    assert np.array_equal(one.image, other.image)
    assert one.image.shape == ((192, 192, 3) if large else (96, 96, 3)) and one.image.dtype == np.uint8
    assert not np.array_equal(one.image, scenes.make_scene(np.random.default_rng(5), large=large).image)


def test_answers_are_those_of_the_picture():
    for seed in range(30):
        draw = np.random.default_rng(seed)
        scene = scenes.make_scene(draw)
        asked = {q.text: q.answer for q in scenes.questions(scene, draw)}
        assert asked["how many shapes?"] == ("one", "two", "three")[len(scene.shapes) - 1]
        for shape in scene.shapes:
            middle = scene.image[int(shape.y), int(shape.x)].astype(int)
            nearest = np.abs(np.array(scenes.RGB) - middle).sum(1).argmin()
            named = asked.get(f"what colour is the {scenes.KINDS[shape.kind]}?")
            assert named in (None, scenes.COLOURS[nearest])
        dot = scene.items[3]
        middle = scene.image[dot.row * 8 + 4, dot.column * 8 + 4].astype(int)
        assert asked["what colour is the dot?"] == scenes.COLOURS[np.abs(np.array(scenes.RGB) - middle).sum(1).argmin()]


@pytest.mark.parametrize("quadrants", [1, 2])
def test_detail_keeps_to_its_quadrants(quadrants):
    for seed in range(20):
        scene = scenes.make_scene(np.random.default_rng(seed), large=True, quadrants=quadrants)
        assert len({scene.quadrant(i) for i in scene.items}) <= quadrants


def test_views_are_a_thumbnail_and_the_four_quarters():
    image = scenes.make_scene(np.random.default_rng(1), large=True).image
    seen = scenes.views(image)
    assert seen.shape == (5, 96, 96, 3)
    assert np.array_equal(seen[2], image[:96, 96:]) and np.array_equal(seen[3], image[96:, :96])
    assert np.abs(seen[0].astype(int).mean((0, 1)) - image.mean((0, 1))).max() < 1


@pytest.fixture(scope="module")
def following(tmp_path_factory):
    pytest.importorskip("transformers")
    import vlm_fixture

    return vlm_fixture.next_checkpoint(tmp_path_factory.mktemp("next"))


@pytest.mark.parametrize("large", [False, True])
def test_it_answers_and_packing_questions_changes_nothing(following, large):
    torch = pytest.importorskip("torch")
    import vlm_model as vlm
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = following if large else MODEL
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    right = asked = 0
    with torch.no_grad():
        for seed in range(4):
            draw = np.random.default_rng([123, seed])
            scene = scenes.make_scene(draw, large=large)
            found = scenes.questions(scene, draw)
            packed, _, answers = vlm.read(model, vlm.embed(model, scenes.views(scene.image)[None]), vlm.ask([found]))
            right, asked = right + int((packed.argmax(-1) == answers).sum()), asked + len(found)
            said = [{"type": "image"}, {"type": "text", "text": found[0].text}]
            text = processor.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)
            assert text == scenes.prompt(found[0].text)
            alone = model(**processor(images=scene.image, text=text, return_tensors="pt")).logits[0, -1]
            torch.testing.assert_close(packed[0], alone, rtol=1e-3, atol=1e-3)
    assert right >= 0.85 * asked, f"{right} of {asked}"


def test_the_selector_prefers_what_is_drawn():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import vlm_model as vlm
    from transformers import AutoModelForImageTextToText
    from vlm_heads import patch_labels
    from vlm_selector import load_scorer

    from farthing.export.checkpoint.selector_file import open_selector

    assert open_selector(SELECTOR, 128).hidden == 64
    model = AutoModelForImageTextToText.from_pretrained(MODEL, dtype=torch.float32).eval()
    drawn = [scenes.make_scene(np.random.default_rng([321, n])) for n in range(8)]
    with torch.no_grad():
        scores = load_scorer(SELECTOR)(vlm.embed(model, np.stack([scenes.views(s.image) for s in drawn])))
    something = torch.from_numpy(np.stack([(patch_labels(s)[..., :5] > 0).any(-1).flatten() for s in drawn]))
    top = scores.topk(12, dim=1).indices
    assert something.gather(1, top).float().mean() > 2 * something.float().mean()
