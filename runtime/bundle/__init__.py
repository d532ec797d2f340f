"""The bundle: a folder with graphs, tokenizer, recorded vectors and a manifest that vouches for all of it.

`open_bundle` checks everything before anything is run; `BundleWriter` makes a bundle so that a crash, a full disk or Ctrl-C
never leaves half of one behind.
"""

from __future__ import annotations

from .edit import edit_manifest
from .read import FORMAT_VERSION, MANIFEST, Bundle, open_bundle
from .write import BundleWriter

__all__ = ["FORMAT_VERSION", "MANIFEST", "Bundle", "BundleWriter", "edit_manifest", "open_bundle"]
