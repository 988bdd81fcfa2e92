"""A model's chat template: what makes a conversation the text that it was trained to read.

A template is code of the model's author, in the language of Jinja, so it runs in Jinja's sandbox and finds there what
https://huggingface.co/docs/transformers/chat_templating_writing promises: no attributes of Python's, no files, nothing that
it could change.  What it makes is bounded, and whatever goes wrong in it is told as its own fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.engine.backend import CannotTake
from penstock.messages import JSON

MAX_LETTERS = 64_000_000  # of a prompt; no context is as long, and more than any request's body has
_MAX_REPEATED = 1_000_000  # letters or items that a multiplication makes
_MAX_NUMBER = 2**64


class ChatTemplate:
    """One template.

    :param source: its text
    :param tokens: special tokens by their names (``bos_token`` …)
    :raises ValueError: it makes no sense
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise ValueError(f"its chat template makes no sense: {_sentence(error)}") from error
        self._tokens = dict(tokens)

    def __repr__(self) -> str:
        return f"<ChatTemplate, {len(self._tokens)} special tokens>"

    def render(
        self, messages: Sequence[JSON], *, answer: bool, tools: Sequence[JSON], more: Mapping[str, JSON]
    ) -> str:
        """As ``penstock.engine.backend.Tokenizer`` has it.

        :raises CannotTake: it does not take these messages
        """
        variables = {
            **self._tokens,
            **more,
            "messages": list(messages),
            "tools": list(tools) or None,  # an empty list is not None to templates
            "add_generation_prompt": answer,
        }
        try:
            return _joined(self._template.generate(variables))
        except Exception as error:  # it is foreign code, and may divide by zero
            raise CannotTake(
                f"the model's chat template does not take these messages: {_sentence(error)}"
            ) from error


def _joined(parts: Iterable[str]) -> str:
    told: list[str] = []
    left = MAX_LETTERS
    for part in parts:
        told.append(part)
        left -= len(part)
        if left < 0:
            raise SecurityError(f"it makes more than {MAX_LETTERS} letters of them")
    return "".join(told)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's own, where nothing small can be made large by a sum."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for many, times in ((left, right), (right, left)):
            repeats = operator == "*" and isinstance(many, str | list | tuple) and isinstance(times, int)
            if repeats and len(many) * times > _MAX_REPEATED:
                raise SecurityError("it repeats something too often")
        numbers = [number for number in (left, right) if isinstance(number, int)]
        if len(numbers) == 2 and max(map(abs, numbers)) > (64 if operator == "**" else _MAX_NUMBER):
            raise SecurityError("a number in it is too large")
        return super().call_binop(context, operator, left, right)


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _refused
    environment.globals["strftime_now"] = _now
    return environment


def _as_json(value: Any, indent: int | None = None) -> str:
    """As it is: Jinja's own would write letters as HTML has them."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refused(why: str) -> NoReturn:
    raise TemplateError(why)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


__all__ = ["ChatTemplate"]
