"""What comes back for what is sent: a table by the forms of requests, whole and cut at every byte."""

from __future__ import annotations

import re

import pytest
from listener_doubles import LOOPS, SENTINEL, FakeTime, Served, Showcase, feed, read_answers, run

from penstock.config.model import ListenerConfig
from penstock.net.clock import Clock
from penstock.net.listener import Listener

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = {
    "max_header_bytes": 1_000,
    "max_headers": 10,
    "max_target_bytes": 100,
    "max_body_bytes": 200,
    "pipeline_bytes": 4_096,
}


def get(target=b"/", *fields, version=b"HTTP/1.1", method=b"GET", host=b"Host: x"):
    lines = [b" ".join((method, target, version))]
    if host:
        lines.append(host)
    return b"\r\n".join([*lines, *fields, b"", b""])


def post(*fields, body=b"", target=b"/"):
    return get(target, *fields, method=b"POST") + body


def chunked(body, *fields, target=b"/"):
    return post(b"Transfer-Encoding: chunked", *fields, body=body, target=target)


# name: (bytes, statuses, whether the connection stays open)
SERVED = {
    "GET": (GET, [200], True),
    "target with query": (get(b"/a%20b?c=d&e"), [200], True),
    "two at once": (GET + GET, [200, 200], True),
    "ten at once": (GET * 10, [200] * 10, True),
    "POST": (post(b"Content-Length: 5", body=b"hello"), [200], True),
    "POST without a length has no body": (post(), [200], True),
    "length 0": (post(b"Content-Length: 0"), [200], True),
    "length with leading zeros": (post(b"Content-Length: 005", body=b"hello"), [200], True),
    "GET with a body": (get(b"/", b"Content-Length: 5") + b"hello", [200], True),
    "POST then GET": (post(b"Content-Length: 5", body=b"hello") + GET, [200, 200], True),
    "other methods": (get(method=b"PROPFIND"), [200], True),
    "OPTIONS *": (get(b"*", method=b"OPTIONS"), [200], True),
    "absolute form": (get(b"http://elsewhere:80/path?q"), [200], True),
    "absolute form without path": (get(b"HTTPS://elsewhere?q"), [200], True),
    "one empty line before a request": (b"\r\n" + GET, [200], True),
    "an empty line between requests": (GET + b"\r\n" + GET, [200, 200], True),
    "header names in any case": (get(b"/", b"X-A: 1", b"x-a: 2"), [200], True),
    "tab around a value": (get(b"/", b"X-A:\t1 \t"), [200], True),
    "empty value": (get(b"/", b"X-A:"), [200], True),
    "obs-text in a value": (get(b"/", b"X-A: \xe4\xff"), [200], True),
    "Host with port": (get(host=b"Host: example.com:8080"), [200], True),
    "IPv6 host": (get(host=b"Host: [::1]:8080"), [200], True),
    "empty Host": (get(host=b"Host:"), [200], True),
    "upgrade is ignored": (get(b"/", b"Connection: Upgrade", b"Upgrade: websocket"), [200], True),
    "h2c upgrade is ignored, its body is read": (
        post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"),
        [200],
        True,
    ),
    "close": (get(b"/", b"Connection: close"), [200], False),
    "close among other options": (get(b"/", b"Connection: x, Close"), [200], False),
    "after close nothing is served": (get(b"/", b"Connection: close") + GET, [200], False),
    "HTTP/1.0": (get(version=b"HTTP/1.0", host=b""), [200], False),
    "HTTP/1.0 keep-alive": (get(b"/", b"Connection: keep-alive", version=b"HTTP/1.0"), [200], True),
    "HTTP/1.0 Keep-Alive": (get(b"/", b"Connection: Keep-Alive", version=b"HTTP/1.0"), [200], True),
    "HTTP/1.0 stream": (get(b"/stream", version=b"HTTP/1.0"), [200], False),
    "HTTP/1.0 keep-alive stream": (
        get(b"/stream", b"Connection: keep-alive", version=b"HTTP/1.0"),
        [200],
        False,
    ),
    "stream": (get(b"/stream"), [200], True),
    "stream without pieces": (get(b"/no-pieces"), [200], True),
    "streams one after another": (get(b"/stream") + get(b"/stream"), [200, 200], True),
    "no content": (get(b"/empty"), [204], True),
    "interim answer": (get(b"/inform"), [200], True),
    "no interim answer for HTTP/1.0": (get(b"/inform", version=b"HTTP/1.0"), [200], False),
    "chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n"), [200], True),
    "Chunked": (post(b"Transfer-Encoding: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), [200], True),
    "many chunks": (chunked(b"1\r\na\r\n0A\r\n0123456789\r\n00\r\n\r\n"), [200], True),
    "chunk extensions": (chunked(b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n'), [200], True),
    "trailers": (chunked(b"5\r\nhello\r\n0\r\nA: b\r\nC:\r\n\r\n"), [200], True),
    "chunked, then another": (chunked(b"5\r\nhello\r\n0\r\n\r\n") + GET, [200, 200], True),
    "empty chunked body": (chunked(b"0\r\n\r\n"), [200], True),
    "pieces": (post(b"Content-Length: 5", body=b"hello", target=b"/pieces"), [200], True),
    "pieces, chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n", target=b"/pieces"), [200], True),
    "pieces of no body": (get(b"/pieces"), [200], True),
    "pieces put together": (post(b"Content-Length: 5", body=b"hello", target=b"/pieces-body"), [200], True),
    "pieces are not limited": (
        post(b"Content-Length: 900", body=b"p" * 900, target=b"/pieces"),
        [200],
        True,
    ),
    "early answer, short body": (post(b"Content-Length: 5", body=b"hello", target=b"/early"), [401], True),
    "early answer without a body": (get(b"/early"), [401], True),
    "pieces unread": (post(b"Content-Length: 5", body=b"hello", target=b"/pieces-unread"), [200], True),
    "100-continue with the body at once": (
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"),
        [200],
        True,
    ),
    "expectation of nothing": (get(b"/", b"Expect: 100-continue"), [200], True),
    "expectation in HTTP/1.0 is ignored": (get(b"/", b"Expect: anything", version=b"HTTP/1.0"), [200], False),
    "defect": (get(b"/defect"), [500], True),
    "defect after the head was begun": (get(b"/defect-after-head"), [500], True),
    "defect in opening": (get(b"/broken-opening"), [500], True),
    "no answer at all": (get(b"/silent"), [500], True),
    "injection into an answer": (get(b"/injection"), [500], True),
    "injection into a stream": (get(b"/injection-in-stream"), [500], True),
    "target as long as allowed": (get(b"/" + b"a" * 99), [200], True),
    "ten fields": (get(b"/", *[b"A%d: b" % n for n in range(9)]), [200], True),
    "body as long as allowed": (post(b"Content-Length: 200", body=b"b" * 200), [200], True),
}

REFUSED = {
    # limits
    "long target": (get(b"/" + b"a" * 100), [414], False),
    "endless target": (b"GET /" + b"a" * 500, [414], False),
    "big header": (get(b"/", b"A: " + b"b" * 1_000), [431], False),
    "endless header": (b"GET / HTTP/1.1\r\nA: " + b"b" * 1_500, [431], False),
    "many fields": (get(b"/", *[b"A%d: b" % n for n in range(10)]), [431], False),
    "long body": (post(b"Content-Length: 201"), [413], False),
    "long body, all there": (post(b"Content-Length: 201", body=b"b" * 201), [413], False),
    "long chunked body": (chunked(b"64\r\n" + b"b" * 100 + b"\r\nff\r\n" + b"c" * 255), [413], False),
    "long pieces put together": (
        post(b"Content-Length: 300", body=b"b" * 300, target=b"/pieces-body"),
        [413],
        True,
    ),
    "too large for a content-length": (post(b"Content-Length: 9999999999999999"), [413], False),
    # smuggling: the length of the body must not be open to opinion
    "length and coding": (
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        [400],
        False,
    ),
    "coding and length": (
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
        [400],
        False,
    ),
    "two lengths": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"), [400], False),
    "the same length twice": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), [400], False),
    "list of lengths": (post(b"Content-Length: 5, 5", body=b"hello"), [400], False),
    "length with sign": (post(b"Content-Length: +5", body=b"hello"), [400], False),
    "negative length": (post(b"Content-Length: -5", body=b"hello"), [400], False),
    "length with space": (post(b"Content-Length: 5 0", body=b"hello"), [400], False),
    "hexadecimal length": (post(b"Content-Length: 0x5", body=b"hello"), [400], False),
    "length with underscore": (post(b"Content-Length: 1_0", body=b"hello"), [400], False),
    "no length": (post(b"Content-Length:", body=b"hello"), [400], False),
    "length of foreign digits": (post(b"Content-Length: \xb2", body=b"hello"), [400], False),
    "overflowing length": (post(b"Content-Length: 18446744073709551621", body=b"hello"), [400], False),
    "other coding": (post(b"Transfer-Encoding: gzip", body=b"hello"), [400], False),
    "two codings": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), [400], False),
    "coding twice": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        [400],
        False,
    ),
    "coding with parameter": (post(b"Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n"), [400], False),
    "coding with control character": (
        post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
        [400],
        False,
    ),
    "empty coding": (post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), [400], False),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), [400], False),
    "identity": (post(b"Transfer-Encoding: identity"), [400], False),
    "coding in HTTP/1.0": (
        get(b"/", b"Transfer-Encoding: chunked", method=b"POST", version=b"HTTP/1.0") + b"0\r\n\r\n",
        [400],
        False,
    ),
    "space before colon": (get(b"/", b"Content-Length : 5") + b"hello", [400], False),
    "tab before colon": (get(b"/", b"X-A\t: 5"), [400], False),
    "folded field": (get(b"/", b"X-A: 1", b" 2"), [400], False),
    "folded with tab": (get(b"/", b"X-A: 1", b"\t2"), [400], False),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", [400], False),
    "bare LF": (GET.replace(b"\r\n", b"\n"), [400], False),
    "bare LF once": (b"GET / HTTP/1.1\nHost: x\r\n\r\n", [400], False),
    "bare LF in a value": (get(b"/", b"X-A: 1\nX-B: 2"), [400], False),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: x\r\n\n", [400], False),
    "bare CR": (get(b"/", b"X-A: 1\rX-B: 2"), [400], False),
    "bare CR in the request line": (b"GET /\rHTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", [400], False),
    "NUL in a value": (get(b"/", b"X-A: 1\x002"), [400], False),
    "DEL in a value": (get(b"/", b"X-A: 1\x7f2"), [400], False),
    "control character in a value": (get(b"/", b"X-A: 1\x012"), [400], False),
    "NUL in a name": (get(b"/", b"X\x00A: 1"), [400], False),
    "no colon": (get(b"/", b"X-A"), [400], False),
    "known name without colon": (get(b"/", b"Accept"), [400], False),
    "no name": (get(b"/", b": 1"), [400], False),
    "name that is no token": (get(b"/", b"X(A): 1"), [400], False),
    "foreign letters in a name": (get(b"/", b"X-\xe4: 1"), [400], False),
    "missing Host": (get(host=b""), [400], False),
    "repeated Host": (get(b"/", b"Host: y"), [400], False),
    "the same Host twice": (get(b"/", b"Host: x"), [400], False),
    "Host with a path": (get(host=b"Host: x/y"), [400], False),
    "Host with user": (get(host=b"Host: u@x"), [400], False),
    "list of hosts": (get(host=b"Host: x y"), [400], False),
    # chunks
    "size that is not hexadecimal": (chunked(b"g\r\nhello\r\n0\r\n\r\n"), [400], False),
    "no size": (chunked(b"\r\nhello\r\n0\r\n\r\n"), [400], False),
    "size with 0x": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), [400], False),
    "size with sign": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), [400], False),
    "negative size": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), [400], False),
    "size with underscore": (chunked(b"1_0\r\nhello\r\n0\r\n\r\n"), [400], False),
    "space before size": (chunked(b" 5\r\nhello\r\n0\r\n\r\n"), [400], False),
    "space after size": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), [400], False),
    "overflowing size": (chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), [400], False),
    "chunk longer than its size": (chunked(b"4\r\nhello\r\n0\r\n\r\n"), [400], False),
    "no CRLF after a chunk": (chunked(b"5\r\nhello0\r\n\r\n"), [400], False),
    "LF after a chunk": (chunked(b"5\r\nhello\n0\r\n\r\n"), [400], False),
    "LF after a size": (chunked(b"5\nhello\r\n0\r\n\r\n"), [400], False),
    "CR in an extension": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), [400], False),
    "LF in an extension": (chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), [400], False),
    "endless extension": (chunked(b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n"), [400], False),
    "bad trailer": (chunked(b"0\r\nA b\r\n\r\n"), [400], False),
    "folded trailer": (chunked(b"0\r\nA: b\r\n c\r\n\r\n"), [400], False),
    "LF in the trailers": (chunked(b"0\r\nA: b\n\r\n"), [400], False),
    "huge trailers": (chunked(b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n"), [400], False),
    "bad chunk in pieces": (chunked(b"5\r\nhello\r\nx\r\n", target=b"/pieces"), [400], False),
    # request lines
    "no version": (b"GET /\r\nHost: x\r\n\r\n", [400], False),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "space at the end": (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", [400], False),
    "space in the target": (get(b"/a b"), [400], False),
    "tab in the target": (get(b"/a\tb"), [400], False),
    "tabs for spaces": (b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "fragment in the target": (get(b"/a#b"), [400], False),
    "raw umlaut in the target": (get(b"/\xe4"), [400], False),
    "relative target": (get(b"a/b"), [400], False),
    "other scheme": (get(b"ftp://x/y"), [400], False),
    "* for GET": (get(b"*"), [400], False),
    "empty target": (get(b""), [400], False),
    "method that is no token": (get(method=b"G(T"), [400], False),
    "empty method": (get(method=b""), [400], False),
    "lower-case version": (get(version=b"http/1.1"), [400], False),
    "version without point": (get(version=b"HTTP/11"), [400], False),
    "version with two digits": (get(version=b"HTTP/1.10"), [400], False),
    "HTTP/2.0": (get(version=b"HTTP/2.0"), [505], False),
    "HTTP/1.2": (get(version=b"HTTP/1.2"), [505], False),
    "HTTP/0.9": (get(version=b"HTTP/0.9"), [505], False),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", [505], False),
    "TLS to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400], False),
    "CONNECT": (get(b"elsewhere:443", method=b"CONNECT"), [405], False),
    "two empty lines before a request": (b"\r\n\r\n" + GET, [400], False),
    "garbage": (b"garbage\r\n\r\n", [400], False),
    "other expectation": (post(b"Content-Length: 5", b"Expect: 200-ok", body=b"hello"), [417], False),
    "fault in the second request": (GET + b"bad\r\n\r\n" + GET, [200, 400], False),
    # answers that end a connection
    "early answer, long body": (post(b"Content-Length: 70000", target=b"/early"), [401], False),
    "early answer, chunked body": (chunked(b"5\r\nhello\r\n", target=b"/early"), [401], False),
    "abort in a stream": (get(b"/abort-in-stream"), [200], False),
    "defect in a stream": (get(b"/defect-in-stream"), [200], False),
    "cut at once": (get(b"/cut-early"), [], False),
}

TABLE = SERVED | REFUSED
CUT_SHORT = {"abort in a stream", "defect in a stream"}


def check(name, data, expected, stays_open):
    if stays_open:
        expected = [*expected, 200]
    answers = read_answers(data)
    assert [answer.status for answer in answers] == expected
    assert [answer.complete for answer in answers] == [True] * len(expected) or name in CUT_SHORT
    if stays_open:
        assert answers[-1].body == b"sentinel"
        assert not answers[-1].closes
    elif answers and name not in CUT_SHORT:
        assert answers[-1].closes
    assert all(not answer.closes for answer in answers[:-1])
    for answer in answers:
        assert b"date" in answer.headers
        if answer.status >= 400 and answer.body != b"early":
            assert answer.headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", TABLE)
def test_answers_by_the_form_of_the_request(name, loop):
    raw, statuses, stays_open = TABLE[name]

    async def main():
        async with Served(**LIMITS) as served:
            with await served.client() as client:
                await client.send(raw + SENTINEL if stays_open else raw)
                if stays_open:
                    await client.receive_until(b"sentinel")
                else:
                    await client.receive_all()
                check(name, client.received, statuses, stays_open)

    run(main(), loop)


@pytest.mark.parametrize("name", TABLE)
def test_cutting_a_request_anywhere_changes_nothing(name):
    raw, statuses, stays_open = TABLE[name]
    cuts = [*range(1, 150), *range(150, len(raw), 97)] if len(raw) > 400 else range(1, len(raw))
    sent = raw + SENTINEL if stays_open else raw

    async def main():
        listener = Listener(Showcase(), ListenerConfig(**LIMITS), Clock(FakeTime()))
        whole = await feed(listener, [sent])
        check(name, whole.written, statuses, stays_open)
        assert (whole.closed or whole.ended) is not stays_open
        for cut in cuts:
            parts = await feed(listener, [sent[:cut], sent[cut:]])
            assert anyway(parts.written) == anyway(whole.written), f"cut at {cut}"
            assert (parts.closed or parts.ended) is not stays_open, f"cut at {cut}"
        single = await feed(listener, [bytes([byte]) for byte in sent])
        assert anyway(single.written) == anyway(whole.written), "byte by byte"
        assert (single.closed or single.ended) is not stays_open, "byte by byte"

    run(main())


def anyway(data):
    """What must not depend on the segments: everything but the date, and when a 100 was sent."""
    data = data.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return re.sub(rb"date: [^\r]*", b"date: -", data)
