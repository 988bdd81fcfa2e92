"""Answers in the form of Anthropic's messages."""

from __future__ import annotations

import msgspec

from penstock.lab.answer import Answer, Part
from penstock.lab.openai import quoted
from penstock.lab.stream import Segment, Stream
from penstock.lab.transcript import Request
from penstock.messages import JSON

_STOP = {
    "stop": b"end_turn",
    "stop_sequence": b"stop_sequence",
    "length": b"max_tokens",
    "tool_calls": b"tool_use",
}
_SIGNATURE = b"c2lt" * 8  # base64, and nobody's secret
_TERMINATOR = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def _usage(request: Request, output: int, cached: int) -> bytes:
    # Cached tokens stand beside input_tokens here, not in them.
    return (
        b'{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,'
        b'"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},'
        b'"output_tokens":%d,"service_tier":"standard"}' % (request.input_tokens - cached, cached, output)
    )


def _stopped(answer: Answer) -> bytes:
    sequence = msgspec.json.encode(answer.stop_sequence) if answer.stop_sequence else b"null"
    return b'"stop_reason":"%b","stop_sequence":%b' % (_STOP[answer.stop], sequence)


def _tool_id(number: int, call: int) -> bytes:
    return b"toolu_%020x%02x" % (number, call)


def message(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> bytes:
    """The body of a plain answer."""
    del created  # this API does not tell it
    answer = answers[0]
    blocks = []
    for i, part in enumerate(answer.parts):
        if part.kind == "text":
            blocks.append(b'{"type":"text","text":"%b"}' % part.escaped())
        elif part.kind == "thinking":
            blocks.append(
                b'{"type":"thinking","thinking":"%b","signature":"%b"}' % (part.escaped(), _SIGNATURE)
            )
        else:
            blocks.append(
                b'{"type":"tool_use","id":"%b","name":%b,"input":%b}'
                % (_tool_id(number, i), quoted(part.name), _input(part))
            )
    return (
        b'{"id":"msg_%024x","type":"message","role":"assistant","model":%b,"content":[%b],%b,"usage":%b}'
        % (
            number,
            quoted(request.model),
            b",".join(blocks),
            _stopped(answer),
            _usage(request, answer.count, cached),
        )
    )


def _input(part: Part) -> bytes:
    """A tool's arguments as an object; what the limit cut short cannot be one, and is empty."""
    if not part.whole:
        return b"{}"
    text: str = msgspec.json.decode(b'"' + part.escaped() + b'"', type=str)
    return text.encode()


def message_stream(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> Stream:
    del created
    answer = answers[0]
    opening = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_%024x","type":"message",'
        b'"role":"assistant","model":%b,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%b}}\n\n'
        % (number, quoted(request.model), _usage(request, 0, cached))
    )
    segments = []
    for i, part in enumerate(answer.parts):
        delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % i
        tail = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % i
        block, first = b'{"type":"text","text":""}', b""
        kind = b'{"type":"text_delta","text":"'
        if part.kind == "thinking":
            block = b'{"type":"thinking","thinking":"","signature":""}'
            kind = b'{"type":"thinking_delta","thinking":"'
            tail = delta + b'{"type":"signature_delta","signature":"%b"}}\n\n' % _SIGNATURE + tail
        elif part.kind == "tool":
            block = b'{"type":"tool_use","id":"%b","name":%b,"input":{}}' % (
                _tool_id(number, i),
                quoted(part.name),
            )
            kind = b'{"type":"input_json_delta","partial_json":"'
            first = delta + kind + b'"}}\n\n'
        head = (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (
                i,
                block,
            )
        )
        if i == 0:
            head += b'event: ping\ndata: {"type":"ping"}\n\n'
        segments.append(
            Segment(
                part.pieces, part.count, head=head + first, tail=tail, prefix=delta + kind, suffix=b'"}}\n\n'
            )
        )
    finish = b'event: message_delta\ndata: {"type":"message_delta","delta":{%b},"usage":%b}\n\n' % (
        _stopped(answer),
        _usage(request, answer.count, cached),
    )
    malformed = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"del\n\n'

    def broken(sent: int) -> bytes:
        del sent
        return b"event: error\ndata: " + error("Overloaded", "overloaded_error", number) + b"\n\n"

    return Stream(opening, segments, finish, _TERMINATOR, malformed, broken)


def model(name: str) -> JSON:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2023-11-14T22:13:20Z"}


def error(message: str, kind: str, number: int) -> bytes:
    return msgspec.json.encode(
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{number:024x}"}
    )
