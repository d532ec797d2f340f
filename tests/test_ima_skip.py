"""Rows of images that leave parts of layers out: against transformers with hooks, the guard, the report, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import vlm_models
from PIL import Image

import farthing
from farthing.calibration.ima import ima_report
from farthing.calibration.ima.measure import compare
from farthing.calibration.ima.report import rank
from farthing.calibration.ima.show import plot, table
from farthing.calibration.ima.subnets import by_chance, kept
from farthing.errors import RequestError
from farthing.export import export
from farthing.export.checkpoint import open_vlm
from farthing.export.visual.guard import divergence
from farthing.export.visual.samples import read_samples
from farthing.export.visual.skipping import plan_text, read_plan
from farthing.models.decoder import Decoder
from farthing.models.vlm_reference import decoder_logits
from farthing.plugins import library_path
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.engines import native_parts
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.stepper import PromptStepper

TOKEN = vlm_models.IMAGE_ID
PROMPT, BEHIND = [1, 40, 77, TOKEN], [90, 8, 13]
PICTURE = sample_image(3, 40, 31)
PLANS = ["0:ffn", "1:attention", "1:block", "0:block,1:ffn", "0-1:block"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_models.write_llava(tmp_path_factory.mktemp("skip") / "model")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("asked")
    lines = []
    for n in range(3):
        Image.fromarray(sample_image(n, 30, 30 + n)).save(made / f"{n}.png")
        lines.append({"image": f"{n}.png", "question": "the hat?", **({"answer": "red"} if n else {})})
    (made / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return made, made / "asked.jsonl"


def opener(bundle: Bundle, kernels: bool = False) -> Any:
    def opened(name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if kernels:
            options.register_custom_ops_library(str(library_path()))
        return onnxruntime.InferenceSession(str(bundle.graph(name)), options)

    return opened


def stepped(bundle: Bundle, level: str, kernels: bool = False) -> np.ndarray:
    stepper = PromptStepper(bundle.manifest, opener(bundle, kernels), 64)
    found = [stepper.prompt([*PROMPT, BEHIND[0]], [PICTURE], level)]
    return np.stack(found + [stepper.text([i]) for i in BEHIND[1:]])


def hooked(folder: Path, plan: dict[int, str]) -> np.ndarray:
    """Logits of transformers' own model, whose attention or networks add nothing to rows of the image."""
    import transformers as hf
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = hf.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    inputs = CLIPImageProcessorPil.from_pretrained(folder)([PICTURE], return_tensors="pt")
    ids = [*PROMPT[:-1], *[TOKEN] * 9, *BEHIND]
    visual = torch.tensor(ids) == TOKEN

    def silence(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0].masked_fill(visual[None, :, None], 0.0), *output[1:])
        return output.masked_fill(visual[None, :, None], 0.0)

    for layer, what in plan.items():
        block = model.model.language_model.layers[layer]
        for module in {"ffn": [block.mlp], "attention": [block.self_attn], "block": [block.mlp, block.self_attn]}[what]:
            module.register_forward_hook(silence)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **inputs).logits[0, -len(BEHIND) :].numpy()


@pytest.mark.parametrize("plan", PLANS)
def test_logits_are_those_of_transformers_with_hooks(folder: Path, tmp_path: Path, plan: str) -> None:
    bundle = open_bundle(export("ima-skip", folder, tmp_path / "bundle", plan=plan).path)
    assert bundle.manifest["vision"]["level"] == "skip"
    assert bundle.manifest["method"]["guarantee"] == "lossy"
    wanted, whole = hooked(folder, read_plan(plan)), hooked(folder, {})
    margin = 5e-5 * max(1, np.abs(wanted).max())
    assert np.abs(wanted - whole).max() > 100 * margin  # else this test sees nothing
    for kernels in (False, True) if library_path() else (False,):
        np.testing.assert_allclose(stepped(bundle, "skip", kernels), wanted, atol=margin, rtol=0)
        np.testing.assert_allclose(stepped(bundle, "full", kernels), whole, atol=margin, rtol=0)


def test_an_empty_plan_is_the_plain_export(folder: Path, tmp_path: Path) -> None:
    plain = open_bundle(export("vlm", folder, tmp_path / "plain", check=False).path)
    empty = open_bundle(export("ima-skip", folder, tmp_path / "empty", check=False).path)
    graphs = [{n: f for n, f in b.manifest["files"].items() if n.startswith("graphs/")} for b in (plain, empty)]
    assert graphs[0] == graphs[1]
    assert graphs[0]
    assert empty.manifest["method"]["guarantee"] == "exact"
    for level in ("full", "skip"):
        np.testing.assert_array_equal(stepped(empty, level), stepped(plain, "full"))


