"""tune-visual: data and its refusals, intervals, costs, measured distances against plain replays, the choice and how it is kept."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import vlm_models
from click.testing import CliRunner
from PIL import Image

import farthing
from farthing.calibration.visual import Data, apply_choice, choose, read_data, sweep
from farthing.calibration.visual.answers import is_right, normalised
from farthing.calibration.visual.cost import Load, cache_bytes, prefill_flops
from farthing.calibration.visual.intervals import Interval, mean_over_items, paired_loss, wilson
from farthing.calibration.visual.levels import Sweep
from farthing.calibration.visual.show import plot, table
from farthing.calibration.visual.trial import line_of
from farthing.cli.main import cli
from farthing.errors import BundleError, RequestError
from farthing.export import export
from farthing.runtime.bundle import edit_manifest, open_bundle
from farthing.runtime.engines import native_parts
from farthing.runtime.verify import verify_vectors
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.stepper import PromptStepper

QUESTIONS = ("the hat", "what is it", "a cat or a dog", "how many of them")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and bundles."""
    root = tmp_path_factory.mktemp("visual")
    (root / "images" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/c.png")):
        Image.fromarray(sample_image(number, 30 + 5 * number, 40)).save(root / "images" / name)
    checkpoint = vlm_models.write_llava(root / "model")
    export("idpruner", checkpoint, root / "idpruner", ratios=[0.5, 0.75], check=False)
    export("idpruner", checkpoint, root / "inside", ratios=[0.75], prune_layer=1, check=False)
    return root


def write_questions(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def some(answers: bool = False) -> list[object]:
    names = ("a.png", "b.png", "more/c.png")
    lines = [{"image": n, "question": q} for n in names for q in QUESTIONS]
    return [{**line, "answer": "no such words"} for line in lines] if answers else lines


@pytest.fixture(scope="module")
def measured(folder: Path) -> Sweep:
    data = read_data(folder / "images", write_questions(folder / "plain.jsonl", some()), items=4, seed=3)
    return sweep([folder / "idpruner", folder / "inside"], data, native=False, max_new_tokens=4)


# --- data


def test_data_is_counted_and_hashed(folder: Path, tmp_path: Path) -> None:
    lines = [*some(), "", {"image": "a.png", "question": QUESTIONS[0], "answer": "late"}, {**some()[1]}]  # type: ignore[dict-item]
    file = write_questions(tmp_path / "q.jsonl", lines)
    data = read_data(folder / "images", file)
    assert (len(data.items), data.found, data.repeated, data.answered, data.pictures) == (12, 12, 2, 0, 3)
    assert [item.line for item in data.items] == list(range(1, 13))
    assert "12 items (2 repeated, left out), 3 pictures" in str(data)
    assert read_data(folder / "images", file).sha256 == data.sha256
    part = read_data(folder / "images", file, items=5, seed=1)
    assert (len(part.items), part.found) == (5, 12)
    assert part.items == read_data(folder / "images", file, items=5, seed=1).items
    assert {read_data(folder / "images", file, items=5, seed=s).items for s in range(5)} != {part.items}
    assert list(part.items) == [item for item in data.items if item in part.items]


def test_the_hash_is_of_the_pictures_too(tmp_path: Path) -> None:
    file = write_questions(tmp_path / "q.jsonl", [{"image": "a.png", "question": "x"}])
    found = []
    for seed in (1, 2):
        Image.fromarray(sample_image(seed, 9, 9)).save(tmp_path / "a.png")
        found.append(read_data(tmp_path, file).sha256)
    assert found[0] != found[1]


def test_every_item_is_drawn_as_often(folder: Path, tmp_path: Path) -> None:
    file = write_questions(tmp_path / "q.jsonl", some())
    counts = np.zeros(13)
    for seed in range(200):
        for item in read_data(folder / "images", file, items=3, seed=seed).items:
            counts[item.line] += 1
    # 200 draws of a quarter: 50, standard deviation 6.1.
    assert (abs(counts[1:] - 50) < 25).all()


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([], "empty"),
        (["", "  "], "empty"),
        (["{"], "line 1 of"),
        ([{"image": "a.png", "question": "x"}, "nope"], "line 2 of"),
        (["[1]"], "is a list"),
        ([{"question": "x"}], "without 'image'"),
        ([{"image": "a.png"}], "without 'question'"),
        ([{"image": "a.png", "question": "  "}], "with question"),
        ([{"image": 7, "question": "x"}], "with image 7"),
        ([{"image": "a.png", "question": "x", "answer": 3}], "with answer 3"),
        ([{"image": "a.png", "question": "x", "answer": ["y", ""]}], "with answer"),
        (
            [{"image": "a.png", "question": "x"}, {"image": "z.png", "question": "x"}],
            "image of line 2 of .* is missing",
        ),
        ([{"image": "../model/config.json", "question": "x"}], "a path below"),
        ([{"image": "/etc/hostname", "question": "x"}], "a path below"),
        ([{"image": "more", "question": "x"}], "missing"),
        (["[" * 100000], "not JSON"),
        (["x" * (1 << 20)], "longer than"),
    ],
)
def test_bad_questions_are_refused(folder: Path, tmp_path: Path, lines: list[object], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        read_data(folder / "images", write_questions(tmp_path / "q.jsonl", lines))


def test_bad_places_are_refused(folder: Path, tmp_path: Path) -> None:
    file = write_questions(tmp_path / "q.jsonl", some())
    with pytest.raises(RequestError, match="no folder"):
        read_data(tmp_path / "none", file)
    with pytest.raises(RequestError, match="not readable"):
        read_data(folder / "images", tmp_path / "none")
    with pytest.raises(RequestError, match="items"):
        read_data(folder / "images", file, items=0)
    (tmp_path / "latin").write_bytes('{"image": "a.png", "question": "größe"}'.encode("latin-1"))
    with pytest.raises(RequestError, match="line 1 of"):
        read_data(folder / "images", tmp_path / "latin")
    (tmp_path / "bom").write_bytes(b'\xef\xbb\xbf{"image": "a.png", "question": "x"}')
    assert len(read_data(folder / "images", tmp_path / "bom").items) == 1


# --- answers, intervals, costs


def test_answers_are_compared_without_their_clothes() -> None:
    assert is_right(" The Red ball.", ["red ball"]) and is_right("2", ["two", "2"]) and is_right("ＲＥＤ", ["red"])
    assert not is_right("red", ["reddish"]) and not is_right("", ["red"]) and not is_right("1.5", ["15"])
    assert normalised("At 10:30, $1,000.") == "at 10:30 1,000"
    assert normalised("?") == "?" and not is_right("!", ["?"]) and normalised("theatre") == "theatre"


def test_wilson() -> None:
    found = wilson(8, 10)  # 0.490 to 0.943, as in Newcombe's and every other table
    assert (found.value, round(found.low, 3), round(found.high, 3)) == (0.8, 0.49, 0.943)
    assert wilson(0, 10).low == 0 and wilson(10, 10).high == 1 and wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)


