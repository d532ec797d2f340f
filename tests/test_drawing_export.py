"""Exporting image models of every method: graphs against PyTorch, what is stored, and everything that must be refused."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import drawing_models as models
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from farthing.cli.export import export_command
from farthing.errors import BundleError, CheckpointError, RequestError, VerificationError
from farthing.export import export
from farthing.export.checkpoint.elm_checkpoint import ElmCheckpoint
from farthing.export.checkpoint.llamagen_checkpoint import LlamaGenCheckpoint, NarCheckpoint
from farthing.export.checkpoint.token_shuffle_checkpoint import TokenShuffleCheckpoint
from farthing.export.drawing.codebook import balanced_clusters, nearest_codes
from farthing.models.bae import Bae, BaeConfig
from farthing.models.eagle import Drafter
from farthing.models.llamagen import LlamaGenConfig
from farthing.runtime.bundle import open_bundle
from farthing.runtime.drawing import Drawer
from farthing.runtime.verify import verify_vectors

KINDS = (
    "llamagen",
    "nar",
    "elm-1",
    "elm-2",
    "elm-3",
    "shuffle-1",
    "shuffle-2",
    "shuffle-4",
    "shuffle-2-short",
    "gsd",
    "lantern",
    "text",
    "textgsd",
)


def graph(kind: str, name: str = "ar_step", dtype: str = "float32") -> onnx.ModelProto:
    return onnx.load(str(models.bundle(kind, dtype) / "graphs" / f"{name}.onnx"))


def tables(kind: str, name: str = "ar_step") -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in graph(kind, name).graph.initializer}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_bundle_agrees_with_pytorch_and_verifies(kind: str, dtype: str) -> None:
    """The export itself compares: steps over the cache with one pass without, all of them, and every other graph."""
    results, _ = verify_vectors(open_bundle(models.bundle(kind, dtype)))
    assert results and all(r.ok for r in results), [r.failure() for r in results]
    image = open_bundle(models.bundle(kind, dtype)).manifest["image_codes"]
    places, conditions = 16 // (image.get("window", 1) ** 2), 12 if kind.startswith("text") else 1
    assert results[0].steps == 3 * 16 * (image["per_step"] if image["order"] == "raster" else 1)
    assert open_bundle(models.bundle(kind, dtype)).manifest["model"]["max_positions"] == conditions + places


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("nar", {"order": "diagonal", "per_step": 1, "pixel_range": [-1, 1], "drafts": "none"}),
        ("elm-2", {"order": "raster", "per_step": 2, "sub_bits": 3, "codes": 8, "pixel_range": [0, 1]}),
        ("elm-1", {"order": "raster", "per_step": 1, "sub_bits": 6, "codes": 64}),
        ("shuffle-2", {"order": "window", "per_step": 4, "window": 2, "codes": 40}),
        ("gsd", {"drafts": "jacobi", "accept": ["exact", "grouped", "partition"], "default_accept": "grouped"}),
        ("lantern", {"drafts": "eagle", "accept": ["exact", "neighbourhood"], "draft_length": 5}),
    ],
)
def test_manifests_say_how_to_draw(kind: str, fields: dict[str, Any]) -> None:
    manifest = open_bundle(models.bundle(kind)).manifest
    assert {n: manifest["image_codes"][n] for n in fields} == fields
    assert manifest["kv"]["layers"] == (
        3 if kind == "nar" else 2
    )  # the block of the head for the code below has a cache, too


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("text")])
def test_the_condition_keeps_its_zero_row(kind: str) -> None:
    """Writing the identity there, as rotary tables usually have it, would break every released model."""
    found = tables(kind)
    for name in ("rope_cos", "rope_sin"):
        assert not found[name][0].any() and found[name][1:].any(1).all() == (name == "rope_cos")
    model = models.model(kind)
    conditions = torch.tensor([40 if not kind.startswith("elm") else model.config.codes])
    rows = torch.zeros(
        1,
        3,
        1 if kind.startswith("elm-1") else getattr(model.config, "per_step", 0) or getattr(model.config, "parts", 1),
        dtype=torch.int64,
    )
    rows[:, 0, 0] = conditions
    rows[:, 1:] = 3
    if kind == "shuffle-4":
        rows = rows[:, :2]
    ids = rows[..., 0] if kind in ("llamagen", "nar", "gsd", "lantern") else rows
    run = model.heads if kind == "nar" else model
    with torch.no_grad():
        right = run(ids)[1] if kind == "nar" else run(ids)
        kept = model.rope[0][0].clone()
        model.rope[0][0] = 1.0
        fixed = run(ids)[1] if kind == "nar" else run(ids)
        model.rope[0][0] = kept
    assert (right - fixed).abs().max() > 1e-2


def test_a_text_keeps_its_zero_rows() -> None:
    """120 of them in released models, and in both graphs that read the table."""
    for name in ("ar_step", "ar_prefill"):
        for table in ("rope_cos", "rope_sin"):
            rows = tables("text", name)[table]
            assert rows.shape == (12 + 16, 8) and not rows[:12].any() and rows[13:].any(1).all()
    model = models.model("text")
    text, valid = model.padded(torch.randn(1, 4, 20))
    with torch.no_grad():
        right = model(text, valid, torch.tensor([[7, 8]]))
        kept = model.rope[0][:12].clone()
        model.rope[0][:12] = 1.0
        fixed = model(text, valid, torch.tensor([[7, 8]]))
        model.rope[0][:12] = kept
    assert (right - fixed).abs().max() > 1e-2


def test_padding_of_a_text_is_invisible() -> None:
    """What makes it right to leave padded rows out: other features there change nothing, and valid rows do."""
    model = models.model("text")
    torch.manual_seed(5)
    text, valid = model.padded(torch.randn(2, 4, 20))
    assert valid.sum(1).tolist() == [4, 4] and not valid[:, :8].any()
    noisy, other = text.clone(), text.clone()
    noisy[:, :8] = torch.randn(2, 8, 20)
    other[:, 8] += 1
    ids = torch.randint(0, 40, (2, 5))
    with torch.no_grad():
        right = model(text, valid, ids)
        assert torch.isfinite(right).all() and torch.allclose(model(noisy, valid, ids), right, atol=1e-5)
        assert not torch.allclose(model(other, valid, ids), right, atol=1e-3)


def test_the_prefill_of_a_text_borrows_all_large_weights() -> None:
    step = {i.name for i in graph_proto("text", "ar_step").initializer}
    for weight in graph_proto("text", "ar_prefill").initializer:
        assert weight.name in step
        assert all(e.value == "ar_step.onnx.data" for e in weight.external_data if e.key == "location")
    assert not (models.bundle("text") / "graphs" / "ar_prefill.onnx.data").exists()


def test_the_check_notices_the_wrong_unconditional_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first T of them instead of the last, as if texts were padded on the right."""
    from farthing.export.graph import text_condition

    right = text_condition.state_of

    def shifted(module: Any) -> dict[str, np.ndarray]:
        state = right(module)
        name = "cls_embedding.uncond_embedding"
        return {**state, name: np.roll(state[name], 5, axis=0)} if name in state else state

    monkeypatch.setattr(text_condition, "state_of", shifted)
    with pytest.raises(VerificationError, match="difference of logits of turn 0"):
        export("llamagen", models.checkpoint("text"), tmp_path / "out")


