"""One generation that is asked for: its prompt and options, checked, and the text that comes of its ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from . import options as check
from .bundle import Bundle
from .engines import Engine
from .text import Tokenizer
from .visual.prompt import asked_images, user_message, visual_messages
from .visual.spec import vision_spec
from .visual.stepper import check_markers


@dataclass(frozen=True)
class Generation:
    """A finished generation. ``ids`` are without the stop id; ``text`` is cut before a stop string.

    ``stop_reason``: ``eos`` (a stop id), ``stop_string``, ``length`` (max_new_tokens reached), ``context`` (the cache is full),
    ``callback`` (on_token or on_text returned False), ``cancelled``. ``stats``: counts and seconds, see docs/runtime.md.
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    stop_reason: str
    stats: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What is to be continued: exactly one of three. ``raw``: no chat template around ``prompt``. ``images`` at a ``level`` are shown with it."""

    prompt: str | None = None
    prompt_ids: Sequence[int] | np.ndarray | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    raw: bool = False
    images: Sequence[Any] | None = None
    level: str | None = None

    @classmethod
    def any(cls, given: Any, raw: bool) -> Asked:
        """Of text, a list of messages, or ids."""
        if isinstance(given, str):
            return cls(prompt=given, raw=raw)
        if isinstance(given, Sequence) and given and isinstance(given[0], Mapping):
            return cls(messages=given)
        return cls(prompt_ids=given)


class Request:
    """Arguments as in `Runtime.generate`. ``ids`` and ``options`` are what an engine takes. Raises RequestError, BundleError."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer | None,
        engine: Engine,
        asked: Asked,
        *,
        max_new_tokens: int = 128,
        greedy: bool = False,
        temperature: float = 0.7,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        reuse_prefix: bool = False,
        restart_window: int = 0,
        on_text: Callable[[str], bool | None] | None = None,
        on_token: Callable[[int], bool | None] | None = None,
    ) -> None:
        self._bundle, self._tokenizer = bundle, tokenizer
        self._on_text, self._on_token = on_text, on_token
        self._pieces: list[str] = []
        self._spec = vision_spec(bundle)
        shown = asked.images
        if self._spec is not None and asked.messages is not None:
            messages, shown = visual_messages(asked.messages, asked.images)
            asked = replace(asked, messages=messages)
        self.images = asked_images(self._spec, shown, asked.level, str(bundle.path))
        self.ids = self._prompt_ids(asked, engine.vocab_size)
        if self._spec is not None:
            check_markers(self.ids, len(self.images), self._spec.image_token_id)
        if len(self.ids) > engine.capacity:
            raise RequestError(
                found_wanted(
                    "prompt",
                    f"{len(self.ids)} tokens",
                    f"at most {engine.capacity}",
                    "shorten it, or load with a longer context",
                )
            )
        stops = [stop] if isinstance(stop, str) else list(stop)
        ends = check.token_ids("stop_ids", stop_ids, engine.vocab_size, empty=True)
        if tokenizer is not None and not ignore_eos:
            ends += tokenizer.eos_ids
        self.options: dict[str, Any] = {
            "max_new_tokens": check.whole_number("max_new_tokens", max_new_tokens, 1, check.INT32_MAX),
            **check.sampling(
                greedy=greedy,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
            ),
            "stop_ids": ends,
            "reuse_prefix": bool(reuse_prefix),
            "restart_window": check.whole_number(
                "restart_window",
                restart_window,
                0,
                max(0, engine.capacity - 1),
                "keep fewer tokens than the context has",
            ),
        }
        if tokenizer is None and (stops or on_text is not None):
            raise self._no_tokenizer("stop strings and on_text")
        self._stream = tokenizer.stream(stops) if tokenizer and (stops or on_text) else None

    def token(self, token_id: int) -> bool:
        """Take the next id; whether the text goes on."""
        go_on = self._on_token is None or self._on_token(token_id) is not False
        if self._stream is not None:
            go_on = self._emit(self._stream.push(token_id)) and go_on and not self._stream.stopped
        return go_on

    def finished(self, made: Mapping[str, Any]) -> Generation:
        """The result, from what the engine returned."""
        if self._stream is None:
            text = "" if self._tokenizer is None else self._tokenizer.decode(made["ids"])
        else:
            self._emit(self._stream.finish())
            text = "".join(self._pieces)
        stopped = self._stream is not None and self._stream.stopped
        reason = "stop_string" if stopped else str(made["stop_reason"])
        return Generation(self.ids, list(made["ids"]), text, reason, dict(made["stats"]))

    def _emit(self, text: str) -> bool:
        if text:
            self._pieces.append(text)
        return not (text and self._on_text is not None and self._on_text(text) is False)

    def _prompt_ids(self, asked: Asked, vocab_size: int) -> list[int]:
        given = [n for n in ("prompt", "prompt_ids", "messages") if getattr(asked, n) is not None]
        if len(given) != 1:
            raise RequestError(
                found_wanted(
                    "the prompt",
                    " and ".join(given) or "missing",
                    "one of prompt, prompt_ids, messages",
                    "give exactly one",
                )
            )
        if asked.prompt_ids is not None:
            return check.token_ids("prompt_ids", asked.prompt_ids, vocab_size)
        tokenizer, prompt = self._tokenizer, asked.prompt
        if tokenizer is None:
            raise self._no_tokenizer("prompt and messages")
        if asked.messages is not None:
            return tokenizer.encode_messages(asked.messages)
        if not isinstance(prompt, str):
            raise RequestError(found_wanted("prompt", f"a {type(prompt).__name__}", "text", "use prompt_ids for ids"))
        if not prompt:
            raise RequestError(found_wanted("prompt", "empty", "at least one character", "give a prompt"))
        if tokenizer.has_chat_template and not asked.raw:
            message: Mapping[str, Any] = {"role": "user", "content": prompt}
            if self._spec is not None:
                marker = tokenizer.token(self._spec.image_token_id) or ""
                message = user_message(prompt, len(self.images), marker)
            return tokenizer.encode_messages([message])
        return check.token_ids("prompt", tokenizer.encode(prompt, bos=True), vocab_size)

    def _no_tokenizer(self, what: str) -> BundleError:
        return BundleError(
            found_wanted(f"tokenizer of {self._bundle.path}", "missing", f"one, to use {what}", "give prompt_ids")
        )