def test_paired_loss() -> None:
    assert paired_loss(0, 0, 189).high <= 0.02 < paired_loss(0, 0, 188).high
    one, other = paired_loss(9, 3, 50), paired_loss(3, 9, 50)
    assert one.value == pytest.approx(0.12) and one.low == pytest.approx(-other.high, abs=1e-7)
    assert paired_loss(5, 0, 5).high == pytest.approx(1, abs=1e-6)
    # It holds the truth in about 95 of 100 draws.
    draw, inside = np.random.default_rng(0), 0
    for lost, won, _ in draw.multinomial(60, (0.15, 0.05, 0.8), 1000):
        found = paired_loss(int(lost), int(won), 60)
        inside += found.low <= 0.1 <= found.high
    assert 930 <= inside <= 975


def test_mean_over_items() -> None:
    found = mean_over_items([1.0, 5.0, 2.0, 4.0], [2, 2, 2, 2])
    assert found.value == 1.5 and found.low < 1.5 < found.high <= 2.5
    assert mean_over_items([3.0], [3]) == Interval(1.0, 1.0, 1.0)


def test_costs_by_hand() -> None:
    model = {
        "layers": 2, "hidden_size": 8, "intermediate_size": 20, "heads": 4, "kv_heads": 2, "head_dim": 3, "vocab_size": 50,
    }  # fmt: skip

    def layer(
        before: int, visual: int, behind: int, attention: bool = True, ffn: bool = True, last: bool = False
    ) -> int:
        total = 0
        for row in range(before + visual + behind):
            image = before <= row < before + visual
            total += 2 * 8 * 2 * 2 * 3
            if attention or not image:
                total += 2 * 8 * 12 + 4 * (row + 1) * 2 * 2 * 3
                total += 0 if image and last else 2 * 12 * 8
            if not image or (ffn and not last):
                total += 3 * 2 * 8 * 20
        return total

    head, end = 2 * 8 * 50, {"last": True}
    assert prefill_flops(model, Load(1, 5, 5, 2)) == layer(1, 5, 2) + layer(1, 5, 2, **end) + head
    inside = Load(1, 5, 2, 2, prune_layer=1)
    assert prefill_flops(model, inside) == layer(1, 5, 2) + layer(1, 2, 2, **end) + head
    less = Load(1, 5, 5, 2, no_ffn=frozenset([0]))
    assert prefill_flops(model, less) == layer(1, 5, 2, ffn=False) + layer(1, 5, 2, **end) + head
    block = replace(less, no_attention=frozenset([0]))
    assert prefill_flops(model, block) == layer(1, 5, 2, False, False) + layer(1, 5, 2, **end) + head
    kv = {"layers": 2, "kv_heads": 2, "head_dim": 3}
    assert cache_bytes(kv, Load(1, 5, 5, 2)) == 2 * 2 * 8 * 2 * 3 * 4
    assert cache_bytes(kv, inside) == 2 * (8 + 5) * 2 * 3 * 4


