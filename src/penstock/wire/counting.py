"""How many tokens a request will cost, estimated where its upstream cannot be asked.

Coding agents ask ``/v1/messages/count_tokens`` to know when to shorten their history.  An OpenAI-compatible server
has nothing like it, and an answer that is right to some ten per cent serves them better than none.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.errors import BadRequest, UpstreamBroken
from penstock.messages import JSON, Endpoint
from penstock.wire.members import Members, body_of, encode
from penstock.wire.not_json import NOT_JSON
from penstock.wire.usage import BYTES_PER_TOKEN, estimate_tokens

# About what one of the largest useful size costs: (width * height) / 750 at 1,092 pixels.
IMAGE_TOKENS = 1_500
PDF_BYTES_PER_TOKEN = 25  # a page of some 50 KB counts about 2,000

# What a count of Anthropic's takes of a message's request.
_COUNTED = frozenset({"messages", "model", "output_config", "system", "thinking", "tool_choice", "tools"})

_IMAGES = frozenset({"image", "image_url", "input_image"})  # Anthropic, chat completions, Responses

# What a model reads of a request, in any of the endpoints.
_READ = ("system", "instructions", "messages", "prompt", "input", "tools", "functions", "toolConfig")

# Members that say how something is meant, and are no part of the text that the model sees.
_SILENT = frozenset({"type", "role", "id", "tool_use_id", "cache_control", "media_type", "signature"})


def estimated_input_tokens(body: bytes) -> int:
    """Tokens of the prompt in a request to Anthropic's Messages API.

    :raises BadRequest: it is no such request
    """
    try:
        return _of_request(body_of(body))
    except RecursionError:
        raise BadRequest("the body's JSON is nested too deeply", code="invalid_json") from None


def prompt_tokens(body: bytes) -> int:
    """Tokens of the prompt in a request to any endpoint, for a bill that nobody else writes.

    Never fails: what cannot be read counts by its size.
    """
    try:
        asked = msgspec.json.decode(body)
        return estimate_tokens(sum(size(asked.get(name)) for name in _READ))
    except (*NOT_JSON, AttributeError):
        return estimate_tokens(len(body))


def size_of_members(fields: Mapping[str, msgspec.Raw], *, but: str) -> int:
    """:func:`size` of what a model reads of a request, but for one member; what cannot be read counts by its bytes."""
    sizes = 0
    for name in _READ:
        if name == but or (value := fields.get(name)) is None:
            continue
        try:
            sizes += size(msgspec.json.decode(value))
        except NOT_JSON:
            sizes += len(bytes(value))
    return sizes


def estimated_answer(endpoint: Endpoint, body: bytes) -> bytes:
    """The answer to a request that counts tokens, for an upstream that counts none.

    :raises BadRequest: it is no such request
    """
    if endpoint is Endpoint.INPUT_TOKENS:
        return counted_input(prompt_tokens(body))
    return b'{"input_tokens":%d}' % estimated_input_tokens(body)


def counted_input(tokens: int) -> bytes:
    """The answer of ``/v1/responses/input_tokens``."""
    return b'{"object":"response.input_tokens","input_tokens":%d}' % tokens


def asked_count(message: bytes) -> bytes:
    """What a request to Anthropic's Messages API asks for, as one that counts its tokens."""
    members: dict[str, msgspec.Raw] = msgspec.json.decode(message, type=dict[str, msgspec.Raw])
    return encode({name: value for name, value in members.items() if name in _COUNTED})


class _Counted(msgspec.Struct):
    input_tokens: int


def told_count(answer: bytes) -> int:
    """Tokens in the answer of Anthropic's count.

    :raises UpstreamBroken: it is none
    """
    try:
        return msgspec.json.decode(answer, type=_Counted).input_tokens
    except NOT_JSON:
        raise UpstreamBroken("the upstream's answer is no count of tokens") from None


def _of_request(asked: Members) -> int:
    sizes = size(asked.raw("system"))
    for message in asked.objects("messages"):
        message.required_string("role")
        content = message.raw("content")
        if not isinstance(content, str | list):
            where = message.where("content")
            raise BadRequest(f"{where} must be a string or an array", param=where, code="invalid_type")
        sizes += size(content)
    for tool in asked.objects("tools"):
        sizes += len(encode(_all(tool)))
    return estimate_tokens(sizes)


def _all(tool: Members) -> JSON:
    return {name: tool.raw(name) for name in ("name", "description", "input_schema")}


def size(value: JSON) -> int:
    """Of a part of a prompt, in bytes of text: four are a token.  Rounded is once, over the whole."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, list):
        return sum(map(size, value))
    if not isinstance(value, dict):
        return 0
    kind = value.get("type")
    if kind in _IMAGES:
        return IMAGE_TOKENS * BYTES_PER_TOKEN
    if kind == "base64":  # the source of a document
        data = value.get("data")
        pages = len(data) * 3 // 4 // PDF_BYTES_PER_TOKEN if isinstance(data, str) else 0
        return pages * BYTES_PER_TOKEN
    if kind is None and "source" in value and "format" in value:  # an image or a document, as Converse has it
        return IMAGE_TOKENS * BYTES_PER_TOKEN
    if kind == "tool_use":
        return len(encode((value.get("name"), value.get("input"))))
    return sum(size(inner) for name, inner in value.items() if name not in _SILENT)
