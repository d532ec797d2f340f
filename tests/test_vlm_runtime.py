"""Images through `farthing.load`: ids, prefix reuse, several images, both engines, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import vlm_models
from click.testing import CliRunner
from PIL import Image

import farthing
from farthing.cli.chat import chat_command
from farthing.cli.run import run_command
from farthing.errors import RequestError
from farthing.export import export
from farthing.runtime.api import Runtime
from farthing.runtime.engines import native_parts
from farthing.runtime.visual.images import as_rgb, sample_image
from farthing.runtime.visual.prompt import split_markers

TOKEN = vlm_models.IMAGE_ID
NATIVE = pytest.param(True, id="native", marks=pytest.mark.skipif(bool(native_parts().missing), reason="not built"))
ENGINES = [pytest.param(False, id="portable"), NATIVE]


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = vlm_models.write_llava(folder / "model", request.param)
    return request.param, checkpoint, export("vlm", checkpoint, folder / "bundle", check=False).path


def greedy(model: Runtime, ids: list[int], images: list[np.ndarray], count: int = 6, **more: object) -> list[int]:
    made = model.generate(prompt_ids=ids, images=images, greedy=True, max_new_tokens=count, ignore_eos=True, **more)
    return made.ids


@pytest.mark.parametrize("native", ENGINES)
def test_ids_follow_transformers(bundle: tuple[str, Path, Path], native: bool) -> None:
    family, checkpoint, path = bundle
    images = [sample_image(5, 60, 47), sample_image(6, 24, 24)]
    prompt = [1, TOKEN, 30, 31, TOKEN, 90, 17]
    with farthing.load(path, native=native) as model:
        ids = greedy(model, prompt, images)
    logits = vlm_models.transformers_logits(checkpoint, family, [*prompt, *ids[:-1]], images)
    for row, chosen in zip(logits[1:], ids, strict=True):
        assert row[chosen] >= row.max() - 1e-3


@pytest.mark.parametrize("native", ENGINES)
def test_a_second_question_runs_only_what_is_new(bundle: tuple[str, Path, Path], native: bool) -> None:
    _, _, path = bundle
    image, other = sample_image(1, 40, 40), sample_image(2, 40, 40)
    first, second = [1, TOKEN, 30, 31, 40], [1, TOKEN, 30, 77]
    with farthing.load(path, native=native) as model:
        wanted = greedy(model, second, [image])
        fresh = greedy(model, second, [other])
        greedy(model, first, [image])
        made = model.generate(
            prompt_ids=second, images=[image], greedy=True, max_new_tokens=6, ignore_eos=True, reuse_prefix=True
        )
        assert made.ids == wanted
        assert made.stats["prompt_tokens"] == 1
        # Another image at the same place shares the text before it only.
        made = model.generate(
            prompt_ids=second, images=[other], greedy=True, max_new_tokens=6, ignore_eos=True, reuse_prefix=True
        )
        assert made.ids == fresh
        assert made.stats["prompt_tokens"] > 9


@pytest.mark.parametrize("native", ENGINES)
def test_text_behind_an_image_is_text_alone_afterwards(bundle: tuple[str, Path, Path], native: bool) -> None:
    _, _, path = bundle
    with farthing.load(path, native=native) as model:
        plain = greedy(model, [1, 30, 31], [])
        greedy(model, [1, TOKEN, 30], [sample_image(1, 30, 30)])
        assert greedy(model, [1, 30, 31], []) == plain
        greedy(model, [1, TOKEN, 30], [sample_image(1, 30, 30)])
        assert greedy(model, [1, 30, 31], [], reuse_prefix=True) == plain


@pytest.mark.parametrize("native", ENGINES)
def test_prompts_and_messages(bundle: tuple[str, Path, Path], native: bool) -> None:
    _, _, path = bundle
    image = sample_image(1, 30, 30)
    how = {"greedy": True, "max_new_tokens": 4, "ignore_eos": True}
    with farthing.load(path, native=native) as model:
        shown = model.generate("the hat", images=[image], **how)
        marked = model.generate("<image>\nthe hat", images=[image], **how)
        parts = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": "the hat"}]
        told = model.generate(messages=[{"role": "user", "content": parts}], **how)
        assert shown.prompt_ids == marked.prompt_ids == told.prompt_ids
        assert shown.ids == marked.ids == told.ids
        assert shown.prompt_ids.count(TOKEN) == 1
        text = model.generate("the hat", **how)
        assert TOKEN not in text.prompt_ids
        assert set(shown.prompt_ids) - {TOKEN} >= set(text.prompt_ids)


@pytest.mark.parametrize("native", ENGINES)
@pytest.mark.parametrize(
    ("ids", "images", "more", "word"),
    [
        ([1, TOKEN, 5], 0, {}, "image markers of the prompt is 1, expected 0"),
        ([1, 5], 1, {}, "image markers of the prompt is 0, expected 1"),
        ([1, TOKEN, TOKEN, 5], 1, {}, "is 2, expected 1"),
        ([1, TOKEN], 1, {}, "end of the prompt"),
        ([1, TOKEN, 5], 1, {"level": "r50"}, "level is 'r50', expected one of full"),
        ([1, TOKEN, 5], 1, {"restart_window": 4}, "restart_window"),
    ],
)
def test_requests_that_are_refused(
    bundle: tuple[str, Path, Path], native: bool, ids: list[int], images: int, more: dict[str, object], word: str
) -> None:
    _, _, path = bundle
    with farthing.load(path, native=native) as model, pytest.raises(RequestError, match=word):
        greedy(model, ids, [sample_image(1, 30, 30)] * images, **more)


@pytest.mark.parametrize("native", ENGINES)
def test_an_image_longer_than_the_context_is_refused(bundle: tuple[str, Path, Path], native: bool) -> None:
    _, _, path = bundle
    with farthing.load(path, native=native, context=8) as model, pytest.raises(RequestError, match="at most [78]"):
        greedy(model, [1, TOKEN, 5], [sample_image(1, 30, 30)], 1)


def test_brackets_around_a_marker_are_the_templates() -> None:
    parts = split_markers("see <|vision_start|><|image_pad|><|vision_end|>here", "<|image_pad|>")
    assert parts == [{"type": "text", "text": "see "}, {"type": "image"}, {"type": "text", "text": "here"}]


@pytest.mark.parametrize("native", ENGINES)
def test_nobody_goes_back_into_an_image(bundle: tuple[str, Path, Path], native: bool) -> None:
    _, _, path = bundle
    with farthing.load(path, native=native) as model:
        greedy(model, [1, TOKEN, 5], [sample_image(1, 30, 30)])
        with pytest.raises(RequestError, match="image"):
            model.rewind(3)


@pytest.mark.skipif(bool(native_parts().missing), reason="not built")
def test_a_state_with_an_image_goes_on_where_it_was(bundle: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, _, path = bundle
    image, first, second = sample_image(1, 30, 30), [1, TOKEN, 5, 9], [1, TOKEN, 5, 9, 40, 41]
    how = {"greedy": True, "max_new_tokens": 6, "ignore_eos": True, "reuse_prefix": True}
    with farthing.load(path, native=True) as model:
        greedy(model, first, [image], 1)
        model.save_state(tmp_path / "state")
        wanted = model.generate(prompt_ids=second, images=[image], **how)
    with farthing.load(path, native=True) as model:
        model.load_state(tmp_path / "state")
        found = model.generate(prompt_ids=second, images=[image], **how)
        assert found.ids == wanted.ids
        assert found.stats["prompt_tokens"] == wanted.stats["prompt_tokens"] == 2
    with farthing.load(path, native=False) as model:
        with pytest.raises(RequestError, match="text only"):
            model.load_state(tmp_path / "state")
        greedy(model, first, [image], 1)
        with pytest.raises(RequestError, match="image"):
            model.save_state(tmp_path / "other")


def test_images_of_every_kind(tmp_path: Path) -> None:
    picture = sample_image(3, 20, 30)
    pil = Image.fromarray(picture)
    pil.save(tmp_path / "a.png")
    kinds = [picture, pil, tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()]
    for kind in kinds:
        np.testing.assert_array_equal(as_rgb(kind), picture)
    assert as_rgb(picture[:, :, 0]).shape == (20, 30, 3)
    np.testing.assert_array_equal(as_rgb(np.dstack([picture, picture[:, :, :1]])), picture)
    for mode in ("L", "RGBA", "P", "CMYK", "LA", "1"):
        np.testing.assert_array_equal(as_rgb(pil.convert(mode)), np.asarray(pil.convert(mode).convert("RGB")))
    deep = Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(as_rgb(deep)[:, :, 0], picture[:, :, 0])


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(sample_image(3, 20, 30))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    assert as_rgb(tmp_path / "turned.png").shape == (30, 20, 3)


def test_pictures_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.fromarray(sample_image(1, 50, 50)).save(stream, "PNG")
    whole = stream.getvalue()
    for broken in (b"", b"not a picture", whole[: len(whole) // 2], whole[:40]):
        with pytest.raises(RequestError, match="not readable"):
            as_rgb(broken)
    with pytest.raises(RequestError, match="missing"):
        as_rgb(tmp_path / "none.png")
    for bad in (np.zeros((3, 3), np.float32), np.zeros((2, 2, 5), np.uint8), np.zeros(4, np.uint8), 7):
        with pytest.raises(RequestError, match="expected"):
            as_rgb(bad)
    with pytest.raises(RequestError, match="0 x 5"):
        as_rgb(np.zeros((0, 5, 3), np.uint8))
    # A file that claims 20 gigapixels in its header is refused before it is unpacked.
    bomb = bytearray(whole)
    bomb[16:24] = (200_000).to_bytes(4, "big") + (100_000).to_bytes(4, "big")
    import zlib

    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(RequestError, match="pixels"):
        as_rgb(bytes(bomb))


def test_a_text_bundle_has_no_eyes(tmp_path: Path) -> None:
    import tiny

    path = export("decoder", tiny.write_hf(tmp_path / "model"), tmp_path / "bundle", check=False).path
    with farthing.load(path) as model, pytest.raises(RequestError, match="reads text only"):
        model.generate("hello", images=[sample_image(1, 30, 30)])


def test_run_and_chat_show_pictures(bundle: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, _, path = bundle
    picture = sample_image(1, 30, 30)
    Image.fromarray(picture).save(tmp_path / "a.png")
    how = ["--greedy", "--max-new-tokens", "4"]
    shown = CliRunner().invoke(
        run_command, [str(path), "--image", str(tmp_path / "a.png"), "--prompt", "the hat", "--json", *how]
    )
    assert shown.exit_code == 0, shown.output
    with farthing.load(path) as model:
        wanted = model.generate("the hat", images=[picture], greedy=True, max_new_tokens=4)
    assert json.loads(shown.stdout)["ids"] == wanted.ids
    lines = f"/image {tmp_path / 'none.png'}\n/image {tmp_path / 'a.png'}\nthe hat\nand\n/quit\n"
    talk = CliRunner().invoke(chat_command, [str(path), *how], input=lines)
    assert talk.exit_code == 0, talk.output
    assert "none.png is missing" in talk.stderr
    assert wanted.text in talk.stdout
