"""Converse as the simulator has it: its requests as Anthropic's messages, and these as its answers.  No I/O.

Written for itself, and not with what the gateway translates by: an error there is not to be answered by the same
error here.  Amazon's SDK is asked whether it is right (``tests/lab/test_sim_converse.py``).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

DEFAULT_LIMIT = 4_096  # where a request sets none

_MEMBERS = frozenset(
    {
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "guardrailConfig",
        "additionalModelRequestFields",
        "additionalModelResponseFieldPaths",
        "promptVariables",
        "requestMetadata",
        "performanceConfig",
        "serviceTier",
        "outputConfig",
    }
)
_INFERENCE = {"maxTokens", "temperature", "topP", "stopSequences"}
_DOCUMENTS = {"pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"}
_DOCUMENT_NAME = re.compile(r"(?!.*\s\s)[A-Za-z0-9\s()\[\]-]{1,200}")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")

JSON = Any


class Invalid(Exception):
    """Not what Converse takes."""


# ---- requests --------------------------------------------------------------------------------------


def messages_of(body: JSON) -> dict[str, JSON]:
    """The request that says the same to Anthropic's API.

    :raises Invalid: Converse would refuse it
    """
    _only(body, _MEMBERS, "request")
    inference = body.get("inferenceConfig") or {}
    _only(inference, _INFERENCE, "inferenceConfig")
    for name in ("temperature", "topP"):
        _check(0 <= inference.get(name, 0) <= 1, f"{name} must lie between 0 and 1")
    asked: dict[str, JSON] = {
        "max_tokens": inference.get("maxTokens", DEFAULT_LIMIT),
        "messages": [_message(message) for message in _list(body.get("messages"), "messages")],
    }
    _check_turns(asked["messages"], body)
    if body.get("system"):
        asked["system"] = [block for item in body["system"] for block in _block(item, {"text", "cachePoint"})]
    if inference.get("stopSequences"):
        asked["stop_sequences"] = inference["stopSequences"]
    if (config := body.get("toolConfig")) is not None:
        asked |= _tools(config)
    shape = (body.get("outputConfig") or {}).get("textFormat")
    if shape is not None:
        _check(shape.get("type") == "json_schema", "outputConfig.textFormat.type")
        schema = json.loads(shape["structure"]["jsonSchema"]["schema"])
        asked["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    further = body.get("additionalModelRequestFields") or {}
    if "thinking" in further:
        asked["thinking"] = further["thinking"]
    elif not {"reasoning_effort", "reasoningConfig", "reasoning"}.isdisjoint(further):
        asked["thinking"] = {"type": "adaptive"}
    return asked


def _check_turns(messages: list[JSON], body: JSON) -> None:
    _check(bool(messages) and messages[0]["role"] == "user", "A conversation must start with a user message.")
    roles = [message["role"] for message in messages]
    alternate = all(one != other for one, other in itertools.pairwise(roles))
    _check(alternate, "Roles must alternate between user and assistant.")
    kinds = {block["type"] for message in messages for block in message["content"]}
    _check(
        "toolConfig" in body or kinds.isdisjoint({"tool_use", "tool_result"}),
        "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
    )


def _message(message: JSON) -> JSON:
    _only(message, {"role", "content"}, "message")
    _check(message.get("role") in {"user", "assistant"}, "role must be user or assistant")
    blocks = [block for item in _list(message.get("content"), "content") for block in _block(item, _BLOCKS)]
    return {"role": message["role"], "content": blocks}


def _block(item: JSON, allowed: Any) -> list[JSON]:
    """What a block is to Anthropic; nothing, if it is a mark."""
    _check(isinstance(item, dict) and len(item) == 1, "a content block has exactly one member")
    [(kind, value)] = item.items()
    _check(kind in allowed, f"a block of the kind {kind} cannot stand here")
    if kind == "cachePoint":
        _check(value.get("type") == "default" and value.get("ttl", "5m") in {"5m", "1h"}, "cachePoint")
        return []
    return [_BLOCKS[kind](value)]


def _text(value: JSON) -> JSON:
    _check(isinstance(value, str) and bool(value), "The text field is blank.")
    return {"type": "text", "text": value}


def _image(value: JSON) -> JSON:
    _check(value.get("format") in {"png", "jpeg", "gif", "webp"}, "image.format")
    return {"type": "image", "source": _source(value["source"], f"image/{value['format']}")}


def _document(value: JSON) -> JSON:
    _only(value, {"format", "name", "source", "context", "citations"}, "document")
    _check(value.get("format") in _DOCUMENTS, "document.format")
    _check(_DOCUMENT_NAME.fullmatch(value.get("name", "")) is not None, "document.name")
    return {"type": "document", "source": _source(value["source"], f"application/{value['format']}")}


def _source(source: JSON, media_type: str) -> JSON:
    if "s3Location" in source:
        return {"type": "url", "url": source["s3Location"]["uri"]}
    data = source.get("bytes")
    _check(isinstance(data, str) and bool(data), "source.bytes is missing")
    return {"type": "base64", "media_type": media_type, "data": data}


def _tool_use(value: JSON) -> JSON:
    _only(value, {"toolUseId", "name", "input"}, "toolUse")
    _check(_TOOL_ID.fullmatch(value["toolUseId"]) is not None, "toolUseId")
    _check(isinstance(value["input"], dict), "toolUse.input must be an object")
    return {"type": "tool_use", "id": value["toolUseId"], "name": value["name"], "input": value["input"]}


def _tool_result(value: JSON) -> JSON:
    _only(value, {"toolUseId", "content", "status"}, "toolResult")
    _check(value.get("status", "success") in {"success", "error"}, "toolResult.status")
    content = [
        block
        for item in _list(value.get("content"), "toolResult.content")
        for block in _block(item, {"text", "image", "document"})
    ]
    failed = value.get("status") == "error"
    return {
        "type": "tool_result",
        "tool_use_id": value["toolUseId"],
        "content": content,
        "is_error": failed,
    }


def _reasoning(value: JSON) -> JSON:
    if "redactedContent" in value:
        return {"type": "redacted_thinking", "data": value["redactedContent"]}
    thought = value["reasoningText"]
    return {"type": "thinking", "thinking": thought["text"], "signature": thought.get("signature", "")}


_BLOCKS: dict[str, Callable[[JSON], JSON]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "toolUse": _tool_use,
    "toolResult": _tool_result,
    "reasoningContent": _reasoning,
    "cachePoint": _text,  # never asked
}


def _tools(config: JSON) -> dict[str, JSON]:
    _only(config, {"tools", "toolChoice"}, "toolConfig")
    tools = []
    for tool in _list(config.get("tools"), "toolConfig.tools"):
        if "cachePoint" in tool:
            continue
        described = tool["toolSpec"]
        _only(described, {"name", "description", "inputSchema", "strict"}, "toolSpec")
        _check(_TOOL_NAME.fullmatch(described["name"]) is not None, "toolSpec.name")
        tools.append({"name": described["name"], "input_schema": described["inputSchema"]["json"]})
        if described.get("description"):
            tools[-1]["description"] = described["description"]
    _check(bool(tools), "toolConfig.tools must have at least one tool")
    found: dict[str, JSON] = {"tools": tools}
    if (choice := config.get("toolChoice")) is not None:
        [(kind, value)] = choice.items()
        _check(kind in {"auto", "any", "tool"}, "toolChoice")
        found["tool_choice"] = {"type": kind, **value}
    return found


def _only(value: JSON, names: Any, what: str) -> None:
    _check(isinstance(value, dict), f"{what} must be an object")
    if strange := value.keys() - names:
        raise Invalid(f"{what} has the unknown member {min(strange)}")


def _list(value: JSON, what: str) -> list[JSON]:
    _check(isinstance(value, list), f"{what} must be an array")
    found: list[JSON] = value
    return found


def _check(right: bool, what: str) -> None:
    if not right:
        raise Invalid(f"The request is not what Converse takes: {what}")


# ---- answers ---------------------------------------------------------------------------------------


def answer_of(message: JSON) -> JSON:
    """The body of a plain answer.

    :param message: Anthropic's
    """
    content = []
    for block in message["content"]:
        if block["type"] == "text":
            content.append({"text": block["text"]})
        elif block["type"] == "thinking":
            thought = {"text": block["thinking"], "signature": block["signature"]}
            content.append({"reasoningContent": {"reasoningText": thought}})
        else:
            call = {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}
            content.append({"toolUse": call})
    return {
        "metrics": {"latencyMs": 1},
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": message["stop_reason"],
        "usage": _usage(message["usage"]),
    }


def half_of(part: bytes) -> bytes:
    """The beginning of a plain answer that is cut off; empty: it has no text yet."""
    place = part.find(b'"text":"')
    return b'{"output":{"message":{"role":"assistant","content":[{' + part[place:] if place >= 0 else b""


def _usage(used: JSON) -> JSON:
    read, written = used.get("cache_read_input_tokens", 0), used.get("cache_creation_input_tokens", 0)
    told = {
        "inputTokens": used["input_tokens"],
        "outputTokens": used["output_tokens"],
        "totalTokens": used["input_tokens"] + used["output_tokens"] + read + written,
    }
    if read or written:
        told |= {"cacheReadInputTokens": read, "cacheWriteInputTokens": written}
    return told


class Events:
    """Events of a streamed message as events of Converse."""

    def __init__(self) -> None:
        self._usage: dict[str, JSON] = {}

    def __repr__(self) -> str:
        return f"<Events, usage {self._usage}>"

    def of(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Type and payload of what one event of Anthropic's becomes."""
        try:
            event = json.loads(data)
        except ValueError:
            yield "contentBlockDelta", data  # broken on purpose
            return
        for name, payload in self._told(event):
            yield name, json.dumps({**payload, "p": "abcdefgh"}).encode()

    def _told(self, event: JSON) -> Iterator[tuple[str, JSON]]:
        kind = event["type"]
        index = {"contentBlockIndex": event.get("index", 0)}
        if kind == "message_start":
            self._usage = event["message"]["usage"]
            yield "messageStart", {"role": "assistant"}
        elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            block = event["content_block"]
            yield (
                "contentBlockStart",
                {"start": {"toolUse": {"toolUseId": block["id"], "name": block["name"]}}, **index},
            )
        elif kind == "content_block_delta" and (delta := _delta(event["delta"])):
            yield "contentBlockDelta", {"delta": delta, **index}
        elif kind == "content_block_stop":
            yield "contentBlockStop", index
        elif kind == "message_delta":
            self._usage = {**self._usage, **event["usage"]}
            yield "messageStop", {"stopReason": event["delta"]["stop_reason"]}
        elif kind == "message_stop":
            yield "metadata", {"usage": _usage(self._usage), "metrics": {"latencyMs": 1}}


def _delta(delta: JSON) -> JSON:
    kind = delta["type"]
    if kind == "text_delta":
        return {"text": delta["text"]}
    if kind == "input_json_delta":
        return {"toolUse": {"input": delta["partial_json"]}} if delta["partial_json"] else None
    name = "text" if kind == "thinking_delta" else "signature"
    return {"reasoningContent": {name: delta[kind.removesuffix("_delta")]}}
