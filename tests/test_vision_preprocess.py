"""Images to views: the C++ core against Pillow and against the image processors of transformers, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farthing.errors import BundleError, RequestError
from farthing.runtime.anyres import anyres, choose_pinpoint
from farthing.runtime.engines import native_parts

core = native_parts().core
pytestmark = pytest.mark.skipif(core is None, reason="the native core is not built")

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
COMMON = {"resample": "bicubic", "mean": MEAN, "std": STD}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ANYRES = {"kind": "anyres", "size": 336, "crop": 336, "pinpoints": PINPOINTS, **COMMON}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height,width,3]: noise, with runs of black and white, whose edges overshoot."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (height, width, 3), np.uint8)
    made[: height // 3] = np.where(made[: height // 3] > 127, 255, 0)
    return made


def preprocess(image: np.ndarray, entry: dict[str, Any], grid: int = 24) -> tuple[np.ndarray, dict[str, Any]]:
    return core.preprocess(image, json.dumps(entry), grid)  # type: ignore[no-any-return]


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_resize_is_that_of_pillow(resample: str) -> None:
    rng = np.random.default_rng(5)
    sizes = [(1, 1), (1, 300), (301, 2), (37, 37), (64, 48), (480, 640)]
    targets = [(1, 1), (37, 37), (336, 336), (64, 5), (7, 640), (13, 17)]
    targets += [(int(h), int(w)) for h, w in rng.integers(1, 400, (8, 2))]
    for height, width in sizes:
        image = picture(height, width, height)
        for high, wide in [*targets, (height, 50), (50, width), (height, width)]:
            method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[resample]
            wanted = np.asarray(Image.fromarray(image).resize((wide, high), method))
            np.testing.assert_array_equal(core.resize(image, high, wide, resample), wanted)


def test_rows_may_lie_apart() -> None:
    whole = picture(90, 120)
    part = whole[10:80:2, 20:70]
    assert not part.flags.c_contiguous
    np.testing.assert_array_equal(core.resize(part, 20, 30), core.resize(part.copy(), 20, 30))


SHAPES = [
    (336, 336),
    (480, 640),
    (640, 481),
    (37, 1000),
    (1000, 37),
    (20, 20),
    (333, 335),
    (1, 1),
    (200, 1),
    (799, 800),
]


@pytest.mark.parametrize("size", [{"shortest_edge": 336}, {"shortest_edge": 100}, {"height": 300, "width": 350}])
def test_clip_is_that_of_transformers(size: dict[str, int]) -> None:
    """Crops that are larger than the resized image are padded with black."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size=size, crop_size={"height": 336, "width": 336}, do_rescale=False, do_normalize=False
    )
    entry = {"kind": "clip", "size": next(iter(size.values())) if len(size) == 1 else [300, 350], "crop": 336, **COMMON}
    for height, width in SHAPES:
        image = picture(height, width)
        wanted = np.asarray(processor(Image.fromarray(image)).pixel_values)[0].transpose(1, 2, 0)
        views, where = preprocess(image, entry)
        assert views.shape == (1, 336, 336, 3) and where["rows"] == 24 * 24
        np.testing.assert_array_equal(views[0], wanted)


@pytest.mark.parametrize("shape", [*SHAPES, (1344, 336), (336, 1344), (150, 20), (2000, 900), (672, 672)])
def test_anyres_is_that_of_transformers(shape: tuple[int, int]) -> None:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=PINPOINTS,
        do_rescale=False,
        do_normalize=False,
    )
    image = picture(*shape)
    wanted = np.asarray(processor(Image.fromarray(image)).pixel_values)[0].transpose(0, 2, 3, 1)
    views, _ = preprocess(image, ANYRES)
    np.testing.assert_array_equal(views, wanted)


