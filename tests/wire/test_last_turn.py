import json

import pytest

from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import request
from penstock.wire.last_turn import last_turn


def a_call(body, endpoint=Endpoint.CHAT):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    opening = request.read(endpoint, body)
    return Call("gen_x", endpoint, opening.model, False, opening.fields, body, {}, 0.0, Tenant())


def chat(*turns, **more):
    return {"model": "m", "messages": list(turns), **more}


USER = {"role": "user", "content": "What is this?"}


@pytest.mark.parametrize("content", ["What is this?", [{"type": "text", "text": "What is this?"}]])
def test_the_text_is_taken_out_and_all_else_stays(content):
    earlier = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    turn = last_turn(a_call(chat(*earlier, {"role": "user", "content": content, "name": "n"}, top_p=0.5)))
    assert turn.text == "What is this?"
    left = json.loads(bytes(turn.rest["messages"]))
    assert left[:2] == earlier
    assert left[2]["name"] == "n"
    assert "What" not in json.dumps(left)
    assert bytes(turn.rest["top_p"]) == b"0.5"


def test_two_questions_that_differ_in_their_last_text_alone_leave_the_same():
    one, other = (last_turn(a_call(chat({"role": "user", "content": text}))) for text in ("one", "other"))
    assert one.rest == other.rest
    string, parts = (
        last_turn(a_call(chat({"role": "user", "content": content})))
        for content in ("one", [{"type": "text", "text": "one"}])
    )
    assert string.rest != parts.rest


@pytest.mark.parametrize("value", ["What is this?", [{"role": "user", "content": "What is this?"}]])
def test_a_response_has_its_text_as_input(value):
    turn = last_turn(a_call({"model": "m", "input": value}, Endpoint.RESPONSES))
    assert turn.text == "What is this?"


@pytest.mark.parametrize(
    "body",
    [
        chat(),
        chat({"role": "assistant", "content": "x"}),
        chat({"role": "user", "content": " "}),
        chat({"role": "user", "content": None}),
        chat({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        chat({"role": "user", "content": [{"type": "text", "text": 3}]}),
        chat("x"),
        chat(USER, tools=[]),
        chat(USER, functions=[]),
        chat(USER, n=2),
        chat(USER, logprobs=True),
        chat(USER, response_format={"type": "json_object"}),
        chat(USER, guided_json={}),
        b'{"model":"m","messages":[{"role":"user","content":"a","content":"b"}]}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}]}',
    ],
    ids=lambda body: str(body)[:60],
)
def test_what_is_more_than_a_text_has_none(body):
    assert last_turn(a_call(body)) is None


def test_endpoints_without_turns_have_none():
    assert last_turn(a_call({"model": "m", "input": "x"}, Endpoint.EMBEDDINGS)) is None
    assert last_turn(a_call({"model": "m", "prompt": "x"}, Endpoint.COMPLETIONS)) is None
