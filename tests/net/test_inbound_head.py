"""A head that comes in pieces: when it is there, and when it can become none."""

import pytest

from penstock.config.model import ListenerConfig
from penstock.net._inbound_head import InboundHead
from penstock.net._request_head import HeadParser, Refusal

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"


def begun(data, *, stripped=False, **limits):
    return InboundHead(HeadParser(ListenerConfig(**limits)), data, stripped=stripped)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_all_that_came_is_told_with_what_follows_once_the_end_is_there(step):
    head = begun(HEAD[:1])
    came = 1
    whole = b""
    while not whole:
        piece = HEAD[came : came + step]
        came += step
        whole = head.feed(piece if came < len(HEAD) else piece + b"GET /next")
    assert whole == HEAD + b"GET /next"
    assert "bytes here" in repr(head)


def test_an_empty_line_that_comes_in_two_pieces_is_ignored_once():
    head = begun(b"\r")
    assert head.feed(b"\n") == b""
    assert head.stripped
    assert head.feed(HEAD) == HEAD
    assert begun(b"\r", stripped=True).feed(b"\n" + HEAD) == b"\r\n" + HEAD


def test_what_can_become_no_head_is_refused_as_soon_as_that_is_known():
    with pytest.raises(Refusal):
        begun(b"GET / HTTP/1.1\nHost: x")
    head = begun(b"GET / HTTP/1.1\r\nHost: ")
    with pytest.raises(Refusal) as refused:
        head.feed(b"x\0")
    assert refused.value.status == 400


def test_a_head_that_grows_too_long_is_refused_before_its_end():
    head = begun(b"GET / HTTP/1.1\r\nx: " + b"y" * 500, max_header_bytes=1_000)
    assert head.feed(b"y" * 400) == b""
    with pytest.raises(Refusal) as refused:
        head.feed(b"y" * 200)
    assert refused.value.status == 431
