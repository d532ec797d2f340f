"""What was compiled from a bundle: ``compiled/<target>/<key>/`` beside the manifest, each with an index.json of its own.

The bundle's manifest does not list these files, so its hashes stay valid; the index vouches for them instead, and says what
they were made for. runtime/core/compiled.cc is the C++ twin.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BundleError, found_wanted
from .read import Bundle, sha256_of

COMPILED = "compiled"
FORMAT, FORMAT_VERSION = "farthing-compiled", 1


@dataclass(frozen=True)
class Compiled:
    """One checked result of `farthing compile`."""

    path: Path
    index: dict[str, Any]

    def file(self, graph: str) -> Path:
        """The file of graph ``graph``."""
        return self.path / str(self.index["graphs"][graph]["file"])


def identity(bundle: Bundle) -> str:
    """SHA-256 (hex) over the hashes of all graphs and their data, in the manifest's order: what results were compiled from.

    Of a bundle with one graph it is ``Bundle::graph_sha256`` of the C++ core.
    """
    digest = hashlib.sha256()
    for graph in bundle.manifest["graphs"].values():
        for relative in (graph["file"], *graph["data"]):
            digest.update(bundle.manifest["files"][relative]["sha256"].encode())
    return digest.hexdigest()


def key_folder(key: dict[str, Any]) -> str:
    """Name of the folder of results with ``key``: 16 hex digits of its hash."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def open_compiled(folder: Path) -> Compiled:
    """Open and check the result in ``folder``: index, sizes, hashes. Raises BundleError."""
    path = folder / "index.json"
    fix = "delete the folder and compile again"
    try:
        index = json.loads(path.read_bytes())
        ours = index["format"] == FORMAT and index["format_version"] == FORMAT_VERSION
        files = dict(index["files"]) if ours else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(found_wanted(f"{path}", f"unreadable ({error})", "an index.json", fix)) from error
    if not ours:
        raise BundleError(
            found_wanted(
                f"format of {path}", index["format"], f"{FORMAT} {FORMAT_VERSION}", "compile with this farthing"
            )
        )
    for name, entry in files.items():
        file = folder / name
        if os.sep in name or file.is_symlink() or not file.is_file():
            raise BundleError(found_wanted(f"{file}", "missing or no plain file", "a file the index lists", fix))
        if (size := file.stat().st_size) != entry["bytes"]:
            raise BundleError(found_wanted(f"size of {file}", f"{size} bytes", f"{entry['bytes']} bytes", fix))
        if (digest := sha256_of(file)) != entry["sha256"]:
            raise BundleError(found_wanted(f"sha256 of {file}", digest, entry["sha256"], fix))
    for name, graph in index["graphs"].items():
        if graph["file"] not in files:
            raise BundleError(found_wanted(f"file of graph {name} in {path}", "not listed", "in 'files'", fix))
    return Compiled(folder, index)


def results(bundle: Bundle, target: str) -> Iterator[Path]:
    """Folders of the results for ``target``, sorted; unchecked."""
    root = bundle.path / COMPILED / target
    if root.is_dir():
        yield from sorted(p for p in root.iterdir() if (p / "index.json").is_file() and not p.name.startswith("."))
