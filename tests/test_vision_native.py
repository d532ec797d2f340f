"""Prompts with images in the C++ core: logits against a plain loop over onnxruntime, and everything that moves around in a cache."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import vlm_models
from test_speculation import FLAT, Oracle

from farthing.errors import BundleError, RequestError
from farthing.export import export
from farthing.export.checkpoint.vlm_folder import VlmFolder
from farthing.export.graph import GraphWriter
from farthing.export.visual import export_visual
from farthing.export.visual.reduction import Level, Reduction
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.engines import native_parts, onnxruntime_library
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.stepper import PromptStepper

PARTS = native_parts()
pytestmark = pytest.mark.skipif(PARTS.missing is not None, reason=str(PARTS.missing))
TOKEN = vlm_models.IMAGE_ID
PROMPT = [1, 40, TOKEN, 55, TOKEN, 90, 8, 13]
FULL = {"id": "full", "ratio": 0, "project": "project", "step": "visual_step"}
IMAGES = [sample_image(3, 70, 52), sample_image(4, 40, 90)]


class Inside(Reduction):
    """From layer 1 of the decoder on only as many rows stay as the bucket says, one in the middle being left out."""

    prune_layer = 1

    def levels(self, model: VlmFolder, rows: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
        return (Level("r50", 0.5, tuple(sorted({(n + 1) // 2 for n, _ in rows}))),)

    def select(self, model: VlmFolder, level: Level, tokens: int) -> Any:
        def choose(w: GraphWriter, stream: str) -> str:
            w.constant("these", np.delete(np.arange(tokens + 1, dtype=np.int64), tokens // 2)[None])
            return "these"

        return choose


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name -> the folder of a bundle, made once."""
    folder = tmp_path_factory.mktemp("vision")

    @functools.cache
    def model(family: str) -> Path:
        if family == "qwen":
            return vlm_models.write_qwen(folder / family)
        return vlm_models.write_llava(folder / family, family, side=48)

    @functools.cache
    def made(name: str) -> Path:
        method, family = name.split("@")
        out = folder / name.replace("@", "-")
        if method == "inside":
            return export_visual(model(family), out, Inside(), trees=True, check=False).path
        how: dict[str, Any] = {"plan": {0: "attention", 1: "block"}} if method == "ima-skip" else {}
        if method not in ("vlm", "matryoshka", "ima-skip"):
            how = {"ratios": [0.5, 0.75]}
        return export(method, model(family), out, check=False, **how).path

    return made


def engine(path: Path, **how: Any) -> Any:
    settings = {"threads": 1, "context": 600, "onnxruntime": str(onnxruntime_library()), **how}
    return PARTS.core.Engine(str(path), ops_library=str(PARTS.ops_library), **settings)


