"""Bundles that are damaged, edited, hostile or from the future: always BundleError, naming file and field, by every way in."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import pytest
from engines import ENGINES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import farthing
from farthing.errors import BundleError
from farthing.runtime.bundle import MANIFEST, open_bundle
from farthing.runtime.bundle.read import sha256_of

GRAPH, TOKENIZER = "graphs/decoder.onnx", "tokenizer/tokenizer.json"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(engines.bundle(), tmp_path / "bundle")


def manifest_of(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = manifest_of(bundle)
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def refused(bundle: Path, message: str, *, hashes: bool = True) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle, hashes=hashes)
    text = str(caught.value)
    assert " is " in text and ", expected " in text and "; " in text


def every_file() -> list[str]:
    return sorted(manifest_of(engines.bundle())["files"])


# --- files


@pytest.mark.parametrize("name", every_file())
def test_truncated(bundle, name) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-1])
    refused(bundle, f"size of .*{path.name} is", hashes=False)


@pytest.mark.parametrize("name", every_file())
def test_edited(bundle, name) -> None:
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(bundle, f"sha256 of .*{path.name} is [0-9a-f]{{64}}, expected [0-9a-f]{{64}}")


@pytest.mark.parametrize("name", every_file())
def test_missing_file(bundle, name) -> None:
    (bundle / name).unlink()
    refused(bundle, f"{Path(name).name} is missing")


def test_folder_in_place_of_a_file(bundle) -> None:
    (bundle / GRAPH).unlink()
    (bundle / GRAPH).mkdir()
    refused(bundle, "decoder.onnx is missing")


@pytest.mark.parametrize("inside", [False, True])
def test_symlinked_file(bundle, tmp_path, inside) -> None:
    """Also one that stays inside: what it points to could be changed after the check."""
    target = (bundle if inside else tmp_path) / "elsewhere.onnx"
    shutil.move(bundle / GRAPH, target)
    (bundle / GRAPH).symlink_to(target)
    refused(bundle, "decoder.onnx is a symbolic link")


def test_symlinked_folder(bundle, tmp_path) -> None:
    shutil.move(bundle / "graphs", tmp_path / "elsewhere")
    (bundle / "graphs").symlink_to(tmp_path / "elsewhere")
    refused(bundle, "graphs is a symbolic link")


def test_symlinked_manifest(bundle, tmp_path) -> None:
    shutil.move(bundle / MANIFEST, tmp_path / "m.json")
    (bundle / MANIFEST).symlink_to(tmp_path / "m.json")
    refused(bundle, "manifest.json is missing")


def test_symlink_to_a_bundle_is_fine(bundle, tmp_path) -> None:
    """The folder itself may be a link: people keep models on other disks."""
    (tmp_path / "link").symlink_to(bundle)
    assert open_bundle(tmp_path / "link").manifest["format_version"] == 1


def test_no_bundle(tmp_path) -> None:
    refused(tmp_path / "nothing", "not a folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "manifest.json is missing")


# --- manifest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"format": "onnx"}',
        b"[" * 100_000,
        b'{"a": ' * 50_000,
        b"1" * 5000,
        b"NaN",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_manifest_that_is_none(bundle, data) -> None:
    (bundle / MANIFEST).write_bytes(data)
    refused(bundle, "manifest.json")


def test_huge_manifest(bundle) -> None:
    with (bundle / MANIFEST).open("ab") as stream:
        stream.truncate(17 << 20)
    refused(bundle, "size of .*manifest.json")


@pytest.mark.parametrize(
    "version, fix",
    [(2, "update farthing"), (10**30, "update farthing"), (0, "export"), ("1", "export"), (None, "export"), (True, "")],
)
def test_version(bundle, version, fix) -> None:
    edit(bundle, lambda m: m.update(format_version=version))
    refused(bundle, f"format_version.*{fix}")


@pytest.mark.parametrize(
    "path",
    [
        "../outside.onnx",
        "graphs/../../outside.onnx",
        "/etc/passwd",
        "graphs//x",
        "./x",
        "graphs/.",
        "a\\b",
        "C:/x",
        ".hidden",
        "graphs/.x",
        "",
        "x\0y",
        "é",
    ],
)
def test_path_traversal(bundle, tmp_path, path) -> None:
    """Listed or referred to: both are refused, even if such a file exists and its hash is right."""
    (tmp_path / "outside.onnx").write_bytes((bundle / GRAPH).read_bytes())

    def list_it(m: dict[str, Any]) -> None:
        m["files"][path] = m["files"][GRAPH]

    edit(bundle, list_it)
    refused(bundle, "field files")

    def refer_to_it(m: dict[str, Any]) -> None:
        del m["files"][path]
        m["graphs"]["decoder"]["file"] = path

    edit(bundle, refer_to_it)
    refused(bundle, "field graphs/decoder/file")


@pytest.mark.parametrize(
    "field, change",
    [
        (GRAPH, lambda m: m["files"].pop(GRAPH)),
        (TOKENIZER, lambda m: m["files"].pop(TOKENIZER)),
        ("vectors/decoder.json", lambda m: m["files"].pop("vectors/decoder.json")),
        ("chat_template.jinja", lambda m: m["files"].pop("tokenizer/chat_template.jinja")),
        ("graphs/more.data", lambda m: m["graphs"]["decoder"].update(data=["graphs/more.data"])),
    ],
)
def test_reference_to_an_unlisted_file(bundle, field, change) -> None:
    edit(bundle, change)
    refused(bundle, f"{field}.*not in 'files'")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m["tokenizer"].update(vocab_size=301), "tokenizer.vocab_size.*301"),
        (lambda m: m["model"].update(vocab_size=100), "tokenizer.vocab_size.*at most the embedding's 100"),
        (lambda m: m["tokenizer"].update(eos_ids=[300]), "tokenizer.eos_ids.*300"),
        (lambda m: m["tokenizer"].update(bos_id=4000), "tokenizer.bos_id.*4000"),
        (lambda m: m["tokenizer"].update(bos_id=-1), "field tokenizer"),
        (lambda m: m["kv"].update(layers=99), "kv.layers.*99"),
        (lambda m: m["kv"].update(head_dim=13), "kv.head_dim.*13"),
        (lambda m: m["kv"].update(layers=2**70), "kv"),
        (lambda m: m["model"].update(layers=0), "field model/layers"),
        (lambda m: m["kv"].update(dtype="float8"), "field kv/dtype"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("graphs"), "graphs"),
        (lambda m: m["method"].update(procedure="oracle"), "field method/procedure"),
        (lambda m: m["files"][GRAPH].update(sha256="0"), "field files/graphs/decoder.onnx/sha256"),
        (lambda m: m["files"][GRAPH].update(bytes=-1), "field files/graphs/decoder.onnx/bytes"),
    ],
)
def test_wrong_fields(bundle, change, message) -> None:
    edit(bundle, change)
    refused(bundle, message)


def replace(bundle: Path, name: str, data: bytes) -> None:
    """Put other content in place of a file, with the manifest vouching for it."""
    (bundle / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": sha256_of(bundle / name)}
    edit(bundle, lambda m: m["files"].update({name: entry}))


@pytest.mark.parametrize("native", ENGINES)
def test_wrong_vocabulary(bundle, native) -> None:
    """A tokenizer of another model: more ids than the embedding has rows, whatever the manifest claims."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / TOKENIZER))
    tokenizer.add_tokens([f"word{i}" for i in range(50)])
    replace(bundle, TOKENIZER, tokenizer.to_str().encode())
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        farthing.load(bundle, native=native)


