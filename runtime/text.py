"""Text to ids and back: the tokenizer of a bundle, its chat template, and text as a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import BundleError, RequestError, found_wanted
from .bundle import Bundle
from .chat_template import ChatTemplate

_REPLACEMENT = "�"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer:
    """The tokenizer of a bundle that has one (`tokenizer_of`). Raises BundleError when file and manifest disagree."""

    def __init__(self, bundle: Bundle) -> None:
        from tokenizers import Tokenizer as HfTokenizer

        entry = bundle.manifest["tokenizer"]
        path = bundle.file(entry["file"])
        try:
            self._hf = HfTokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(
                found_wanted(
                    f"{path}", f"unreadable ({error})", "a tokenizer.json", "update tokenizers, or export again"
                )
            ) from error
        self._hf.no_padding()
        self._hf.no_truncation()
        found = max(self._hf.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if found > bundle.manifest["model"]["vocab_size"]:
            raise BundleError(
                found_wanted(
                    f"largest id of {path}",
                    found - 1,
                    f"below the embedding's {bundle.manifest['model']['vocab_size']} rows",
                    "use the tokenizer the model was trained with",
                )
            )
        self.bos_id: int | None = entry["bos_id"]
        """Beginning of text, None where the model has none."""
        self.eos_ids: tuple[int, ...] = tuple(entry["eos_ids"])
        """Ids that end a generation."""
        self.add_bos: bool = entry["add_bos"]
        """Whether `encode` puts bos_id before a raw prompt."""
        self._template_file: str | None = entry["chat_template"]
        self._bundle = bundle

    @property
    def has_chat_template(self) -> bool:
        """False for base models."""
        return self._template_file is not None

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The compiled chat template. Raises RequestError for a base model, BundleError for a broken template."""
        if self._template_file is None:
            raise RequestError(
                found_wanted(
                    f"chat template of {self._bundle.path}",
                    "missing",
                    "one, to use messages",
                    "give a prompt: a base model continues text",
                )
            )
        return ChatTemplate(
            self._bundle.text(self._template_file),
            str(self._bundle.path / self._template_file),
            bos=self._name(self.bos_id),
            eos=self._name(self.eos_ids[0] if self.eos_ids else None),
        )

    @cached_property
    def holds_bytes(self) -> bool:
        """Whether bytes are tokens of their own (``<0x0A>``), as in Llama 2, which are decoded a run at a time."""
        return '"ByteFallback"' in self._hf.to_str()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out."""
        return frozenset(i for i, token in self._hf.get_added_tokens_decoder().items() if token.special)

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Ids of ``text``. Special tokens written in it become their ids; ``bos`` puts bos_id first where the model wants it.

        Raises RequestError for text that is not valid Unicode (lone surrogates).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(
                found_wanted(
                    "prompt", f"not valid Unicode ({error.reason})", "text", "replace the lone surrogates in it"
                )
            ) from error
        ids = self._hf.encode(text, add_special_tokens=False).ids
        if bos and self.add_bos and self.bos_id is not None:
            return [self.bos_id, *ids]
        return list(ids)

    def encode_messages(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> list[int]:
        """Ids of a conversation through the chat template, ready for the answer.

        Special tokens written in a message become their ids, exactly as in transformers: with text from strangers remove
        them first, or they can close the message they stand in.
        """
        return self.encode(self.chat_template.render(messages, **values))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ``ids``; malformed UTF-8 becomes U+FFFD."""
        return str(self._hf.decode(list(ids), skip_special_tokens=skip_special))

    def token(self, token_id: int) -> str | None:
        """The token of an id as the vocabulary spells it; None for rows of the embedding that no token uses."""
        return self._hf.id_to_token(token_id)  # type: ignore[no-any-return]

    def stream(self, stop: Sequence[str] = ()) -> TextStream:
        """A stream that turns ids into text as they come."""
        return TextStream(self, stop)

    def _name(self, token_id: int | None) -> str:
        return "" if token_id is None else self.token(token_id) or ""


def tokenizer_of(bundle: Bundle) -> Tokenizer | None:
    """The bundle's tokenizer, or None for a bundle that takes ids only. Raises BundleError."""
    return None if bundle.manifest["tokenizer"] is None else Tokenizer(bundle)


class TextStream:
    """Ids in, final text out: what was given out never changes, and all of it together is `Tokenizer.decode` of all ids.

    Held back: the bytes of an unfinished character, and text that may become one of the ``stop`` strings. Neither a stop string nor
    what follows is given out. `runtime/core/text_stream.cc` does the same.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        for text in stop:
            if not isinstance(text, str) or not text:
                found = "empty" if text == "" else f"a {type(text).__name__}"
                raise RequestError(found_wanted("stop string", found, "at least one character", "leave it out"))
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # Decoders look at neighbours (a leading space is dropped, bytes are joined), so an id is decoded behind some ids whose
        # text is already out. `_out` counts the characters of decode(_context + _new) that are out.
        self._context: list[int] = []
        self._new: list[int] = []
        self._out = 0
        self._held = ""
        self.stopped = False
        """Whether a stop string was met."""

    def push(self, token_id: int) -> str:
        """Text that became final with this id; mostly a word, often nothing."""
        if self.stopped:
            return ""
        token = self._tokenizer.token(token_id)
        if token is None or token_id in self._tokenizer.special_ids:
            return ""  # has no text, and does not end a run of bytes
        self._new.append(token_id)
        if self._tokenizer.holds_bytes and _BYTE_TOKEN.fullmatch(token):
            return ""  # a run of byte tokens is decoded as a whole: one malformed byte turns all of it into U+FFFD
        self._decode(final=False)
        return self._release(final=False)

    def finish(self) -> str:
        """The rest, at the end of a generation that no stop string ended."""
        if self.stopped:
            return ""
        self._decode(final=True)
        return self._release(final=True)

    def _decode(self, *, final: bool) -> None:
        text = self._tokenizer.decode(self._context + self._new)
        whole = final or not text.endswith(_REPLACEMENT)
        # Only the last U+FFFD can be an unfinished character: malformed bytes before it were closed by what followed them.
        stable = len(text) if whole else len(text) - 1
        if stable > self._out:
            self._held += text[self._out : stable]
            self._out = stable
            if whole:
                self._context, self._new = self._new, []
                self._out = len(self._tokenizer.decode(self._context))

    def _release(self, *, final: bool) -> str:
        cut = min((at for at in map(self._held.find, self._stop) if at >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            out, self._held = self._held[:cut], ""
            return out
        keep = 0 if final else _longest_beginning(self._held, self._stop)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out


def _longest_beginning(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of ``text`` that a stop string begins with."""
    longest = 0
    for wanted in stop:
        for n in range(min(len(wanted) - 1, len(text)), longest, -1):
            if text.endswith(wanted[:n]):
                longest = n
                break
    return longest
