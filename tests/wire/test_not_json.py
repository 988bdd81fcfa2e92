"""What a caller is told of a body that is no JSON."""

import pytest

from penstock.errors import BadRequest
from penstock.messages import Endpoint
from penstock.wire import request
from penstock.wire.members import body_of


def read(body):
    return request.read(Endpoint.CHAT, body)


@pytest.mark.parametrize("reading", [read, body_of], ids=["passing through", "translating"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"[]", "the body must be a JSON object"),
        (b'{"a":', "not valid JSON"),
        (b'{"a":"\\ud8"}', "invalid character in unicode escape"),
        (b'{"a":"x \\ud800"}', r"\ud800 is half of a surrogate pair"),
        (b'{"a":"x \\uD83D y", "model":"m","messages":[]}', r"\uD83D is half of a surrogate pair"),
        (b'{"a":"x \\udc00 y"}', r"\udc00 is half of a surrogate pair"),
        (b'{"a":"\\ud83d\\ude00 \\ud801\\n"}', r"\ud801 is half of a surrogate pair"),
    ],
)
def test_the_fault_is_named(reading, body, words):
    with pytest.raises(BadRequest) as caught:
        reading(body)
    assert words in caught.value.message
    assert caught.value.code == "invalid_json"


def test_a_whole_pair_is_none():
    with pytest.raises(BadRequest) as caught:
        read(b'{"a":"\\ud83d\\ude00","model":}')
    assert "surrogate" not in caught.value.message


def test_text_that_is_not_utf_8_is_called_so():
    with pytest.raises(BadRequest, match="not UTF-8"):
        body_of(b'{"a":"\xff"}')


def test_what_is_nested_too_deeply_is_called_so():
    with pytest.raises(BadRequest, match="nested too deeply"):
        body_of(b'{"a":' + b"[" * 100_000)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5000])
def test_a_number_that_no_program_holds_is_called_so(number):
    with pytest.raises(BadRequest) as caught:
        body_of(b'{"seed":' + number + b"}")
    assert caught.value.message == "the body has a number that is out of range"
