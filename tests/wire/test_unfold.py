"""Plain answers as streams; the SDKs must read the same answer in both."""

import json

import pydantic
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from streams import BODIES, as_sdk_folds, bare, json_values, recut, simulated

from penstock.errors import PenstockError, UpstreamBroken
from penstock.messages import Endpoint, Usage
from penstock.wire import sse
from penstock.wire.fold import fold
from penstock.wire.progress import progress
from penstock.wire.unfold import unfold

STREAMING = [endpoint for endpoint in Endpoint if endpoint.streams]
FOLDED_BY_AN_SDK = [Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES]
EVENTS = {
    Endpoint.CHAT: pydantic.TypeAdapter(ChatCompletionChunk),
    Endpoint.MESSAGES: pydantic.TypeAdapter(RawMessageStreamEvent),
    Endpoint.RESPONSES: pydantic.TypeAdapter(ResponseStreamEvent),
}
USAGE = Usage(input_tokens=5, output_tokens=7)


def encoded(body):
    return json.dumps(body, ensure_ascii=False).encode()


def payloads(frames):
    return [json.loads(data) for frame in frames if (data := sse.fields(frame).data) != b"[DONE]"]


def drawn(endpoints):
    return st.sampled_from(endpoints).flatmap(lambda one: st.tuples(st.just(one), BODIES[one]))


@settings(max_examples=300, deadline=None)
@given(drawn(STREAMING), st.integers(1, 5))
def test_what_is_unfolded_folds_to_the_same_answer(case, size):
    endpoint, body = case
    frames = unfold(endpoint, encoded(body), include_usage=True)
    assert json.loads(fold(endpoint, frames)) == body
    assert json.loads(fold(endpoint, recut(frames, size))) == body


@settings(max_examples=200, deadline=None)
@given(drawn(FOLDED_BY_AN_SDK))
def test_the_sdk_reads_the_same_answer_from_the_stream(case):
    endpoint, body = case
    frames = unfold(endpoint, encoded(body), include_usage=True)
    assert bare(as_sdk_folds(endpoint, frames)) == bare(body)


@settings(max_examples=100, deadline=None)
@given(drawn([Endpoint.CHAT, Endpoint.MESSAGES]), st.integers(1, 5))
def test_the_sdk_and_we_put_the_same_pieces_together(case, size):
    endpoint, body = case
    frames = recut(unfold(endpoint, encoded(body), include_usage=True), size)
    assert bare(as_sdk_folds(endpoint, frames)) == bare(json.loads(fold(endpoint, frames)))


@settings(max_examples=100, deadline=None)
@given(drawn(STREAMING))
def test_each_event_is_one_of_the_api_and_the_stream_is_complete(case):
    endpoint, body = case
    frames = unfold(endpoint, encoded(body), include_usage=True)
    watch = progress(endpoint)
    watch.take(frames, [])
    assert watch.complete
    for frame in frames:
        fields = sse.fields(frame)
        if fields.data != b"[DONE]" and endpoint in EVENTS:  # the SDK's completion cannot be a chunk
            EVENTS[endpoint].validate_json(fields.data)
            if endpoint in {Endpoint.MESSAGES, Endpoint.RESPONSES}:
                assert json.loads(fields.data)["type"] == fields.event


@pytest.mark.parametrize("endpoint", STREAMING)
@pytest.mark.parametrize(
    ("script", "more"), [("", {}), ("thinking", {}), ("tool,parallel=2", {"tools": True})]
)
def test_the_simulators_plain_answer_comes_back(endpoint, script, more):
    body, _ = simulated(endpoint, script, **more)
    assert json.loads(fold(endpoint, unfold(endpoint, body, include_usage=True))) == json.loads(body)


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_the_usage_chunk_comes_only_for_those_who_asked(endpoint):
    body, _ = simulated(endpoint)
    without = payloads(unfold(endpoint, body, include_usage=False))
    with_usage = payloads(unfold(endpoint, body, include_usage=True))
    assert with_usage[:-1] == without
    assert all("usage" not in chunk for chunk in without)
    assert with_usage[-1]["choices"] == []
    assert with_usage[-1]["usage"] == json.loads(body)["usage"]


@pytest.mark.parametrize("endpoint", STREAMING)
def test_usage_that_the_body_does_not_tell_is_taken_from_the_log(endpoint):
    body = json.loads(simulated(endpoint)[0])
    del body["usage"]
    events = unfold(endpoint, encoded(body), include_usage=True, usage=USAGE)
    watch = progress(endpoint)
    watch.take(events, [])
    assert watch.usage == USAGE


def test_the_role_comes_first_and_a_tools_name_before_its_arguments():
    body, _ = simulated(Endpoint.CHAT, "tool,parallel=2", tools=True)
    deltas = [
        chunk["choices"][0]["delta"] for chunk in payloads(unfold(Endpoint.CHAT, body, include_usage=False))
    ]
    assert deltas[0]["role"] == "assistant"
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [call["index"] for call in calls] == [0, 0, 1, 1]
    assert ["name" in call["function"] for call in calls] == [True, False, True, False]
    assert deltas[-1] == {}


def test_the_events_of_a_message_come_in_anthropics_order():
    body, _ = simulated(Endpoint.MESSAGES, "thinking")
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    signed = ["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"]
    assert [event["type"] for event in payloads(unfold(Endpoint.MESSAGES, body, include_usage=False))] == [
        "message_start",
        *signed,
        *block,
        "message_delta",
        "message_stop",
    ]


