"""What the caller says last, apart from all that stands before and around it.

For whoever compares questions by their meaning: only the text of the last turn may be compared so, all else has
to be equal.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from penstock.messages import JSON, Call, Endpoint
from penstock.wire.demand import demand

_MEMBER = {Endpoint.CHAT: "messages", Endpoint.MESSAGES: "messages", Endpoint.RESPONSES: "input"}
_TEXT_PARTS = frozenset({"text", "input_text"})
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class LastTurn(msgspec.Struct, frozen=True):
    """``rest`` are the members of the body, the text of the last turn left out."""

    text: str
    rest: dict[str, msgspec.Raw]


class _Twice(ValueError):
    """A member is there twice, so that two readers may see two things."""


def last_turn(call: Call) -> LastTurn | None:
    """The last turn, if it is the user's and nothing but text; None: it is not, or the answer is no mere text.

    Calls with tools, with a schema for the answer, with several answers or with log probabilities have none.
    """
    member = _MEMBER.get(call.endpoint)
    if member is None or "tools" in call.fields or "functions" in call.fields:
        return None
    wanted = demand(call.endpoint, call.fields)
    if wanted.ruled or wanted.choices != 1 or wanted.logprobs or wanted.odd:
        return None
    value = call.fields.get(member)
    if value is None:
        return None
    try:
        if call.endpoint is Endpoint.RESPONSES and bytes(value).startswith(b'"'):
            return _split(call, member, msgspec.json.decode(value), b'""')
        turns = _raws(value)
        if not turns:
            return None
        last = json.loads(bytes(turns[-1]), object_pairs_hook=_once)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    text = _taken_out(last)
    if text is None:
        return None
    turns[-1] = msgspec.Raw(_encode(last))
    return _split(call, member, text, _encode(turns))


def _split(call: Call, member: str, text: JSON, left: bytes) -> LastTurn | None:
    if not isinstance(text, str) or not text.strip():
        return None
    return LastTurn(text, {**call.fields, member: msgspec.Raw(left)})


def _taken_out(turn: JSON) -> JSON:
    """The text of a user's turn, which is then empty in it."""
    if not isinstance(turn, dict) or turn.get("role") != "user":
        return None
    content = turn.get("content")
    if isinstance(content, str):
        turn["content"] = ""
        return content
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], dict):
        return None
    part = content[0]
    if part.get("type") not in _TEXT_PARTS:
        return None
    return part.pop("text", None)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Twice
    return members
