"""Whole answers of Converse."""

from __future__ import annotations

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import Usage
from penstock.wire._json_values import check_answered
from penstock.wire.conversation import Answer, StopReason, Text, Thinking, ToolCall
from penstock.wire.not_json import NOT_JSON
from penstock.wire.usage import MAX_TOKENS

_STOPS: dict[str, StopReason] = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "model_context_window_exceeded": "context_length",
}


class ReasoningText(msgspec.Struct):
    text: str = ""
    signature: str = ""


class _Reasoning(msgspec.Struct, rename="camel"):
    reasoning_text: ReasoningText | None = None
    redacted_content: str | None = None  # in base64


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")
    type: str | None = None  # of a tool that runs at Amazon


class _Block(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _Message(msgspec.Struct):
    content: list[_Block]


class _Output(msgspec.Struct):
    message: _Message


class _CacheDetail(msgspec.Struct, rename="camel"):
    ttl: str = ""
    input_tokens: int = 0


class TokenUsage(msgspec.Struct, rename="camel"):
    """As Converse counts it: what was read from and written to the cache stands beside ``inputTokens``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    cache_details: list[_CacheDetail] | None = None

    def neutral(self) -> Usage:
        """The same as this project counts it.

        :raises UpstreamBroken: these are no counts of tokens
        """
        read, written = self.cache_read_input_tokens or 0, self.cache_write_input_tokens or 0
        for_an_hour = sum(one.input_tokens for one in self.cache_details or () if one.ttl == "1h")
        counts = (self.input_tokens, self.output_tokens, read, written, for_an_hour)
        if not all(0 <= count <= MAX_TOKENS for count in counts):
            raise UpstreamBroken("the upstream's answer has a count of tokens that no model reaches")
        return Usage(
            self.input_tokens + read + written,
            self.output_tokens,
            cached_input_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(for_an_hour, written),
        )


class _Answer(msgspec.Struct, rename="camel"):
    output: _Output
    stop_reason: str
    usage: TokenUsage


_answer = msgspec.json.Decoder(_Answer).decode


def decode_answer(body: bytes) -> Answer:
    """What Converse's body says; it has neither an id nor the model's name.

    :raises UpstreamBroken: it is no answer, or one without a stop reason, or of too many values
    """
    check_answered(body)
    try:
        answer = _answer(body)
    except NOT_JSON:
        raise UpstreamBroken("the upstream's answer is none of Converse's") from None
    return Answer(
        id="",
        model="",
        parts=tuple(_part(block) for block in answer.output.message.content),
        stop=stop_of(answer.stop_reason),
        usage=answer.usage.neutral(),
    )


def stop_of(reason: str) -> StopReason:
    """Why the model stopped.

    :raises UpstreamBroken: it did not write what it should (``malformed_…``), or nobody knows why
    """
    stop = _STOPS.get(reason)
    if stop is None:
        raise UpstreamBroken(f"the upstream's answer stopped for no good reason ({reason[:40]})")
    return stop


def _part(block: _Block) -> Text | Thinking | ToolCall:
    if block.text is not None:
        return Text(block.text)
    if (call := block.tool_use) is not None and call.type is None:
        return ToolCall(call.tool_use_id, call.name, bytes(call.input).decode())
    if (thought := block.reasoning_content) is not None:
        if thought.redacted_content is not None:
            return Thinking(redacted=thought.redacted_content)
        text = thought.reasoning_text or ReasoningText()
        return Thinking(text.text, text.signature)
    raise unknown_block()


def unknown_block() -> UpstreamBroken:
    """A block that was not asked for: citations, images, calls of tools that run at Amazon."""
    return UpstreamBroken("the upstream's answer has a block of an unknown kind")