def test_skipping_copies_no_weight(folder: Path, tmp_path: Path) -> None:
    plain = open_bundle(export("vlm", folder, tmp_path / "plain", check=False).path)
    skips = open_bundle(export("ima-skip", folder, tmp_path / "skips", plan="0:block,1:attention", check=False).path)
    data = [sum(p.stat().st_size for p in (b.path / "graphs").glob("*.data")) for b in (plain, skips)]
    assert data[0] == data[1]


@pytest.mark.skipif(bool(native_parts().missing), reason="the native core is not built")
def test_both_engines_skip(folder: Path, tmp_path: Path) -> None:
    path = export("ima-skip", folder, tmp_path / "bundle", plan="0:block,1:ffn", check=False).path
    found = []
    for native in (False, True):
        with farthing.load(path, native=native) as model:
            made = model.generate(
                prompt_ids=[*PROMPT, *BEHIND], images=[PICTURE], greedy=True, max_new_tokens=5, ignore_eos=True
            )
            found.append(made.ids)
    assert found[0] == found[1]


def test_plans() -> None:
    assert read_plan("2-4:ffn, 7:attention") == {2: "ffn", 3: "ffn", 4: "ffn", 7: "attention"}
    assert read_plan(plan_text({1: "block", 0: "ffn"})) == {0: "ffn", 1: "block"}
    assert read_plan("") == {} == read_plan({})
    assert read_plan({"3": "ffn"}) == {3: "ffn"}
    for bad in ("2", "2:all", "4-2:ffn", "2:ffn,1-3:block", "x:ffn", {"-1": "ffn"}, {1: "none"}):
        with pytest.raises(RequestError, match="plan"):
            read_plan(bad)


def test_plans_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    for plan in ("2:ffn", "9:block"):  # three layers; of the last nothing can be left out
        with pytest.raises(RequestError, match="expected 0 to 1"):
            export("ima-skip", folder, tmp_path / "out", plan=plan)
    with pytest.raises(RequestError, match="not readable"):
        export("ima-skip", folder, tmp_path / "out", plan="none.json")
    with pytest.raises(RequestError, match="--images"):
        export("ima-skip", folder, tmp_path / "out", plan="1:ffn", questions="asked.jsonl")
    assert not (tmp_path / "out").exists()


def test_the_guard(folder: Path, asked: tuple[Path, Path], tmp_path: Path) -> None:
    pictures, questions = asked
    plan = {0: "ffn", 1: "block"}
    with pytest.raises(RequestError, match="mean KL of the plan over 3 samples"):
        export("ima-skip", folder, tmp_path / "out", plan=plan, images=pictures, questions=questions, max_kl=1e-7)
    assert not (tmp_path / "out").exists()
    made = export("ima-skip", folder, tmp_path / "out", plan=plan, images=pictures, max_kl=100.0, check=False)
    method = open_bundle(made.path).manifest["vision"]["method"]
    assert method["guard"]["samples"] == 3
    assert method["guard"]["mean"] > 1e-7
    made = export("ima-skip", folder, tmp_path / "unasked", plan=plan, check=False)
    method = open_bundle(made.path).manifest["vision"]["method"]
    assert method["guard"] is None
    assert "not measured" in method["guard_note"]


def test_divergence_is_what_it_says(folder: Path, asked: tuple[Path, Path]) -> None:
    from farthing.export.visual.samples import prompts

    model = open_vlm(folder)
    decoder = Decoder(model)
    samples = read_samples(model, *asked, 8)
    assert [s.judged for s in samples] == [1, len(samples[1].ids) - len(samples[0].ids) + 1, samples[2].judged]
    plan = {1: "ffn"}
    nothing, found = divergence(model, decoder, samples, [{}, plan])
    assert (nothing.mean, nothing.worst, nothing.same) == (0.0, 0.0, 1.0)
    each = []
    for sample in samples:
        a, b = (
            decoder_logits(decoder, next(prompts(model, decoder, [sample])), sample.judged, skip=p).double().softmax(-1)
            for p in ({}, plan)
        )
        each.append(float((a * (a / b).log()).sum(-1).mean()))
    assert found.mean == pytest.approx(np.mean(each), rel=1e-4)
    assert found.worst == pytest.approx(max(each), rel=1e-4)
    assert found.rows == sum(s.judged for s in samples)


def test_likeness() -> None:
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    same = compare(rows, rows)
    assert same["cosine"] == pytest.approx(1, abs=1e-5)
    assert same["max_mean"] == pytest.approx(1, abs=1e-5)
    assert same["mean"] < 0.9
    assert compare(rows, -rows)["cosine"] == pytest.approx(-1, abs=1e-5)
    # One row of huge norm moves the cosine of means, and not the median of pairs.
    text = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    giant = torch.cat([rows, 1e4 * text[:1]])
    assert compare(giant, text)["cosine"] != pytest.approx(compare(rows, text)["cosine"], abs=0.1)
    assert compare(giant, text)["median"] == pytest.approx(compare(rows, text)["median"], abs=0.1)


