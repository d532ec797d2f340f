"""Chat templates: Jinja in a sandbox, with what Hugging Face templates expect to find there.

A template comes from a checkpoint, so it is not trusted: ImmutableSandboxedEnvironment lets it neither reach Python objects
nor change its arguments.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import BundleError, RequestError, found_wanted

ROLES = ("system", "user", "assistant", "tool")


class ChatTemplate:
    """A compiled template. ``name`` is its file, for messages. Raises BundleError when it is not Jinja."""

    def __init__(self, source: str, name: str, *, bos: str = "", eos: str = "") -> None:
        import jinja2

        self._name, self._tokens = name, {"bos_token": bos, "eos_token": eos}
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise BundleError(
                found_wanted(name, f"no Jinja template ({error})", "a chat template", "export the bundle again")
            ) from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **values: Any
    ) -> str:
        """The text of ``messages``, a list of {"role", "content"}; ``values`` are further variables, such as ``tools``.

        Raises RequestError for messages of another form, or when the template itself refuses them.
        """
        import jinja2

        _check(messages)
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._tokens, **values
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise RequestError(
                found_wanted(
                    "messages", f"refused by {self._name} ({error})", "what this template takes", "change the messages"
                )
            ) from error


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    fix = 'give [{"role": "user", "content": "..."}]'
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        found = "empty" if isinstance(messages, Sequence) and not messages else f"a {type(messages).__name__}"
        raise RequestError(found_wanted("messages", found, "a list of at least one message", fix))
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(
                found_wanted(f"messages[{i}]", "without a role", f"a role such as {', '.join(ROLES)}", fix)
            )
        if "content" not in message and "tool_calls" not in message:
            raise RequestError(found_wanted(f"messages[{i}]", "without content", "a text as content", fix))


def _environment() -> Any:
    """As transformers sets it up, so that templates give the same text here and there."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: marks what a model wrote, for training. Here its content stands as it is."""

        tags = {"generation"}  # noqa: RUF012  (the name and kind jinja2 asks for)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {"raise_exception": raise_exception, "strftime_now": strftime_now}
    environment.globals.update(functions)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes <, > and & for HTML, which a model has never seen."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
