"""Answers in the form of OpenAI's chat completions, completions, embeddings and models."""

from __future__ import annotations

import base64
import functools
import hashlib
import struct

import msgspec

from penstock.lab.answer import Answer, Part, token_id
from penstock.lab.begun import prompt_ids
from penstock.lab.stream import Segment, Stream, interleaved
from penstock.lab.transcript import Request
from penstock.messages import JSON, Endpoint

_FINISH = {"stop": b"stop", "stop_sequence": b"stop", "length": b"length", "tool_calls": b"tool_calls"}
_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


@functools.lru_cache(maxsize=4096)
def quoted(text: str) -> bytes:
    """A JSON string, for names that come again and again."""
    return _encode(text)


def usage(request: Request, cached: int, output: int, thinking: int = 0) -> bytes:
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
        % (request.input_tokens, output, request.input_tokens + output, cached, thinking)
    )


# ---- chat ------------------------------------------------------------------------------------------


def chat(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> bytes:
    """The body of a plain answer."""
    choices = b",".join([_chat_choice(i, one, number) for i, one in enumerate(answers)])
    output = sum(one.count for one in answers)
    thinking = sum(one.thinking for one in answers)
    return (
        b'{"id":"chatcmpl-%024x","object":"chat.completion","created":%d,"model":%b,"choices":[%b],'
        b'"usage":%b,"service_tier":"default","system_fingerprint":"fp_sim"}'
        % (number, created, quoted(request.model), choices, usage(request, cached, output, thinking))
    )


def _chat_choice(index: int, answer: Answer, number: int) -> bytes:
    content = b"null"
    extra = b""
    calls: list[bytes] = []
    for part in answer.parts:
        if part.kind == "text":
            content = b'"' + part.escaped() + b'"'
        elif part.kind == "thinking":
            extra += b',"reasoning_content":"' + part.escaped() + b'"'
        else:
            calls.append(
                b'{"id":"%b","type":"function","function":{"name":%b,"arguments":"%b"}}'
                % (call_id(number, index, len(calls)), quoted(part.name), part.escaped())
            )
    if calls:
        extra += b',"tool_calls":[' + b",".join(calls) + b"]"
    return (
        b'{"index":%d,"message":{"role":"assistant","content":%b,"refusal":null,"annotations":[]%b},'
        b'"logprobs":null,"finish_reason":"%b"}' % (index, content, extra, _FINISH[answer.stop])
    )


def call_id(number: int, choice: int, call: int) -> bytes:
    return b"call_%016x%02x%02x" % (number, choice, call)


def chat_stream(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> Stream:
    lead = (
        b'data: {"id":"chatcmpl-%024x","object":"chat.completion.chunk","created":%d,"model":%b,'
        b'"service_tier":"default","system_fingerprint":"fp_sim","choices":['
        % (number, created, quoted(request.model))
    )
    opening = finish = b""
    segments: list[Segment] = []
    for i, one in enumerate(answers):
        begin = lead + b'{"index":%d,"delta":' % i
        end = b',"logprobs":null,"finish_reason":null}]'
        ids = b',"prompt_token_ids":' + _encode(prompt_ids(request)) if request.wants_ids and i == 0 else b""
        opening += (
            begin + b'{"role":"assistant","content":"","refusal":null}' + end + ids + _ending(request, 0)
        )
        calls = 0
        for part in one.parts:
            if part.kind == "text":
                wrap = (b'{"content":"', b'"}')
            elif part.kind == "thinking":
                wrap = (b'{"reasoning_content":"', b'"}')
            else:
                wrap = (b'{"tool_calls":[{"index":%d,"function":{"arguments":"' % calls, b'"}}]}')
            segment = _segment(request, part, begin + wrap[0], wrap[1] + end)
            if part.kind == "tool":
                segment.head = (
                    begin
                    + b'{"tool_calls":[{"index":%d,"id":"%b","type":"function","function":{"name":%b,"arguments":""}}]}'
                    % (calls, call_id(number, i, calls), quoted(part.name))
                    + end
                    + _ending(request, 0)
                )
                calls += 1
            segments.append(segment)
        finish += (
            begin
            + b'{},"logprobs":null,"finish_reason":"%b"}]' % _FINISH[one.stop]
            + _ending(request, sum(each.count for each in answers))
        )
    return _stream(request, answers, lead, opening, segments, finish, cached)


def _ending(request: Request, output: int) -> bytes:
    """How a chunk ends: ``usage`` is null in all but the last if it was asked for, running if asked for so."""
    if request.running_usage:
        total = request.input_tokens + output
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}\n\n' % (
            request.input_tokens,
            total,
            output,
        )
    return b',"usage":null}\n\n' if request.include_usage else b"}\n\n"


