"""What the control port reads of a body, and from whom."""

import asyncio
import json

import pytest

from penstock.admin.bodies import MOST_BYTES, BodiesBounded

EXPLAINED = 100_000
KEYED = ("authorization", "Bearer right")


def asked(path, pieces, *fields, length=None):
    """Status of the answer, the body that the application got, how many pieces were read, and the answer."""
    read, sent, got = [], [], []
    told = {"content-length": str(sum(map(len, pieces)) if length is None else length)}
    if length == "":
        told = {"transfer-encoding": "chunked"}
    headers = [(name.encode(), value.encode()) for name, value in [*told.items(), *fields]]

    async def application(scope, receive, send):
        more = True
        while more:
            message = await receive()
            got.append(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        read.append(None)
        if len(read) > len(pieces):
            return {"type": "http.disconnect"}
        more = len(read) < len(pieces)
        return {"type": "http.request", "body": pieces[len(read) - 1], "more_body": more}

    async def send(message):
        sent.append(message)

    bounded = BodiesBounded(
        application, lambda value: value == b"Bearer right", lambda: EXPLAINED, lambda: "box:8080"
    )
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(bounded(scope, receive, send))
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], b"".join(got), len(read), answer


def ask(*args, **more):
    return asked(*args, **more)[:3]


@pytest.mark.parametrize("length", [None, ""], ids=["told", "chunked"])
def test_a_body_that_may_come_comes_whole(length):
    assert ask("/v1/reload", [b"a", b"b", b"c"], KEYED, length=length) == (200, b"abc", 3)
    large = [b"x" * EXPLAINED] * 2
    assert ask("/v1/explain", large, KEYED, length=length) == (200, b"".join(large), 2)


@pytest.mark.parametrize("length", [None, "", "-1", "x"])
def test_a_body_that_is_too_large_is_not_read_on(length):
    for path, most in (("/v1/reload", MOST_BYTES), ("/healthz", MOST_BYTES), ("/v1/explain", 300_000)):
        status, body, read = ask(path, [b"x" * 10_000] * 1_000, KEYED, length=length)
        assert (status, body) == (413, b"")
        assert read <= most // 10_000 + 1


@pytest.mark.parametrize("length", [None, ""], ids=["told", "chunked"])
@pytest.mark.parametrize("fields", [[], [("authorization", "Bearer wrong")]], ids=["no key", "another"])
def test_nothing_is_read_from_who_has_no_key(fields, length):
    assert ask("/v1/explain", [b"{}"], *fields, length=length) == (401, b"", 0)


def test_a_caller_with_the_wrong_port_is_told_the_right_one():
    told = json.loads(asked("/v1/chat/completions", [b"{}"])[-1])
    assert told["detail"] == "the control key is missing or wrong"
    assert told["error"]["message"].endswith("calls go to box:8080")


def test_who_goes_in_the_middle_of_a_body_was_never_there():
    assert ask("/v1/reload", [], KEYED, length="")[1] == b""


def test_a_request_without_a_body_goes_on_as_it_is():
    assert ask("/v1/workers", [b""]) == (200, b"", 1)
