"""Pruned prompts against transformers, which is given the rows that were kept; and the rows against the operator's reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import vlm_models
from test_vlm_export import opener

from farthing.errors import RequestError
from farthing.export import export
from farthing.export.checkpoint import open_vlm
from farthing.plugins.token_select.reference import reference as token_select
from farthing.runtime.bundle import open_bundle
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.stepper import PromptStepper

TOKEN = vlm_models.IMAGE_ID
SIDE = 64
"""8 x 8 patches: enough to drop some."""
PROMPT = [1, 40, TOKEN, 90, 8, 13, 250]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {f: vlm_models.write_llava(folder / f, f, side=SIDE) for f in ("llava", "llava_next")}


@pytest.fixture(scope="module")
def made(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    cache: dict[str, Path] = {}

    def build(method: str, family: str, **options: object) -> Path:
        key = f"{method}-{family}-{sorted(options.items())}"
        if key not in cache:
            out = tmp_path_factory.mktemp("bundle") / "bundle"
            cache[key] = export(method, folders[family], out, check=False, **options).path
        return cache[key]

    return build


def rebuilt_logits(folder: Path, family: str, picture: np.ndarray, kept: np.ndarray, *, compact: bool) -> np.ndarray:
    """Logits [4,V] of the text behind the image, by transformers' decoder over the kept embeddings at the positions of the policy."""
    import transformers as hf
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    kind = hf.LlavaForConditionalGeneration if family == "llava" else hf.LlavaNextForConditionalGeneration
    model = kind.from_pretrained(folder).eval()
    pil = CLIPImageProcessorPil if family == "llava" else LlavaNextImageProcessorPil
    inputs = pil.from_pretrained(folder)([picture], return_tensors="pt")
    with torch.no_grad():
        rows = model.get_image_features(**inputs).pooler_output[0].reshape(-1, 48)
        before, behind = PROMPT[: PROMPT.index(TOKEN)], PROMPT[PROMPT.index(TOKEN) + 1 :]
        table = model.get_input_embeddings()
        embeds = torch.cat([table(torch.tensor(before)), rows[torch.from_numpy(kept)], table(torch.tensor(behind))])[
            None
        ]
        image = torch.arange(len(kept)) if compact else torch.from_numpy(kept)
        at = len(before) + (len(kept) if compact else len(rows))
        positions = torch.cat([torch.arange(len(before)), len(before) + image, at + torch.arange(len(behind))])[None]
        hidden = model.model.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state
        return model.lm_head(hidden)[0, -len(behind) :].numpy()


def found_logits(bundle_path: Path, picture: np.ndarray, level: str) -> tuple[np.ndarray, np.ndarray]:
    bundle = open_bundle(bundle_path)
    stepper = PromptStepper(bundle.manifest, opener(bundle, False), 400)
    behind = PROMPT[PROMPT.index(TOKEN) + 1 :]
    logits = [stepper.prompt(PROMPT[: len(PROMPT) - len(behind) + 1], [picture], level)]
    logits += [stepper.text([i]) for i in behind[1:]]
    return np.stack(logits), stepper.kept[0]


METHODS = [
    ("idpruner", "llava", {"positions": "keep"}),
    ("idpruner", "llava", {"positions": "compact", "importance": "norm"}),
    ("idpruner", "llava_next", {"positions": "keep"}),
    ("zoo-prune", "llava", {"positions": "compact"}),
    ("zoo-prune", "llava", {"positions": "keep", "estimator": "zo"}),
    ("zoo-prune", "llava_next", {"positions": "compact"}),
    ("globalcom2", "llava_next", {"positions": "compact"}),
    ("globalcom2", "llava_next", {"positions": "keep", "scores": "probs"}),
]


@pytest.mark.parametrize(("method", "family", "options"), METHODS)
def test_logits_are_those_of_transformers_over_the_kept_rows(made, folders, method, family, options) -> None:
    path = made(method, family, ratios=(0.5, 0.9), **options)
    picture = sample_image(2, 150, 110)
    for level in ("full", "r50", "r90"):
        found, kept = found_logits(path, picture, level)
        wanted = rebuilt_logits(folders[family], family, picture, kept, compact=options["positions"] == "compact")
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4 * max(1, np.abs(wanted).max()))
        assert (np.diff(kept) > 0).all()
        if level != "full":
            assert len(kept) < (64 if family == "llava" else 330)


@pytest.mark.parametrize(("method", "family", "options"), METHODS[:1] + METHODS[3:4] + METHODS[6:7])
def test_the_full_level_is_the_unpruned_bundle_bit_for_bit(made, method, family, options) -> None:
    picture = sample_image(2, 150, 110)
    pruned, _ = found_logits(made(method, family, ratios=(0.5, 0.9), **options), picture, "full")
    plain, _ = found_logits(made("vlm", family), picture, "full")
    np.testing.assert_array_equal(pruned, plain)


