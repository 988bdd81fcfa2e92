"""Usage, from what real providers have answered."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.messages import Endpoint, Usage
from penstock.wire import sse, usage

OPENAI = {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 12},
    "completion_tokens_details": {
        "reasoning_tokens": 20,
        "audio_tokens": 5,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
ANTHROPIC = {
    "input_tokens": 21,
    "cache_creation_input_tokens": 188086,
    "cache_read_input_tokens": 1000,
    "cache_creation": {"ephemeral_5m_input_tokens": 188000, "ephemeral_1h_input_tokens": 86},
    "output_tokens": 393,
    "output_tokens_details": {"thinking_tokens": 100},
    "server_tool_use": {"web_search_requests": 0},
    "service_tier": "standard",
}

BODIES = {
    "openai chat with all details": (
        Endpoint.CHAT,
        OPENAI,
        Usage(
            input_tokens=1117,
            output_tokens=46,
            cached_input_tokens=1024,
            reasoning_tokens=20,
            audio_input_tokens=12,
            audio_output_tokens=5,
        ),
    ),
    "openai chat that wrote to its cache": (
        Endpoint.CHAT,
        {
            "prompt_tokens": 100,
            "completion_tokens": 1,
            "total_tokens": 101,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 90},
        },
        Usage(input_tokens=100, output_tokens=1, cache_write_tokens=90),
    ),
    "deepseek": (
        Endpoint.CHAT,
        {
            "prompt_tokens": 30,
            "completion_tokens": 200,
            "total_tokens": 230,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": 150},
            "prompt_cache_hit_tokens": 24,
            "prompt_cache_miss_tokens": 6,
        },
        Usage(input_tokens=30, output_tokens=200, cached_input_tokens=24, reasoning_tokens=150),
    ),
    "vllm": (
        Endpoint.CHAT,
        {
            "prompt_tokens": 15,
            "total_tokens": 19,
            "completion_tokens": 4,
            "prompt_tokens_details": None,
        },
        Usage(input_tokens=15, output_tokens=4),
    ),
    "mistral": (
        Endpoint.CHAT,
        {
            "prompt_tokens": 16,
            "total_tokens": 50,
            "completion_tokens": 34,
            "num_cached_tokens": 8,
            "prompt_audio_seconds": None,
        },
        Usage(input_tokens=16, output_tokens=34, cached_input_tokens=8),
    ),
    "moonshot": (
        Endpoint.CHAT,
        {"prompt_tokens": 16, "completion_tokens": 3, "total_tokens": 19, "cached_tokens": 10},
        Usage(input_tokens=16, output_tokens=3, cached_input_tokens=10),
    ),
    "xai counts reasoning beside the completion": (
        Endpoint.CHAT,
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {
                "text_tokens": 32,
                "audio_tokens": 0,
                "image_tokens": 0,
                "cached_tokens": 6,
            },
            "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
            "num_sources_used": 0,
        },
        Usage(input_tokens=32, output_tokens=103, cached_input_tokens=6, reasoning_tokens=94),
    ),
    "groq with times": (
        Endpoint.CHAT,
        {
            "queue_time": 0.037,
            "prompt_tokens": 18,
            "prompt_time": 0.0006,
            "completion_tokens": 556,
            "completion_time": 0.46,
            "total_tokens": 574,
            "total_time": 0.46,
        },
        Usage(input_tokens=18, output_tokens=556),
    ),
    "legacy completion": (
        Endpoint.COMPLETIONS,
        {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        Usage(input_tokens=5, output_tokens=7),
    ),
    "embeddings": (Endpoint.EMBEDDINGS, {"prompt_tokens": 8, "total_tokens": 8}, Usage(input_tokens=8)),
    "responses": (
        Endpoint.RESPONSES,
        {
            "input_tokens": 81,
            "input_tokens_details": {"cached_tokens": 70, "cache_write_tokens": 3},
            "output_tokens": 1035,
            "output_tokens_details": {"reasoning_tokens": 832},
            "total_tokens": 1116,
        },
        Usage(
            input_tokens=81,
            output_tokens=1035,
            cached_input_tokens=70,
            cache_write_tokens=3,
            reasoning_tokens=832,
        ),
    ),
    "anthropic with cache": (
        Endpoint.MESSAGES,
        ANTHROPIC,
        Usage(
            input_tokens=189107,
            output_tokens=393,
            cached_input_tokens=1000,
            cache_write_tokens=188086,
            cache_write_1h_tokens=86,
            reasoning_tokens=100,
        ),
    ),
    "anthropic with the parts of the cache only": (
        Endpoint.MESSAGES,
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": None,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        },
        Usage(input_tokens=8, output_tokens=2, cache_write_tokens=7, cache_write_1h_tokens=4),
    ),
}


@pytest.mark.parametrize(("endpoint", "given_usage", "expected"), BODIES.values(), ids=BODIES)
def test_usage_of_a_body(endpoint, given_usage, expected):
    body = json.dumps({"id": "x", "choices": [], "usage": given_usage, "later": {"a": [1]}}).encode()
    assert usage.usage_of_body(endpoint, body) == expected


@pytest.mark.parametrize(("endpoint", "given_usage", "expected"), BODIES.values(), ids=BODIES)
def test_usage_of_an_event_is_read_like_that_of_a_body(endpoint, given_usage, expected):
    event = {"usage": given_usage}
    if endpoint is Endpoint.RESPONSES:
        event = {"type": "response.completed", "response": event}
    assert usage.usage_of_event(endpoint, json.dumps(event).encode()) == expected


def test_groq_streams_carry_it_elsewhere():
    data = b'{"choices":[],"x_groq":{"id":"req_1","usage":{"prompt_tokens":1,"completion_tokens":2}}}'
    assert usage.usage_of_event(Endpoint.CHAT, data) == Usage(input_tokens=1, output_tokens=2)


COUNTS = (Endpoint.COUNT_TOKENS, Endpoint.INPUT_TOKENS)


@pytest.mark.parametrize("endpoint", [e for e in Endpoint if e not in COUNTS])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"usage":null}',
        b'{"usage":7}',
        b'{"usage":{"prompt_tokens":"many","input_tokens":[]}}',
        b"<html>",
    ],
)
def test_no_usage_is_none_and_never_an_error(endpoint, body):
    assert usage.usage_of_body(endpoint, body) is None
    assert usage.usage_of_event(endpoint, body) is None


def test_every_member_may_be_null():
    for endpoint in (Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES):
        for members in (OPENAI, ANTHROPIC, BODIES["responses"][1]):
            body = json.dumps({"usage": dict.fromkeys(members)}).encode()
            assert usage.usage_of_body(endpoint, body) == Usage()


@pytest.mark.parametrize("endpoint", COUNTS)
def test_counting_tokens_uses_none(endpoint):
    assert usage.usage_of_body(endpoint, b'{"input_tokens":14}') == Usage()


def read(*events):
    merged = None
    for event in events:
        found = usage.usage_of_event(Endpoint.MESSAGES, json.dumps(event).encode())
        if found is not None:
            merged = found if merged is None else usage.merge(merged, found)
    return merged


START = {"type": "message_start", "message": {"usage": {**ANTHROPIC, "output_tokens": 1}}}


def test_an_anthropic_stream_tells_input_first_and_output_last():
    merged = read(START, {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 393}})
    assert merged == BODIES["anthropic with cache"][2]


def test_totals_replace_each_other_and_are_not_added():
    merged = read(
        START, {"type": "message_delta", "usage": ANTHROPIC}, {"type": "message_delta", "usage": ANTHROPIC}
    )
    assert merged == BODIES["anthropic with cache"][2]


def test_input_that_grows_during_the_answer_counts_once():
    later = {"input_tokens": 500, "output_tokens": 9, "cache_read_input_tokens": 2000}
    merged = read(START, {"type": "message_delta", "usage": later})
    assert merged.input_tokens == 500 + 2000 + 188086
    assert merged.cached_input_tokens == 2000


def test_events_without_usage_say_nothing():
    assert read({"type": "ping"}, {"type": "content_block_delta", "delta": {"text": "x"}}) is None


@given(st.integers(0, 10**9))
def test_an_estimate_is_rounded_up_to_whole_tokens(size):
    assert 4 * usage.estimate_tokens(size) >= size > 4 * (usage.estimate_tokens(size) - 1)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("12345678", 1), ("123456789", 2), ("x" * 400, 100)]
)
def test_a_short_delta_is_one_token_whatever_its_length(text, tokens):
    assert usage.tokens_of_delta(text) == tokens


def frame(event):
    return sse.encode(json.dumps(event).encode())


def chunk(**delta):
    return frame({"choices": [{"index": 0, "delta": delta}]})


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}

STREAMS = {
    "chat": (
        Endpoint.CHAT,
        [
            chunk(role="assistant", content=""),
            chunk(reasoning_content="hm"),
            chunk(reasoning="hm", reasoning_content="hm"),
            chunk(content="Hi"),
            chunk(content=None, refusal="no"),
            chunk(tool_calls=[CALL]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"'}}, {"index": 1}]),
            frame({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
            frame({"choices": [], "usage": OPENAI}),
            b"data: [DONE]\n\n",
            b": comment\n\n",
            b"data: {broken\n\n",
            frame({"choices": [{"delta": {"content": 7}}]}),
        ],
        5,
    ),
    "completions": (Endpoint.COMPLETIONS, [frame({"choices": [{"text": "Hi"}, {"text": "x" * 40}]})], 11),
    "messages": (
        Endpoint.MESSAGES,
        [
            frame(START),
            frame({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}),
            *[
                frame({"type": "content_block_delta", "delta": delta})
                for delta in (
                    {"type": "text_delta", "text": "Hi"},
                    {"type": "thinking_delta", "thinking": "hm"},
                    {"type": "input_json_delta", "partial_json": "{"},
                    {"type": "input_json_delta", "partial_json": ""},
                    {"type": "signature_delta", "signature": "x" * 300},
                )
            ],
            frame(
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
            ),
        ],
        3,
    ),
    "responses": (
        Endpoint.RESPONSES,
        [
            frame({"type": "response.output_text.delta", "delta": "Hi"}),
            frame({"type": "response.function_call_arguments.delta", "delta": "{"}),
            frame({"type": "response.output_text.done", "text": "Hi"}),
            frame({"type": "response.completed", "response": {"output": []}}),
        ],
        2,
    ),
}


@pytest.mark.parametrize(("endpoint", "frames", "tokens"), STREAMS.values(), ids=STREAMS)
def test_tokens_of_a_broken_stream_are_counted_from_its_deltas(endpoint, frames, tokens):
    assert usage.output_tokens_in(endpoint, frames) == tokens


# ---- plain answers that broke off ----

LONG = "word " * 100  # 500 bytes, 125 tokens


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "chatcmpl-1", "choices": [{"index": 0, "message": {"role": "assistant", "content": LONG}}]},
        {"id": "cmpl-1", "choices": [{"index": 0, "text": LONG}]},
        {"id": "msg_1", "type": "message", "content": [{"type": "text", "text": LONG}]},
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": LONG}]}]},
        {"choices": [{"message": {"content": None, "reasoning_content": LONG}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": LONG}}]}}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_of_part_of_an_answer_only_what_the_model_wrote_counts(answer, indent):
    whole = json.dumps(answer, indent=indent).encode()
    assert usage.output_tokens_in_part(whole[:-1]) == 125
    assert usage.output_tokens_in_part(whole[: whole.index(b"word") + 250]) == 63


@pytest.mark.parametrize(("text", "tokens"), [('"' * 40, 10), ("\n" * 40, 10), ("é" * 40, 10)])
def test_an_escape_is_one_character(text, tokens):
    assert usage.output_tokens_in_part(b'{"text":' + json.dumps(text).encode()) == tokens


def test_an_escape_that_was_cut_does_no_harm():
    assert usage.output_tokens_in_part(b'{"text":"four\\') == 1
    assert usage.output_tokens_in_part(b'{"text":"four\\u00') == 2


def test_where_no_text_can_be_found_the_size_must_do():
    assert usage.output_tokens_in_part(b"x" * 40) == 10
    assert usage.output_tokens_in_part(b"") == 0


@pytest.mark.parametrize(
    ("details", "part"),
    [
        ("prompt_tokens_details", "cached_tokens"),
        ("prompt_tokens_details", "cache_write_tokens"),
        ("prompt_tokens_details", "audio_tokens"),
        ("completion_tokens_details", "reasoning_tokens"),
        ("completion_tokens_details", "audio_tokens"),
    ],
)
def test_a_part_far_above_its_whole_is_no_figure_but_one_that_is_counted_beside_it_is(details, part):
    def told(tokens):
        figures = {"prompt_tokens": 5, "completion_tokens": 7, details: {part: tokens}}
        return usage.usage_of_body(Endpoint.CHAT, json.dumps({"usage": figures}).encode())

    assert told(90_000) is not None
    assert told(2**30) is None


def test_what_a_stream_that_broke_has_told_of_its_prompt_is_not_counted_by_us():
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 1234, "output_tokens": 1}}}
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "four tokens or so"}}
    frames = [b"data: %b\n\n" % json.dumps(each).encode() for each in (start, delta)]

    def counted():
        raise AssertionError("nobody need count it")

    found = usage.usage_in(Endpoint.MESSAGES, frames, counted)
    assert (found.input_tokens, found.estimated) == (1234, True)
    assert found.output_tokens >= 1
