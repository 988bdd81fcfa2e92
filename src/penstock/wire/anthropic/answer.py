"""Whole answers: ``message`` objects."""

from __future__ import annotations

import msgspec

from penstock.errors import BadRequest, UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import members, usage
from penstock.wire.anthropic.write_prompt import arguments_of, thinking_block
from penstock.wire.conversation import Answer, Part, Refusal, StopReason, Text, Thinking, ToolCall
from penstock.wire.not_json import NOT_JSON

# ---- upstream's body -> Answer ---------------------------------------------------------------------

_STOPS: dict[str, StopReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "context_length",
}


class Block(msgspec.Struct):
    """A content block, of an answer or of ``content_block_start``."""

    type: str
    text: str | None = None
    citations: list[JSON] | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: JSON = None


class _Message(msgspec.Struct):
    content: list[Block]
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


_message = msgspec.json.Decoder(_Message).decode


def decode_answer(body: bytes) -> Answer:
    """What an upstream's body says.

    :raises UpstreamBroken: it is not a message, or one without a stop reason
    """
    try:
        message = _message(body)
    except NOT_JSON:
        raise UpstreamBroken("the upstream's answer is not a message") from None
    return Answer(
        id=message.id,
        model=message.model,
        parts=tuple(part_of(block) for block in message.content),
        stop=stop_of(message.stop_reason),
        usage=usage.usage_of_body(Endpoint.MESSAGES, body) or Usage(),
        stop_sequence=message.stop_sequence or "",
    )


def part_of(block: Block) -> Text | Thinking | ToolCall:
    """The part that a block is, or begins.

    :raises UpstreamBroken: a block that was not asked for: no tool that runs at Anthropic ever is
    """
    if block.type == "text":
        return Text(block.text or "", citations=tuple(block.citations or ()))
    if block.type == "thinking":
        return Thinking(block.thinking or "", block.signature or "")
    if block.type == "redacted_thinking":
        return Thinking(redacted=block.data or "")
    if block.type == "tool_use" and block.name:
        given = members.encode(block.input).decode() if block.input is not None else "{}"
        return ToolCall(block.id or "", block.name, given)
    raise UpstreamBroken(f"the upstream's answer has a block of an unknown kind ({block.type[:40]})")


def stop_of(reason: str | None) -> StopReason:
    """Why the model stopped.

    :raises UpstreamBroken: none, or one that nobody knows: what may be cut short must not pass for whole
    """
    stop = _STOPS.get(reason or "")
    if stop is None:
        raise UpstreamBroken(
            "the upstream's answer has no stop reason"
            if not reason
            else f"the upstream's answer stopped for an unknown reason ({reason[:40]})"
        )
    return stop


# ---- Answer -> caller's body -----------------------------------------------------------------------

REASONS: dict[StopReason, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
    "context_length": "model_context_window_exceeded",
}


def encode_answer(answer: Answer) -> bytes:
    """A caller's body that says the same.

    :raises UpstreamBroken: a tool's arguments are not a JSON object: a message cannot hold anything else
    """
    return members.encode(
        {
            "id": answer.id,
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": [_block(part, answer.stop) for part in answer.parts],
            "stop_reason": REASONS[answer.stop],
            "stop_sequence": answer.stop_sequence or None,
            "usage": write_usage(answer.usage),
        }
    )


def _block(part: Part, stop: StopReason) -> JSON:
    if isinstance(part, Text) and part.citations:
        return {"type": "text", "text": part.text, "citations": list(part.citations)}
    if isinstance(part, Text | Refusal):
        return {"type": "text", "text": part.text}  # no null: Vercel's AI SDK takes none
    if isinstance(part, Thinking):
        return thinking_block(part)
    if isinstance(part, ToolCall):
        try:
            given = arguments_of(part)
        except BadRequest as error:
            if stop != "length":
                raise UpstreamBroken(f"in the upstream's answer {error.message}") from None
            given = {}  # cut off in the middle, as max_tokens says
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": given}
    raise UpstreamBroken(f"the upstream's answer has a {type(part).__name__}")


def write_usage(used: Usage) -> dict[str, JSON]:
    """Anthropic counts what was read from and written to its cache beside ``input_tokens``."""
    written: dict[str, JSON] = {
        "input_tokens": max(used.input_tokens - used.cached_input_tokens - used.cache_write_tokens, 0),
        "cache_creation_input_tokens": used.cache_write_tokens,
        "cache_read_input_tokens": used.cached_input_tokens,
        "output_tokens": used.output_tokens,
    }
    if hour := used.cache_write_1h_tokens:
        written["cache_creation"] = {
            "ephemeral_5m_input_tokens": used.cache_write_tokens - hour,
            "ephemeral_1h_input_tokens": hour,
        }
    if used.reasoning_tokens:
        written["output_tokens_details"] = {"thinking_tokens": used.reasoning_tokens}
    return written
