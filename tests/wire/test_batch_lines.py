"""Lines of batches: what is one, what is wrong with the others, and what comes back."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.messages import Endpoint
from penstock.wire.batch import (
    MAX_CUSTOM_ID,
    Done,
    Fault,
    Line,
    answered_line,
    done,
    read_line,
    result_id,
    unanswered_line,
)

RIGHT = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}


def asked(**changes):
    line = {**RIGHT, **changes}
    return json.dumps({name: value for name, value in line.items() if value is not ...}).encode()


def test_a_body_goes_through_as_it_was_written():
    text = (
        b'{"body": {"model" : "m",  "x":1e2}, "custom_id":"a","method":"POST","url":"/v1/chat/completions"}\n'
    )
    assert read_line(text, Endpoint.CHAT) == Line("a", b'{"model" : "m",  "x":1e2}')


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b'{"custom_id":', "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (asked(custom_id=...), "missing_required_parameter", "custom_id"),
        (asked(custom_id=7), "missing_required_parameter", "custom_id"),
        (asked(custom_id=""), "invalid_request", "custom_id"),
        (asked(custom_id="x" * (MAX_CUSTOM_ID + 1)), "invalid_request", "custom_id"),
        (asked(method=...), "missing_required_parameter", "method"),
        (asked(method="GET"), "invalid_method", "method"),
        (asked(url="/v1/embeddings"), "url_mismatch", "url"),
        (asked(url="https://elsewhere/v1/chat/completions"), "url_mismatch", "url"),
        (asked(body=...), "missing_required_parameter", "body"),
        (asked(body=[]), "invalid_request", "body"),
        (asked(body=None), "invalid_request", "body"),
        (asked(body={"stream": True}), "invalid_request", "body.stream"),
        (asked(body={"stream": "yes"}), "invalid_request", "body.stream"),
        (asked(body={"background": True}), "invalid_request", "body.background"),
    ],
)
def test_what_is_wrong_is_told(text, code, param):
    fault = read_line(text, Endpoint.CHAT)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.param) == (code, param)


@pytest.mark.parametrize("mode", [{"stream": False}, {"stream": None}, {"background": False}])
def test_what_says_no_to_streaming_is_right(mode):
    assert isinstance(read_line(asked(body={"model": "m", **mode}), Endpoint.CHAT), Line)


def test_the_last_stream_of_two_counts_as_it_does_in_the_pipeline():
    text = asked().replace(b'{"model": "m"}', b'{"stream": false, "stream": true}')
    assert isinstance(read_line(text, Endpoint.CHAT), Fault)


@given(st.text(max_size=50).filter(lambda text: text.isprintable()), st.binary(max_size=200))
@example("", b'"\x80"')
def test_a_result_is_one_line_whatever_the_answer_is(custom_id, body):
    text = answered_line("batch_1", custom_id, 200, "gen_1", body)
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    read = json.loads(text)
    assert (read["custom_id"], read["error"]) == (custom_id, None)
    assert done(text) == Done(custom_id, run=True)


def test_an_answer_keeps_its_value():
    answer = {"text": "two\nlines", "n": [1, 2.5, None]}
    for body in (json.dumps(answer), json.dumps(answer, indent=2), json.dumps(answer, indent="\r\n")):
        read = json.loads(answered_line("b", "c", 200, "gen_1", body.encode()))
        assert read["response"] == {"status_code": 200, "request_id": "gen_1", "body": answer}


def test_an_answer_that_is_no_json_is_kept_as_text():
    read = json.loads(answered_line("b", "c", 502, "", b"<html>\xff"))
    assert read["response"]["body"] == "<html>\ufffd"


def test_what_was_never_answered_has_an_error_instead():
    read = json.loads(unanswered_line("b", "c", "batch_expired", "too late"))
    assert read["response"] is None
    assert read["error"] == {"code": "batch_expired", "message": "too late"}


def test_a_result_has_the_same_id_whenever_it_is_made_and_another_in_another_batch():
    assert result_id("b", "c") == result_id("b", "c")
    assert len({result_id("b", "c"), result_id("b", "d"), result_id("a", "c")}) == 3


@pytest.mark.parametrize("torn", [b"", b'{"custom_id":"a"', b"\x00\x00\x00", b'{"id":"x"}', b"null"])
def test_a_line_that_was_not_written_to_its_end_is_not_done(torn):
    assert done(torn) is None
