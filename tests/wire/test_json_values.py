"""Texts of too many values are refused before anybody makes them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest, UpstreamBroken
from penstock.messages import Dialect, Endpoint
from penstock.wire import converse, forms, opaque, request, sse
from penstock.wire._json_values import ALWAYS_TAKEN, MOST_ANSWERED, MOST_ASKED, holds_more
from penstock.wire.members import body_of
from penstock.wire.translate import translation
from penstock.wire.unfold import unfold

_TEXT = st.text(st.sampled_from('ab"\\{}[],:\n é'), max_size=12)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(_TEXT, inner, max_size=8),
    max_leaves=20,
)


def count(value):
    if isinstance(value, dict):
        return 1 + sum(1 + count(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    return int(isinstance(value, str))


@given(_VALUE, st.booleans())
def test_texts_objects_and_arrays_are_counted_once_and_nothing_in_texts(value, plain):
    text, number = json.dumps(value, ensure_ascii=plain).encode(), count(value)
    assert not holds_more(text, number)
    if number:
        assert holds_more(text, number - 1)


@given(st.binary(max_size=200))
def test_what_is_no_json_is_counted_somehow(text):
    assert not holds_more(text, len(text))


def body(lists, **members):
    """One that holds so many arrays, and the rest."""
    return json.dumps({"model": "m", **members, "x": [[]] * lists}).encode()


REST = {
    Endpoint.CHAT: {"messages": []},
    Endpoint.MESSAGES: {"messages": [], "max_tokens": 1},
    Endpoint.RESPONSES: {"input": "a"},
    Endpoint.EMBEDDINGS: {"input": "a"},
}


@pytest.mark.parametrize("endpoint", REST)
def test_a_request_of_too_many_is_refused_before_they_are_made(endpoint, monkeypatch):
    members = REST[endpoint]
    most = MOST_ASKED - count({"model": "m", **members, "x": []})
    assert request.read(endpoint, body(most, **members)).model == "m"
    monkeypatch.setattr("penstock.wire.request._members", lambda body: pytest.fail("they were made"))
    with pytest.raises(BadRequest, match="more than 200,000 texts, objects and arrays") as refused:
        request.read(endpoint, body(most + 1, **members))
    assert (refused.value.status, refused.value.code) == (400, "too_many_values")


@pytest.mark.parametrize(
    "read", [body_of, lambda text: opaque.read(Endpoint.MODERATIONS, {}, text)], ids=["members", "opaque"]
)
def test_so_is_what_goes_another_way(read):
    read(body(MOST_ASKED - 5))
    with pytest.raises(BadRequest, match="more than 200,000"):
        read(body(MOST_ASKED - 4))


def test_numbers_and_long_texts_are_taken_in_any_number():
    tokens = json.dumps({"model": "m", "input": [1] * ALWAYS_TAKEN}).encode()
    assert request.read(Endpoint.EMBEDDINGS, tokens)
    code = '{"a": [{}, {}]}\\\n' * MOST_ASKED
    assert request.read(Endpoint.CHAT, json.dumps({"model": "m", "messages": [code]}).encode())


def chat_answer(lists):
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    told = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    used = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps({**told, "usage": used, "x": [[]] * lists}).encode()


def converse_answer(lists):
    message = {"role": "assistant", "content": [{"text": "a"}]}
    used = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    told = {"output": {"message": message}, "stopReason": "end_turn", "usage": used}
    return json.dumps({**told, "x": [[]] * lists}).encode()


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (chat_answer, lambda text: translation(Endpoint.MESSAGES, Dialect.OPENAI).answer(text, "m")),
        (chat_answer, lambda text: unfold(Endpoint.CHAT, text, include_usage=True)),
        (converse_answer, lambda text: converse.message_of(text, "m", "gen_1")),
        (chat_answer, lambda text: sse.Splitter().feed(sse.encode(text))),
        (chat_answer, lambda text: feed_in_pieces(sse.Splitter(), sse.encode(text))),
    ],
    ids=["translated", "unfolded", "of Converse", "event", "event in pieces"],
)
def test_an_answer_of_too_many_is_none(answer, read):
    least = count(json.loads(answer(0)))
    read(answer(MOST_ANSWERED - least))
    with pytest.raises(UpstreamBroken, match="more than 500,000 texts, objects and arrays"):
        read(answer(MOST_ANSWERED - least + 1))


def feed_in_pieces(splitter, frame):
    return [splitter.feed(frame[at : at + 65_536]) for at in range(0, len(frame), 65_536)]


def test_such_an_answer_stays_json_for_who_wants_messagepack():
    assert forms.answer_in(chat_answer(100), forms.Form.MSGPACK)
    assert forms.answer_in(chat_answer(MOST_ANSWERED), forms.Form.MSGPACK) is None
