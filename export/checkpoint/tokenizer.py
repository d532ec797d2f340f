"""A tokenizer on its way into a bundle: tokenizer.json as text, the special ids, the chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import CheckpointError, found_wanted

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizerFiles:
    """What a bundle needs of a tokenizer. ``json`` is the content of tokenizer.json (the format of the `tokenizers` library)."""

    json: str
    vocab_size: int
    """Highest id + 1, added tokens included."""

    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool
    """Whether ``bos_id`` goes before a raw prompt."""

    chat_template: str | None = None


def parse(text: str, source: str) -> Tokenizer:
    """The `tokenizers` object of a tokenizer.json. Raises CheckpointError naming ``source``."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception for every defect
        raise CheckpointError(
            found_wanted(
                source, f"not usable ({error})", "a tokenizer.json of the tokenizers library", "fetch it again"
            )
        ) from error


def finish(
    text: str,
    tokenizer: Tokenizer,
    *,
    source: str,
    model_vocab: int,
    bos_id: int | None,
    eos_ids: tuple[int, ...],
    chat_template: str | None,
) -> TokenizerFiles:
    """Check a tokenizer against the model and find out whether it puts a BOS first. Raises CheckpointError.

    Fewer ids than embedding rows is usual (rows are padded to a round number); more cannot be looked up.
    """
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if not 0 < size <= model_vocab:
        raise CheckpointError(
            found_wanted(
                f"vocabulary of {source}",
                f"{size} ids",
                f"1 to {model_vocab}, the rows of the embedding",
                "use the tokenizer the model was trained with",
            )
        )
    for what, token in [("bos id", bos_id), *(("eos id", e) for e in eos_ids)]:
        if token is not None and not 0 <= token < model_vocab:
            raise CheckpointError(
                found_wanted(f"{what} of {source}", token, f"an id below {model_vocab}", "correct the configuration")
            )
    before, after = _added_around(tokenizer)
    if after or len(before) > 1:
        raise CheckpointError(
            found_wanted(
                f"post-processor of {source}",
                f"one that puts ids {before} before and {after} after a text",
                "at most one bos id before it",
                "this is no tokenizer for generation; use the one of a causal language model",
            )
        )
    if before:
        bos_id = before[0]  # what the tokenizer does counts, not what a configuration says it would
    return TokenizerFiles(text, size, bos_id, eos_ids, bool(before), chat_template)


def _added_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids the post-processor puts before and after a text: observed, since processors come in several forms."""
    text = "a"
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    full = tokenizer.encode(text, add_special_tokens=True).ids
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    return full, []
