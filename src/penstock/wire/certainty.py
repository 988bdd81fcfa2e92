"""How sure was the model of its words?  The mean log-probability of the tokens of a chat completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.messages import Event
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON


class _Token(msgspec.Struct):
    logprob: float


class _Tokens(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Tokens | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_chunk = msgspec.json.Decoder(_Chunk).decode
_value = msgspec.json.Decoder().decode


def mean_logprob(events: Sequence[Event], *, stream: bool) -> float | None:
    """Of all tokens; None: the upstream does not tell."""
    told: list[float] = []
    for event in events:
        try:
            choices = _chunk(sse.data_of(event) if stream else event).choices
        except NOT_JSON:
            continue
        told += [
            token.logprob for choice in choices if choice.logprobs for token in choice.logprobs.content or ()
        ]
    return sum(told) / len(told) if told else None


def without_logprobs(events: Sequence[Event], *, stream: bool) -> list[Event]:
    """The same answer, as it would be had nobody asked for them."""
    found = []
    for event in events:
        try:
            value: Any = _value(sse.data_of(event) if stream else event)
        except NOT_JSON:
            found.append(event)
            continue
        choices = value.get("choices") if isinstance(value, dict) else None
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                choice.pop("logprobs", None)
        body = msgspec.json.encode(value)
        found.append(b"data: %b\n\n" % body if stream else body)
    return found
