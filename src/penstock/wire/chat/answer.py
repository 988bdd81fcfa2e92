"""Whole answers: ``chat.completion`` objects."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import members, usage
from penstock.wire.chat.reasoning import details_of, thoughts_of
from penstock.wire.chat.write_prompt import write_call
from penstock.wire.conversation import Answer, Part, Refusal, StopReason, Text, Thinking, ToolCall
from penstock.wire.not_json import NOT_JSON

# ---- upstream's body -> Answer ---------------------------------------------------------------------

_STOPS: dict[str, StopReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "stop_sequence": "stop_sequence",  # TGI
    "eos_token": "stop",  # TGI
    "end_turn": "stop",
    "model_length": "length",  # Mistral
    "max_tokens": "length",
}


class _Function(msgspec.Struct):
    name: str = ""
    arguments: JSON = ""  # a string, but some servers send the object itself


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: JSON = None  # a string; Mistral's reasoning models send parts
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: JSON = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    stop_reason: JSON = None  # vLLM: the stop sequence that was met, or a token's number
    logprobs: JSON = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    created: int | float | None = None


_completion = msgspec.json.Decoder(_Completion).decode


def decode_answer(body: bytes) -> Answer:
    """What an upstream's body says.

    :raises UpstreamBroken: it is not a chat completion, or one without a finish reason
    """
    try:
        completion = _completion(body)
        choice = completion.choices[0]
    except (*NOT_JSON, IndexError):
        raise UpstreamBroken("the upstream's answer is not a chat completion") from None
    message = choice.message
    parts: list[Part] = [
        *thoughts_of(message.reasoning_content or message.reasoning or "", message.reasoning_details),
        *spoken(message.content),
    ]
    if message.refusal:
        parts.append(Refusal(message.refusal))
    for index, call in enumerate(message.tool_calls or ()):
        if call.function is None or not call.function.name:
            raise UpstreamBroken("the upstream's answer calls a tool without a name")
        parts.append(
            ToolCall(
                call.id or made_up_id(completion.id or "", index),
                call.function.name,
                argument_text(call.function.arguments),
            )
        )
    stopped_by = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
    return Answer(
        id=completion.id or "",
        model=completion.model or "",
        parts=tuple(parts),
        stop=stop_of(
            choice.finish_reason,
            stopped_by,
            called=any(isinstance(part, ToolCall) for part in parts),
            refused=bool(message.refusal),
        ),
        usage=usage.usage_of_body(Endpoint.CHAT, body) or Usage(),
        stop_sequence=stopped_by,
        created=int(completion.created or 0),
        logprobs=choice.logprobs,
    )


def spoken(content: JSON) -> list[Part]:
    """The parts of an answer's ``content``: a string, or what Mistral makes of one that was thought over."""
    if not content:
        return []
    if isinstance(content, str):
        return [Text(content)]
    parts: list[Part] = []
    for entry in content if isinstance(content, list) else ():
        if not isinstance(entry, dict):
            continue
        if entry.get("type") == "text" and isinstance(entry.get("text"), str):
            parts.append(Text(entry["text"]))
        elif entry.get("type") == "thinking" and isinstance(entry.get("thinking"), list):
            texts = (piece.get("text") for piece in entry["thinking"] if isinstance(piece, dict))
            parts.append(Thinking("".join(text for text in texts if isinstance(text, str))))
        else:
            raise UpstreamBroken("the upstream's answer has content of an unknown kind")
    return parts


def argument_text(arguments: JSON) -> str:
    if isinstance(arguments, str):
        return arguments
    return members.encode(arguments).decode() if arguments is not None else ""


def made_up_id(answer: str, index: int) -> str:
    """An id for a call that came without one; the same each time, so that a replay agrees."""
    return f"call_{answer.removeprefix('chatcmpl-') or 'answer'}_{index}"


def stop_of(reason: str | None, stopped_by: str, *, called: bool, refused: bool) -> StopReason:
    """Why the model stopped.

    :raises UpstreamBroken: it did not stop by itself, or for a reason that nobody knows: an answer that may
        be cut short must not pass for a whole one
    """
    stop = _STOPS.get(reason or "")
    if stop is None:
        raise UpstreamBroken(
            "the upstream's answer has no finish reason"
            if not reason
            else f"the upstream broke off its answer ({reason[:40]})"
        )
    if stop == "stop":
        # A call that was asked for by tool_choice ends with "stop" at OpenAI, any call does at others.
        if called:
            return "tool_calls"
        if refused:
            return "refusal"
        if stopped_by:
            return "stop_sequence"
    return stop


# ---- Answer -> caller's body -----------------------------------------------------------------------

_FINISH: dict[StopReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "length",  # not at its end, and that is the only word for it
    "context_length": "length",
}

_P = TypeVar("_P", Text, Thinking, Refusal, ToolCall)


def encode_answer(answer: Answer) -> bytes:
    """A caller's body that says the same."""
    texts = _of(answer.parts, Text)
    refusals = _of(answer.parts, Refusal)
    message: dict[str, JSON] = {
        "role": "assistant",
        "content": "".join(text.text for text in texts) if texts else None,
        "refusal": "".join(refusal.text for refusal in refusals) if refusals else None,
        **details_of(_of(answer.parts, Thinking)),
    }
    if calls := _of(answer.parts, ToolCall):
        message["tool_calls"] = [write_call(call) for call in calls]
    return members.encode(
        {
            "id": answer.id,
            "object": "chat.completion",
            "created": answer.created,
            "model": answer.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": answer.logprobs,
                    "finish_reason": finish_of(answer.stop, refused=bool(refusals)),
                }
            ],
            "usage": write_usage(answer.usage),
        }
    )


def _of(parts: tuple[Part, ...], kind: type[_P]) -> list[_P]:
    return [part for part in parts if isinstance(part, kind)]


def finish_of(stop: StopReason, *, refused: bool) -> str:
    """OpenAI says "stop" where the model itself refused, in ``refusal``; else a filter cut the answer."""
    return "stop" if stop == "refusal" and refused else _FINISH[stop]


def write_usage(used: Usage) -> JSON:
    given: dict[str, JSON] = {"cached_tokens": used.cached_input_tokens}
    if used.cache_write_tokens:
        given["cache_write_tokens"] = used.cache_write_tokens
    if used.audio_input_tokens:
        given["audio_tokens"] = used.audio_input_tokens
    made: dict[str, JSON] = {"reasoning_tokens": used.reasoning_tokens}
    if used.audio_output_tokens:
        made["audio_tokens"] = used.audio_output_tokens
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "prompt_tokens_details": given,
        "completion_tokens_details": made,
    }
