"""Usage that says that the whole prompt came from a cache, in each API's own fields."""

import json

import pytest

from penstock.messages import Endpoint, Usage
from penstock.wire import sse
from penstock.wire.cached_usage import as_cached, told
from penstock.wire.usage import merge, usage_of_body, usage_of_event

CHAT = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
MESSAGE = {
    "input_tokens": 4,
    "cache_creation_input_tokens": 2,
    "cache_read_input_tokens": 3,
    "output_tokens": 4,
}
RESPONSE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


def of_body(endpoint, usage):
    body = json.dumps({"id": "x", "usage": usage, "more": [1, 2.50]}).encode()
    (new,) = told(endpoint, [body[:10], body[10:]], stream=False)
    found = json.loads(new)
    assert (found["id"], found["more"]) == ("x", [1, 2.5])
    assert usage_of_body(endpoint, new) == as_cached(usage_of_body(endpoint, body))
    return found["usage"]


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
@pytest.mark.parametrize(
    ("more", "details"),
    [
        ({}, {"cached_tokens": 9}),
        ({"prompt_tokens_details": None}, {"cached_tokens": 9}),
        (
            {"prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 1}},
            {"cached_tokens": 9, "audio_tokens": 1},
        ),
        ({"prompt_tokens_details": {"cache_write_tokens": 5}}, {"cached_tokens": 9, "cache_write_tokens": 0}),
    ],
)
def test_openais_has_details(endpoint, more, details):
    assert of_body(endpoint, {**CHAT, **more}) == {**CHAT, "prompt_tokens_details": details}


@pytest.mark.parametrize(
    "own",
    [
        {"prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 8},
        {"num_cached_tokens": 1},
        {"cached_tokens": 1},
    ],
)
def test_what_some_call_otherwise_says_the_same(own):
    expected = {name: 0 if "miss" in name else 9 for name in own}
    found = of_body(Endpoint.CHAT, {**CHAT, **own})
    assert {name: found[name] for name in own} == expected


def test_anthropic_counts_it_beside_the_rest():
    made = {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1}
    found = of_body(Endpoint.MESSAGES, {**MESSAGE, "cache_creation": made, "service_tier": "standard"})
    assert found == {
        "input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 9,
        "output_tokens": 4,
        "cache_creation": dict.fromkeys(made, 0),
        "service_tier": "standard",
    }


def test_a_response_has_details_too():
    found = of_body(Endpoint.RESPONSES, {**RESPONSE, "output_tokens_details": {"reasoning_tokens": 1}})
    assert found["input_tokens_details"] == {"cached_tokens": 9}
    assert found["output_tokens_details"] == {"reasoning_tokens": 1}


# ---- streams ----


def frames(endpoint, *values):
    made = [
        sse.encode(json.dumps(value).encode(), value.get("type", "")) if isinstance(value, dict) else value
        for value in values
    ]
    new = told(endpoint, made, stream=True)
    assert len(new) == len(made)
    return made, new


def test_of_openais_stream_the_chunks_that_tell_a_usage_tell_another():
    word = {"choices": [{"delta": {"content": '"usage":{"prompt_tokens":1}'}}], "usage": None}
    made, new = frames(
        Endpoint.CHAT,
        word,
        {"choices": [], "usage": CHAT},
        {"choices": [], "x_groq": {"id": "r", "usage": CHAT}},
        b"data: [DONE]\n\n",
        b": a comment\n\n",
    )
    assert [new[0], *new[3:]] == [made[0], *made[3:]]
    for old, changed in zip(made[1:3], new[1:3], strict=True):
        used = usage_of_event(Endpoint.CHAT, sse.data_of(changed))
        assert used == Usage(9, 4, 9) == as_cached(usage_of_event(Endpoint.CHAT, sse.data_of(old)))


def test_of_anthropics_stream_beginning_and_end_agree():
    beginning = {"type": "message_start", "message": {"id": "m", "usage": {**MESSAGE, "output_tokens": 1}}}
    ends = [
        {"output_tokens": 4},
        {"output_tokens": 4, "input_tokens": 0, "cache_read_input_tokens": 0},
        MESSAGE,
    ]
    for end in ends:
        _, new = frames(
            Endpoint.MESSAGES,
            beginning,
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "message_delta", "delta": {}, "usage": end},
        )
        assert new[0].startswith(b"event: message_start\ndata: {")
        first, last = (usage_of_event(Endpoint.MESSAGES, sse.data_of(new[at])) for at in (0, 2))
        assert merge(first, last) == Usage(9, 4, 9)
        assert not (end is ends[1] and "input_tokens" in json.loads(sse.data_of(new[2]))["usage"])


def test_of_a_streamed_response_the_event_that_ends_it_tells():
    made, new = frames(
        Endpoint.RESPONSES,
        {"type": "response.created", "response": {"id": "r", "usage": None}},
        {"type": "response.completed", "sequence_number": 1, "response": {"id": "r", "usage": RESPONSE}},
    )
    assert new[0] == made[0]
    ended = json.loads(sse.data_of(new[1]))
    assert ended["sequence_number"] == 1
    assert ended["response"]["usage"] == {**RESPONSE, "input_tokens_details": {"cached_tokens": 9}}


# ---- what stays ----


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[1]",
        b"{}",
        b'{"usage": null}',
        b'{"usage": 3}',
        b'{"usage": {"prompt_tokens": 0}}',
        b'{"usage": {"prompt_tokens": "many"}}',
        b'{"usage": {"prompt_tokens": true}}',
    ],
)
def test_what_tells_no_tokens_of_a_prompt_keeps_its_bytes(body):
    assert told(Endpoint.CHAT, [body], stream=False) == [body]


@pytest.mark.parametrize(
    "endpoint", [Endpoint.EMBEDDINGS, Endpoint.COUNT_TOKENS, Endpoint.INPUT_TOKENS, Endpoint.RERANK]
)
def test_where_an_api_has_no_field_for_it_nothing_changes(endpoint):
    body = b'{"usage": {"prompt_tokens": 3, "total_tokens": 3}, "input_tokens": 3}'
    assert told(endpoint, [body], stream=False) == [body]


def test_a_frame_whose_payload_has_several_lines_keeps_its_bytes():
    frame = b'data: {"usage":\ndata: {"prompt_tokens": 3}}\n\n'
    assert told(Endpoint.CHAT, [frame], stream=True) == [frame]


def test_a_usage_where_all_came_from_a_cache():
    assert as_cached(Usage(9, 4, 1, 2, 3, cache_write_1h_tokens=1)) == Usage(9, 4, 9, 0, 3)


def test_an_event_whose_data_has_several_lines_says_it_too():
    event = b'event: message_start\ndata: {"type":"message_start","message":\ndata: {"usage":{"input_tokens":9}}}\n\n'
    (new,) = told(Endpoint.MESSAGES, [event], stream=True)
    assert sse.fields(new).event == "message_start"
    usage = json.loads(sse.data_of(new))["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (0, 9)