@pytest.mark.parametrize("grid", [1, 3, 6, 24])
def test_layout_is_that_of_python(grid: int) -> None:
    """The portable engine's layout, of which transformers is the judge (test_anyres.py)."""
    rng = np.random.default_rng(grid)
    shapes = [*SHAPES, *[(int(h), int(w)) for h, w in rng.integers(10, 1500, (40, 2))]]
    for height, width in shapes:
        high, wide = choose_pinpoint((height, width), [(h, w) for h, w in PINPOINTS])
        wanted = anyres((height, width), (high // 336, wide // 336), grid)
        _, where = preprocess(np.zeros((height, width, 3), np.uint8), ANYRES, grid)
        assert (where["rows"], where["newlines"], where["tiles"]) == (wanted.order.size, wanted.newlines, wanted.tiles)
        np.testing.assert_array_equal(where["order"], wanted.order)
        np.testing.assert_array_equal(where["group"], wanted.group)
        index, weight = wanted.taps()
        np.testing.assert_array_equal(where["tap_index"], index)
        np.testing.assert_array_equal(where["tap_weight"], weight)
        np.testing.assert_array_equal(where["regions"], wanted.regions())


def test_order_is_that_of_transformers() -> None:
    """pack_image_features, asked with features that are their own numbers."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    grid = 6
    for height, width in [(480, 640), (640, 480), (37, 1000), (1000, 336), (333, 335), (150, 20)]:
        _, where = preprocess(picture(height, width), ANYRES, grid)
        down, across = get_anyres_image_grid_shape((height, width), PINPOINTS, 336)
        numbers = torch.arange((1 + down * across) * grid * grid).reshape(-1, grid, grid)
        canvas = numbers[1:].view(down, across, grid, grid).permute(0, 2, 1, 3).reshape(1, down * grid, across * grid)
        shown = unpad_image(canvas, (height, width))[0]
        breaks = torch.full((len(shown), 1), numbers.numel())
        wanted = torch.cat([numbers[0].flatten(), torch.cat([shown, breaks], 1).flatten()])
        np.testing.assert_array_equal(where["order"], wanted.numpy())


def test_qwen_is_that_of_transformers() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    least, most = 56 * 56, 28 * 28 * 64
    entry = {"kind": "qwen2_vl", "patch": 14, "merge": 2, "window": 112, **COMMON}
    entry |= {"min_pixels": least, "max_pixels": most}
    for height, width in [(480, 640), (20, 20), (42, 70), (14, 300), (1000, 37), (28, 28), (98, 126)]:
        high, wide = smart_resize(height, width, 28, least, most)
        image = picture(height, width)
        views, where = preprocess(image, entry)
        wanted = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(views[0], wanted)
        assert where["grid"] == (high // 28, wide // 28) and where["rows"] == high * wide // 28**2


def test_a_crop_of_an_enormous_picture_costs_what_the_crop_costs() -> None:
    """Side 3000 and a crop of 8: the resized image would have 5.4 GB."""
    entry = {"kind": "clip", "size": 3000, "crop": 8, **COMMON}
    views, _ = preprocess(picture(1, 200), entry)
    assert views.shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((0, 5, 3), np.uint8), "image is 0 x 5 pixels, expected 1 x 1 or more"),
        (np.zeros((5, 0, 3), np.uint8), "5 x 0"),
        (np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (4, 4, 3)), "strides 0, 0, 1"),
        (np.zeros((4, 4), np.uint8), "uint8 array"),
        (np.zeros((4, 4, 3), np.float32), "uint8 array"),
        (np.zeros((4, 4, 4), np.uint8), "of 4 channels"),
        (np.zeros((4, 4, 1), np.uint8), "of 1 channels"),
        (np.zeros((4, 4, 3), np.uint8)[:, ::-1], "strides"),
        (np.zeros((4, 4, 3), np.uint8)[::-1], "stride of image is -12"),
        (np.zeros((201, 1, 3), np.uint8), "shape of image is 201 x 1"),
        ("picture", "uint8 array"),
    ],
)
def test_pictures_that_are_refused(image: Any, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        preprocess(image, ANYRES)


def test_an_image_too_large_is_refused_by_its_size() -> None:
    memory = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (20000, 20000, 3), (60000, 3, 1), writeable=False)
    with pytest.raises(RequestError, match="20000 x 20000 pixels, expected at most 268435456"):
        preprocess(memory, ANYRES)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "dream"}, "one of clip, anyres, qwen2_vl"),
        ({"resample": "lanczos"}, "one of bicubic, bilinear"),
        ({"size": 224}, "336, that of the crop"),
        ({"size": [336, 0]}, r"\[height, width\]"),
        ({"pinpoints": []}, "a list"),
        ({"pinpoints": [[336, 500]]}, "multiples of 336"),
        ({"crop": -1}, "an integer of at least 1"),
        ({"crop": 10**6}, "at most 16384"),
        ({"std": [0, 1, 1]}, "three numbers"),
        ({"mean": None}, "three numbers"),
    ],
)
def test_entries_that_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(BundleError, match=word):
        preprocess(picture(20, 20), {**ANYRES, **change})
