"""Reading on in an upstream's own run of an answer."""

import json

import pytest

from penstock.errors import UpstreamBroken, UpstreamFailed
from penstock.upstream.run import of_generation, of_log, of_response
from penstock.wire import sse


def created(name, *, background=True):
    response = {"id": name, "background": background}
    event = {"type": "response.created", "sequence_number": 0, "response": response}
    return [sse.encode(json.dumps(event).encode(), "response.created")]


def begun(name, **more):
    run = of_response()
    run.note(created(name, **more))
    return run


def test_a_run_is_read_on_by_its_name():
    run = begun("resp_1a-B")
    assert run.target == "/v1/responses/resp_1a-B?stream=true&starting_after=0"
    assert run.cancelled_at == "/v1/responses/resp_1a-B/cancel"
    assert "gen_1" in repr(of_generation(b"gen_1"))
    assert of_generation(b"gen_1").cancelled_at == "/v1/generations/gen_1/cancel?unread=true"


def test_nothing_is_to_be_had_where_nothing_was_told_or_kept_or_where_it_failed():
    assert of_response().target == of_response().cancelled_at == ""
    assert begun("resp_1", background=False).target == ""
    run = begun("resp_1")
    run.stopped([], UpstreamFailed("it failed"))
    assert run.target == run.cancelled_at == ""


def test_it_is_read_on_after_what_could_be_used():
    run = begun("resp_1")
    frames = [sse.encode(b'{"sequence_number":%d}' % number, "x") for number in (1, 2, 3)]
    run.note(frames)
    run.stopped(frames[:1], UpstreamBroken("the second makes no sense"))
    assert run.target.endswith("starting_after=1")
    run.stopped([], UpstreamBroken("nor does the first"))
    assert run.target.endswith("starting_after=0")


def test_a_log_tells_where_the_run_behind_it_is_and_how_far_it_was_read():
    later = [sse.encode(b'{"sequence_number":%d}' % number, "x") for number in (1, 2)]
    run = of_log(created("resp_1") + later)
    assert run.target == "/v1/responses/resp_1?stream=true&starting_after=2"
    assert run.note([later[1], sse.encode(b'{"sequence_number":3}', "x")]) == [
        sse.encode(b'{"sequence_number":3}', "x")
    ]
    assert of_log(created("resp_1", background=False) + later) is None
    assert of_log(created("../x")) is None
    assert of_log(later) is None


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../x", "a?b", "a b", "a HTTP/1.1\r\nhost: elsewhere\r\n\r\n", "a\nb", "a\n", "ä", "x" * 300],
)
def test_what_is_no_name_gets_into_no_request(name):
    assert begun(name).target == begun(name).cancelled_at == ""
    assert of_generation(name.encode("utf-8")) is None