def test_texts_that_cannot_be_exported(tmp_path: Path) -> None:
    state = models.model("text").state_dict()
    with pytest.raises(CheckpointError, match="missing cls_embedding.uncond_embedding"):
        LlamaGenCheckpoint(models.write(tmp_path / "a", "text", model=without(state, "cls_embedding.uncond")))
    with pytest.raises(CheckpointError, match="missing cls_embedding.cap_proj.fc2.weight"):
        LlamaGenCheckpoint(models.write(tmp_path / "b", "text", model=without(state, "cls_embedding.cap_proj.fc2")))
    state = {**models.model("nar").state_dict(), "cls_embedding.cap_proj.fc1.weight": torch.zeros(48, 20)}
    with pytest.raises(CheckpointError, match="conditioning of .* is text, expected classes; of text-conditional"):
        NarCheckpoint(models.write(tmp_path / "c", "nar", model=without(state, "cls_embedding.embedding_table")))
    with pytest.raises(CheckpointError, match="conditioning of .* is text, expected classes: drafters"):
        export("lantern", models.checkpoint("text"), tmp_path / "out")


def test_the_drafter_begins_at_the_first_code() -> None:
    target, drafter = tables("lantern"), tables("lantern", "draft_step")
    for name in ("rope_cos", "rope_sin"):
        assert np.array_equal(drafter[name], target[name][1:])


