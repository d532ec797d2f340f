"""VLoRA: the generator against torch's own modules, images as weights through both engines, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import vlm_models
import vlora_models
from torch import nn

import farthing
from farthing.errors import CheckpointError, RequestError
from farthing.export import export
from farthing.export.checkpoint.vlora_folder import VloraFolder, open_vlora
from farthing.export.decoder import export_decoder
from farthing.models.blocks import KVCache
from farthing.models.decoder import Decoder
from farthing.models.vlm_reference import image_features
from farthing.models.vlora import HEADS, VloraDecoder, logits, outward, perceive
from farthing.runtime import tensors as names
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.engines import native_parts
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.prepare import prepare
from farthing.runtime.visual.stepper import PromptStepper

TOKEN = vlm_models.IMAGE_ID
IMAGE, OTHER = sample_image(1, 40, 31), sample_image(2, 24, 24)
PROMPT = [1, 40, TOKEN, 30, 31, 90, 17]
MARGIN = 2e-4
NATIVE = pytest.param(True, id="native", marks=pytest.mark.skipif(bool(native_parts().missing), reason="not built"))
ENGINES = pytest.mark.parametrize("native", [pytest.param(False, id="portable"), NATIVE])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[VloraFolder, Path]:
    folder = tmp_path_factory.mktemp("vlora")
    model = vlora_models.write_vlora(folder / "model")
    return open_vlora(model), export("vlora", model, folder / "bundle").path


def reader(model: VloraFolder, prefix: str = "") -> Any:
    return lambda name: torch.from_numpy(np.array(model.visual(f"{prefix}{name}")))


def deltas_of(model: VloraFolder, bundle: Bundle, pixels: np.ndarray) -> dict[str, torch.Tensor]:
    how = bundle.manifest["vision"]["preprocess"]
    views = prepare(pixels, how).views
    with torch.no_grad():
        features = image_features(model.vlm, reader(model), views, how["mean"], how["std"])
        return perceive(model.vlora, reader(model, "vlora."), features)


def wanted_logits(model: VloraFolder, bundle: Bundle, ids: list[int], pixels: np.ndarray, **how: bool) -> np.ndarray:
    decoder = VloraDecoder(model, model.vlora, reader(model, "vlora."))
    return logits(decoder, TOKEN, ids, deltas_of(model, bundle, pixels), **how).numpy()


def opener(bundle: Bundle) -> Any:
    return lambda name: onnxruntime.InferenceSession(str(bundle.graph(name)))


def stepped(bundle: Bundle, ids: list[int], images: list[np.ndarray]) -> np.ndarray:
    return PromptStepper(bundle.manifest, opener(bundle), 64).prompt(ids, images)


class Generator(nn.Module):
    """As the authors' classes are built, of torch's own parts."""

    def __init__(self, model: VloraFolder, prefix: str) -> None:
        super().__init__()
        c, self.depth = model.vlora, model.vlora.depth
        self.attend = nn.ModuleDict()
        self.read = reader(model, f"vlora.{prefix}")
        for i in range(c.depth):
            for name in ("self_attn", "multihead_attn"):
                attention = nn.MultiheadAttention(c.dim, HEADS, batch_first=True)
                state = {k: self.read(f"decoders.{i}.{name}.{k}") for k in attention.state_dict()}
                attention.load_state_dict(state)
                self.attend[f"{i}{name}"] = attention

    def dense(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.linear(x, self.read(f"{name}.weight"), self.read(f"{name}.bias"))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], self.read(f"{name}.weight"), self.read(f"{name}.bias"))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        x = self.read("queries").expand(len(seen), -1, -1)
        for i in range(self.depth):
            p = f"decoders.{i}."
            h = self.norm(x, p + "norm1")
            x = x + self.attend[f"{i}self_attn"](h, h, h)[0]
            x = x + self.attend[f"{i}multihead_attn"](self.norm(x, p + "norm2"), seen, seen)[0]
            h = nn.functional.gelu(self.dense(self.norm(x, p + "norm3"), p + "linear1"))
            x = x + self.dense(h, p + "linear2")
        return self.dense(self.norm(x, "norm"), "weights_head")


@pytest.mark.parametrize("separate", [True, False])
def test_the_generator_is_that_of_torch_modules(tmp_path: Path, separate: bool) -> None:
    model = open_vlora(vlora_models.write_vlora(tmp_path / "model", separate=separate, types="qvm"))
    c, read = model.vlora, reader(model, "vlora.")
    features = torch.randn(2, c.positions, c.visual_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = nn.functional.linear(features, read("visual_proj.weight"), read("visual_proj.bias")) + read("pos_embed")
        wanted = torch.cat([Generator(model, p)(seen) for p in c.generators], 1)
        wanted = wanted.reshape(2, len(c.types), len(c.layers), c.llm_dim, c.rank)
        found = perceive(c, read, features)
    for i, t in enumerate(c.types):
        torch.testing.assert_close(found[t], wanted[:, i], rtol=1e-5, atol=1e-5)
    bundle = open_bundle(export("vlora", model.path, tmp_path / "bundle").path)
    session = opener(bundle)(names.PERCEIVE)
    for t, array in zip(c.types, session.run(None, {names.FEATURES: features.numpy()}), strict=True):
        np.testing.assert_allclose(array, found[t], rtol=1e-4, atol=1e-4)


def test_an_image_in_weights_is_that_of_the_reference(made: tuple[VloraFolder, Path]) -> None:
    model, path = made
    bundle = open_bundle(path)
    wanted = wanted_logits(model, bundle, PROMPT, IMAGE)[-1]
    found = stepped(bundle, PROMPT, [IMAGE])
    np.testing.assert_allclose(found, wanted, atol=MARGIN * np.abs(wanted).max(), rtol=0)
    without = stepped(bundle, [i for i in PROMPT if i != TOKEN], [])
    assert np.abs(found - without).max() > 100 * MARGIN * np.abs(wanted).max()  # else this test sees nothing


def test_a_free_position_is_a_masked_row(made: tuple[VloraFolder, Path]) -> None:
    model, path = made
    bundle = open_bundle(path)
    masked = wanted_logits(model, bundle, PROMPT, IMAGE)
    free = wanted_logits(model, bundle, PROMPT, IMAGE, masked=False)
    np.testing.assert_allclose(free, masked, atol=5e-5, rtol=0)
    # Without the free position the text behind stands elsewhere, and the answer is another.
    decoder = VloraDecoder(model, model.vlora, reader(model, "vlora."))
    closed = logits(decoder, -1, [i for i in PROMPT if i != TOKEN], deltas_of(model, bundle, IMAGE)).numpy()
    assert np.abs(closed[-1] - masked[-1]).max() > 1e-3


def test_dynamic_is_merged(tmp_path: Path) -> None:
    model = open_vlora(vlora_models.write_vlora(tmp_path / "model", types="qkvo", skip=1))
    bundle = open_bundle(export("vlora", model.path, tmp_path / "bundle").path)
    deltas, out = deltas_of(model, bundle, IMAGE), outward(model.vlora, reader(model, "vlora."))

    class Merged:
        config = model.config

        def tensor(self, name: str) -> np.ndarray:
            array, parts = model.tensor(name), name.split(".")
            if parts[0] == "layers" and parts[2] in model.vlora.types:
                j = model.vlora.layers.index(int(parts[1]))
                array = array + (out[parts[2]][j] @ deltas[parts[2]][0, j].T).numpy()
            return array

    rows = [i for i, token in enumerate(PROMPT) if token != TOKEN]
    ids = torch.tensor([[PROMPT[i] for i in rows]])
    merged = Decoder(Merged()).forward(
        ids, KVCache.empty(model.config, len(rows)), torch.zeros(1, dtype=torch.int64), positions=torch.tensor([rows])
    )
    np.testing.assert_allclose(stepped(bundle, PROMPT, [IMAGE]), merged.logits[0, -1].numpy(), atol=1e-4, rtol=0)


@ENGINES
def test_text_alone_is_the_text_model_bit_for_bit(made: tuple[VloraFolder, Path], tmp_path: Path, native: bool) -> None:
    model, path = made
    plain = export_decoder(model, tmp_path / "plain").path
    ids = [i for i in PROMPT if i != TOKEN]
    with farthing.load(plain, native=native) as text, farthing.load(path, native=native) as sees:
        for engine in (text.engine, sees.engine):
            engine.prefill(ids)
        np.testing.assert_array_equal(text.engine.logits(), sees.engine.logits())
        for token in (5, 9):
            np.testing.assert_array_equal(text.engine.extend([token]), sees.engine.extend([token]))


def test_zero_b_is_no_image(made: tuple[VloraFolder, Path]) -> None:
    _, path = made
    bundle = open_bundle(path)
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(bundle.graph(names.DECODER)))
    for weight in graph.graph.initializer:
        if ".vlora_" in weight.name:
            weight.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(weight)), weight.name))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    draw, found = np.random.default_rng(0), []
    for scale in (0.0, 3.0):
        feeds = {names.INPUT_IDS: np.array([[4, 5, 6]]), names.POSITIONS: np.array([[0, 1, 2]])}
        feeds |= {names.PAST_LEN: np.zeros(1, np.int64), names.LOGIT_ROWS: np.array([[2]])}
        for i in session.get_inputs():
            if i.name not in feeds:
                shape = [{"B": 1, "C": 8}.get(d, d) for d in i.shape]
                feeds[i.name] = (scale * draw.standard_normal(shape) * i.name.startswith("delta")).astype(np.float32)
        found.append(session.run([names.LOGITS], feeds)[0])
    np.testing.assert_array_equal(*found)


def greedy(model: Any, ids: list[int], images: list[np.ndarray], **more: Any) -> Any:
    return model.generate(prompt_ids=ids, images=images, greedy=True, max_new_tokens=6, ignore_eos=True, **more)


@ENGINES
def test_generation_follows_the_reference(made: tuple[VloraFolder, Path], native: bool) -> None:
    model, path = made
    with farthing.load(path, native=native) as runtime:
        made_ids = greedy(runtime, PROMPT, [IMAGE])
        assert made_ids.stats["prompt_tokens"] == len(PROMPT) - 1  # no row for the image
        rows = wanted_logits(model, open_bundle(path), [*PROMPT, *made_ids.ids[:-1]], IMAGE)[-6:]
        for row, chosen in zip(rows, made_ids.ids, strict=True):
            assert row[chosen] >= row.max() - MARGIN * np.abs(rows).max()
        shown = runtime.generate("the hat", images=[IMAGE], greedy=True, max_new_tokens=2, ignore_eos=True)
        assert shown.prompt_ids.count(TOKEN) == 1


@ENGINES
def test_what_a_second_question_shares(made: tuple[VloraFolder, Path], native: bool) -> None:
    _, path = made
    second, text = [1, 40, TOKEN, 30, 77], [1, 40, 30]
    with farthing.load(path, native=native) as runtime:
        fresh = {key: greedy(runtime, second, [image]).ids for key, image in (("same", IMAGE), ("other", OTHER))}
        plain = greedy(runtime, text, []).ids
        greedy(runtime, PROMPT, [IMAGE])
        again = greedy(runtime, second, [IMAGE], reuse_prefix=True)
        assert (again.ids, again.stats["prompt_tokens"]) == (fresh["same"], 1)
        assert again.stats["vision"]["encoded"] == 0
        # Another image has changed every row, so has no image: nothing is shared.
        again = greedy(runtime, second, [OTHER], reuse_prefix=True)
        assert (again.ids, again.stats["prompt_tokens"]) == (fresh["other"], 4)
        again = greedy(runtime, text, [], reuse_prefix=True)
        assert (again.ids, again.stats["prompt_tokens"]) == (plain, 3)
        again = greedy(runtime, second, [IMAGE], reuse_prefix=True)
        assert (again.ids, again.stats["prompt_tokens"]) == (fresh["same"], 4)
        # The same image elsewhere.
        moved = [1, TOKEN, 40, 30, 77]
        again = greedy(runtime, moved, [IMAGE], reuse_prefix=True)
        assert again.stats["prompt_tokens"] == 4
        assert again.ids == greedy(runtime, moved, [IMAGE]).ids
        assert greedy(runtime, text, []).ids == plain


@ENGINES
def test_requests_that_are_refused(made: tuple[VloraFolder, Path], tmp_path: Path, native: bool) -> None:
    _, path = made
    with farthing.load(path, native=native) as runtime:
        with pytest.raises(RequestError, match="2 in a prompt"):
            greedy(runtime, [1, TOKEN, 5, TOKEN, 6], [IMAGE, IMAGE])
        greedy(runtime, PROMPT, [IMAGE])
        with pytest.raises(RequestError, match="before the image"):
            runtime.rewind(1)
        with pytest.raises(RequestError, match="image"):
            runtime.save_state(tmp_path / "state")
        runtime.rewind(0)
        greedy(runtime, [1, 40, 30], [])
        with pytest.raises(RequestError, match="read without it"):
            runtime.engine.generate([TOKEN, 5], {"continue": True}, images=[(IMAGE, "full")])


def test_a_tower_of_its_own(made: tuple[VloraFolder, Path], tmp_path: Path) -> None:
    model, path = made
    folder = vlora_models.write_vlora(tmp_path / "model", inside=False)
    with pytest.raises(CheckpointError, match="--vision"):
        open_vlora(folder)
    other = export("vlora", folder, tmp_path / "bundle", vision=tmp_path / "model-clip", check=False).path
    np.testing.assert_array_equal(
        stepped(open_bundle(other), PROMPT, [IMAGE]), stepped(open_bundle(path), PROMPT, [IMAGE])
    )
    with pytest.raises(CheckpointError, match="leave out --vision"):
        open_vlora(model.path, tmp_path / "model-clip")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vlora_rank": None}, "vlora_rank"),
        ({"vlora_type": None}, "vlora_type"),
        ({"vlora_type": "qx"}, "vlora_type"),
        ({"vlora_alpha": None}, "vlora_alpha"),
        ({"weights_sep": None}, "weights_sep"),
        ({"skip_layers": 3}, "skip_layers"),
        ({"vlora_llm_dim": 64}, "vlora_llm_dim"),
        ({"vlora_pos_num": 16}, "vlora_pos_num"),
        ({"vlora_dim": 40}, "vlora_dim"),
        ({"num_key_value_heads": 2}, "grouped"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
        ({"model_type": "llava"}, "llava_vlora"),
        ({"image_token_index": 100000}, "image_token_index"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    folder = vlora_models.write_vlora(tmp_path / "model", **change)
    with pytest.raises(CheckpointError, match=word):
        export("vlora", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_missing(tmp_path: Path) -> None:
    folder = vlora_models.write_vlora(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for depth, word in ((1, "unexpected"), (3, "missing")):
        (folder / "config.json").write_text(json.dumps({**config, "vlora_depth": depth}))
        with pytest.raises(CheckpointError, match=word):
            open_vlora(folder)
