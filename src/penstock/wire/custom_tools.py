"""OpenAI's custom tools, for upstreams that know functions alone.

A custom tool is called with a text where a function has JSON arguments.  Such an upstream is offered a function with
one argument, ``input``, that is a string; which calls of the answer are custom ones is known from the request's own
tools, not from their look.  What rules a custom tool's text, a grammar, no function can promise: it is refused.

A streamed input is told at once when its call is whole: before that it is a piece of JSON.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire.conversation import (
    Answer,
    AnswerEvent,
    PartDelta,
    PartStarted,
    Prompt,
    Tool,
    ToolCall,
)
from penstock.wire.dialect import AsksForm, Encoder
from penstock.wire.namespaces import flat
from penstock.wire.not_json import NOT_JSON

_MARK: Final = b'"custom"'
_PARAMETERS: Final = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
_CUT_ESCAPE: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$")


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    input: str


class _Body(msgspec.Struct):
    tools: list[dict[str, Any]] | None = None


_input = msgspec.json.Decoder(_Input).decode
_body = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def as_function(name: str, description: str, cache: JSON = None) -> Tool:
    """The function that stands for a custom tool."""
    return Tool(name, _PARAMETERS, description, cache=cache)


def check_format(form: JSON, where: str) -> None:
    """:raises Untranslatable: the tool's input is to keep to a grammar"""
    kind = form.get("type") if isinstance(form, dict) else None
    if form is None or kind == "text":
        return
    if kind != "grammar":
        raise BadRequest(f"{where} must be of type text or grammar", param=where)
    raise Untranslatable(
        f"{where}: the upstream of this model holds no tool's input to a grammar; without one, custom tools can be used",
        param=where,
    )


def arguments_of(text: str) -> str:
    """The arguments of the function, for a custom tool's input."""
    return _encode(_Input(text)).decode()


def input_of(arguments: str) -> str:
    """The input of a custom tool, from the function's arguments, as far as they came.

    Those that are not of the form that was asked for are the input themselves: who runs the tool may know what to do.
    """
    for text in (arguments, _CUT_ESCAPE.sub(r"\1", arguments) + '"}', arguments + "}"):
        try:
            return _input(text).input
        except NOT_JSON:
            continue
    return arguments


def custom_names(body: bytes) -> frozenset[str]:
    """The names that custom tools of a request have for an upstream."""
    if body.find(_MARK) < 0:
        return frozenset()
    try:
        tools = list(flat(_body(body).tools or (), "tools"))
    except (BadRequest, *NOT_JSON):  # no business of this: decode_prompt refuses it
        return frozenset()
    found = set()
    for tool, _, upstreams in tools:
        told = tool.get("custom") if isinstance(tool.get("custom"), dict) else tool
        if tool.get("type") == "custom" and isinstance(told, dict) and isinstance(told.get("name"), str):
            found.add(upstreams or told["name"])
    return frozenset(found)


class WithCustomTools:
    """A caller's dialect, for a request that has custom tools of these names."""

    __slots__ = ("_asks", "_names")

    def __init__(self, asks: AsksForm, names: frozenset[str]) -> None:
        self._asks = asks
        self._names = names

    def __repr__(self) -> str:
        return f"<WithCustomTools {', '.join(sorted(self._names))}>"

    def decode_prompt(self, body: bytes) -> Prompt:
        return self._asks.decode_prompt(body)

    def encode_answer(self, answer: Answer) -> bytes:
        parts = tuple(
            msgspec.structs.replace(part, arguments=input_of(part.arguments), custom=True)
            if isinstance(part, ToolCall) and part.name in self._names
            else part
            for part in answer.parts
        )
        return self._asks.encode_answer(msgspec.structs.replace(answer, parts=parts))

    def StreamEncoder(self, *, include_usage: bool = False) -> Encoder:  # noqa: N802 - of AsksForm
        return _Streamed(self._asks.StreamEncoder(include_usage=include_usage), self._names)


class _Streamed:
    """An encoder that is told of custom calls as such."""

    __slots__ = ("_arguments", "_encoder", "_names")

    def __init__(self, encoder: Encoder, names: frozenset[str]) -> None:
        self._encoder = encoder
        self._names = names
        self._arguments: list[str] | None = None  # of the custom call that is open

    def __repr__(self) -> str:
        return f"<{'within a custom call' if self._arguments is not None else 'between custom calls'}>"

    def feed(self, event: AnswerEvent) -> list[bytes]:
        """The whole SSE frames that tell this event."""
        if self._arguments is not None:
            if isinstance(event, PartDelta):
                self._arguments.append(event.text)
                return []
            text = input_of("".join(self._arguments))
            self._arguments = None
            told = self._encoder.feed(PartDelta(text)) if text else []
            return told + self._encoder.feed(event)
        if isinstance(event, PartStarted):
            part = event.part
            if isinstance(part, ToolCall) and part.name in self._names:
                self._arguments = [part.arguments]
                return self._encoder.feed(
                    PartStarted(msgspec.structs.replace(part, arguments="", custom=True))
                )
        return self._encoder.feed(event)