def test_the_drafter_borrows_the_head() -> None:
    found = {i.name: i for i in graph_proto("lantern", "draft_step").initializer}
    where = {e.key: e.value for e in found["output.weight"].external_data}
    assert where["location"] == "ar_step.onnx.data"
    manifest = open_bundle(models.bundle("lantern")).manifest
    assert set(manifest["graphs"]["draft_step"]["data"]) == {"graphs/ar_step.onnx.data", "graphs/draft_step.onnx.data"}


def test_guesses_are_certain_where_an_absolute_budget_bounds_them() -> None:
    """Of guesses drawn from q < 1 an absolute budget bounds nothing; relative to p(x) it does, and drawn ones hold more often."""
    certain = {
        kind: open_bundle(models.bundle(kind)).manifest["image_codes"] for kind in ("lantern", "lantern-relative")
    }
    assert certain["lantern"]["certain_drafts"] == ["neighbourhood"]
    assert certain["lantern-relative"]["certain_drafts"] == []
    spent = []
    for kind in certain:
        drawn = Drawer(models.bundle(kind), threads=1).draw([1] * 12, seed=5, decode="neighbourhood")
        assert drawn.speculation is not None
        spent.append(drawn.speculation.accepted / drawn.speculation.judged)
    assert spent[1] > spent[0]


def graph_proto(kind: str, name: str) -> onnx.GraphProto:
    return onnx.load(str(models.bundle(kind) / "graphs" / f"{name}.onnx"), load_external_data=False).graph


def test_embeddings_are_folded() -> None:
    """ELM: m tables and no projection. Token-Shuffle: rows of D/s^2 and no embedding of width D."""
    elm = tables("elm-3")
    assert elm["embedding"].shape == (3 * 4 + 6 + 1, 48) and "proj.weight" not in elm
    shuffle = tables("shuffle-2")
    assert shuffle["table"].shape == (40, 12) and not any("compress" in n or n.startswith("tok_") for n in shuffle)
    assert elm["heads.weight"].shape == (3 * 4, 48)


def test_graphs_of_one_operator_hold_one_node() -> None:
    for kind, name, op in (
        ("nar", "sample", "GuidedSample"),
        ("gsd", "accept_exact", "GroupedAccept"),
        ("gsd", "accept_grouped", "GroupedAccept"),
        ("gsd", "accept_partition", "GroupedAccept"),
        ("lantern", "accept_neighbourhood", "GroupedAccept"),
    ):
        assert [n.op_type for n in graph(kind, name).graph.node] == [op]
    assert np.allclose(np.linalg.norm(tables("gsd", "accept_grouped")["embeds"], axis=1), 1, atol=1e-6)


# The comparison notices.


def test_the_check_notices_a_wrong_mix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from farthing.runtime.drawing import orders

    def crossed(right: np.ndarray, below: np.ndarray, diagonal: int, grid: int) -> np.ndarray:
        # The neighbours of a middle place taken the wrong way round: right of k with below of k+1.
        made = orders_mixed(right, below, diagonal, grid)
        if diagonal > 1:
            inner = slice(None) if diagonal >= grid else slice(1, -1)
            made[:, inner] = (below[:, 1:] + right[:, :-1]) / 2
        return made

    orders_mixed = orders.mixed
    monkeypatch.setattr(orders, "mixed", crossed)
    with pytest.raises(VerificationError, match="largest difference of logits of turn 2 "):
        export("nar", models.checkpoint("nar"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "method"), [("elm-2", "elm"), ("lantern", "lantern"), ("shuffle-2", "token-shuffle")])
