"""Reading on in an upstream's own run of an answer."""

import json

import pytest

from penstock.upstream.run import of_generation, of_response
from penstock.wire import sse


def created(name):
    response = {"id": name, "background": True}
    event = {"type": "response.created", "sequence_number": 0, "response": response}
    return [sse.encode(json.dumps(event).encode(), "response.created")]


def test_a_run_is_read_on_by_its_name():
    assert of_response(created("resp_1a-B")).target == "/v1/responses/resp_1a-B?stream=true&starting_after=0"
    assert "gen_1" in repr(of_generation(b"gen_1"))


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../x", "a?b", "a b", "a HTTP/1.1\r\nhost: elsewhere\r\n\r\n", "a\nb", "a\n", "ä", "x" * 300],
)
def test_what_is_no_name_gets_into_no_request(name):
    assert of_response(created(name)) is None
    assert of_generation(name.encode("utf-8")) is None