# --- sweep


def test_sweep_measures_what_a_plain_replay_gives(folder: Path, measured: Sweep) -> None:
    """KL along the unpruned answer and rows, by the stepper of recordings."""
    data = read_data(folder / "images", folder / "plain.jsonl", items=4, seed=3)
    for found in measured.bundles:
        bundle = open_bundle(found.path)
        sessions = {n: onnxruntime.InferenceSession(str(bundle.graph(n))) for n in bundle.manifest["graphs"]}
        answers = []
        with farthing.load(found.path, native=False) as model:
            for item in data.items:
                how = {"level": "full", "greedy": True, "max_new_tokens": 4}
                answers.append(model.generate(item.question, images=[item.image], **how))
        for level in found.levels:
            total, same, positions, rows = 0.0, 0, 0, []
            for item, whole in zip(data.items, answers, strict=True):
                pixels = np.asarray(Image.open(item.image).convert("RGB"))
                shown = whole.ids if whole.stop_reason == "eos" else whole.ids[:-1]
                said = []
                for name in ("full", level.level):
                    stepper = PromptStepper(bundle.manifest, sessions.__getitem__, 200)
                    logits = [stepper.prompt(whole.prompt_ids, [pixels], name), *(stepper.text([i]) for i in shown)]
                    shifted = np.stack(logits).astype(np.float64)
                    said.append(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
                rows.append(len(stepper.kept[0]))
                total += (np.exp(said[0]) * (said[0] - said[1])).sum()
                same += (said[0].argmax(-1) == said[1].argmax(-1)).sum()
                positions += len(shown) + 1
            assert level.kl.value == pytest.approx(total / positions, rel=1e-3, abs=1e-6)
            assert level.same_top.value == pytest.approx(same / positions)
            assert level.rows == np.mean(rows)


def test_the_line_along_which_levels_are_compared() -> None:
    assert line_of([4, 5, 6], False, 2) == [4, 5] and line_of([4, 5, 6], True, 2) == [4, 5, 6]
    assert line_of([], True, 2) == [] and line_of([4], False, 2) == []
    assert line_of([4, 2, 5, 6], True, 2) == [4] and line_of([2, 2], False, 2) == []


@pytest.mark.skipif(bool(native_parts().missing), reason="the native core is not built")
def test_both_engines_measure_the_same(folder: Path, measured: Sweep) -> None:
    data = read_data(folder / "images", folder / "plain.jsonl", items=4, seed=3)
    found = sweep([folder / "idpruner", folder / "inside"], data, native=True, max_new_tokens=4)
    for bundle, other in zip(found.bundles, measured.bundles, strict=True):
        assert bundle.native and not other.native
        for level in bundle.levels:
            twin = other.level(level.level)
            assert (level.rows, level.flops, level.cache_bytes) == (twin.rows, twin.flops, twin.cache_bytes)
            assert level.kl.value == pytest.approx(twin.kl.value, rel=1e-3, abs=1e-6)
            assert level.same_top == twin.same_top


def test_sweep_says_what_levels_cost(measured: Sweep) -> None:
    plain, inside = measured.bundles
    assert [level.level for level in plain.levels] == ["full", "r50", "r75"]
    assert [level.rows for level in plain.levels] == [9, 4, 2]
    assert plain.level("full").kl.value < 1e-9 and plain.level("full").same_top.value == 1
    assert plain.level("r75").kl.value > 1e-4, "dropping changes something"
    assert plain.level("full").accuracy is None and plain.level("full").loss is None
    flops = [level.flops for level in plain.levels]
    assert flops == sorted(flops, reverse=True) and inside.level("full").flops == pytest.approx(flops[0])
    assert plain.level("r75").flops < inside.level("r75").flops < flops[0]
    # 3 layers, 2 heads of 12, 4 bytes, keys and values: 576 a token; inside drops 7 tokens in two layers of three.
    saved = plain.level("full").cache_bytes - plain.level("r75").cache_bytes
    assert saved == pytest.approx(7 * 576)
    assert inside.level("full").cache_bytes - inside.level("r75").cache_bytes == pytest.approx(7 * 576 * 2 / 3)
    for level in plain.levels:
        assert 0 < level.prefill_seconds.low <= level.prefill_seconds.value <= level.prefill_seconds.high
    assert inside.level("r75").selector_share is None and plain.level("r75").selector_share is not None
    assert json.loads(json.dumps(measured.as_json()))["items"] == 4


def test_accuracy_counts_answers(folder: Path, tmp_path: Path) -> None:
    """Answers that are the full level's own words: all right at full, others only where the words stay."""
    lines, kept = [], 0
    with farthing.load(folder / "idpruner", native=False) as model:
        how = {"greedy": True, "max_new_tokens": 4}
        for line in some()[:6]:
            said = partial(model.generate, line["question"], images=[folder / "images" / line["image"]], **how)  # type: ignore[index]
            words, fewer = said(level="full").text, said(level="r75").text
            lines.append({**line, "answer": [words, "other"]} if words.strip() else line)  # type: ignore[dict-item]
            kept += bool(words.strip()) and is_right(fewer, [words])
    answered = sum("answer" in line for line in lines)
    assert answered > 2, "the random model says something"
    data = read_data(folder / "images", write_questions(tmp_path / "q.jsonl", lines))
    found = sweep([folder / "idpruner"], data, native=False, max_new_tokens=4)
    full, fewest = found.bundles[0].level("full"), found.bundles[0].level("r75")
    assert found.answered == answered and full.accuracy == wilson(answered, answered)
    assert fewest.accuracy == wilson(kept, answered)
    assert fewest.loss == paired_loss(answered - kept, 0, answered) and full.loss == Interval(0, 0, 0)


def test_bundles_that_cannot_be_swept(folder: Path, tmp_path: Path) -> None:
    data = read_data(folder / "images", write_questions(tmp_path / "q.jsonl", some()), items=1)
    with pytest.raises(RequestError, match="different ones"):
        sweep([folder / "idpruner", folder / "idpruner"], data)
    with pytest.raises(RequestError, match="max-new-tokens"):
        sweep([folder / "idpruner"], data, max_new_tokens=0)
    export("vlm", folder / "model", tmp_path / "vlm", check=False)
    with pytest.raises(RequestError, match="full alone"):
        sweep([tmp_path / "vlm"], data)
    with pytest.raises(BundleError):
        sweep([tmp_path / "none"], data)
    (folder / "images" / "bad.png").write_bytes(b"not a picture")
    bad = write_questions(tmp_path / "bad.jsonl", [{"image": "bad.png", "question": "x"}])
    with pytest.raises(RequestError, match="not readable"):
        sweep([folder / "idpruner"], read_data(folder / "images", bad), native=False)


# --- choice


def made_up(measured: Sweep, losses: list[float], answered: int = 400) -> Sweep:
    """The first bundle with losses of its levels made up: so many answers more than are won are lost."""
    bundle = measured.bundles[0]
    levels = [
        replace(level, loss=paired_loss(round(loss * answered), 0, answered), accuracy=wilson(1, 2))
        for level, loss in zip(bundle.levels, losses, strict=True)
    ]
    levels[0] = replace(levels[0], loss=Interval(0, 0, 0))
    return replace(measured, answered=answered, bundles=(replace(bundle, levels=tuple(levels)),))


def test_the_fewest_rows_within_the_bound(measured: Sweep) -> None:
    assert [c.level for c in choose(made_up(measured, [0, 0.0, 0.0]))] == ["r75"]
    assert [c.level for c in choose(made_up(measured, [0, 0.0, 0.015]))] == ["r50"]  # its high end is 0.032
    assert [c.level for c in choose(made_up(measured, [0, 0.0, 0.015]), by_mean=True)] == ["r75"]
    assert [c.level for c in choose(made_up(measured, [0, 0.0, 0.015]), most_loss=0.04)] == ["r75"]
    few = choose(made_up(measured, [0, 0.0, 0.0], answered=50))[0]
    assert few.level == "full" and "50 answers cannot show a loss below 0.0713, 189 could" in few.remark
    none = choose(made_up(measured, [0, 0.0, 0.0]), most_loss=0)[0]
    assert none.level == "full" and "no number of them" in none.remark


def test_by_kl_where_there_are_no_answers(measured: Sweep) -> None:
    bound = measured.bundles[0].level("r50").kl.high
    chosen = choose(measured, most_kl=bound)[0]
    fewest = measured.bundles[0].level("r75").kl.high
    assert (chosen.measure, chosen.level) == ("kl", "r75" if fewest <= bound else "r50")
    assert choose(measured, most_kl=0)[0].level == "full"
    assert choose(measured, most_kl=1e9)[0].level == "r75"
    assert choose(measured)[0].most == 0.05
    for bad in ({"most_loss": 0.1}, {"most_loss": 0.1, "most_kl": 0.1}, {"most_kl": -1.0}, {"most_kl": float("nan")}):
        with pytest.raises(RequestError):
            choose(measured, **bad)


def test_apply_is_kept_and_everything_else_stays(folder: Path, measured: Sweep) -> None:
    path = folder / "idpruner"
    before = open_bundle(path).manifest
    choice = choose(measured, most_kl=1e9)[0]
    record = apply_choice(choice, measured)
    after = open_bundle(path).manifest
    assert after["vision"]["level"] == "r75" != before["vision"]["level"]
    assert after["vision"]["choice"] == record and record["data"]["sha256"] == measured.data["sha256"]
    assert [level["level"] for level in record["levels"]] == ["full", "r50", "r75"]
    after["vision"].pop("choice")
    after["vision"]["level"] = before["vision"]["level"]
    assert after == before
    assert all(result.ok for result in verify_vectors(open_bundle(path))[0])
    with farthing.load(path, native=False) as model:
        made = model.generate(QUESTIONS[0], images=[sample_image(1, 30, 30)], greedy=True, max_new_tokens=1)
        assert made.stats["vision"]["rows"] == 2
    assert not [p for p in path.iterdir() if p.name.startswith(".")]
    told = run("inspect", path)[1]
    assert "chosen by tune-visual: interval of kl at most 1000000000.0 on 4 questions of plain.jsonl" in told


def test_a_manifest_is_edited_as_a_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "inside"
    before = (path / "manifest.json").read_bytes()

    def spoil(manifest: dict) -> None:
        manifest["vision"]["level"] = 7

    with pytest.raises(BundleError, match="vision/level"):
        edit_manifest(path, spoil)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BundleError, match="not writable"):
        edit_manifest(path, lambda manifest: None)
    assert (path / "manifest.json").read_bytes() == before
    assert sorted(p.name for p in path.iterdir() if p.name.startswith(".")) == []
    with pytest.raises(BundleError):
        edit_manifest(folder / "images", lambda manifest: None)