def test_members_that_servers_have_added_are_told_once():
    body = {**json.loads(simulated(Endpoint.CHAT)[0]), "x_added": 1}
    found = payloads(unfold(Endpoint.CHAT, encoded(body), include_usage=True))
    assert [chunk.get("x_added") for chunk in found] == [1, *[None] * (len(found) - 1)]


def test_a_message_begins_with_nothing_said_and_nothing_made():
    body = {**json.loads(simulated(Endpoint.MESSAGES)[0]), "container": {"id": "c"}}
    first, *_, last, _ = payloads(unfold(Endpoint.MESSAGES, encoded(body), include_usage=False))
    begun = first["message"]
    assert (begun["content"], begun["stop_reason"], begun["container"]) == ([], None, None)
    assert begun["usage"]["output_tokens"] == 0
    assert last["delta"]["container"] == {"id": "c"}
    assert last["usage"]["output_tokens"] == body["usage"]["output_tokens"]


@pytest.mark.parametrize("script", ["", "thinking", "tool,parallel=2"])
def test_an_item_is_announced_empty_and_in_progress(script):
    body, streamed = simulated(Endpoint.RESPONSES, script, tools=script.startswith("tool"))
    for kind in ("response.output_item.added", "response.content_part.added"):
        ours, theirs = (
            [event for event in payloads(frames) if event["type"] == kind]
            for frames in (unfold(Endpoint.RESPONSES, body, include_usage=False), streamed)
        )
        for one, other in zip(ours, theirs, strict=True):
            assert {**one, "sequence_number": 0} == {**other, "sequence_number": 0}


@pytest.mark.parametrize("script", ["", "thinking", "tool,parallel=2"])
def test_a_response_has_the_events_of_the_providers_stream_in_its_order(script):
    body, streamed = simulated(Endpoint.RESPONSES, script, tools=script.startswith("tool"))

    def told_once(frames):
        kinds = [sse.fields(frame).event for frame in frames]
        return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]

    ours = unfold(Endpoint.RESPONSES, body, include_usage=False)
    assert told_once(ours) == told_once(streamed)
    assert [event["sequence_number"] for event in payloads(ours)] == list(range(len(ours)))


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, b""),
        (Endpoint.CHAT, b"[]"),
        (Endpoint.CHAT, b"{}"),
        (Endpoint.CHAT, b'{"choices":[1]}'),
        (Endpoint.CHAT, b'{"choices":[{"finish_reason":"stop"}]}'),
        (Endpoint.CHAT, b'{"choices":[{"finish_reason":null,"message":{}}]}'),
        (Endpoint.CHAT, b'{"choices":[{"finish_reason":"stop","message":{"tool_calls":[1]}}]}'),
        (Endpoint.CHAT, b'{"choices":' + b"[" * 100_000),
        (Endpoint.COMPLETIONS, b'{"choices":[{"text":"a"}]}'),
        (Endpoint.MESSAGES, b'{"content":[]}'),
        (Endpoint.MESSAGES, b'{"content":[1],"stop_reason":"end_turn"}'),
        (Endpoint.MESSAGES, b'{"content":{},"stop_reason":"end_turn"}'),
        (Endpoint.RESPONSES, b'{"status":"in_progress","output":[]}'),
        (Endpoint.RESPONSES, b'{"status":"queued"}'),
        (Endpoint.RESPONSES, b'{"output":[1]}'),
        (Endpoint.RESPONSES, b'{"output":[{"type":"message","content":[1]}]}'),
    ],
)
def test_what_is_no_whole_answer_is_refused(endpoint, body):
    with pytest.raises(UpstreamBroken):
        unfold(endpoint, body, include_usage=True)


@settings(max_examples=500, deadline=None)
@given(json_values, json_values)
def test_whatever_an_upstream_makes_up_is_a_stream_or_a_clear_error(one, other):
    choice = {"index": 0, "message": one, "logprobs": other, "finish_reason": "stop"}
    bodies = {
        Endpoint.CHAT: {"choices": [choice, other], "usage": one},
        Endpoint.COMPLETIONS: {"choices": [{**choice, "text": one}], "usage": other},
        Endpoint.MESSAGES: {"content": [{"type": "text", "text": one}, other], "stop_reason": "end_turn"},
        Endpoint.RESPONSES: {"output": [{"type": "message", "content": [one]}, other], "usage": one},
    }
    for endpoint, body in bodies.items():
        try:
            frames = unfold(endpoint, encoded(body), include_usage=True, usage=USAGE)
            json.loads(fold(endpoint, frames, usage=USAGE))
        except PenstockError:
            pass


def test_members_that_look_like_ours_do_no_harm():
    choice = {
        "index": 0,
        "message": {"content": "a", "self": 1},
        "finish_reason": "stop",
        "body": 1,
        "end": 2,
    }
    body = {"choices": [choice], "frames": 3, "more": 4}
    folded = json.loads(fold(Endpoint.CHAT, unfold(Endpoint.CHAT, encoded(body), include_usage=False)))
    assert folded["choices"][0]["message"] == {"role": "assistant", "content": "a", "self": 1}
    assert (folded["choices"][0]["body"], folded["choices"][0]["end"]) == (1, 2)
    assert (folded["frames"], folded["more"]) == (3, 4)


@pytest.mark.parametrize("endpoint", [Endpoint.EMBEDDINGS, Endpoint.COUNT_TOKENS])
def test_an_endpoint_that_does_not_stream_is_a_mistake(endpoint):
    with pytest.raises(ValueError, match="does not stream"):
        unfold(endpoint, b"{}", include_usage=False)
