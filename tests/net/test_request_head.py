"""A head that differs from the connection's last one in its length alone is read as any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import ListenerConfig
from penstock.net._request_head import HeadParser, Refusal, RequestHead

BEFORE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Length: "


def meaning(head: bytes, last: RequestHead | None = None, **limits: int) -> object:
    """What a head says, or why it is refused."""
    try:
        found = HeadParser(ListenerConfig(**limits)).parse(head, last)
    except Refusal as refusal:
        return refusal.status, refusal.code
    return (
        found.method,
        found.path,
        found.query,
        found.headers,
        found.http10,
        found.keep_alive,
        found.length,
        found.expects_continue,
    )


def after(head: bytes) -> RequestHead:
    return HeadParser(ListenerConfig()).parse(head)


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"1",
            b"12",
            b"1234567",
            b"0",
            b"007",
            b"",
            b" 12",
            b"12 ",
            b"1_2",
            b"+1",
            b"-1",
            b"1, 1",
            b"1\r\nx: y",
        ),
        *(b"9" * 18, b"9" * 19, "\u0661\u0662".encode(), b"\xb2", b"1\n", b"1\r"),
        *(b"12\r\nContent-Length: 12", b"12\r\nTransfer-Encoding: chunked"),
        *(b"12\r\nExpect: 100-continue", b"12\r\nConnection: close"),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"\r\nAccept: */*", b" ", b"\t\r\nAccept: */*"])
def test_a_known_head_with_another_length_means_what_it_means_alone(value, behind):
    head = BEFORE + value + behind
    assert meaning(head, after(BEFORE + b"12" + behind)) == meaning(head)


@given(st.binary(max_size=12), st.sampled_from([b"", b"\r\nAccept: */*"]))
def test_whatever_stands_for_the_length_is_judged_as_in_a_first_head(value, behind):
    head = BEFORE + value + behind
    assert meaning(head, after(BEFORE + b"12" + behind)) == meaning(head)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: a",
        b"POST / HTTP/1.0\r\nContent-Length: 12",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 12",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:12",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: close",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX: Content-Length: 13",
    ],
)
def test_after_any_head_the_next_one_means_what_it_means_alone(first):
    last = after(first)
    for head in (first, first.replace(b"12", b"13"), first.replace(b"12", b"0"), BEFORE + b"12"):
        assert meaning(head, last) == meaning(head)


def test_a_known_head_that_has_grown_past_the_limit_is_refused():
    head = BEFORE + b"12"
    limit = len(head) + 4
    assert meaning(head, after(head), max_header_bytes=limit) == meaning(head)
    assert meaning(head + b"3", after(head), max_header_bytes=limit) == (431, "header_too_large")


def test_heads_share_no_fields():
    parser = HeadParser(ListenerConfig())
    first = parser.parse(BEFORE + b"12")
    second = parser.parse(BEFORE + b"345", first)
    assert first.headers[b"content-length"] == b"12"
    assert second.headers[b"content-length"] == b"345"
    assert second.length == 345


def test_what_a_head_looks_like_shows_no_credentials():
    assert "Bearer" not in repr(after(BEFORE + b"12"))
