"""How far a changed model is from its source on a real text: perplexity, bits per byte, KL divergence, agreement.

Both graphs read the same ids in windows, in pieces of 64 rows over a KV cache, so at most 64 rows of logits of each are held
whatever the vocabulary. Our kernels are used where they are built; the bodies give the same within rounding.
"""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, RequestError, found_wanted
from ..export.graph import Progress, no_progress
from ..plugins import library_path
from ..runtime import tensors as names
from ..runtime.bundle import Bundle
from ..runtime.cache_dtype import empty_cache
from ..runtime.plain_feeds import places, plain_feeds

TOKENS = 2048
WINDOW = 512
"""Rows that see each other: the cache is emptied after that many."""
PIECE = 64

_STANDARD_LIBRARY = ("this.py", "argparse.py", "textwrap.py", "statistics.py", "zipfile.py", "LICENSE.txt")
_EXCERPT = 3000
"""Characters taken from each file, from its beginning: prose of the documentation first, then code."""


@dataclass(frozen=True)
class Text:
    """A text to measure on; ``name`` says what it is, without saying where it lies."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of its UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_text(path: str | Path | None = None, *, files: Sequence[str] = _STANDARD_LIBRARY) -> Text:
    """The text in file ``path`` (UTF-8), or by default excerpts of ``files`` of Python's own library, which every machine has.

    The default is read at run time rather than shipped: its licence is not ours. Raises RequestError.
    """
    if path is not None:
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            found = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not readable"
            raise RequestError(
                found_wanted(f"--text {file}", found, "a text file in UTF-8", "check the file")
            ) from error
        if not text.strip():
            raise RequestError(found_wanted(f"--text {file}", "empty", "some pages of text", "choose another file"))
        return Text(file.name, text)
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts = [_excerpt(folder / name) for name in files if (folder / name).is_file()]
    if not parts:
        raise RequestError(
            found_wanted("source of Python's standard library", "missing", "its .py files", "name a text with --text")
        )
    return Text(f"Python {sysconfig.get_python_version()} standard library, excerpts", "\n\n".join(parts))


def _excerpt(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[:_EXCERPT]


def token_ids(bundle: Bundle, text: Text, limit: int = TOKENS) -> tuple[list[int], int]:
    """(at most ``limit`` ids of the text, the bytes of text they stand for). Raises MissingDependencyError, RequestError.

    A bundle without tokenizer takes the text's bytes, folded into its vocabulary: a measure of the change still, but not of language.
    """
    if bundle.manifest["tokenizer"] is None:
        data = text.text.encode()[:limit]
        return [b % bundle.manifest["model"]["vocab_size"] for b in data], len(data)
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package tokenizers", "not installed", "installed to measure", "pip install tokenizers")
        ) from error
    tokenizer = Tokenizer.from_str(bundle.text(bundle.manifest["tokenizer"]["file"]))
    encoding = tokenizer.encode(text.text, add_special_tokens=False)
    ids = encoding.ids[:limit]
    if len(ids) < 2:
        raise RequestError(
            found_wanted(f"text {text.name}", f"{len(ids)} tokens", "at least 2", "choose a longer text")
        )
    end = encoding.offsets[len(ids) - 1][1]
    return ids, len(text.text[:end].encode())


class Stream:
    """A decoder graph fed piece by piece with a cache of WINDOW slots, by plain ONNX Runtime on one thread.

    ``extra``: further outputs that ``extra`` holds after each piece. A ``graph`` in memory has its data files in ``folder``.
    """

    def __init__(
        self,
        graph: Path | bytes,
        kv: dict[str, Any],
        *,
        native: bool = True,
        extra: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        self._session = open_session(graph, native=native, folder=folder)
        self._extra = list(extra)
        self.extra: dict[str, np.ndarray] = {}
        layers = range(kv["layers"])
        self._pasts = [n.format(i) for i in layers for n in (names.PAST_K, names.PAST_V)]
        self._outputs = [names.LOGITS, *(n.format(i) for i in layers for n in (names.PRESENT_K, names.PRESENT_V))]
        self._kv = kv
        self._inputs = [i.name for i in self._session.get_inputs()]
        self.reset()

    def reset(self, position: int = 0) -> None:
        """Empty the cache. ``position``: where the first row stands in the text, as its rotary angles say; it still goes to slot 0."""
        self._position = position
        self._cache = [empty_cache(self._kv, WINDOW) for _ in self._pasts]
        self._past = 0

    @property
    def cache(self) -> list[np.ndarray]:
        """Keys, values of layer 0, 1, ...: [1,Hkv,WINDOW,dh], filled as far as was fed."""
        return self._cache

    def feed(self, ids: list[int]) -> np.ndarray:
        """Log-probabilities of what follows each id: float32 [len(ids), V]."""
        rows = np.arange(len(ids), dtype=np.int64)[None]
        feeds = {
            names.INPUT_IDS: np.array([ids], np.int64),
            names.LOGIT_ROWS: rows,
            **places(self._session, rows + self._past + self._position, np.array([self._past], np.int64)),
            **plain_feeds(self._inputs, 1, len(ids)),
            **dict(zip(self._pasts, self._cache, strict=True)),
        }
        logits, *others = self._session.run([*self._outputs, *self._extra], feeds)
        self._cache = others[: len(self._cache)]
        self.extra = dict(zip(self._extra, others[len(self._cache) :], strict=True))
        self._past += len(ids)
        log_p = logits[0]
        log_p -= log_p.max(-1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
        return log_p


def open_session(graph: Path | bytes, *, native: bool = True, folder: Path | None = None) -> Any:
    """An ONNX Runtime session with the settings of our runtime: one thread, int8 activations inside int4 and int8 products."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package onnxruntime", "not installed", "installed to measure", "pip install onnxruntime")
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # TensorScatter warns about every copy of a cache that is not bound in place
    # Without it an int8 product falls back to a loop a hundred times slower.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    library = library_path() if native else None
    if library:
        options.register_custom_ops_library(str(library))
    model = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Measured:
    """What one or two graphs said about a text, position by position.

    ``nll`` float64 [graphs, tokens - 1] in nats; with two graphs also ``kl`` float64 [tokens], KL(first || second) in nats, and ``same`` bool
    [tokens], whether both find the same token likeliest. ``size``: bytes of text that the tokens stand for.
    """

    nll: np.ndarray
    kl: np.ndarray
    same: np.ndarray
    tokens: int
    size: int
    window: int


