"""A body of many requests: cut where they end, whatever stands in them and wherever it is torn."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest, BodyTooLarge
from penstock.messages import Endpoint
from penstock.wire.batch import Done, done, read_line
from penstock.wire.message_batch import RequestReader, answered_line, unanswered_line

PARAMS = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
ID = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def body_of(*requests, **more):
    return json.dumps({"requests": list(requests), **more}).encode()


def request(custom_id="a", **params):
    return {"custom_id": custom_id, "params": {**PARAMS, **params}}


def read(body, *, step=0, most=1_000, longest=100_000):
    """What the lines say, and how many the reader counted."""
    reader = RequestReader(most=most, longest=longest)
    pieces = [body[at : at + step] for at in range(0, len(body), step)] if step else [body]
    lines = b"".join(map(reader.feed, pieces))
    reader.close()
    found = [read_line(line, Endpoint.MESSAGES) for line in lines.splitlines()]
    assert reader.count == len(found)
    return [(line.custom_id, json.loads(line.body)) for line in found]


@given(
    st.dictionaries(ID, st.dictionaries(st.text(), VALUE, max_size=4), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_every_request_is_found_however_the_body_comes(wanted, step):
    asked = [{"custom_id": name, "params": {**params, "stream": False}} for name, params in wanted.items()]
    expected = [(each["custom_id"], each["params"]) for each in asked]
    for body in (body_of(*asked), json.dumps({"requests": asked}, indent=2, ensure_ascii=False).encode()):
        assert read(body, step=step) == expected
        assert read(body) == expected


def test_the_order_of_a_requests_members_is_its_own():
    text = b'{ "requests" :[ {"params": {"x":"\\"}]\\\\"},"custom_id":"a"}\n, {"custom_id":"b","params":{}} ] }\r\n '
    assert read(text) == [("a", {"x": '"}]\\'}), ("b", {})]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"null" * 1_000, None),
        (b"{}", None),
        (b'{"requests": {}}', None),
        (b'{"other": 1, "requests": []}', None),
        (body_of(), "requests"),
        (body_of(1), "requests.0"),
        (b'{"requests": ["a"]}', "requests.0"),
        (body_of(request("a"), other=1), None),
        (body_of(request("a")) + b"x", None),
        (body_of(request("a"))[:-1], None),
        (body_of(request("a"))[:-20], None),
        (b'{"requests": [,]}', "requests.0"),
        (body_of(request("a"))[:-2] + b",]}", "requests.1"),
        (b'{"requests": [{"custom_id": "a", "params": {}} {}]}', None),
        (b'{"requests": [{"custom_id": "a", "params": {]}}]}', None),
        (body_of({"params": {}}), "requests.0"),
        (body_of({"custom_id": "a"}), "requests.0"),
        (body_of({"custom_id": 1, "params": {}}), "requests.0"),
        (body_of({"custom_id": "a", "params": []}), "requests.0.params"),
        (body_of({**request("a"), "url": "/v1/messages"}), "requests.0"),
        (body_of(request("")), "requests.0.custom_id"),
        (body_of(request("a/b")), "requests.0.custom_id"),
        (body_of(request("é")), "requests.0.custom_id"),
        (body_of(request("a\n")), "requests.0.custom_id"),
        (body_of(request("a" * 65)), "requests.0.custom_id"),
        (body_of(request("a"), request("b"), request("a")), "requests.2.custom_id"),
        (body_of(request("a"), request("b", stream=True)), "requests.1.params.stream"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(body, param):
    for step in (0, 1):
        with pytest.raises(BadRequest) as refused:
            read(body, step=step)
        assert refused.value.param == param


def test_as_many_requests_as_allowed_and_no_more():
    many = [request(f"c{n}") for n in range(100)]
    assert len(read(body_of(*many), most=100)) == 100
    with pytest.raises(BadRequest, match="at most 99"):
        read(body_of(*many), most=99)


def test_no_more_than_one_request_is_held_and_none_that_is_too_long():
    reader = RequestReader(most=10, longest=5_000)
    reader.feed(body_of(*(request(f"c{n}", system="x" * 4_000) for n in range(9)))[:-3])
    assert len(reader._held) < 5_000
    endless = RequestReader(most=10, longest=5_000)
    endless.feed(b'{"requests": [{"params": "')
    for _ in range(4):
        endless.feed(b"x" * 1_000)
    with pytest.raises(BodyTooLarge) as refused:
        endless.feed(b"x" * 1_000)
    assert refused.value.param == "requests.0"
    with pytest.raises(BodyTooLarge):
        read(body_of(request("a", system="x" * 5_000)), longest=5_000)


def test_results_are_anthropics():
    message = b'{\n"type": "message"\n}'
    assert json.loads(answered_line("b", "a", 200, "gen_1", message)) == {
        "custom_id": "a",
        "result": {"type": "succeeded", "message": {"type": "message"}},
    }
    refused = b'{"type":"error","error":{"type":"invalid_request_error","message":"no"},"request_id":"gen_1"}'
    assert json.loads(answered_line("b", "a", 400, "gen_1", refused))["result"] == {
        "type": "errored",
        "error": json.loads(refused),
    }
    for code, kind in (("batch_cancelled", "canceled"), ("batch_expired", "expired")):
        assert json.loads(unanswered_line("b", "a", code, "why")) == {
            "custom_id": "a",
            "result": {"type": kind},
        }


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b'"text"', b""])
def test_an_error_that_makes_no_sense_is_still_one_in_anthropics_form(body):
    told = json.loads(answered_line("b", "a", 502, "gen_1", body))["result"]["error"]
    assert (told["type"], told["error"]["type"], told["request_id"]) == ("error", "api_error", "gen_1")


def test_a_result_tells_whether_its_request_was_run():
    assert done(answered_line("b", "a", 200, "", b"{}")) == Done("a", run=True)
    assert done(answered_line("b", "a", 500, "", b"{}")) == Done("a", run=True)
    assert done(unanswered_line("b", "a", "batch_expired", "")) == Done("a", run=False)
