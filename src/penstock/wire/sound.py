"""May this answer be given to somebody who asks the same again?

Only one that the model finished by itself or by a limit of the request.  What a filter cut or a model refused,
what paused or failed, may come out otherwise next time; and so may whatever ends for a reason that nobody
here knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.messages import Endpoint, Event
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON

_CHAT = frozenset({"stop", "length", "tool_calls", "function_call"})
_MESSAGES = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use"})
_NULL = msgspec.Raw(b"null")


class _Said(msgspec.Struct, gc=False):
    refusal: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None
    message: _Said | None = None
    delta: _Said | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []
    error: msgspec.Raw = _NULL


class _Stop(msgspec.Struct):
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    type: str = ""
    stop_reason: str | None = None
    delta: _Stop | None = None


class _Part(msgspec.Struct):
    type: str = ""


class _Item(msgspec.Struct):
    content: list[_Part] | None = None


class _Why(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    status: str | None = None
    incomplete_details: _Why | None = None
    output: list[_Item] = []


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    response: msgspec.Raw = _NULL


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw] = []


class _Results(msgspec.Struct):
    results: list[msgspec.Raw] = []


class _Count(msgspec.Struct):
    input_tokens: int | None = None


_choices = msgspec.json.Decoder(_Choices).decode
_message = msgspec.json.Decoder(_Message).decode
_response = msgspec.json.Decoder(_Response).decode
_response_event = msgspec.json.Decoder(_ResponseEvent).decode
_embeddings = msgspec.json.Decoder(_Embeddings).decode
_results = msgspec.json.Decoder(_Results).decode
_count = msgspec.json.Decoder(_Count).decode


def is_sound(endpoint: Endpoint, events: Sequence[Event], *, stream: bool) -> bool:
    """Whether a finished answer may be given again.

    :param events: of its log: SSE frames if ``stream``, else the body
    """
    try:
        if stream:
            payloads = [data for data in map(sse.data_of, events) if data and data != b"[DONE]"]
        else:
            payloads = [b"".join(events)]
        if not payloads:
            return False
        if endpoint is Endpoint.MESSAGES:
            return _is_sound_message(payloads, stream=stream)
        if endpoint is Endpoint.RESPONSES:
            return _is_sound_response(payloads, stream=stream)
        if endpoint is Endpoint.EMBEDDINGS:
            return bool(_embeddings(payloads[0]).data)
        if endpoint is Endpoint.COUNT_TOKENS:
            return _count(payloads[0]).input_tokens is not None
        if endpoint.opaque:
            return bool(_results(payloads[0]).results)
        return _is_sound_chat(payloads)
    except NOT_JSON:
        return False


def _is_sound_chat(payloads: list[bytes]) -> bool:
    finished: dict[int, bool] = {}
    for payload in payloads:
        found = _choices(payload)
        if bytes(found.error) != b"null":
            return False
        for choice in found.choices:
            said = choice.message or choice.delta
            if said is not None and said.refusal:
                return False
            if choice.finish_reason is not None:
                if choice.finish_reason not in _CHAT:
                    return False
                finished[choice.index] = True
            else:
                finished.setdefault(choice.index, False)
    return bool(finished) and all(finished.values())


def _is_sound_message(payloads: list[bytes], *, stream: bool) -> bool:
    reason = None
    for payload in payloads:
        message = _message(payload)
        if not stream:
            reason = message.stop_reason
        elif message.type == "message_delta" and message.delta is not None:
            reason = message.delta.stop_reason or reason
        elif message.type == "error":
            return False
    return reason in _MESSAGES


def _is_sound_response(payloads: list[bytes], *, stream: bool) -> bool:
    if stream:
        events = [_response_event(payload) for payload in payloads]
        ends = [event for event in events if event.type in ("response.completed", "response.incomplete")]
        if len(ends) != 1:
            return False
        response = _response(ends[0].response)
    else:
        response = _response(payloads[0])
    why = response.incomplete_details
    if response.status == "incomplete":
        return why is not None and why.reason == "max_output_tokens"
    refused = any(part.type == "refusal" for item in response.output for part in item.content or ())
    return response.status == "completed" and not refused