def measure(
    bundle: Bundle,
    graphs: Sequence[tuple[Path, dict[str, Any]]],
    text: Text,
    *,
    tokens: int = TOKENS,
    progress: Progress = no_progress,
) -> Measured:
    """Read ``text`` with one or two graphs, each with its cache geometry (``kv`` of a manifest); ``bundle`` gives the tokenizer. Raises
    RequestError."""
    ids, size = token_ids(bundle, text, tokens)
    window = min(WINDOW, bundle.manifest["model"]["max_positions"])
    streams = [Stream(path, kv) for path, kv in graphs]
    nll: list[list[float]] = [[] for _ in graphs]
    kl: list[float] = []
    same: list[bool] = []
    for start in range(0, len(ids), window):
        for stream in streams:
            stream.reset()
        stop = min(start + window, len(ids))
        for first in range(start, stop, PIECE):
            piece = ids[first : min(first + PIECE, stop)]
            said = [stream.feed(piece) for stream in streams]
            # The last row of a window predicts an id the next window starts with: there is nothing to see it, so it counts here.
            following = ids[first + 1 : first + 1 + len(piece)]
            index = np.arange(len(following)), np.array(following, np.int64)
            for scores, p in zip(nll, said, strict=True):
                scores += (-p[index].astype(np.float64)).tolist()
            if len(said) == 2:
                same += (said[0].argmax(-1) == said[1].argmax(-1)).tolist()
                kl += _divergence(*said)
            progress("measuring", min(first + PIECE, stop), len(ids))
    return Measured(np.array(nll), np.array(kl), np.array(same, bool), len(ids), size, window)


def compare(
    bundle: Bundle,
    reference: Path,
    changed: Path,
    text: Text,
    *,
    tokens: int = TOKENS,
    changed_kv: dict[str, Any] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Read ``text`` with both graphs; ``bundle`` gives tokenizer and cache geometry, ``changed_kv`` that of the changed graph where it is another.

    Returns what a manifest records as ``loss``: of the source and of the changed graph ``perplexity`` and ``bits_per_byte``;
    ``kl`` and ``kl_max``, mean and largest KL(source || changed) in nats per token; ``same_top``, the share of positions with the
    same likeliest token; the text by name and hash.
    """
    kv = bundle.manifest["kv"]
    found = measure(bundle, ((reference, kv), (changed, changed_kv or kv)), text, tokens=tokens, progress=progress)
    nll, count = found.nll.sum(1), found.nll.shape[1]
    return {
        "text": {
            "name": text.name,
            "sha256": text.sha256,
            "tokens": found.tokens,
            "bytes": found.size,
            "window": found.window,
        },
        "source": _scores(nll[0], count, found.size),
        "quantized": _scores(nll[1], count, found.size),
        "kl": _short(found.kl.mean()),
        "kl_max": _short(found.kl.max()),
        "same_top": _short(found.same.mean()),
    }


def _divergence(p: np.ndarray, q: np.ndarray) -> list[float]:
    """KL(p || q) in nats of each row of log-probabilities; at least 0, where rounding would give less."""
    values = np.einsum("rv,rv->r", np.exp(p), p - q, dtype=np.float64)
    return [max(0.0, float(v)) for v in values]


def _scores(nll: float, count: int, size: int) -> dict[str, float]:
    return {"perplexity": _short(math.exp(nll / count)), "bits_per_byte": _short(nll / math.log(2) / size)}


def _short(value: Any) -> float:
    """Six digits: more would only be noise of the summation order."""
    return float(f"{float(value):.6g}")