def test_the_check_notices_unordered_pairs(
    kind: str, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = "eagle" if kind == "lantern" else "image_step"
    monkeypatch.setattr(f"farthing.export.graph.{module}.half_split", lambda wqkv, heads: wqkv)
    with pytest.raises(VerificationError, match="of the drafter" if kind == "lantern" else "difference of logits"):
        export(method, models.checkpoint(kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_check_notices_swapped_sub_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from farthing.models.elm import Elm

    right = Elm.tables
    monkeypatch.setattr(Elm, "tables", lambda self: right(self)[::-1])
    with pytest.raises(VerificationError, match="difference of logits of turn 1"):
        export("elm", models.checkpoint("elm-2"), tmp_path / "out")


def test_the_check_notices_little_endian_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def reversed_places(w: Any, bits: int) -> None:
        w.constant("place_values", 2 ** np.arange(bits, dtype=np.int64))

    monkeypatch.setattr("farthing.export.graph.bae._places", reversed_places)
    with pytest.raises(VerificationError, match="difference of pixels"):
        export("elm", models.checkpoint("elm-2"), tmp_path / "out")


def test_verify_notices_other_weights(tmp_path: Path) -> None:
    """A graph that says something else than what was recorded, with all hashes right."""
    changed = tmp_path / "bundle"
    shutil.copytree(models.bundle("nar"), changed)
    file = changed / "vectors" / "ar_step.json"
    recorded = json.loads(file.read_text())
    assert recorded["logits_of"] == "last" and len(recorded["cases"][0]["greedy_ids"]) == 16
    recorded["cases"][1]["logits"]["values"][0] += 0.5
    resign(changed, file, json.dumps(recorded))
    results, _ = verify_vectors(open_bundle(changed))
    assert not any(r.ok for r in results) and "case 1" in str(results[0].failure())


@pytest.mark.parametrize(
    ("kind", "graph_name", "output"),
    [
        ("gsd", "accept_partition", "chance"),
        ("gsd", "sample", "ids"),
        ("lantern", "draft_step", "logits"),
        ("elm-2", "vq_encode", "codes"),
        ("text", "condition", "uncond_embeds"),
        ("nar", "vq_decode", "pixels"),
    ],
)
def test_verify_notices_other_graphs(kind: str, graph_name: str, output: str, tmp_path: Path) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(models.bundle(kind), changed)
    file = changed / "vectors" / "ar_step.json"
    recorded = json.loads(file.read_text())
    calls = {c["graph"]: c for c in recorded["calls"]}
    manifest = json.loads((changed / "manifest.json").read_text())
    assert set(calls) == set(manifest["graphs"]) - {"ar_step", "ar_prefill"}
    values = calls[graph_name]["outputs"][output]["values"]
    for i in range(max(1, len(values) // 8)):
        values[i] += 1
    resign(changed, file, json.dumps(recorded))
    results, _ = verify_vectors(open_bundle(changed))
    assert not any(r.ok for r in results) and f"{output} of graph {graph_name}" in str(results[0].failure())


@pytest.mark.parametrize(
    "spoil", [lambda c: c.pop("inputs"), lambda c: c.update(graph="absent"), lambda c: c["inputs"].popitem()]
)
def test_calls_that_cannot_be_made(spoil: Any, tmp_path: Path) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(models.bundle("gsd"), changed)
    file = changed / "vectors" / "ar_step.json"
    recorded = json.loads(file.read_text())
    spoil(recorded["calls"][0])
    resign(changed, file, json.dumps(recorded))
    with pytest.raises(BundleError, match="recorded call|graph 'absent'"):
        verify_vectors(open_bundle(changed))


def resign(bundle: Path, file: Path, text: str) -> None:
    """Write ``text`` to ``file`` of ``bundle`` and say so in its manifest."""
    file.write_text(text)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][str(file.relative_to(bundle))] = {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "bytes": len(text.encode()),
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


# What bundles are refused for.


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"),
    [
        ("shuffle-2", "window", 3, "image_codes.window .* is 3, expected a divisor of the grid"),
        ("shuffle-2", "per_step", 3, "image_codes.per_step .* is 3, expected 4, the codes of a window"),
        (
            "shuffle-2",
            "order",
            "raster",
            "image_codes.window .* is 2, expected a divisor of the grid, with order window",
        ),
        ("elm-2", "sub_bits", 4, "image_codes.sub_bits .* is 4, expected those of codes"),
        ("llamagen", "per_step", 2, "image_codes.per_step .* is 2, expected 1"),
        ("llamagen", "order", "spiral", "image_codes/order .* wrong"),
        ("llamagen", "pixel_range", [1, -1], r"image_codes.pixel_range .* is \[1, -1\], expected two ascending"),
        ("llamagen", "classes", 0, "image_codes.classes .* is 0, expected 1 or more"),
        ("llamagen", "classes", 9, "model.vocab_size .* is 46, expected 50"),
        ("llamagen", "grid", 5, "model.max_positions .* is 17, expected 26"),
        ("llamagen", "drafts", "jacobi", r"image_codes.accept .* is \[\], expected a list"),
        ("nar", "drafts", "jacobi", "image_codes.drafts .* is jacobi, expected none for a model"),
        ("gsd", "default_accept", "neighbourhood", "image_codes.default_accept .* expected one of exact, grouped"),
        ("gsd", "accept", ["exact", "grouped", "neighbourhood"], "graph accept_neighbourhood .* is missing"),
        ("gsd", "drafts", "eagle", "graph draft_step .* is missing"),
    ],
)
def test_contradictions_in_a_manifest(kind: str, field: str, value: Any, words: str, tmp_path: Path) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(models.bundle(kind), changed)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["image_codes"][field] = value
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        open_bundle(changed)


# What checkpoints are refused for.


def without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {n: t for n, t in state.items() if not n.startswith(names)}


def test_bad_checkpoints(tmp_path: Path) -> None:
    state = {kind: models.model(kind).state_dict() for kind in ("nar", "elm-2", "shuffle-2", "llamagen")}
    odd = torch.nn.Parameter(torch.zeros(11, 48))
    few = Bae(BaeConfig(bits=5, channels=32, multipliers=(1, 2), latent=32, norm_first=True)).state_dict()
    short = {**state["shuffle-2"], "unshuffle.blocks.2.norm.weight": torch.ones(48)}
    for number, (kind, checkpoint, given, words) in enumerate(
        (
            ("nar", NarCheckpoint, {"model": state["llamagen"]}, "without medusa_output.weight, so it is not NAR"),
            ("llamagen", LlamaGenCheckpoint, {"model": state["nar"]}, "medusa_output.weight.* export it as nar"),
            ("nar", NarCheckpoint, {"tokenizer": None}, r"1 model\(s\) and 0 tokenizer\(s\)"),
            ("nar", NarCheckpoint, {"model": None}, r"0 model\(s\) and 1 tokenizer\(s\)"),
            ("elm-2", ElmCheckpoint, {"tokenizer": None}, r"0 tokenizer\(s\), expected one of each.*bae"),
            ("elm-2", ElmCheckpoint, {"tokenizer": few}, "bits .*bae.* is 5, expected 2 x 3"),
            ("elm-2", ElmCheckpoint, {"model": models.model("elm-1").state_dict() | {"output.weight": odd}}, "rows of output.weight .* is 11, expected 64"),
            ("elm-2", ElmCheckpoint, {"model": without(state["elm-2"], "output.1")}, "missing output.1.weight"),
            ("elm-2", ElmCheckpoint, {"config": {**models.CONFIG, "use_tanh": True}}, "use_tanh .* is True"),
            ("shuffle-2", TokenShuffleCheckpoint, {"config": {"heads": 3, "grid": 5}}, "grid .* is 5, expected a multiple of the window, 2"),
            ("shuffle-2", TokenShuffleCheckpoint, {"model": {**state["shuffle-2"], "shuffle.compress.weight": torch.zeros(11, 48)}}, "rows of shuffle.compress.weight .* is 11, expected 48 divided by the square"),
            ("shuffle-2", TokenShuffleCheckpoint, {"model": short}, r"residual blocks .* is \[2, 3\], expected as many"),
            ("shuffle-2", TokenShuffleCheckpoint, {"model": {**state["shuffle-2"], "visual_head.weight": torch.zeros(39, 48)}}, "rows of visual_head.weight .* is 39, expected 40"),
            ("nar", NarCheckpoint, {"model": {**state["nar"], "medusa_output.weight": torch.zeros(41, 48)}}, "rows of medusa_output.weight .* is 41"),
            ("nar", NarCheckpoint, {"model": {**state["nar"], "norm.weight": torch.full((48,), math.nan)}}, "tensor norm.weight .* not finite"),
            ("nar", NarCheckpoint, {"config": {"heads": True, "grid": 4}}, "heads .* is True"),
            ("nar", NarCheckpoint, {"config": {"heads": 3, "grid": "4"}}, "grid .* is 4, expected codes along a side"),
            ("nar", NarCheckpoint, {"model": without(state["nar"], "layers.1.ffn_norm")}, "missing layers.1.ffn_norm.weight"),
            ("nar", NarCheckpoint, {"model": without(state["nar"], "layers.1.", "layers.2.")}, "layers .* is 1, expected 2 or more"),
        )
    ):  # fmt: skip
        path = models.write(tmp_path / str(number), kind, **given)
        with pytest.raises(CheckpointError, match=words):
            checkpoint(path)


def test_bad_drafters(tmp_path: Path) -> None:
    pair = models.write(tmp_path / "pair", "llamagen")
    with pytest.raises(CheckpointError, match="drafter in .* is 0 files, expected one whose name begins with drafter"):
        export("lantern", pair, tmp_path / "out")
    sizes = {**models.SIZES, "hidden_size": 36}
    for name, config, words in (
        ("width", LlamaGenConfig(codes=40, **sizes), "width of .* is 36, expected 48, as the model has"),
        ("codes", LlamaGenConfig(codes=41, **models.SIZES), "codes of .* is 41, expected 40"),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file(Drafter(config).state_dict(), file)
        with pytest.raises(CheckpointError, match=words):
            export("lantern", pair, tmp_path / "out", drafter=file)
    save_file(without(Drafter(LlamaGenConfig(codes=40, **models.SIZES)).state_dict(), "fc.bias"), file)
    with pytest.raises(CheckpointError, match="missing fc.bias"):
        export("lantern", pair, tmp_path / "out", drafter=file)
    assert not (tmp_path / "out").exists()


def test_a_drafter_may_lie_beside_a_pair(tmp_path: Path) -> None:
    """One folder serves llamagen, gsd and lantern; the drafter counts for the last alone."""
    assert (
        LlamaGenCheckpoint(models.checkpoint("lantern")).sha256()
        == LlamaGenCheckpoint(models.checkpoint("llamagen")).sha256()
    )
    plain, drafted = (open_bundle(models.bundle(kind)).manifest for kind in ("gsd", "lantern"))
    more = sum(p.numel() for p in models.model("drafter").parameters())
    assert drafted["model"]["parameters"] == plain["model"]["parameters"] + more
    assert drafted["provenance"]["checkpoint"]["sha256"] != plain["provenance"]["checkpoint"]["sha256"]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("gsd", {"group_size": 0}, "group_size is 0, expected 1 or more"),
        ("gsd", {"prob_tol": -0.1}, "prob_tol is -0.1"),
        ("gsd", {"dist_tol": float("nan")}, "dist_tol is nan"),
        ("gsd", {"clusters": 0}, "clusters is 0, expected 1 to 40"),
        ("gsd", {"clusters": 41}, "clusters is 41, expected 1 to 40"),
        ("gsd", {"draft_window": 1}, "draft_window is 1, expected 2 or more"),
        ("lantern", {"neighbours": 0}, "neighbours is 0, expected 1 to 39"),
        ("lantern", {"neighbours": 40}, "neighbours is 40, expected 1 to 39"),
        ("lantern", {"delta": -0.1}, "delta is -0.1"),
        ("lantern", {"delta": 1.0}, "delta is 1.0, expected 0 or more and below 1"),
        ("lantern", {"delta": float("inf"), "relative": True}, "delta is inf"),
        ("lantern", {"draft_length": 0}, "draft_length is 0"),
        ("nar", {"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_bad_options(method: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        export(method, models.checkpoint(method), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gsd", {"group_size": 1, "clusters": 40, "prob_tol": 0.0, "dist_tol": 0.0, "draft_window": 2}),
        ("gsd", {"group_size": 1000, "clusters": 1}),
        ("lantern", {"neighbours": 39, "delta": 0.0, "draft_length": 1}),
        ("lantern", {"neighbours": 1, "delta": 4.0, "relative": True}),
    ],
)
def test_extreme_options(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    manifest = open_bundle(export(method, models.checkpoint(method), tmp_path / "out", **options).path).manifest
    told = manifest["image_codes"]["acceptance"] | manifest["image_codes"]
    assert {n: told[n] for n in options} == options


def test_options_on_the_command_line(tmp_path: Path) -> None:
    """Numbers of gsd and lantern reach the manifest; what a method does not have is refused."""
    drafter = models.checkpoint("lantern") / "drafter.safetensors"
    for method, given, wanted in (
        ("gsd", "--group-size 5 --prob-tol 0.2 --dist-tol 1.5 --clusters 6 --draft-window 8",
         {"group_size": 5, "prob_tol": 0.2, "dist_tol": 1.5, "clusters": 6}),
        ("lantern", f"--neighbours 9 --delta 2 --relative --draft-length 3 --drafter {drafter}",
         {"neighbours": 9, "delta": 2.0, "relative": True}),
    ):  # fmt: skip
        out = tmp_path / method
        call = [method, "--checkpoint", str(models.checkpoint("llamagen")), "--out", str(out), *given.split(), "--json"]
        made = CliRunner().invoke(export_command, call, catch_exceptions=False)
        assert json.loads(made.stdout)["method"] == method
        image = open_bundle(out).manifest["image_codes"]
        assert image["acceptance"] == wanted and 8 in (
            image.get("draft_window"),
            8 if image.get("draft_length") == 3 else 0,
        )
    call = ["nar", "--checkpoint", str(models.checkpoint("nar")), "--out", str(tmp_path / "x"), "--delta", "0.1"]
    refused = CliRunner().invoke(export_command, call).exception
    assert isinstance(refused, RequestError) and "option of method nar is delta" in str(refused)


@pytest.mark.parametrize(("kind", "method"), [("gsd", "gsd"), ("lantern", "lantern"), ("elm-2", "elm")])
def test_the_same_checkpoint_gives_the_same_files(kind: str, method: str, tmp_path: Path) -> None:
    again = export(method, models.checkpoint(kind), tmp_path / "again", check=False).path
    listed = [json.loads((p / "manifest.json").read_text())["files"] for p in (models.bundle(kind), again)]
    assert listed[0] == listed[1]


# Codebooks.


def test_neighbours_by_their_definition() -> None:
    rows = models.vq().table().detach().numpy()
    rows = np.concatenate([rows, rows[:3]])  # duplicates: at distance 0, and never a code itself
    found = nearest_codes(rows, 7)
    for code in range(len(rows)):
        away = ((rows - rows[code]) ** 2).sum(1)
        others = [c for c in range(len(rows)) if c != code]
        assert code not in found[code] and len(set(found[code])) == 7
        assert np.allclose(away[found[code]], sorted(away[others])[:7], atol=1e-5)
    assert found[0, 0] == 40 and found[40, 0] == 0


@pytest.mark.parametrize("clusters", [1, 3, 7, 39, 40])
def test_clusters_are_balanced_and_the_same_each_time(clusters: int) -> None:
    rows = models.vq().table().detach().numpy()
    found = balanced_clusters(rows, clusters)
    sizes = np.bincount(found[:, 0], minlength=clusters)
    assert found.shape == (40, 1) and sizes.sum() == 40 and sizes.max() <= -(-40 // clusters)
    assert np.array_equal(found, balanced_clusters(rows, clusters))
    if clusters == 7:  # nearer to their own than codes taken by chance
        inside = np.mean(
            [((rows[i] - rows[j]) ** 2).sum() for i in range(40) for j in range(40) if found[i] == found[j] and i != j]
        )
        assert inside < 0.7 * np.mean(
            [((rows[i] - rows[j]) ** 2).sum() for i in range(40) for j in range(40) if i != j]
        )
    assert balanced_clusters(np.ones((5, 2), np.float32), 3).max() <= 2


def test_released_autoencoders(tmp_path: Path) -> None:
    """As they were published: a prefix, a skip in every block, a discriminator, and the head of a likelihood."""
    bae = models.bae()
    state = {f"ae.{n}": t for n, t in bae.state_dict().items()}
    for name, tensor in bae.state_dict().items():
        if name.endswith("conv1.weight") and tensor.shape[0] == tensor.shape[1]:
            stem = name.removesuffix("conv1.weight")
            state |= {f"ae.{stem}conv_out.weight": torch.randn(tensor.shape[0], tensor.shape[0], 1, 1)}
            state |= {f"ae.{stem}conv_out.bias": torch.randn(tensor.shape[0])}
    state |= {"ae.generator.logsigma.0.weight": torch.randn(32, 32, 3, 3), "disc.main.0.weight": torch.randn(3)}
    path = models.write(tmp_path, "elm-2", tokenizer=None)
    torch.save(state, path / "binaryae_ema.th")
    found = ElmCheckpoint(path)
    assert found.bae_config == models.BAE
    codes = torch.arange(32).view(2, 16)
    with torch.no_grad():
        assert torch.equal(found.tokenizer.decode(codes), bae.decode(codes))


@pytest.mark.parametrize("config", [
    BaeConfig(bits=4, channels=32, multipliers=(1,), latent=32),
    BaeConfig(bits=9, channels=32, multipliers=(1, 1, 2), latent=64, blocks=1, generator_blocks=3),
])  # fmt: skip
def test_sizes_of_an_autoencoder_follow_from_its_shapes(config: BaeConfig) -> None:
    from farthing.export.checkpoint.vq_tensors import bae_config, bae_tensors

    assert bae_config(Path("x"), bae_tensors(Bae(config).state_dict())) == config
