"""Opening a bundle: schema, paths, sizes and hashes are checked before anything of it is used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import BundleError, RequestError, found_wanted
from ..image_tensors import AR_STEP
from ..tensors import DECODER, FTP_STEP, GAM, MTP_STEP, PAST_K, PAST_V
from .drawing import check_drawing

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
CACHE_BYTES = {"float32": 4, "int8": 1}
"""Bytes of a number in the key/value cache, by its dtype in the manifest."""
_MANIFEST_LIMIT = 16 << 20
"""Bytes. A manifest is a few KB per hundred tensors; anything near this is not one of ours."""


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. ``manifest`` is the parsed manifest.json (see manifest.schema.json for its fields)."""

    path: Path
    manifest: dict[str, Any]

    def file(self, relative: str) -> Path:
        """Absolute path of a file the manifest lists. Raises BundleError when it lists no such file."""
        if relative not in self.manifest["files"]:
            raise BundleError(
                found_wanted(
                    f"file {relative!r} of {self.path}", "not listed", "an entry of 'files'", "export the bundle again"
                )
            )
        return self.path / relative

    def graph(self, name: str) -> Path:
        """Path of the ONNX file of graph ``name``."""
        graphs = self.manifest["graphs"]
        if name not in graphs:
            raise BundleError(
                found_wanted(
                    f"graph {name!r} of {self.path}",
                    "missing",
                    f"one of {sorted(graphs)}",
                    "export it with a newer farthing",
                )
            )
        return self.file(graphs[name]["file"])

    def text(self, relative: str) -> str:
        """A listed file as text."""
        return self.file(relative).read_text(encoding="utf-8")

    @property
    def weight_bytes(self) -> int:
        """Bytes of all graph and external-data files: what stays resident while the bundle is open."""
        listed = self.manifest["files"]
        # A set: graphs of a bundle may share a data file.
        return sum(
            listed[f]["bytes"] for f in {f for g in self.manifest["graphs"].values() for f in [g["file"], *g["data"]]}
        )

    @property
    def is_network(self) -> bool:
        """Whether it is run once per input, an encoder or a vision model, instead of decoding tokens."""
        return bool(self.manifest["method"]["procedure"] == "single_pass")

    @property
    def step_graph(self) -> str:
        """Name of the graph that the decode loop runs."""
        if "mtp" in self.manifest:
            return MTP_STEP
        if "ftp" in self.manifest:
            return FTP_STEP
        if "image_codes" in self.manifest:
            return AR_STEP
        return GAM if "state" in self.manifest else DECODER

    @property
    def step_inputs(self) -> list[str]:
        """Names of that graph's inputs."""
        return [str(i["name"]) for i in self.manifest["graphs"][self.step_graph]["inputs"]]

    def kv_bytes(self, context: int, batch: int = 1) -> int:
        """Bytes that ``batch`` sequences of ``context`` tokens keep between steps.

        Key/value cache: 2 caches x layers x heads x head size x 4 a token, or x 1 where it is int8. Recurrent state: layers x rows x width x 4, whatever the context.
        """
        if state := self.manifest.get("state"):
            return int(state["layers"] * state["rows"] * state["width"] * 4 * batch)
        kv = self.manifest["kv"]
        width = CACHE_BYTES[kv["dtype"]]
        return int(2 * kv["layers"] * kv["kv_heads"] * kv["head_dim"] * width * context * batch)


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of the manifest."""
    text = (Path(__file__).parent / "manifest.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in 4 MB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(4 << 20):
            digest.update(piece)
    return digest.hexdigest()


def open_bundle(path: str | Path, *, hashes: bool = True, networks: bool = False) -> Bundle:
    """Open and check the bundle in folder ``path``.

    ``networks``: the caller can use one that decodes no tokens (procedure single_pass) as well; else it is refused by RequestError.
    Checks the manifest against its schema, that every listed file is a plain file inside the folder with the listed size and
    (with ``hashes``) SHA-256, and that all files graphs, tokenizer and vectors refer to are listed. Raises BundleError.
    """
    root = Path(path)
    manifest = _read_manifest(root)
    for relative, entry in manifest["files"].items():
        try:
            _check_file(root, relative, entry, hashes)
        except OSError as error:
            raise BundleError(
                found_wanted(
                    f"file {relative[:80]!r} of {root}",
                    f"not readable ({error.strerror})",
                    "a readable file",
                    "check permissions and names, or copy the bundle again",
                )
            ) from error
    for relative in _referred(manifest):
        if relative not in manifest["files"]:
            raise BundleError(
                found_wanted(
                    f"file {relative!r} used by {root / MANIFEST}",
                    "not in 'files'",
                    "a listed file",
                    "export the bundle again",
                )
            )
    bundle = Bundle(root, manifest)
    if not bundle.is_network:
        _check_carried(root, manifest)
        check_drawing(root / MANIFEST, manifest)
    elif not networks:
        method = manifest["method"]["id"]
        raise RequestError(
            found_wanted(
                f"method of {root}",
                f"{method}, a network that is run once per input",
                "one that decodes tokens",
                "`farthing verify`, `inspect`, `bench`, `eval` and `quantize` take it, and farthing.runtime.network runs it",
            )
        )
    _check_tokenizer(root, manifest)
    return bundle


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not root.is_dir():
        raise BundleError(
            found_wanted(f"bundle {root}", "not a folder", "a folder made by `farthing export`", "check the path")
        )
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            found_wanted(f"{path}", "missing", "a manifest.json", "check the path, or export the bundle again")
        )
    if path.stat().st_size > _MANIFEST_LIMIT:
        raise BundleError(
            found_wanted(
                f"size of {path}", path.stat().st_size, f"at most {_MANIFEST_LIMIT}", "export the bundle again"
            )
        )
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(
            found_wanted(f"{path}", f"not JSON ({error})", "a JSON object", "export the bundle again")
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != "farthing-bundle":
        raise BundleError(
            found_wanted(
                f"field 'format' of {path}", "something else", "'farthing-bundle'", "this is not a farthing bundle"
            )
        )
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            found_wanted(
                f"format_version of {path}",
                version,
                FORMAT_VERSION,
                "update farthing"
                if isinstance(version, int) and version > FORMAT_VERSION
                else "export the bundle again",
            )
        )
    check_schema(manifest, path)
    return manifest


def check_schema(manifest: dict[str, Any], path: Path) -> None:
    """Raise BundleError, naming ``path`` and the field, where ``manifest`` is not what the schema says."""
    import jsonschema

    validator = _validator()(schema())
    problem = jsonschema.exceptions.best_match(validator.iter_errors(manifest))
    if problem is not None:
        field = "/".join(str(p) for p in problem.absolute_path) or "(top level)"
        raise BundleError(
            found_wanted(
                f"field {field} of {path}",
                f"wrong ({problem.message[:200]})",
                "what the schema says",
                "export the bundle again",
            )
        )


@cache
def _validator() -> Any:
    """JSON schema takes 3.0 for an integer; a count written so is none of ours, and the C++ core refuses it too."""
    import jsonschema

    base = jsonschema.Draft202012Validator
    checker = base.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return jsonschema.validators.extend(base, type_checker=checker)


def _check_file(root: Path, relative: str, entry: dict[str, Any], hashes: bool) -> None:
    # The schema allows no '..', no absolute path and no dot-files; a symlink anywhere on the way could still lead out.
    path = root
    for part in relative.split("/"):
        path = path / part
        if path.is_symlink():
            raise BundleError(
                found_wanted(
                    f"{path}", "a symbolic link", "a plain file inside the bundle", "copy the file it points to"
                )
            )
    if not path.is_file():
        raise BundleError(
            found_wanted(f"{path}", "missing", "a file the manifest lists", "copy or export the bundle again")
        )
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise BundleError(
            found_wanted(
                f"size of {path}", f"{size} bytes", f"{entry['bytes']} bytes", "copy or export the bundle again"
            )
        )
    if hashes and (digest := sha256_of(path)) != entry["sha256"]:
        raise BundleError(
            found_wanted(
                f"sha256 of {path}", digest, entry["sha256"], "the file was changed; copy or export the bundle again"
            )
        )


def _referred(manifest: dict[str, Any]) -> list[str]:
    files = [manifest["vectors"]]
    for graph in manifest["graphs"].values():
        files += [graph["file"], *graph["data"]]
    if tokenizer := manifest["tokenizer"]:
        files.append(tokenizer["file"])
        if tokenizer["chat_template"]:
            files.append(tokenizer["chat_template"])
    return files


def _check_carried(root: Path, manifest: dict[str, Any]) -> None:
    for place, field, value in _carried(manifest):
        if value != manifest[place][field]:
            raise BundleError(
                found_wanted(
                    f"{place}.{field} of {root / MANIFEST}", manifest[place][field], value, "export the bundle again"
                )
            )
    if "kv" in manifest:
        _check_cache(root, manifest)


def _check_cache(root: Path, manifest: dict[str, Any]) -> None:
    """The dtype that kv names is that of every graph, since bytes are copied by it; int8 only where every graph can have it."""
    dtype = manifest["kv"]["dtype"]
    for name in ("vision", "image_codes"):
        if dtype != "float32" and name in manifest:
            raise BundleError(
                found_wanted(f"kv.dtype of {root / MANIFEST}", f"{dtype} beside {name}", "float32", "make it again")
            )
    caches = (PAST_K.format(""), PAST_V.format(""))
    for name, graph in manifest["graphs"].items():
        for tensor in graph["inputs"]:
            if tensor["name"].startswith(caches) and tensor["dtype"] != dtype:
                raise BundleError(
                    found_wanted(
                        f"dtype of input {tensor['name']} of graph {name} of {root / MANIFEST}",
                        tensor["dtype"],
                        f"kv.dtype, {dtype}",
                        "make the bundle again",
                    )
                )


def _check_tokenizer(root: Path, manifest: dict[str, Any]) -> None:
    tokenizer = manifest["tokenizer"]
    if tokenizer is None:
        return
    vocab = manifest["model"].get("vocab_size", 0)
    if tokenizer["vocab_size"] > vocab:
        raise BundleError(
            found_wanted(
                f"tokenizer.vocab_size of {root / MANIFEST}",
                tokenizer["vocab_size"],
                f"at most the embedding's {vocab} rows",
                "use the tokenizer the model was trained with",
            )
        )
    for name, ids in (("bos_id", [tokenizer["bos_id"]]), ("eos_ids", tokenizer["eos_ids"])):
        for token in ids:
            if token is not None and token >= vocab:
                raise BundleError(
                    found_wanted(
                        f"tokenizer.{name} of {root / MANIFEST}", token, f"below {vocab}", "export the bundle again"
                    )
                )


def _carried(manifest: dict[str, Any]) -> list[tuple[str, str, int]]:
    """(place, field, value the model implies) of what a sequence keeps between steps."""
    model = manifest["model"]
    if "state" in manifest:
        implied = {"layers": model["layers"], "rows": model["kernel_size"] - 1, "width": model["hidden_size"]}
        return [("state", field, value) for field, value in implied.items()]
    return [("kv", field, model[field]) for field in ("layers", "kv_heads", "head_dim")]
