from __future__ import annotations

import json

import pytest

from penstock.lab.histogram import Histogram
from penstock.lab.reading import Reading, refusal_of
from penstock.messages import Dialect


def sse(*payloads):
    return b"".join(
        b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"
        for payload in payloads
    )


def chunk(text=None, finish=None, **more):
    delta = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


OPENAI = sse(
    chunk(""),
    chunk("a"),
    chunk(" b"),
    chunk(finish="stop"),
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    },
    b"[DONE]",
)
ANTHROPIC = sse(
    {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " b"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 2},
    },
    {"type": "message_stop"},
)


def reading(dialect=Dialect.OPENAI):
    return Reading(dialect, Histogram(), keep_text=True)


@pytest.mark.parametrize(("dialect", "stream"), [(Dialect.OPENAI, OPENAI), (Dialect.ANTHROPIC, ANTHROPIC)])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_is_read_however_it_is_cut(dialect, stream, size):
    seen = reading(dialect)
    for i in range(0, len(stream), size):
        seen.feed(stream[i : i + size], 1.0)
    assert (seen.text, seen.tokens, seen.fault) == ("a b", 2, "")
    assert (seen.input_tokens, seen.cached_tokens, seen.output_tokens) == (7, 3, 2)
    assert seen.finished
    assert seen.terminated


@pytest.mark.parametrize(
    ("dialect", "stream", "finish", "end"),
    [
        (Dialect.OPENAI, OPENAI, b"stop", b"[DONE]"),
        (Dialect.ANTHROPIC, ANTHROPIC, b"end_turn", b"message_stop"),
    ],
)
def test_an_end_that_is_missing_is_missed(dialect, stream, finish, end):
    frames = stream.split(b"\n\n")
    unfinished = reading(dialect)
    unfinished.feed(b"\n\n".join(frame for frame in frames if b'reason": "' + finish not in frame), 1.0)
    assert (unfinished.finished, unfinished.terminated) == (False, True)
    endless = reading(dialect)
    endless.feed(b"\n\n".join(frame for frame in frames if end not in frame), 1.0)
    assert (endless.finished, endless.terminated) == (True, False)


def test_times_are_counted_from_token_to_token():
    gaps = Histogram()
    seen = Reading(Dialect.OPENAI, gaps, keep_text=False)
    seen.feed(sse(chunk("")), 1.0)  # no token in it
    seen.feed(sse(chunk("a")), 3.0)
    seen.feed(sse(chunk("b"), chunk("c")), 4.0)
    assert (seen.first, seen.last) == (3.0, 4.0)
    assert (gaps.count, gaps.largest, gaps.total) == (2, 1.0, 1.0)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"data: {\n\n", "malformed event"),
        (b"data: \xff\n\n", "malformed event"),
        (sse({"choices": 5}), "malformed event"),
        (sse({"error": {"code": "server_error", "message": "x"}}), "error event: server_error"),
        (sse({"type": "error", "error": {"type": "overloaded_error"}}), "error event: overloaded_error"),
        (sse({"error": "bad"}), "error event: bad"),
    ],
)
def test_what_makes_no_sense_is_a_fault_that_stays(data, fault):
    seen = reading()
    seen.feed(data, 1.0)
    seen.feed(OPENAI, 1.0)
    assert seen.fault.startswith(fault)


def test_a_plain_answer_of_either_api():
    openai = reading()
    openai.plain(
        json.dumps(
            {
                "choices": [{"message": {"content": "a b"}, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 2, "cost": 0.5},
            }
        ).encode()
    )
    assert (openai.text, openai.input_tokens, openai.output_tokens, openai.cost) == ("a b", 7, 2, 0.5)
    claude = reading(Dialect.ANTHROPIC)
    claude.plain(
        json.dumps(
            {
                "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a b"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 7, "output_tokens": 2},
            }
        ).encode()
    )
    assert (claude.text, claude.output_tokens) == ("a b", 2)
    for each in (openai, claude):
        assert each.finished
        assert each.terminated
    cut = reading()
    cut.plain(b'{"choices":[{')
    assert cut.fault.startswith("malformed answer")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"error":{"code":"rate_limit_exceeded","type":"requests"}}', "rate_limit_exceeded"),
        (b'{"type":"error","error":{"type":"overloaded_error"}}', "overloaded_error"),
        (b'{"error":{}}', "without a code"),
        (b'{"detail":"x"}', "None"),
        (b"<html>", "not an API's error"),
        (b"[]", "not an API's error"),
    ],
)
def test_a_refusal_in_a_word(body, word):
    assert refusal_of(body) == word