# --- table, plot, command


def test_table_and_plot(measured: Sweep, tmp_path: Path) -> None:
    choices = choose(measured, most_kl=1e9)
    text = table(measured, choices)
    assert "4 of 12 items, " in text and "accuracy" not in text
    assert (
        sum(line.startswith(">") for line in text.splitlines()) == 2
        and "chosen: r75 (high end of kl at most 1e+09)" in text
    )
    answered = table(made_up(measured, [0, 0.0, 0.01]))
    assert "accuracy" in answered and "+0.010 [" in answered
    plot(measured, tmp_path / "plot.png", choices)
    picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert picture.shape == (528, 1200, 3) and (picture != 255).any()
    plot(made_up(measured, [0, 0.0, 0.01]), tmp_path / "other.png")
    assert (np.asarray(Image.open(tmp_path / "other.png").convert("RGB")) != picture).any()
    with pytest.raises(RequestError, match="not writable"):
        plot(measured, tmp_path / "none" / "plot.png")


def run(*arguments: object) -> tuple[int, str, str]:
    made = CliRunner().invoke(cli, [str(a) for a in arguments])
    code = getattr(made.exception, "exit_code", made.exit_code) if made.exception else made.exit_code
    return code, made.stdout, str(made.exception)


def test_command(folder: Path, tmp_path: Path) -> None:
    file = write_questions(tmp_path / "q.jsonl", some(answers=True))
    asked = ("tune-visual", folder / "inside", "--images", folder / "images", "--questions", file, "--no-native")
    more = ("--items", 3, "--max-new-tokens", 2)
    code, out, _ = run(*asked, *more, "--most-kl", 1e9, "--json", "--apply", "--plot", tmp_path / "plot.svg")
    told = json.loads(out)
    assert code == 0 and told["applied"] and told["choices"][0]["level"] == "r75" and told["answered"] == 3
    assert open_bundle(folder / "inside").manifest["vision"]["level"] == "r75"
    assert (tmp_path / "plot.svg").read_text().count("<svg") == 1
    code, out, _ = run(*asked, *more)
    assert code == 0 and "chosen: full" in out and "full itself is right in 0 of the answers" in out
    assert run(*asked, "--most-loss", 0.1, "--most-kl", 0.1)[0] == 2
    assert run(*asked, "--most-kl", -1)[0] == 2
    plain = write_questions(tmp_path / "plain.jsonl", some())
    code, _, error = run(*asked[:-2], plain, "--most-loss", 0.1)
    assert code == 2 and "without answers" in error


def test_no_torch_and_no_onnx() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nimport farthing.calibration.visual.show, farthing.calibration.visual.picture\n"
        "heavy = {'torch', 'onnx', 'matplotlib', 'transformers'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_data_reads_as_a_sentence() -> None:
    assert str(Data("q.jsonl", (), 5, 0, "ab" * 32)) == "q.jsonl: 0 of 5 items, 0 pictures, sha256 abababababab"
