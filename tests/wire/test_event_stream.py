"""Amazon's event stream, cut into frames.

The encoder is the simulator's, which Anthropic's SDK for Bedrock takes for the real one (``tests/lab``); what Amazon's
own library makes of the same bytes is asked here, too.
"""

import base64
import json
import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UpstreamBroken
from penstock.lab.clouds import encoded, framed
from penstock.wire.event_stream import EventStream
from penstock.wire.sse import fields

CHUNK = {":event-type": "chunk", ":message-type": "event"}
START = {"type": "message_start", "message": {"id": "m"}}
DELTA = {"type": "content_block_delta", "delta": {"text": "Grüße\n"}}


def chunk(event):
    return encoded(CHUNK, json.dumps({"bytes": base64_of(event), "p": "abc"}).encode())


def base64_of(event):

    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    return base64.b64encode(data).decode()


def exception(name, payload=b'{"message":"no"}'):
    return encoded({":message-type": "exception", ":exception-type": name}, payload)


def events(frames):
    return [(fields(frame).event, json.loads(fields(frame).data)) for frame in frames]


def test_chunks_are_the_events_that_they_hold():
    frames = EventStream().feed(chunk(START) + chunk(DELTA))
    assert events(frames) == [("message_start", START), ("content_block_delta", DELTA)]


@given(st.lists(st.integers(0, 400), max_size=6))
def test_it_does_not_matter_where_they_are_cut(cuts):
    data = chunk(START) + chunk(DELTA) * 2
    stream, frames, at = EventStream(), [], 0
    for cut in sorted(cuts):
        frames += stream.feed(data[at:cut])
        at = max(at, cut)
    frames += stream.feed(data[at:])
    assert frames == EventStream().feed(data)


def test_amazons_library_reads_the_same_messages():
    data = chunk(START) + exception("throttlingException")
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    theirs = [(message.headers, message.payload) for message in buffer]
    assert theirs[0][0][":event-type"] == "chunk"
    assert theirs[1] == (
        {
            ":content-type": "application/json",
            ":exception-type": "throttlingException",
            ":message-type": "exception",
        },
        b'{"message":"no"}',
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit_error"),
        ("modelStreamErrorException", "api_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("aNewException", "api_error"),
    ],
)
def test_an_exception_is_an_error_event(name, kind):
    [(event, told)] = events(EventStream().feed(exception(name)))
    assert event == "error"
    assert told == {"type": "error", "error": {"type": kind, "message": "no"}}


def test_an_error_without_a_payload():
    fields = {":message-type": "error", ":error-code": "Broken", ":error-message": "all is lost"}
    [(event, told)] = events(EventStream().feed(encoded(fields, b"")))
    assert (event, told["error"]["message"]) == ("error", "all is lost")


def test_messages_of_other_types_are_left_out():
    assert EventStream().feed(encoded({":event-type": "news", ":message-type": "event"}, b"{}")) == []


def test_headers_of_all_types_are_passed_over():
    values = {
        0: b"",
        1: b"",
        2: b"1",
        3: b"22",
        4: b"4444",
        5: b"8" * 8,
        6: b"\0\1x",
        8: b"8" * 8,
        9: b"9" * 16,
    }
    named = b"".join(
        struct.pack(">B", 1) + b"h" + struct.pack(">B", kind) + value for kind, value in values.items()
    )
    for name, value in CHUNK.items():
        named += (
            struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        )
    payload = json.dumps({"bytes": base64_of(START)}).encode()
    assert events(EventStream().feed(framed(named, payload))) == [("message_start", START)]


@pytest.mark.parametrize(
    "headers", [b"\x05abc", b"\x01h\x07\xff\xff", b"\x01h\x63", b"\x01h", b"\x01\xff\x07\0\0"]
)
def test_headers_that_make_no_sense(headers):
    with pytest.raises(UpstreamBroken):
        EventStream().feed(framed(headers, b"{}"))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_found(place, flip):
    data = bytearray(chunk(START))
    data[place % len(data)] ^= flip
    stream = EventStream(max_frame_bytes=1 << 16)
    try:
        frames = stream.feed(bytes(data))
    except UpstreamBroken:
        return
    assert frames == []


def test_what_came_before_the_damage_is_given_first():
    damaged = bytearray(chunk(DELTA))
    damaged[-1] ^= 1
    stream = EventStream()
    assert len(stream.feed(chunk(START) + damaged)) == 1
    with pytest.raises(UpstreamBroken):
        stream.feed(b"")


def test_a_length_beyond_the_bound_is_refused_before_it_is_waited_for():
    prelude = struct.pack(">II", 1 << 30, 0)
    with pytest.raises(UpstreamBroken, match="more than 1000 bytes"):
        EventStream(1_000).feed(prelude + struct.pack(">I", crc32(prelude)))


@pytest.mark.parametrize("event", [b"{", b'{"type": "a\\nb"}', b'{"type": 5}', b"[]", b"\xff"])
def test_an_event_that_makes_no_sense_is_passed_on_for_who_reads_it(event):
    [frame] = EventStream().feed(chunk(event))
    assert fields(frame).event == ""


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"bytes": 5}', b'{"bytes": "*"}'])
def test_a_chunk_without_an_event(payload):
    with pytest.raises(UpstreamBroken):
        EventStream().feed(encoded(CHUNK, payload))