def stepper(path: Path) -> PromptStepper:
    """The judge, with the same kernels on one thread, so that every bit is the same."""
    opened: Bundle = open_bundle(path)

    def session(name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.register_custom_ops_library(str(PARTS.ops_library))
        return onnxruntime.InferenceSession(str(opened.graph(name)), options)

    return PromptStepper(opened.manifest, session, 600)


def shown(level: str | None, images: Sequence[np.ndarray] = IMAGES) -> list[tuple[np.ndarray, str | None]]:
    return [(image, level) for image in images]


def generate(
    core: Any, level: str | None, prompt: list[int] = PROMPT, images: Any = None, **how: Any
) -> dict[str, Any]:
    given = shown(level) if images is None else images
    return core.generate(prompt, {"max_new_tokens": 12, "temperature": 0.0, **how}, None, given)  # type: ignore[no-any-return]


KINDS = [
    ("vlm@llava", "full"),
    ("vlm@llava_next", "full"),
    ("idpruner@llava", "r50"),
    ("idpruner@llava_next", "r75"),
    ("globalcom2@llava_next", "r50"),
    ("matryoshka@llava", None),
    ("matryoshka@llava_next", None),
    ("ima-skip@llava", "skip"),
    ("ima-skip@llava_next", "skip"),
    ("inside@llava", "r50"),
    ("inside@llava", "full"),
    ("vlm@qwen", "full"),
    ("zoo-prune@qwen", "r50"),
    ("inside@qwen", "r50"),
]
ALL = pytest.mark.parametrize(("name", "level"), KINDS, ids=str)
FEW = pytest.mark.parametrize(
    ("name", "level"), [("idpruner@llava_next", "r50"), ("inside@llava", "r50"), ("inside@qwen", "r50")], ids=str
)


def last_level(path: Path) -> str:
    return str(open_bundle(path).manifest["vision"]["levels"][-1]["id"])


@ALL
def test_logits_are_those_of_a_plain_loop(bundle: Any, name: str, level: str | None) -> None:
    path = bundle(name)
    level = level or last_level(path)
    judge, core = stepper(path), engine(path)
    wanted = judge.prompt(PROMPT, IMAGES, level)
    core.prefill(PROMPT, shown(level))
    np.testing.assert_array_equal(core.logits(), wanted)
    assert core.length == judge.counts.slot and core.tokens.count(TOKEN) == core.length - 6
    for token in (7, 250, 31):
        np.testing.assert_array_equal(core.extend([token])[0], judge.text([token]))
    # Two turns of one conversation are one prompt.
    judge.encoder.encoded = 0
    wanted = judge.prompt([5, TOKEN, 6], IMAGES[:1], "full")
    core.prefill([5, TOKEN, 6], shown("full", IMAGES[:1]))
    np.testing.assert_array_equal(core.logits(), wanted)


@ALL
def test_passes_may_have_any_size(bundle: Any, name: str, level: str | None) -> None:
    """The same but for the last bits: of heads of 12 numbers, no multiple of a vector, attention does not keep them apart from rows beside."""
    path = bundle(name)
    level = level or last_level(path)
    logits = []
    for chunk in (3, 7, 256):
        core = engine(path, chunk=chunk)
        core.prefill(PROMPT, shown(level))
        logits.append(core.logits())
    np.testing.assert_allclose(logits[0], logits[2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits[1], logits[2], rtol=0, atol=1e-5)


@ALL
def test_drafts_change_nothing(bundle: Any, name: str, level: str | None) -> None:
    """Prompt lookup over runs of the marker; and drafts that know the text, with wrong twins where the graph takes trees."""
    path = bundle(name)
    level = level or last_level(path)
    core = engine(path)
    plain = generate(core, level, max_new_tokens=24)
    assert plain["stats"]["speculation"]["drafts"] == 0 and len(plain["ids"]) == 24
    core.draft("lookup", "", {"always": True, "nodes": 7, "depth": 7})
    looked = generate(core, level, max_new_tokens=24)
    assert looked["ids"] == plain["ids"] and looked["stats"]["speculation"]["drafts"] > 0
    for wrong in ([False], [False, True, False, False]):
        oracle = Oracle(plain["ids"], wrong, branches=True)
        core.speculate(oracle, None, {"nodes": 9, "depth": 5, "always": True}, FLAT.grid())
        guessed = generate(core, level, max_new_tokens=24)
        assert guessed["ids"] == plain["ids"]
        assert guessed["stats"]["speculation"]["accepted"] > 6
        # Slots behind accepted branches hold what plain decoding puts there.
        follow = core.extend([9, 10])
        core.speculate(None, None, {}, ([], [], []))
        generate(core, level, max_new_tokens=24)
        np.testing.assert_allclose(core.extend([9, 10]), follow, rtol=0, atol=1e-5)
        assert oracle.seen.count(TOKEN) >= core.tokens.count(TOKEN) >= 2


@FEW
def test_a_prefix_is_used_again(bundle: Any, name: str, level: str) -> None:
    path, other = bundle(name), [IMAGES[0], sample_image(9, 33, 44)]
    core = engine(path)
    first = [*PROMPT[:5], 91, 7]
    fresh = generate(core, level)["ids"]
    swapped = generate(core, level, images=shown(level, other))["ids"]
    whole = generate(core, "full")["ids"]
    assert len({tuple(fresh), tuple(swapped), tuple(whole)}) > 1

    generate(core, level, first)
    made = generate(core, level, reuse_prefix=True)
    assert made["ids"] == fresh and made["stats"]["prompt_tokens"] == 3
    assert made["stats"]["vision"] == {
        "encoded": 0,
        "cache_hits": 0,
        "rows": 0,
        "rows_unreduced": 0,
        "seconds": 0.0,
    } | {"seconds": made["stats"]["vision"]["seconds"]}
    made = generate(core, level, images=shown(level, other), reuse_prefix=True)  # the first image stays
    assert made["ids"] == swapped and made["stats"]["vision"]["encoded"] + made["stats"]["vision"]["cache_hits"] == 1
    made = generate(core, "full", reuse_prefix=True)  # another level is another image
    assert made["ids"] == whole and made["stats"]["vision"]["cache_hits"] == 2
    text = [1, 40, 8, 8, 8]
    made = core.generate(text, {"max_new_tokens": 5, "temperature": 0.0, "reuse_prefix": True})
    assert made["stats"]["prompt_tokens"] == 3
    assert made["ids"] == core.generate(text, {"max_new_tokens": 5, "temperature": 0.0})["ids"]


@FEW
def test_going_back(bundle: Any, name: str, level: str) -> None:
    core = engine(bundle(name))
    core.prefill(PROMPT, shown(level))
    wanted, length = core.logits(), core.length
    spans = np.flatnonzero(np.array(core.tokens) != TOKEN)
    begin, end = spans[2] + 1, spans[3]  # the second image
    for inside in (begin + 1, end - 1):
        with pytest.raises(RequestError, match=f"inside an image, expected at most {begin}, .* at least {end}"):
            core.rewind(int(inside))
    assert core.length == length
    core.rewind(int(end))
    core.prefill(PROMPT[5:])
    np.testing.assert_array_equal(core.logits(), wanted)
    core.rewind(int(begin))
    core.prefill(PROMPT[4:], shown(level, IMAGES[1:]))
    np.testing.assert_array_equal(core.logits(), wanted)
    core.rewind(1)
    core.prefill(PROMPT[1:], shown(level))
    np.testing.assert_array_equal(core.logits(), wanted)


@FEW
def test_states_with_images(bundle: Any, name: str, level: str, tmp_path: Path) -> None:
    path = bundle(name)
    core = engine(path)
    core.prefill(PROMPT, shown(level))
    core.save_state(tmp_path / "state")
    wanted = core.extend([3, 4])
    other = engine(path, context=300)
    other.load_state(tmp_path / "state")
    np.testing.assert_array_equal(other.extend([3, 4]), wanted)
    # The images are known as such: a prompt that goes on there runs its end only.
    made = generate(other, level, [*PROMPT, 3, 9], reuse_prefix=True)
    assert made["stats"]["prompt_tokens"] == 1
    assert made["ids"] == generate(core, level, [*PROMPT, 3, 9])["ids"]
    with pytest.raises(RequestError, match="inside an image"):
        other.rewind(3)
    # Text after that is a file of text.
    other.reset()
    other.prefill([1, 2, 3])
    other.save_state(tmp_path / "text")
    assert (tmp_path / "text").read_bytes()[8] == 1 and (tmp_path / "state").read_bytes()[8] == 2
    other.load_state(tmp_path / "text")
    assert other.tokens == [1, 2, 3]


def test_damaged_states_are_refused(bundle: Any, tmp_path: Path) -> None:
    path, strange = bundle("inside@llava"), bundle("vlm@llava")
    core, state = engine(path), tmp_path / "state"
    core.prefill(PROMPT, shown("r50"))
    core.save_state(state)
    whole = state.read_bytes()
    before = core.tokens
    with pytest.raises(BundleError, match="model of"):
        engine(strange).load_state(state)
    for at in range(112, 112 + 72 + 2 * 160, 8):
        for value in (b"\xff" * 8, (1 << 40).to_bytes(8, "little"), bytes(8)):
            if whole[at : at + 8] == value:
                continue
            state.write_bytes(whole[:at] + value + whole[at + 8 :])
            with pytest.raises(BundleError):
                core.load_state(state)
            assert core.tokens == before
    for cut in (100, 150, 200, len(whole) - 1):
        state.write_bytes(whole[:cut])
        with pytest.raises(BundleError):
            core.load_state(state)


def test_statistics_and_the_cache_of_features(bundle: Any) -> None:
    path = bundle("idpruner@llava_next")
    core = engine(path)
    stats = generate(core, "r50")["stats"]
    seen = stats["vision"]
    assert (seen["encoded"], seen["cache_hits"]) == (2, 0) and 0 < seen["seconds"] < stats["prefill_seconds"]
    assert 0.5 * seen["rows_unreduced"] <= seen["rows"] < 0.7 * seen["rows_unreduced"]
    assert stats["prompt_tokens"] == 6 + seen["rows"]
    again = generate(core, "full")["stats"]["vision"]  # another level of the same features
    assert (again["encoded"], again["cache_hits"]) == (0, 2) and again["rows"] == seen["rows_unreduced"]
    part = np.repeat(IMAGES[0], 2, axis=0)[::2]  # the same pixels, rows apart
    assert generate(core, "r50", [1, TOKEN, 5], [(part, None)])["stats"]["vision"]["cache_hits"] == 1
    flat = IMAGES[0].reshape(IMAGES[0].shape[1], IMAGES[0].shape[0], 3)  # the same bytes, another shape
    assert generate(core, "r50", [1, TOKEN, 5], [(flat, None)])["stats"]["vision"]["encoded"] == 1
    none = engine(path, image_cache=0)
    assert [generate(none, "r50")["stats"]["vision"]["encoded"] for _ in range(2)] == [2, 2]
    # Room for two: the least recently used goes.
    small = engine(path, image_cache=2 * 5 * 36 * 32 * 4 + 100)
    a, b, c = (sample_image(i, 60, 60) for i in range(3))

    def hits(*images: np.ndarray) -> list[int]:
        asked = [generate(small, "r50", [1, TOKEN, 5], [(i, "full")], max_new_tokens=1) for i in images]
        return [made["stats"]["vision"]["cache_hits"] for made in asked]

    assert hits(a, b, a, c, a, b) == [0, 0, 1, 0, 1, 0]


def test_text_is_that_of_the_decoder_alone(bundle: Any) -> None:
    """Bit by bit, before and behind an image; in a bundle that prunes inside the decoder, too."""
    for name in ("idpruner@llava_next", "inside@llava", "inside@qwen"):
        core = engine(bundle(name))
        core.prefill([1, 30, 31, 99])
        wanted = core.logits()
        generate(core, None)
        core.reset()
        core.prefill([1, 30, 31, 99])
        np.testing.assert_array_equal(core.logits(), wanted)
        assert "vision" in generate(core, None, [1, 30], [])["stats"]
        # Several texts in one pass, with triples of positions and late lengths of each.
        texts, how = [[1, 30, 31], [9], [1, 30, 31, 99, 7, 12]], {"max_new_tokens": 9, "temperature": 0.0}
        alone = [core.generate(text, how)["ids"] for text in texts]
        generate(core, None)
        assert [made["ids"] for made in core.generate_all(texts, [how], 2)] == alone


def test_a_small_model_that_drafts_sees_markers_as_tokens(bundle: Any) -> None:
    path = bundle("idpruner@llava_next")
    core = engine(path)
    plain = generate(core, "r50")["ids"]
    core.draft("model", "", {"always": True, "nodes": 5, "depth": 5}, str(path))
    made = generate(core, "r50")
    assert made["ids"] == plain and made["stats"]["speculation"]["drafted"] > 0


def test_a_marker_that_the_model_says_is_a_token(bundle: Any) -> None:
    """In the cache it is no image, and a prompt that has an image there does not find it."""
    core = engine(bundle("vlm@llava"))
    core.generate([1, 40], {"max_new_tokens": 3, "temperature": 0.0, "stop_ids": []})
    with pytest.raises(RequestError, match="image markers of the prompt is 1, expected 0"):
        core.prefill([TOKEN])
    with pytest.raises(RequestError, match="is 2, expected 0"):
        core.extend([TOKEN, 5, TOKEN])
    with pytest.raises(RequestError, match="is 1, expected 0"):
        core.generate_all([[1, 2], [1, TOKEN, 2]], [{"max_new_tokens": 2}], 2)


@pytest.mark.parametrize(
    ("prompt", "images", "how", "word"),
    [
        ([1, TOKEN, 5], [], {}, "image markers of the prompt is 1, expected 0"),
        ([1, 5], IMAGES[:1], {}, "is 0, expected 1"),
        ([TOKEN, 5], IMAGES, {}, "is 1, expected 2"),
        ([1, TOKEN], IMAGES[:1], {}, "end of the prompt is an image, expected text"),
        ([TOKEN, 5], [(IMAGES[0], "r33")], {}, "level is 'r33', expected one of full, r50, r75"),
        ([TOKEN, 5], [(IMAGES[0], 5)], {}, "level of image 0"),
        ([TOKEN, 5], IMAGES[:1], {"restart_window": 5}, "restart_window is 5, expected 0 with images"),
        ([TOKEN, 5], [IMAGES[0]], {"raw": True}, "image 0 is no pair"),
        ([TOKEN, TOKEN, 5], [IMAGES[0], np.zeros((0, 4, 3), np.uint8)], {}, "image 1 is 0 x 4 pixels"),
        ([TOKEN, 5], [np.zeros((4, 4), np.uint8)], {}, "image 0 is no array of three dimensions"),
        ([TOKEN, 5], [np.zeros((1, 300, 3), np.uint8)], {}, "shape of image is 1 x 300"),
    ],
)
def test_requests_that_are_refused(bundle: Any, prompt: list[int], images: Any, how: dict[str, Any], word: str) -> None:
    core = engine(bundle("idpruner@llava_next"))
    core.prefill([1, 2, 3])
    given = images if how.pop("raw", False) else [i if isinstance(i, tuple) else (i, None) for i in images]
    with pytest.raises(RequestError, match=word):
        generate(core, None, prompt, given, **how)
    assert core.tokens == [1, 2, 3], "a request that is refused changes nothing"


def test_an_image_must_fit_the_context(bundle: Any) -> None:
    core = engine(bundle("vlm@llava"), context=38)
    core.prefill([1, 2])
    with pytest.raises(RequestError, match=r"0 \+ at least 39 tokens, expected at most 38"):
        generate(core, "full", [TOKEN, TOKEN, 5, 6])
    with pytest.raises(RequestError, match=r"0 \+ 39 tokens, expected at most 38"):
        generate(core, "full", [TOKEN, 5, 6, 7], shown("full", IMAGES[:1]))
    assert core.length == 2
    assert len(generate(core, "full", [TOKEN, 5], shown("full", IMAGES[:1]), max_new_tokens=1)["ids"]) == 1


def test_text_models_take_no_images(tmp_path: Path) -> None:
    import tiny

    path = export("decoder", tiny.write_hf(tmp_path / "model"), tmp_path / "bundle", check=False).path
    core = engine(path)
    with pytest.raises(RequestError, match="images is 1, expected none"):
        generate(core, None, [TOKEN, 5], [(IMAGES[0], None)])
    core.prefill([TOKEN, 5])  # an id like others
    assert "vision" not in core.generate([5], {"max_new_tokens": 1})["stats"]


def test_cancelling_between_images(bundle: Any) -> None:
    """A cancelled prompt leaves whole images or none, and the next request is as if nothing had been."""
    core = engine(bundle("idpruner@llava_next"))
    wanted = generate(core, "r50")["ids"]

    def stop(_: int) -> bool:
        core.cancel()
        return True

    made = core.generate(PROMPT, {"max_new_tokens": 9, "temperature": 0.0}, stop, shown("r50"))
    assert made["stop_reason"] == "cancelled" and len(made["ids"]) == 1
    assert generate(core, "r50", reuse_prefix=True)["ids"] == wanted


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"family": "blip"}, "one of llava, llava_next, qwen2_5_vl"),
        ({"image_token_id": 300}, "an id below 300"),
        ({"grid": 0}, "field vision.grid"),
        ({"newline": False}, "true exactly with kind anyres"),
        ({"positions": "guess"}, "one of keep, compact"),
        ({"mrope_section": [1, 2, 3]}, "beside compact|mrope_section"),
        ({"prune_layer": 3}, "below 3"),
        ({"prune_layer": 1}, "late_len with prune_layer"),
        ({"level": "r51"}, "the id of one of its levels"),
        ({"levels": []}, "vision.levels"),
        ({"levels": [{**FULL, "ratio": 1.5}]}, "ratio"),
        ({"levels": [{**FULL, "project": "project_no"}], "level": "full"}, "graph 'project_no' of"),
        ({"levels": [{**FULL, "project": "decoder"}]}, "graphs of a level"),
        ({"levels": [{**FULL, "id": "half"}]}, "without a level 'full'"),
        ({"levels": [{"id": "full", "ratio": 0.5, "buckets": []}]}, "buckets"),
        ({"levels": [FULL] * 2}, "there twice"),
        ({"feature_size": None}, "feature_size"),
    ],
)
def test_manifests_that_are_refused(bundle: Any, tmp_path: Path, change: dict[str, Any], word: str) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(bundle("idpruner@llava_next"), path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["vision"] |= change
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=word):
        engine(path)