@pytest.mark.parametrize("native", ENGINES)
@pytest.mark.parametrize(
    "name, data", [(TOKENIZER, b"{}"), (TOKENIZER, b"\xff"), (GRAPH, b""), (GRAPH, b"\x08\x0b not a graph")]
)
def test_content_that_is_none(bundle, native, name, data) -> None:
    replace(bundle, name, data)
    with pytest.raises(BundleError, match=Path(name).name):
        farthing.load(bundle, native=native)


# --- fuzz

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.sampled_from(["", "..", "a" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=300), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


WHOLE = manifest_of(engines.bundle())
PLACES = places(WHOLE)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return shutil.copytree(engines.bundle(), tmp_path_factory.mktemp("fuzz") / "bundle")


def opens_or_is_refused(bundle: Path, data: bytes) -> None:
    (bundle / MANIFEST).write_bytes(data)
    with contextlib.suppress(BundleError):
        open_bundle(bundle)


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_fuzzed_manifest(scratch, data) -> None:
    """One to three values replaced, removed, renamed or repeated: nothing but BundleError comes out."""
    manifest = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(PLACES[1:]))
        parent: Any = manifest
        try:
            for key in way:
                parent = parent[key]
            action = data.draw(st.sampled_from(["replace", "remove", "rename", "move"]))
            if action == "remove":
                del parent[last]
            elif action == "rename" and isinstance(parent, dict):
                parent[data.draw(st.text(max_size=300))] = parent.pop(last)
            elif action == "move":
                parent[last] = copy.deepcopy(data.draw(st.sampled_from(list(WHOLE.values()))))
            else:
                parent[last] = data.draw(junk)
        except (KeyError, IndexError, TypeError):
            pass  # an earlier edit took this place away
    opens_or_is_refused(scratch, json.dumps(manifest).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200) | junk.map(lambda v: json.dumps(v).encode("utf-8", "surrogatepass")))
def test_fuzzed_bytes(scratch, data) -> None:
    opens_or_is_refused(scratch, data)


@given(st.data())
def test_fuzzed_text(scratch, data) -> None:
    """Bytes of the file itself overwritten."""
    raw = bytearray(json.dumps(WHOLE).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    opens_or_is_refused(scratch, bytes(raw))


@pytest.mark.parametrize("native", ENGINES)
def test_fuzzed_manifest_by_every_engine(native, tmp_path) -> None:
    """Each value in turn set to things of the wrong kind, and the whole bundle loaded."""
    bundle = shutil.copytree(engines.bundle(), tmp_path / "bundle")
    # Tensors' lists are long and alike: one of each kind is enough.
    chosen = [p for p in PLACES[1:] if not ({"inputs", "outputs"} & set(p) and len(p) > 4 and p[3] > 4)]
    for place in chosen:
        for wrong in (None, -1, "x"):
            manifest = copy.deepcopy(WHOLE)
            parent: Any = manifest
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = wrong
            (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            try:
                farthing.load(bundle, native=native, threads=1).close()
            except BundleError:
                continue
            assert place[0] in ("name", "provenance", "quantization", "model", "method", "tokenizer", "graphs"), (
                place,
                wrong,
            )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(bundle) -> None:
    (bundle / GRAPH).chmod(0)
    refused(bundle, "decoder.onnx")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "a"], ids=["long", "deep"])
def test_name_that_no_file_can_have(bundle, name) -> None:
    edit(bundle, lambda m: m["files"].update({name: m["files"][GRAPH]}))
    refused(bundle, "aaa|a/a/a")


def test_number_with_a_fraction_where_a_count_belongs(bundle) -> None:
    edit(bundle, lambda m: (m["kv"].update(layers=3.0), m["model"].update(layers=3.0)))
    refused(bundle, "layers")
