"""A response asked of upstreams that have only chat completions, or only Anthropic's messages."""

import json

import pytest

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import Dialect, Endpoint
from penstock.wire.translate import translation
from penstock.wire.unfold import unfold

BODY = {
    "model": "alias",
    "instructions": "Be brief",
    "input": "hi",
    "metadata": {"a": "b"},
    "max_output_tokens": 50,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "real",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "real",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


def frame(data, event=""):
    named = f"event: {event}\n" if event else ""
    return f"{named}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def chunk(delta, finish=None):
    return frame(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 5,
            "model": "real",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


STREAMS = {
    Dialect.OPENAI: [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        frame({"choices": [], "usage": CHAT["usage"]}),
        frame("[DONE]"),
    ],
    Dialect.ANTHROPIC: [
        frame(
            {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
            "message_start",
        ),
        frame(
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            "content_block_start",
        ),
        frame(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
            "content_block_delta",
        ),
        frame({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        frame(
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            "message_delta",
        ),
        frame({"type": "message_stop"}, "message_stop"),
    ],
}
BODIES = {Dialect.OPENAI: CHAT, Dialect.ANTHROPIC: MESSAGE}


def translated(dialect, name="gen_00ff", **members):
    body = json.dumps({**BODY, **members}).encode()
    return body, translation(Endpoint.RESPONSES, dialect, body, name)


@pytest.fixture(params=[Dialect.OPENAI, Dialect.ANTHROPIC])
def dialect(request):
    return request.param


def test_the_upstream_is_asked_in_its_own_dialect(dialect):
    body, way = translated(dialect)
    asked = json.loads(way.request(body, "real"))
    assert asked["model"] == "real"
    if dialect is Dialect.OPENAI:
        assert way.endpoint is Endpoint.CHAT
        assert [message["role"] for message in asked["messages"]] == ["system", "user"]
        assert asked["tools"][0]["function"]["name"] == "f"
        assert 50 in (asked.get("max_completion_tokens"), asked.get("max_tokens"))
    else:
        assert way.endpoint is Endpoint.MESSAGES
        assert "Be brief" in json.dumps(asked["system"])
        assert asked["tools"][0]["name"] == "f"
        assert asked["max_tokens"] == 50


def test_the_answer_repeats_the_request_and_bears_the_generations_id(dialect):
    _, way = translated(dialect)
    response = json.loads(way.answer(json.dumps(BODIES[dialect]).encode(), "alias", created=9))
    assert response["id"] == "resp_00ff"
    assert response["model"] == "alias"
    assert response["created_at"] == (5 if dialect is Dialect.OPENAI else 9)
    assert response["output"][0]["id"] == "msg_00ff_0"
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"]["total_tokens"] == 4
    for name in ("instructions", "metadata", "max_output_tokens", "tools"):
        assert response[name] == BODY[name]


def test_a_stream_says_the_same(dialect):
    _, way = translated(dialect)
    stream = way.stream("alias", created=9)
    frames = [out for got in STREAMS[dialect] for out in stream.feed(got)] + stream.close()
    assert stream.finished
    events = [json.loads(out.split(b"data: ", 1)[1]) for out in frames]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    plain = json.loads(way.answer(json.dumps(BODIES[dialect]).encode(), "alias", created=9))
    assert events[-1]["response"] == plain


def test_an_answer_to_another_call_has_other_ids(dialect):
    answer = json.dumps(BODIES[dialect]).encode()
    ids = {
        json.loads(translated(dialect, f"gen_{n}")[1].answer(answer, "m"))["output"][0]["id"]
        for n in range(3)
    }
    assert len(ids) == 3


@pytest.mark.parametrize("members", [{"reasoning": 5}, {"reasoning": {"summary": "long"}}, {"tools": 7}])
def test_what_is_malformed_is_refused_as_a_request_and_not_before(dialect, members):
    body, way = translated(dialect, **members)
    way.stream("alias")
    with pytest.raises(BadRequest) as caught:
        way.request(body, "real")
    assert caught.value.param.split(".")[0] in members


def test_what_the_upstreams_dialect_cannot_say_is_refused():
    body, way = translated(Dialect.ANTHROPIC, include=["message.output_text.logprobs"])
    with pytest.raises(Untranslatable):
        way.request(body, "real")


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_of_a_function_in_a_namespace_says_so(dialect, streamed):
    group = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "close"}]}
    body = json.dumps({**BODY, "tools": [group, {"type": "function", "name": "agents__f"}]}).encode()
    made = translation(Endpoint.RESPONSES, dialect, body, "gen_1")
    calls = []
    for name in ("agents__close", "agents__f"):
        if dialect is Dialect.ANTHROPIC:
            content = [{"type": "tool_use", "id": "c", "name": name, "input": {}}]
            answer = {**MESSAGE, "content": content, "stop_reason": "tool_use"}
        else:
            call = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            answer = {**CHAT, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
        if streamed:
            stream = made.stream("alias")
            endpoint = Endpoint.MESSAGES if dialect is Dialect.ANTHROPIC else Endpoint.CHAT
            given = unfold(endpoint, json.dumps(answer).encode(), include_usage=True)
            frames = [written for each in given for written in stream.feed(each)]
            items = [
                json.loads(each.split(b"data: ")[1])["item"] for each in frames if b"output_item." in each
            ]
            assert {item["name"] for item in items} == {items[0]["name"]}
            calls.append(items[-1])
        else:
            calls += json.loads(made.answer(json.dumps(answer).encode(), "alias"))["output"]
    assert [(call.get("namespace"), call["name"]) for call in calls] == [
        ("agents", "close"),
        (None, "agents__f"),
    ]