def test_what_a_graph_gives_is_checked(bundle: Any, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(bundle("vlm@llava"), path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["vision"]["feature_size"] += 1
    (path / "manifest.json").write_text(json.dumps(manifest))
    core = engine(path)
    with pytest.raises(BundleError, match=r"output features of graph vision is of shape \[1,36,32\]"):
        generate(core, "full")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose images become weights."""
    import vlora_models

    folder = tmp_path_factory.mktemp("vlora")
    return export("vlora", vlora_models.write_vlora(folder / "model"), folder / "bundle", check=False).path


def test_images_as_weights(weights: Path) -> None:
    """Bit by bit as the plain loop; drafts run with the changes, too; text is text again when the image is gone."""
    prompt, image = [1, 40, TOKEN, 30, 31, 90], IMAGES[0]
    judge, core = stepper(weights), engine(weights)
    wanted = judge.prompt(prompt, [image])
    core.prefill([7, 8])
    core.reset()
    core.prefill(prompt, shown(None, [image]))
    np.testing.assert_array_equal(core.logits(), wanted)
    assert core.length == len(prompt) - 1 and TOKEN not in core.tokens
    np.testing.assert_array_equal(core.extend([11])[0], judge.text([11]))
    plain = generate(core, None, prompt, shown(None, [image]), max_new_tokens=20)
    assert plain["stats"]["vision"]["cache_hits"] == 1 and plain["stats"]["vision"]["rows"] == 0
    core.draft("lookup", "", {"always": True, "nodes": 7, "depth": 7})
    assert generate(core, None, prompt, shown(None, [image]), max_new_tokens=20)["ids"] == plain["ids"]
    core.draft("none")
    text = {"max_new_tokens": 6, "temperature": 0.0}
    alone = core.generate([1, 40, 30], text)["ids"]
    generate(core, None, prompt, shown(None, [image]))
    made = core.generate_all([[1, 40, 30], [1, 40, 30, 31]], [text], 2)
    assert made[0]["ids"] == alone == engine(weights).generate([1, 40, 30], text)["ids"]
    # A state of text replaces the image and what it changed.
    assert alone == core.generate([1, 40, 30], {**text, "reuse_prefix": True})["ids"]


def test_images_as_weights_are_bound_to_their_sequence(weights: Path, tmp_path: Path) -> None:
    core, image = engine(weights), IMAGES[0]
    core.prefill([1, 2, 3])
    core.save_state(tmp_path / "text")
    wanted = core.extend([4])
    with pytest.raises(RequestError, match="one behind text that was read without it"):
        core.prefill([TOKEN, 5], shown(None, [image]))
    core.reset()
    core.prefill([1, 2, TOKEN, 3], shown(None, [image]))
    with pytest.raises(RequestError, match="one with an image in it"):
        core.save_state(tmp_path / "state")
    with pytest.raises(RequestError, match="is 2, before the image, expected 0, or above 2"):
        core.rewind(2)
    core.load_state(tmp_path / "text")
    np.testing.assert_array_equal(core.extend([4]), wanted)
