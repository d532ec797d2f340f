"""Building a tokenizer.json from the vocabulary inside a GGUF file, through the `tokenizers` library.

Two kinds: ``gpt2`` (byte-level BPE; ``tokenizer.ggml.pre`` names the pattern that splits text first) and ``llama`` (SentencePiece
BPE with byte fallback). Ids equal those of transformers' own conversion, except where that one drops a step of the original
tokenizer: it does not split digits for ``smollm`` (two spaces before a digit then come out as two tokens instead of one).
Patterns: llama.cpp src/llama-vocab.cpp and the tokenizer.json of the models.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, found_wanted
from .json_file import Fields
from .tokenizer import TokenizerFiles, finish

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": LLAMA3_SPLIT,
    "llama3": LLAMA3_SPLIT,
    "llama-v3": LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
    "deepseek-r1-qwen": QWEN2_SPLIT,
    "tekken": TEKKEN_SPLIT,
}
"""Value of ``tokenizer.ggml.pre`` -> splitting pattern; None is GPT-2's, which the library has built in."""

_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_WHOLE_WORDS_FIRST = (*_LLAMA3, "tekken")
"""Vocabularies made from tiktoken ranks: a word that is a token is taken whole, whatever the merges would do."""

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""Values of ``tokenizer.ggml.token_type`` that matter here."""


def build_tokenizer(fields: Fields, model_vocab: int) -> TokenizerFiles:
    """The tokenizer of a GGUF file whose metadata is ``fields``. Raises CheckpointError for kinds we do not know."""
    kind = fields.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise fields.bad("tokenizer.ggml.model", kind, "'gpt2' or 'llama'", "other tokenizers are not supported")
    tokens = _strings(fields, "tokenizer.ggml.tokens")
    types = fields.values.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise fields.bad("tokenizer.ggml.token_type", f"{len(types)} entries", f"{len(tokens)}, one per token")
    if len(set(tokens)) != len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise fields.bad("tokenizer.ggml.tokens", f"a list with {twice!r} twice", "distinct tokens")
    if fields.flag("tokenizer.ggml.add_eos_token", False):
        raise fields.bad("tokenizer.ggml.add_eos_token", True, "false", "a text to be continued must not end with EOS")
    try:
        tokenizer = _byte_level(fields, tokens, types) if kind == "gpt2" else _sentence_piece(fields, tokens)
        _add_tokens(tokenizer, tokens, types)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception, e.g. for a merge of unknown tokens
        raise CheckpointError(
            found_wanted(
                f"tokenizer of {fields.source}", f"not usable ({error})", "a consistent vocabulary", "fetch it again"
            )
        ) from error
    if (size := tokenizer.get_vocab_size()) != len(tokens):
        raise fields.bad("tokenizer.ggml.tokens", f"{size} distinct spellings", f"{len(tokens)}, one per token")
    bos = _id(fields, "tokenizer.ggml.bos_token_id", len(tokens))
    default = kind == "llama" or fields.values.get("tokenizer.ggml.pre") in _LLAMA3
    if fields.flag("tokenizer.ggml.add_bos_token", default) and bos is not None:
        _put_bos_first(tokenizer, tokens[bos], bos)
    ends = [_id(fields, f"tokenizer.ggml.{k}_token_id", len(tokens)) for k in ("eos", "eot", "eom")]
    template = fields.values.get("tokenizer.chat_template")
    return finish(
        tokenizer.to_str(),
        tokenizer,
        source=f"{fields.source} (tokenizer.ggml)",
        model_vocab=model_vocab,
        bos_id=bos,
        eos_ids=tuple(dict.fromkeys(e for e in ends if e is not None)),
        chat_template=fields.text("tokenizer.chat_template") if template else None,
    )


def _byte_level(fields: Fields, tokens: list[str], types: list[int]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = fields.text("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        nearest = difflib.get_close_matches(pre, PRE_TOKENIZERS, n=1, cutoff=0.0)[0]
        raise fields.bad(
            "tokenizer.ggml.pre",
            pre,
            f"one of {', '.join(PRE_TOKENIZERS)}",
            f"the nearest is {nearest!r}; export from the Hugging Face folder, whose tokenizer.json is copied as it is",
        )
    spelling = byte_alphabet()
    alphabet = set(spelling.values())
    vocab = {}
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        # Normal tokens are written in the byte alphabet; added ones are literal, and may hold any character.
        respell = kind == NORMAL and not set(token) <= alphabet
        vocab["".join(spelling[b] for b in token.encode()) if respell else token] = index
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(fields),
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
            ignore_merges=pre in _WHOLE_WORDS_FIRST,
        )
    )
    split = PRE_TOKENIZERS[pre]
    if split is not None:
        steps = [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    elif pre == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(fields: Fields, tokens: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: index for index, token in enumerate(tokens)}
    merges = _merges(fields) if fields.has("tokenizer.ggml.merges") else _merges_by_score(fields, vocab)
    unknown = _id(fields, "tokenizer.ggml.unknown_token_id", len(tokens))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first" if prefix else "never", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(content=" ", left=1)] if prefix else []))
    return tokenizer


def _merges(fields: Fields) -> list[tuple[str, str]]:
    pairs = [tuple(merge.split(" ")) for merge in _strings(fields, "tokenizer.ggml.merges")]
    for index, pair in enumerate(pairs):
        if len(pair) != 2:
            raise fields.bad(
                "tokenizer.ggml.merges", f"{' '.join(pair)!r} at {index}", "two tokens with a space between"
            )
    return pairs  # type: ignore[return-value]


def _merges_by_score(fields: Fields, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Merges of a vocabulary that has scores only: every way to build a token of two others, best token first.

    The order (score, then length of the left and of the right part, ties by the parts' ids) is that of transformers.
    """
    scores = fields.values.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(vocab):
        raise fields.bad("tokenizer.ggml.scores", "missing or of another length", f"{len(vocab)} scores, one per token")
    found: list[tuple[str, str, float]] = []
    for token, score in zip(vocab, scores, strict=True):
        splits = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
        found += [(a, b, score) for a, b in sorted(splits, key=lambda s: (vocab[s[0]], vocab[s[1]]))]
    found.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(a, b) for a, b, _ in found]


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Control tokens become special, user-defined ones (``<think>``) plain added tokens; both are matched whole."""
    from tokenizers import AddedToken

    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, k in zip(tokens, types, strict=True) if k == CONTROL]
    )
    tokenizer.add_tokens(
        [
            AddedToken(t, normalized=False, special=False)
            for t, k in zip(tokens, types, strict=True)
            if k == USER_DEFINED
        ]
    )


def _put_bos_first(tokenizer: Tokenizer, token: str, index: int) -> None:
    from tokenizers import processors

    bos = processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", token, "$B:1"], special_tokens=[(token, index)]
    )
    tokenizer.post_processor = bos


def _strings(fields: Fields, key: str) -> list[str]:
    value: Any = fields.values.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise fields.bad(key, "missing" if value is None else value, "a list of strings", "fetch it again")
    return value


def _id(fields: Fields, key: str, size: int) -> int | None:
    if not fields.has(key):
        return None
    value = fields.count(key, least=0)
    if value >= size:
        raise fields.bad(key, value, f"an id below {size}")
    return value


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte: printable bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {b: chr(b) for b in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(printable))
    return table