@pytest.mark.parametrize("mode", ["mmr", "sads"])
def test_picks_are_those_of_the_reference(made, folders, mode) -> None:
    """Scores by their formulas in double precision, rows by PyTorch, the picks by the operator's reference."""
    method = "idpruner" if mode == "mmr" else "zoo-prune"
    options = {"positions": "keep", "importance": "norm"} if mode == "mmr" else {"positions": "keep"}
    path, model = made(method, "llava", ratios=(0.5, 0.9), **options), open_vlm(folders["llava"])
    from farthing.models.vlm import project
    from farthing.models.vlm_reference import image_features
    from farthing.runtime.visual.prepare import prepare

    how = open_bundle(path).manifest["vision"]["preprocess"]

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(model.visual(name)))

    for seed in range(6):
        picture = sample_image(seed, 90 + 9 * seed, 120)
        features = image_features(model.vlm, read, prepare(picture, how).views, how["mean"], how["std"])
        rows = project(model.vlm, lambda n: read(f"projector.{n}"), features)
        if mode == "mmr":
            scores = rows.double().norm(dim=-1).float()
        else:
            w1, b1, w2 = (
                read(f"projector.{n}").double() for n in ("linear_1.weight", "linear_1.bias", "linear_2.weight")
            )
            a = features.double() @ w1.T + b1
            slope = 0.5 * (1 + torch.erf(a / 2**0.5)) + a * torch.exp(-a * a / 2) / (2 * torch.pi) ** 0.5
            jacobian = torch.einsum("dh,tnh,hv->tndv", w2, slope, w1)
            scores = jacobian.pow(2).sum((-1, -2)).sqrt().float() / features.shape[-1] ** 0.5
        for level, k in (("r50", 32), ("r90", 6)):
            _, kept = found_logits(path, picture, level)
            wanted, _ = token_select(scores, rows, k=k, mode=mode, epsilon=1e-6 if mode == "mmr" else 1e-8)
            assert kept.tolist() == wanted[0].tolist()


def test_pruning_inside_the_decoder(made, folders) -> None:
    """Early layers keep every row, late ones the chosen; logits against PyTorch that drops the rows from the stream."""
    path = export(
        "idpruner",
        folders["llava"],
        made("vlm", "llava").parent / "inside",
        ratios=(0.5, 0.9),
        importance="norm",
        prune_layer=1,
    )
    assert path.check["images"]["max_abs"] <= path.check["images"]["allowed"]
    picture = sample_image(2, 150, 110)
    plain, _ = found_logits(made("vlm", "llava"), picture, "full")
    inside, kept = found_logits(path.path, picture, "full")
    np.testing.assert_array_equal(plain, inside)
    pruned, kept = found_logits(path.path, picture, "r90")
    assert len(kept) == 6
    assert np.abs(pruned - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("method", "family", "options", "word"),
    [
        ("idpruner", "llava", {"ratios": (1.0,)}, "ratio of dropped tokens is 1.0"),
        ("idpruner", "llava", {"ratios": (-0.1,)}, "ratio"),
        ("idpruner", "llava", {"ratios": (float("nan"),)}, "ratio"),
        ("idpruner", "llava", {"ratios": (0.5, 0.5)}, "different numbers"),
        ("idpruner", "llava", {"lam": 2.0}, "lam is 2.0"),
        ("idpruner", "llava", {"positions": "loose"}, "positions"),
        ("idpruner", "llava", {"prune_layer": 3, "importance": "norm"}, "prune_layer is 3, expected 1 to 2"),
        (
            "idpruner",
            "llava",
            {"prune_layer": 1, "positions": "compact", "importance": "norm"},
            "compact with prune_layer",
        ),
        ("idpruner", "llava", {"prune_layer": 1, "importance": "sensitivity"}, "sensitivity with prune_layer"),
        ("idpruner", "llava_next", {"prune_layer": 1, "importance": "norm"}, "several views"),
        ("idpruner", "llava", {"importance": "selector"}, "without a selector"),
        ("zoo-prune", "llava", {"estimator": "guess"}, "estimator"),
        ("globalcom2", "llava", {}, "one view"),
        ("matryoshka", "llava", {"scales": (10,)}, "one of 64, 16, 4, 1"),
    ],
)
def test_options_that_are_refused(folders, tmp_path, method, family, options, word) -> None:
    with pytest.raises(RequestError, match=word):
        export(method, folders[family], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_matryoshka_rows_are_means(made, folders) -> None:
    with pytest.warns(RuntimeWarning, match="matryoshka_vis_token_scale"):
        result = export("matryoshka", folders["llava"], made("vlm", "llava").parent / "nested")
    assert result.check["images"]["max_abs"] <= result.check["images"]["allowed"]
    bundle = open_bundle(result.path)
    assert [level["id"] for level in bundle.manifest["vision"]["levels"]] == ["full", "s16", "s4", "s1"]
    stepper = PromptStepper(bundle.manifest, opener(bundle, False), 100)
    picture = sample_image(1, 70, 70)
    rows = {level: stepper.encoder.rows(picture, level).embeds[0] for level in ("full", "s16", "s4", "s1")}
    squares = rows["full"].reshape(8, 8, 48)
    for level, side in (("s16", 4), ("s4", 2), ("s1", 1)):
        wanted = squares.reshape(side, 8 // side, side, 8 // side, 48).mean((1, 3)).reshape(-1, 48)
        np.testing.assert_allclose(rows[level], wanted, rtol=1e-5, atol=1e-5)
