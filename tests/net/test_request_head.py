"""A head that differs from the connection's last one in its length alone means what it means to who reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import ListenerConfig
from penstock.net._precedent import Precedent
from penstock.net._request_head import HeadParser, Refusal

END = b"\r\n\r\n"
BEFORE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Length: "


def meaning(head: bytes, last: Precedent | None = None, **limits: int) -> object:
    """What a head says, or why it is refused."""
    found, data = None, head + END
    end = data.find(END)
    if last is not None and (again := last.again(data, 0)) is not None:
        found, body_at = again
        assert body_at == end + 4
    try:
        found = found or HeadParser(ListenerConfig(**limits)).parse(data[:end])
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


def after(head: bytes, **limits: int) -> Precedent:
    config = ListenerConfig(**limits)
    return Precedent(head, HeadParser(config).parse(head), config.max_header_bytes)


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
    last = after(head, max_header_bytes=limit)
    assert last.again(head + b"\r\n\r\n", 0) is not None
    assert last.again(head + b"3\r\n\r\n", 0) is None
    assert meaning(head + b"3", last, max_header_bytes=limit) == (431, "header_too_large")


def test_heads_of_different_lengths_share_no_fields():
    last = after(BEFORE + b"12")
    first, _ = last.again(BEFORE + b"12\r\n\r\n", 0)
    second, _ = last.again(BEFORE + b"345\r\n\r\n", 0)
    assert first.headers[b"content-length"] == b"12"
    assert second.headers[b"content-length"] == b"345"
    assert second.length == 345


def test_what_was_made_of_a_head_is_known_with_the_next_one_that_says_the_same():
    last = after(BEFORE + b"12")
    first, _ = last.again(BEFORE + b"12\r\n\r\n", 0)
    first.meaning = "accepted"
    for digits in (b"12", b"345", b"12"):
        again, _ = last.again(BEFORE + digits + b"\r\n\r\n", 0)
        assert again.meaning == "accepted"


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length"])
@pytest.mark.parametrize("behind", [b"", b"\r\nAccept: */*"])
def test_a_known_head_is_recognised_wherever_it_begins(name, behind):
    head = BEFORE.replace(b"Content-Length", name) + b"12" + behind
    last = after(head)
    for before in (b"", b"x", head + b"\r\n\r\n"):
        data = before + head + b"\r\n\r\nhello"
        found, body_at = last.again(data, len(before))
        assert data[body_at:] == b"hello"
        assert found.length == 12
        for size in range(len(before), len(data) - 5):
            assert last.again(data[:size], len(before)) is None


def test_what_a_head_looks_like_shows_no_credentials():
    last = after(BEFORE + b"12")
    head, _ = last.again(BEFORE + b"12\r\n\r\n", 0)
    assert "Bearer" not in repr(head) + repr(last)
