"""The text of a plain answer, for whoever compares answers."""

from __future__ import annotations

import msgspec

from penstock.messages import Endpoint
from penstock.wire.not_json import NOT_JSON


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Chat(msgspec.Struct):
    choices: list[_Choice]


class _Block(msgspec.Struct):
    type: str
    text: str = ""


class _Content(msgspec.Struct):
    content: list[_Block]


class _Item(msgspec.Struct):
    type: str
    content: list[_Block] = []


class _Response(msgspec.Struct):
    output: list[_Item]


_SILENT = frozenset({"thinking", "redacted_thinking", "reasoning"})
_chat = msgspec.json.Decoder(_Chat).decode
_message = msgspec.json.Decoder(_Content).decode
_response = msgspec.json.Decoder(_Response).decode


def text_of(endpoint: Endpoint, body: bytes) -> str | None:
    """All that was said, thoughts left out; None: it is not one answer, or not in words."""
    try:
        if endpoint is Endpoint.CHAT:
            choices = _chat(body).choices
            if len(choices) != 1 or choices[0].message.tool_calls:
                return None
            return choices[0].message.content or None
        if endpoint is Endpoint.MESSAGES:
            return _joined(_message(body).content)
        if endpoint is Endpoint.RESPONSES:
            items = [item for item in _response(body).output if item.type not in _SILENT]
            if any(item.type != "message" for item in items):
                return None
            return _joined([block for item in items for block in item.content])
    except NOT_JSON:
        pass
    return None


def _joined(blocks: list[_Block]) -> str | None:
    spoken = [block for block in blocks if block.type not in _SILENT]
    if any(block.type not in {"text", "output_text"} for block in spoken):
        return None
    return "".join(block.text for block in spoken) or None
