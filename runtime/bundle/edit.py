"""Changing what a finished bundle's manifest says, without touching the files that it vouches for."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import BundleError, found_wanted
from .read import MANIFEST, check_schema, open_bundle


def edit_manifest(path: str | Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Let ``change`` edit the manifest of the bundle in folder ``path``, and write it; returns the new one.

    The manifest does not list itself, so hashes stay valid. It is written beside the old one and renamed over it: a crash or a full disk leaves
    the old one whole. Raises BundleError for a bundle that is damaged, a change that the schema forbids, or a folder that cannot be written.
    """
    root = Path(path)
    manifest = copy.deepcopy(open_bundle(root, hashes=False, networks=True).manifest)
    change(manifest)
    check_schema(manifest, root / MANIFEST)
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    name = ""
    try:
        mode = (root / MANIFEST).stat().st_mode & 0o777
        handle, name = tempfile.mkstemp(prefix=f".{MANIFEST}.", dir=root)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)  # mkstemp makes it private
        os.replace(name, root / MANIFEST)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise BundleError(
            found_wanted(
                f"{root / MANIFEST}",
                f"not writable ({error.strerror})",
                "a folder that can be written",
                "check permissions and free space; the old manifest is as it was",
            )
        ) from error
    return manifest