def test_the_report_finds_a_layer_that_does_nothing(asked: tuple[Path, Path], tmp_path: Path) -> None:
    """Of five layers one has a network of zeros: it is the first to go, at no cost."""
    import safetensors.torch

    folder = vlm_models.write_llava(tmp_path / "model")
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    (name,) = [n for n in tensors if n.endswith("layers.1.mlp.down_proj.weight")]
    tensors[name].zero_()
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    report = ima_report(folder, *asked, budget=1)
    assert report.ranking == [1] == rank(report.layers)
    assert report.layers[1].ffn == {"visual": 0.0, "text": 0.0}
    assert report.layers[0].ffn["visual"] > 0
    assert report.plan == {1: "ffn"}
    assert report.tried[0].guard.mean == 0.0
    assert (report.samples, report.answered) == (3, 2)
    assert len(report.layers) == 4
    assert report.ima["cosine"] == pytest.approx(np.mean([s.alike["cosine"] for s in report.layers[1:]]))
    assert "plan: 1:ffn" in table(report)
    plot(report, tmp_path / "report.png")
    assert Image.open(tmp_path / "report.png").size[0] > 500
    (tmp_path / "report.json").write_text(json.dumps(report.as_json()), encoding="utf-8")
    made = export("ima-skip", folder, tmp_path / "bundle", plan=tmp_path / "report.json", images=asked[0], check=False)
    bundle = open_bundle(made.path)
    assert bundle.manifest["vision"]["method"]["plan"] == {"1": "ffn"}
    np.testing.assert_allclose(stepped(bundle, "skip"), stepped(bundle, "full"), atol=1e-5, rtol=0)


def test_a_report_with_nothing_to_gain(folder: Path, asked: tuple[Path, Path]) -> None:
    report = ima_report(folder, *asked, budget=1, what="block", most_kl=1e-7)
    assert report.plan == {}
    assert report.tried[0].guard.mean > report.most_kl
    with pytest.raises(RequestError, match="0 to 1 layers"):
        ima_report(folder, *asked, budget=2)
    with pytest.raises(RequestError, match="--what"):
        ima_report(folder, *asked, what="all")


def test_overlap_of_sub_networks(folder: Path, asked: tuple[Path, Path]) -> None:
    report = ima_report(folder, *asked, budget=0, sparsity=0.5)
    assert report.plan == {}
    assert [set(s.overlap) for s in report.layers] == [{*"qkvo", "gate", "up", "down"}] * 3 + [set()]
    for score in report.layers[:-1]:
        assert all(0 < v <= 1 for v in score.overlap.values())
    assert "by chance" in table(report)
    with pytest.raises(RequestError, match="--sparsity"):
        ima_report(folder, *asked, sparsity=1.0)


def test_what_a_sub_network_keeps() -> None:
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    assert kept(weight, torch.ones(4), 0.5).tolist() == [[False, True, False, True], [True, True, False, False]]
    # The norm of an input, not its square, times the weight.
    assert kept(weight, torch.tensor([17.0, 1.0, 1.0, 0.0]), 0.75).tolist()[0] == [True, False, False, False]
    assert kept(weight, torch.tensor([15.0, 1.0, 1.0, 0.0]), 0.75).tolist()[0] == [False, True, False, False]
    draw = torch.Generator().manual_seed(0)
    a, b = (kept(torch.randn(64, 256, generator=draw), torch.ones(256), 0.5) for _ in range(2))
    assert float((a & b).sum() / (a | b).sum()) == pytest.approx(by_chance(0.5), abs=0.01)
    assert by_chance(0.5) == pytest.approx(1 / 3)


def test_the_command(folder: Path, asked: tuple[Path, Path], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from farthing.cli.ima_report import ima_report_command

    out, picture = tmp_path / "report.json", tmp_path / "report.png"
    given = [str(folder), "--images", str(asked[0]), "--questions", str(asked[1]), "--samples", "2", "--max-kl", "9"]
    made = CliRunner().invoke(ima_report_command, [*given, "--out", str(out), "--plot", str(picture)])
    assert made.exit_code == 0, made.output
    assert "plan: " in made.output
    report = json.loads(out.read_text())
    assert report["samples"] == 2
    assert read_plan(str(out)) == {int(k): v for k, v in report["plan"].items()}
    assert picture.stat().st_size > 1000
    made = CliRunner().invoke(ima_report_command, [*given, "--json"])
    assert json.loads(made.stdout)["ranking"] == report["ranking"]