def _segment(request: Request, part: Part, prefix: bytes, suffix: bytes) -> Segment:
    if request.wants_ids and part.kind == "text":
        return _with_ids(request, part, prefix, suffix)
    if not request.running_usage:
        return Segment(part.pieces, part.count, prefix=prefix, suffix=suffix + _ending(request, 0))

    def numbered(index: int, piece: bytes) -> bytes:
        return prefix + piece + suffix + _ending(request, index + 1)

    return Segment(part.pieces, part.count, numbered=numbered)


def _with_ids(request: Request, part: Part, prefix: bytes, suffix: bytes) -> Segment:
    """As vLLM answers ``return_token_ids``: each choice has the ids of its tokens."""
    suffix = suffix.removesuffix(b"}]")

    def numbered(index: int, piece: bytes) -> bytes:
        ids = b',"token_ids":[%d]}]' % token_id(piece)
        if index == 0 and request.endpoint is Endpoint.COMPLETIONS:
            ids = b',"prompt_token_ids":%b%b' % (_encode(prompt_ids(request)), ids)
        return prefix + piece + suffix + ids + _ending(request, index + 1)

    return Segment(part.pieces, part.count, numbered=numbered)


def _stream(
    request: Request,
    answers: list[Answer],
    lead: bytes,
    opening: bytes,
    segments: list[Segment],
    finish: bytes,
    cached: int,
) -> Stream:
    if request.include_usage:
        output = sum(one.count for one in answers)
        thinking = sum(one.thinking for one in answers)
        finish += lead + b'],"usage":' + usage(request, cached, output, thinking) + b"}\n\n"
    if len(answers) > 1 and not request.running_usage:
        segments = interleaved(segments)
    return Stream(opening, segments, finish, _DONE, lead + b'{"index":0,"delta":{"cont\n\n', _stream_error)


# ---- completions -----------------------------------------------------------------------------------


def completion(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> bytes:
    choices = b",".join(
        b'{"text":"%b","index":%d,"logprobs":null,"finish_reason":"%b"}'
        % (b"".join(part.escaped() for part in one.parts), i, _FINISH[one.stop])
        for i, one in enumerate(answers)
    )
    output = sum(one.count for one in answers)
    return (
        b'{"id":"cmpl-%024x","object":"text_completion","created":%d,"model":%b,"choices":[%b],"usage":%b,'
        b'"system_fingerprint":"fp_sim"}'
        % (number, created, quoted(request.model), choices, usage(request, cached, output))
    )


def completion_stream(
    request: Request, answers: list[Answer], number: int, created: int, cached: int
) -> Stream:
    lead = (
        b'data: {"id":"cmpl-%024x","object":"text_completion","created":%d,"model":%b,'
        b'"system_fingerprint":"fp_sim","choices":[' % (number, created, quoted(request.model))
    )
    segments = []
    finish = b""
    for i, one in enumerate(answers):
        end = b'","index":%d,"logprobs":null,"finish_reason":' % i
        segments += [_segment(request, part, lead + b'{"text":"', end + b"null}]") for part in one.parts]
        finish += lead + b'{"text":"' + end + b'"%b"}]' % _FINISH[one.stop]
        finish += _ending(request, sum(each.count for each in answers))
    return _stream(request, answers, lead, b"", segments, finish, cached)


# ---- embeddings and models -------------------------------------------------------------------------


def embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the whole text and on nothing else."""
    raw = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    values = [value / 32768 for value in struct.unpack(f"<{dimensions}h", raw)]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / length for value in values]


def embeddings(request: Request) -> bytes:
    data = []
    for i, text in enumerate(request.inputs):
        vector: JSON = embedding(text, request.dimensions)
        if request.base64:
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": i, "embedding": vector})
    return _encode(
        {
            "object": "list",
            "data": data,
            "model": request.model,
            "usage": {"prompt_tokens": request.input_tokens, "total_tokens": request.input_tokens},
        }
    )


def model(name: str) -> JSON:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "penstock-sim"}


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _stream_error(sent: int) -> bytes:
    del sent
    message = "The server had an error while processing your request."
    return b"data: " + error(message, "server_error", "server_error") + b"\n\n"


PLAIN = {Endpoint.CHAT: chat, Endpoint.COMPLETIONS: completion}
STREAMED = {Endpoint.CHAT: chat_stream, Endpoint.COMPLETIONS: completion_stream}
