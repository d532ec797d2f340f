"""Where a stream comes from - a file, or a bundle with pictures - and saving its codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import RequestError, found_wanted
from ...runtime.code_storage import pack_codes, unpack_codes
from .encode import encode_pictures
from .stream import Stream, read_codes, stream_of


def stream_from(
    source: str | Path,
    images: str | Path | None = None,
    codebook: int | None = None,
    grid: tuple[int, int] | None = None,
    *,
    native: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Stream:
    """Of a file of codes, or of the bundle ``source`` and the pictures of the folder ``images``.

    What file or bundle say themselves - size of the codebook, grid - need not be given, and must not be given differently. Raises RequestError,
    BundleError, MissingDependencyError.
    """
    if Path(source).is_dir():
        if images is None:
            fix = "add --images"
            raise RequestError(found_wanted("--images", "missing", f"pictures for the bundle {source}", fix))
        codes, vocab = encode_pictures(source, images, native=native, progress=progress)
        return stream_of(codes, _agreed(codebook, vocab, f"bundle {source}"), grid, what=f"codes of {images}")
    if images is not None:
        found = f"given, and {source} is no bundle"
        raise RequestError(found_wanted("--images", found, "a bundle to encode them", "leave --images out"))
    codes, told = read_codes(source)
    return stream_of(codes, _agreed(codebook, told, f"file {source}"), grid, what=f"codes of {source}")


def _agreed(given: int | None, told: int | None, by: str) -> int:
    if given is None and told is None:
        raise RequestError(
            found_wanted("--codebook", "missing", f"the codebook's size, which {by} does not say", "add it")
        )
    if given is not None and told is not None and given != told:
        raise RequestError(found_wanted("--codebook", given, f"{told} by {by}", "leave it out"))
    return given if given is not None else told  # type: ignore[return-value]


def save_codes(stream: Stream, path: str | Path) -> int:
    """Write the codes of ``stream``: an array of the smallest unsigned integers for .npy, packed for any other name; returns the bytes.

    Packed codes are unpacked and compared before anything is written. Raises RequestError.
    """
    target = Path(path)
    try:
        if target.suffix.lower() == ".npy":
            kind = np.uint8 if stream.vocab <= 1 << 8 else np.uint16 if stream.vocab <= 1 << 16 else np.uint32
            np.save(target, stream.codes.astype(kind), allow_pickle=False)
        else:
            data = pack_codes(stream.codes, stream.vocab)
            if not np.array_equal(unpack_codes(data)[0], stream.codes):
                raise RuntimeError("packed codes differ from what was packed")
            target.write_bytes(data)
        return target.stat().st_size
    except OSError as error:
        raise RequestError(
            found_wanted(f"--save {path}", f"not writable ({error.strerror})", "a file", "choose another")
        ) from error
