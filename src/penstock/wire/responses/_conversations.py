"""Conversations that the gateway keeps: which one a request goes on with, and what it adds to it.

An item is kept as the API tells it: a message whose content is a string has one part instead, and each has an id.
What came with an id keeps it, as far as nothing else in the conversation has it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from penstock.errors import BadRequest
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON
from penstock.wire.responses._history import Fields, items_of

NAME: Final = "conversation"

_OWN_ID: Final = re.compile(r"conv_[0-9a-f]{32}")
_ITEM_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_KINDS: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


class _Named(msgspec.Struct):
    id: str


class _Answered(msgspec.Struct):
    status: str = ""
    output: list[dict[str, JSON]] = []


_conversation = msgspec.json.Decoder(str | _Named | None).decode
_answered = msgspec.json.Decoder(_Answered).decode
_object = msgspec.json.Decoder(dict[str, JSON]).decode
_encode = msgspec.json.Encoder().encode


def conversation_named(fields: Fields) -> str:
    """The conversation that a request goes on with; empty: it names none, or one that is not the gateway's.

    :raises BadRequest: what it names is no conversation, or it names a response besides
    """
    given = fields.get(NAME)
    if given is None:
        return ""
    try:
        read = _conversation(given)
    except NOT_JSON:
        raise BadRequest(
            "conversation must be an id, or an object with one", param=NAME, code="invalid_type"
        ) from None
    name = read.id if isinstance(read, _Named) else read or ""
    if not _OWN_ID.fullmatch(name):
        return ""
    if bytes(fields.get("previous_response_id") or b"null") != b"null":
        raise BadRequest("there can be only one of conversation and previous_response_id", param=NAME)
    return name


def gone_on(fields: Fields, items: Iterable[bytes]) -> Fields:
    """The members of the request that says the whole conversation itself.

    :param items: the conversation's
    """
    said = {name: value for name, value in fields.items() if name != NAME}
    said["input"] = msgspec.Raw(b"[%b]" % b",".join([*items, *map(bytes, items_of(fields.get("input")))]))
    return said


def added(fields: Fields, answer: bytes) -> list[tuple[str, bytes]]:
    """What a request and the response object that answered it add to their conversation: ids, and items.

    Nothing, where the response failed.
    """
    read = _answered(answer)
    if read.status not in {"completed", "incomplete"}:
        return []
    asked = [_object(item) for item in items_of(fields.get("input"))]
    return [kept_item(item, "input") for item in (*asked, *read.output)]


def kept_item(item: JSON, where: str, name: str = "") -> tuple[str, bytes]:
    """Id and text of an item as it is kept.

    :param name: the end of its id, if it brings none; empty: 128 random bits
    :raises BadRequest: it is none
    """
    if not isinstance(item, dict):
        raise BadRequest(f"{where} must be an object", param=where, code="invalid_type")
    kind = item.get("type") or ("message" if "role" in item else None)
    if not isinstance(kind, str):
        raise BadRequest(f"{where} has neither type nor role", param=where, code="missing_parameter")
    item_id = item.get("id")
    if not isinstance(item_id, str) or not _ITEM_ID.fullmatch(item_id):
        item_id = f"{_KINDS.get(kind, 'item')}_{name or secrets.token_hex(16)}"
    kept: dict[str, Any] = {"id": item_id, "type": kind, **item}
    kept["id"], kept["type"] = item_id, kind
    if kind == "message":
        kept.setdefault("status", "completed")
        if isinstance(text := item.get("content"), str):
            own = item.get("role") == "assistant"
            part = {"type": "output_text", "text": text, "annotations": []}
            kept["content"] = [part if own else {"type": "input_text", "text": text}]
    return item_id, _encode(kept)
