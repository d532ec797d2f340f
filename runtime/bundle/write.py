"""Writing a bundle: everything goes to a folder beside the target, which is renamed over it at the very end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import BundleError, RequestError, found_wanted
from .read import FORMAT_VERSION, MANIFEST, open_bundle, sha256_of


class BundleWriter:
    """A context manager that stages a bundle.

    >>> with BundleWriter("out") as writer:            # doctest: +SKIP
    ...     (writer.path / "graphs").mkdir()           # write files below writer.path
    ...     writer.commit({"name": "m", ...})          # manifest without format, format_version and files

    Leaving the block without `commit`, by error or interrupt, removes the staging folder and leaves the target as it was.
    An existing target is replaced only if it is itself a bundle (``overwrite``), so a slip of the hand costs no data.
    """

    def __init__(self, target: str | Path, *, overwrite: bool = True) -> None:
        self.target = Path(target)
        if self.target.exists():
            is_bundle = (self.target / MANIFEST).is_file()
            is_empty = self.target.is_dir() and not any(self.target.iterdir())
            if not is_empty and not (overwrite and is_bundle):
                raise RequestError(
                    found_wanted(
                        f"output {self.target}",
                        "an existing bundle" if is_bundle else "a folder that is no bundle, or a file",
                        "a new or empty folder" if not overwrite else "a new or empty folder, or a bundle to replace",
                        "choose another --out",
                    )
                )
        self.path = self.target  # until __enter__

    def __enter__(self) -> BundleWriter:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename stays on one file system and is atomic.
        self.path = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path != self.target:
            shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
            raise BundleError(
                found_wanted(
                    f"disk of {self.target.parent}",
                    "full",
                    "room for the bundle",
                    "free some space; nothing was left behind",
                )
            ) from error

    def commit(self, manifest: dict[str, Any]) -> Path:
        """Add hashes, write the manifest, check the result as a reader would, and move it to the target."""
        files = {}
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = path.relative_to(self.path).as_posix()
            files[relative] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        whole = {"format": "farthing-bundle", "format_version": FORMAT_VERSION, **manifest, "files": files}
        text = json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        (self.path / MANIFEST).write_text(text, encoding="utf-8")
        open_bundle(self.path, hashes=False, networks=True)
        self.path.chmod(0o755)  # mkdtemp makes it private
        if self.target.exists():
            # Move the old one aside first: rename cannot replace a folder that is not empty.
            old = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.old.", dir=self.target.parent))
            os.rename(self.target, old / "bundle")
            os.rename(self.path, self.target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(self.path, self.target)
        self.path = self.target
        return self.target
