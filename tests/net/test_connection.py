"""One connection, fed by hand: every answer, however it is cut, and every way to end."""

from __future__ import annotations

import asyncio

import pytest
from upstream_doubles import GET, HEAD, Bench, Collector, answer, post

from penstock.errors import UpstreamBroken, UpstreamUnreachable
from penstock.net.connection import FULL, MAX_FIELDS, MAX_HEAD_BYTES, STALE_WINDOW, StaleConnection

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# name: (request head, answer, status, body, whether the connection can be used again)
COMPLETE = {
    "content-length": (GET, OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "empty body": (GET, OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "no reason phrase": (GET, b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", 200, b"a", True),
    "reason phrase in Latin-1": (GET, b"HTTP/1.1 404 \xfcbel\r\nContent-Length: 1\r\n\r\na", 404, b"a", True),
    "status without a class": (GET, b"HTTP/1.1 799 ?\r\nContent-Length: 1\r\n\r\na", 799, b"a", True),
    "empty line before": (GET, b"\r\n" + OK + b"Content-Length: 1\r\n\r\na", 200, b"a", True),
    "chunked": (GET, CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde", True),
    "chunked, empty": (GET, CHUNKED + b"0\r\n\r\n", 200, b"", True),
    "chunked, in capitals": (
        GET,
        OK + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n",
        200,
        b"a",
        True,
    ),
    "chunked, white space after": (
        GET,
        OK + b"Transfer-Encoding: chunked \r\n\r\n1\r\na\r\n0\r\n\r\n",
        200,
        b"a",
        True,
    ),
    "chunk extension and trailer": (
        GET,
        CHUNKED + b"3;a=b\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        200,
        b"abc",
        True,
    ),
    "hexadecimal chunk size": (GET, CHUNKED + b"0000A\r\n0123456789\r\n0\r\n\r\n", 200, b"0123456789", True),
    "connection: close": (GET, OK + b"Connection: close\r\nContent-Length: 1\r\n\r\na", 200, b"a", False),
    "connection: list with close": (
        GET,
        OK + b"Connection: x, close\r\nContent-Length: 1\r\n\r\na",
        200,
        b"a",
        False,
    ),
    "connection: keep-alive": (
        GET,
        OK + b"Connection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
    "HTTP/1.0": (GET, b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", 200, b"a", False),
    "HTTP/1.0 keep-alive": (
        GET,
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        200,
        b"a",
        False,
    ),
    "interim 100": (
        GET,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
    "interim 103 twice": (
        GET,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + OK + b"Content-Length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
    "204": (GET, b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "204 with a length": (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", 204, b"", True),
    "304 with a length": (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 300\r\n\r\n", 304, b"", True),
    "304 chunked": (GET, b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, b"", False),
    "HEAD with a length": (HEAD, OK + b"Content-Length: 300\r\n\r\n", 200, b"", True),
    "HEAD of nothing": (HEAD, OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "HEAD chunked": (HEAD, CHUNKED, 200, b"", False),
    "HEAD without framing": (HEAD, OK + b"\r\n", 200, b"", False),
    "upgrade offered": (
        GET,
        OK + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
}

UNTIL_CLOSE = {
    "no framing": (OK + b"X: y\r\n\r\nhello", b"hello"),
    "no framing, no body": (OK + b"\r\n", b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    "what looks like an answer": (OK + b"\r\n" + OK, OK),
}

MALFORMED = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status under 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "101 with upgrade": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "interim with a length": b"HTTP/1.1 103 Early\r\nContent-Length: 2\r\n\r\nab",
    "interim with a length of 0": b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
    "interim chunked": b"HTTP/1.1 103 Early\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF after the status line": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "bare LF after a field": OK + b"X: a\nContent-Length: 0\r\n\r\n",
    "bare CR in a field": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL in a field": OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "folded field": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "space in a name": OK + b"X Y: 0\r\n\r\n",
    "no colon": OK + b"X\r\n\r\n",
    "empty name": OK + b": 0\r\n\r\n",
    "space after the status line": OK + b" X: y\r\n\r\n",
    "length and chunked": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "length twice": OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "list of lengths": OK + b"Content-Length: 3, 3\r\n\r\nabc",
    "negative length": OK + b"Content-Length: -3\r\n\r\nabc",
    "length with a sign": OK + b"Content-Length: +3\r\n\r\nabc",
    "hexadecimal length": OK + b"Content-Length: 0x3\r\n\r\nabc",
    "empty length": OK + b"Content-Length:\r\n\r\nabc",
    "length of 23 digits": OK + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": OK
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip alone": OK + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nabc",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size: bare LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk size: negative": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size: 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size: space before": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "chunk size: empty": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "chunk size: overflow": CHUNKED + b"fffffffffffffffff\r\nabc",
    "chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "length in the trailer": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
}


def run(test):
    """Run a test's body inside a loop; its exceptions are what pytest sees."""

    async def main():
        test()

    asyncio.run(main())


def whole(data):
    return [data]


def bytewise(data):
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_answer_is_delivered_however_it_is_cut(name):
    request, data, status, body, again = COMPLETE[name]

    def check(pieces):
        bench = Bench()
        receiver, future = bench.ask(request)
        bench.feed(*pieces)
        assert future.done()
        assert future.result() is None
        assert (receiver.status, receiver.body) == (status, body)
        assert bench.home.taken_back == again
        assert bench.transport.ended is not again
        assert bench.home.forgotten == (not again)

    @run
    def _():
        check(whole(data))
        check(bytewise(data))
        for i in range(1, len(data)):
            check([data[:i], data[i:]])


@pytest.mark.parametrize("name", [name for name, case in COMPLETE.items() if case[4]])
def test_a_connection_is_as_good_as_new_after(name):
    request, data, *_ = COMPLETE[name]

    @run
    def _():
        for cut in (whole, bytewise):
            bench = Bench()
            bench.ask(request)
            bench.feed(*cut(data))
            receiver, future = bench.ask()
            assert bench.connection.reused
            bench.feed(*cut(answer(b"next")))
            assert future.result() is None
            assert receiver.body == b"next"
            assert receiver.headers == {b"content-length": b"4"}
            assert bench.home.taken_back == 2


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("extra", [b"x", b"HT", answer(b"smuggled"), b"0\r\n\r\n", b"\x00"], ids=repr)
def test_bytes_after_an_answer_do_no_harm_to_it_and_end_the_connection(name, extra):
    request, data, status, body, _ = COMPLETE[name]

    @run
    def _():
        for pieces in ([data + extra], [data, extra], [*bytewise(data), *bytewise(extra)]):
            bench = Bench()
            receiver, future = bench.ask(request)
            bench.feed(*pieces)
            assert future.result() is None
            assert (receiver.status, receiver.body) == (status, body)
            assert bench.transport.ended
            assert bench.home.forgotten == 1


@pytest.mark.parametrize("name", UNTIL_CLOSE)
def test_a_body_without_length_ends_with_the_connection(name):
    data, body = UNTIL_CLOSE[name]

    @run
    def _():
        for cut in (whole, bytewise):
            bench = Bench()
            receiver, future = bench.ask()
            bench.feed(*cut(data))
            assert not future.done()
            bench.eof()
            assert future.result() is None
            assert receiver.body == body
            assert bench.home.forgotten == 1
            assert not bench.home.taken_back


def test_a_body_without_length_is_broken_when_the_connection_is_reset():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(OK + b"\r\nhello")
        bench.connection.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
        assert isinstance(future.exception(), UpstreamBroken)
        assert receiver.body == b"hello"


@pytest.mark.parametrize("name", MALFORMED)
def test_an_answer_that_makes_no_sense_is_broken(name):
    data = MALFORMED[name]

    @run
    def _():
        for cut in (whole, bytewise):
            bench = Bench()
            _, future = bench.ask()
            for piece in cut(data):
                bench.feed(piece)
                if future.done():
                    break
            error = future.exception()
            assert type(error) is UpstreamBroken
            assert "upstream:80 sent an answer that is not HTTP: " in error.message
            assert not error.message.endswith(": ")
            assert bench.transport.ended
            assert bench.home.forgotten == 1
            assert not bench.home.taken_back


@pytest.mark.parametrize(
    "name", [name for name, case in COMPLETE.items() if case[1][-1:] == b"a" or "chunk" in name]
)
def test_an_answer_that_stops_early_is_broken_and_what_came_is_delivered(name):
    request, data, _, body, _ = COMPLETE[name]

    @run
    def _():
        for end in range(1, len(data)):
            bench = Bench()
            receiver, future = bench.ask(request)
            bench.feed(data[:end])
            if future.done():
                continue  # a HEAD or 304 that announces a chunked body
            bench.eof()
            error = future.exception()
            assert type(error) is UpstreamBroken, data[:end]
            assert "closed the connection in the middle" in error.message
            assert body.startswith(receiver.body)


def test_what_came_before_a_fault_is_delivered_first():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(CHUNKED + b"3\r\nabc\r\nzzz")
        assert (receiver.status, receiver.pieces) == (200, [b"abc"])
        assert isinstance(future.exception(), UpstreamBroken)


def test_names_are_lower_case_values_trimmed_and_repeated_fields_joined():
    @run
    def _():
        bench = Bench()
        receiver, _ = bench.ask()
        bench.feed(
            OK
            + b"X-One: a \t\r\nx-one:\tb\r\nSet-Cookie: c\r\nSET-COOKIE: d\r\nEmpty:\r\nContent-Length: 0\r\n\r\n"
        )
        assert receiver.headers == {
            b"x-one": b"a, b",
            b"set-cookie": b"c, d",
            b"empty": b"",
            b"content-length": b"0",
        }


def test_fields_of_interim_answers_and_trailers_do_not_reach_the_head():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + CHUNKED + b"0\r\nX-Sum: 1\r\n\r\n")
        assert future.done()
        assert receiver.headers == {b"transfer-encoding": b"chunked"}


def test_many_chunks_of_one_read_come_as_one_piece():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(CHUNKED, b"1\r\na\r\n" * 100, b"2\r\nbb\r\n" * 50 + b"0\r\n\r\n")
        assert receiver.pieces == [b"a" * 100, b"bb" * 50]
        assert future.done()


# ---- limits ----------------------------------------------------------------------------------------


def test_a_head_may_be_as_long_as_the_limit_and_no_longer():
    def head(size):
        start, end = OK + b"Content-Length: 1\r\nX: ", b"\r\n\r\n"
        return start + b"a" * (size - len(start) - len(end)) + end

    @run
    def _():
        for pieces in (
            lambda data: [data + b"b"],
            lambda data: [*bytewise(data), b"b"],
            lambda data: [data, b"b"],
        ):
            bench = Bench()
            receiver, future = bench.ask()
            bench.feed(*pieces(head(MAX_HEAD_BYTES)))
            assert future.result() is None
            assert receiver.body == b"b"
            bench = Bench()
            receiver, future = bench.ask()
            for piece in pieces(head(MAX_HEAD_BYTES + 1)):
                if not future.done():
                    bench.feed(piece)
            assert f"a head of over {MAX_HEAD_BYTES} bytes" in str(future.exception())
            assert receiver.status is None


def test_a_head_that_never_ends_is_not_collected():
    @run
    def _():
        for endless in (b"X: a\r\n", b"a", b"HTTP/1.1 103 Early\r\n\r\n"):
            bench = Bench()
            _, future = bench.ask()
            bench.feed(OK + b"X: " if endless == b"a" else b"" if endless.startswith(b"HTTP") else OK)
            fed = 0
            while not future.done():
                bench.feed(endless * 100)
                fed += len(endless) * 100
                assert fed < 3 * MAX_HEAD_BYTES
            assert isinstance(future.exception(), UpstreamBroken)


@pytest.mark.parametrize("name", [b"x-%d: \r\n", b"x: \r\n"], ids=["different", "repeated"])
def test_there_may_be_as_many_fields_as_the_limit_and_no_more(name):
    def head(count):
        fields = b"".join(name % i if b"%" in name else name for i in range(count - 1))
        return OK + fields + b"Content-Length: 0\r\n\r\n"

    @run
    def _():
        bench = Bench()
        _, future = bench.ask()
        bench.feed(head(MAX_FIELDS))
        assert future.result() is None
        bench = Bench()
        _, future = bench.ask()
        bench.feed(head(MAX_FIELDS + 1))
        assert f"over {MAX_FIELDS} header fields" in str(future.exception())


@pytest.mark.parametrize(
    "start",
    [b"0\r\nX: ", b"0\r\n", b"1;"],
    ids=["a trailer's value", "trailers", "a chunk extension"],
)
def test_what_is_not_body_has_an_end(start):
    endless = {b"0\r\nX: ": b"a" * 1000, b"0\r\n": b"X: a\r\n" * 20, b"1;": b"a" * 1000}[start]

    @run
    def _():
        bench = Bench()
        _, future = bench.ask()
        bench.feed(CHUNKED + start)
        for _ in range(3 * MAX_HEAD_BYTES // len(endless)):
            if not future.done():
                bench.feed(endless)
        assert isinstance(future.exception(), UpstreamBroken)


# ---- requests --------------------------------------------------------------------------------------


def test_a_small_request_is_one_write_and_a_large_one_is_not_copied():
    @run
    def _():
        bench = Bench()
        bench.ask(post(3), b"abc")
        assert bench.transport.calls == ["write"]
        assert bytes(bench.transport.written) == post(3) + b"abc"
        bench = Bench()
        bench.ask(post(1_000_000), b"a" * 1_000_000)
        assert bench.transport.calls == ["writelines"]
        assert bytes(bench.transport.written) == post(1_000_000) + b"a" * 1_000_000


def test_a_second_request_before_the_answers_end_is_a_defect():
    @run
    def _():
        bench = Bench()
        bench.ask()
        with pytest.raises(RuntimeError, match="busy"):
            bench.ask()


def test_an_early_answer_ends_the_connection_if_the_request_is_still_being_written():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask(post(1_000_000), b"a" * 1_000_000)
        bench.transport.unsent = 500_000
        bench.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        assert future.result() is None
        assert (receiver.status, receiver.body) == (413, b"big")
        assert not bench.home.taken_back
        assert bench.transport.calls[-1] == "abort"


# ---- ends before an answer -------------------------------------------------------------------------


def reused_bench():
    bench = Bench()
    bench.ask()
    bench.feed(answer(b""))
    assert bench.connection.reused
    return bench


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_how_a_connection_that_ends_without_an_answer_is_judged(reset):
    def end(bench):
        if reset:
            bench.connection.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
        else:
            bench.eof()

    @run
    def _():
        bench = Bench()
        _, future = bench.ask()
        end(bench)
        assert type(future.exception()) is UpstreamUnreachable
        assert not bench.home.stales

        bench = reused_bench()
        _, future = bench.ask()
        end(bench)
        assert type(future.exception()) is StaleConnection
        assert bench.home.stales == 1
        assert bench.home.forgotten == 1

        bench = reused_bench()
        _, future = bench.ask()
        bench.feed(b"H")
        end(bench)
        assert type(future.exception()) is UpstreamBroken

        # The upstream had the request for so long that it may have worked on it.
        bench = reused_bench()
        _, future = bench.ask()
        bench.home.now.now += STALE_WINDOW + 0.1
        end(bench)
        assert type(future.exception()) is UpstreamUnreachable


def test_a_connection_that_closed_after_it_was_acquired_says_so_at_once():
    @run
    def _():
        bench = reused_bench()
        bench.eof()
        _, future = bench.ask()
        assert type(future.exception()) is StaleConnection
        bench = Bench()
        bench.eof()
        _, future = bench.ask()
        assert type(future.exception()) is UpstreamUnreachable
        bench.connection.connection_lost(None)
        assert bench.home.forgotten == 1


def test_bytes_on_an_idle_connection_end_it():
    @run
    def _():
        bench = reused_bench()
        bench.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"more")
        assert bench.home.stales == 1
        assert bench.home.forgotten == 1
        assert bench.transport.calls[-1] == "abort"


# ---- back-pressure ---------------------------------------------------------------------------------


def test_reading_pauses_and_resumes_once_each():
    @run
    def _():
        bench = Bench()
        bench.ask()
        bench.connection.resume()
        bench.connection.pause()
        bench.connection.pause()
        bench.connection.resume()
        bench.connection.resume()
        assert bench.transport.calls == ["write", "pause_reading", "resume_reading"]


def test_a_connection_that_was_paused_to_the_end_reads_again_when_idle():
    @run
    def _():
        bench = Bench()
        receiver = Collector()
        receiver.then = bench.connection.pause
        bench.ask(receiver=receiver)
        bench.feed(answer(b"all"))
        assert bench.transport.calls == ["write", "pause_reading", "resume_reading"]
        assert bench.home.taken_back == 1
        bench.connection.pause()  # a late word of a reader that has its answer
        assert bench.transport.calls[-1] == "resume_reading"


def test_after_a_full_piece_others_have_their_turn():
    async def main():
        bench = Bench()
        receiver, _ = bench.ask()
        bench.feed(OK + b"Content-Length: 999999\r\n\r\n", bytes(FULL), bytes(FULL + 1))
        assert bench.transport.calls == ["write", "pause_reading"]
        await asyncio.sleep(0)
        assert bench.transport.calls == ["write", "pause_reading", "resume_reading"]
        assert len(receiver.body) == 2 * FULL + 1

    asyncio.run(main())


def test_who_has_paused_is_not_read_on_for_a_full_piece():
    async def main():
        bench = Bench()
        bench.ask()
        bench.feed(OK + b"Content-Length: 999999\r\n\r\n", bytes(FULL + 1))
        bench.connection.pause()
        await asyncio.sleep(0)
        assert "resume_reading" not in bench.transport.calls
        bench.connection.resume()
        assert bench.transport.calls[-1] == "resume_reading"

    asyncio.run(main())


# ---- hanging up ------------------------------------------------------------------------------------


def test_after_hanging_up_the_receiver_is_fed_until_the_upstream_ends():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(CHUNKED + b"1\r\na\r\n")
        bench.connection.pause()
        bench.connection.hang_up(1.0)
        assert bench.transport.calls[-2:] == ["resume_reading", "write_eof"]
        assert bench.home.watched == [bench.connection]
        assert bench.connection.deadline == bench.home.now() + 1.0
        bench.connection.pause()
        assert bench.transport.calls[-1] == "write_eof"
        bench.feed(b"1\r\nb\r\n")
        assert not future.done()
        bench.eof()
        assert future.result() is None
        assert receiver.body == b"ab"
        assert bench.home.forgotten == 1


def test_a_connection_that_hung_up_never_goes_back_to_the_pool():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.connection.hang_up(1.0)
        bench.feed(answer(b"late"))
        assert future.result() is None
        assert receiver.body == b"late"
        assert not bench.home.taken_back
        assert bench.home.forgotten == 1


def test_an_upstream_that_ends_a_call_because_we_left_was_not_found_stale():
    @run
    def _():
        bench = reused_bench()
        _, future = bench.ask()
        bench.connection.hang_up(1.0)
        bench.eof()
        assert future.result() is None
        assert not bench.home.stales


@pytest.mark.parametrize("end", ["reset", "nonsense", "grace", "abort"])
def test_whatever_ends_it_after_hanging_up_is_no_error(end):
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(CHUNKED + b"1\r\na\r\n")
        bench.connection.hang_up(1.0)
        if end == "reset":
            bench.connection.connection_lost(ConnectionResetError())
        elif end == "nonsense":
            bench.feed(b"zzz")
        elif end == "grace":
            bench.connection.out_of_grace()
        else:
            bench.connection.abort()
        assert future.result() is None
        assert receiver.body == b"a"
        assert bench.home.forgotten == 1
        assert bench.connection.cut == (end != "reset")


def test_hanging_up_cuts_at_once_where_half_closing_says_nothing():
    def cut(bench, grace):
        receiver, future = bench.ask()
        bench.connection.hang_up(grace)
        assert bench.transport.calls[-1] == "abort"
        assert "write_eof" not in bench.transport.calls
        assert future.result() is None
        assert bench.home.forgotten == 1
        bench.feed(answer(b"late"))
        assert receiver.status is None

    @run
    def _():
        cut(Bench(), 0)
        cut(Bench(half_closes=False), 1.0)  # TLS
        bench = Bench()
        bench.transport.unsent = 1  # the upstream has not got the whole request, so it bills nothing
        cut(bench, 1.0)
        assert not bench.connection.cut


def test_hanging_up_on_an_answer_that_was_complete_does_nothing():
    @run
    def _():
        bench = Bench()
        bench.ask()
        bench.feed(answer(b""))
        bench.connection.hang_up(0)
        assert not bench.transport.ended
        assert not bench.home.forgotten


def test_an_aborted_call_never_looks_complete():
    @run
    def _():
        bench = Bench()
        receiver, future = bench.ask()
        bench.feed(OK + b"\r\nabc")
        bench.connection.abort()
        assert "cut off by this side" in str(future.exception())
        bench.feed(b"def")
        bench.eof()
        assert receiver.body == b"abc"


@pytest.mark.parametrize("how", ["abort", "hang_up"])
def test_a_receiver_may_end_the_call_from_its_own_callback(how):
    @run
    def _():
        bench = Bench()
        receiver = Collector()
        receiver.then = bench.connection.abort if how == "abort" else lambda: bench.connection.hang_up(0)
        _, future = bench.ask(receiver=receiver)
        bench.feed(answer(b"abc"))
        assert future.done()
        assert (how == "abort") == (future.exception() is not None)
        assert receiver.body == b""
        assert bench.home.forgotten == 1


def test_a_cancelled_future_is_left_alone_and_the_call_shows_as_abandoned():
    @run
    def _():
        bench = Bench()
        _, future = bench.ask()
        assert not bench.connection.abandoned
        future.cancel()
        assert bench.connection.abandoned
        bench.feed(answer(b"abc"))
        assert bench.home.taken_back == 1
        assert not bench.connection.abandoned


def test_the_repr_tells_the_state():
    @run
    def _():
        bench = Bench()
        assert repr(bench.connection) == "<Connection to upstream:80, fresh, unused>"
        bench.ask()
        assert "fresh, busy, no answer yet" in repr(bench.connection)
        bench.feed(CHUNKED)
        bench.connection.pause()
        assert "busy, status 200, paused" in repr(bench.connection)
        bench.connection.hang_up(1.0)
        assert "hung up" in repr(bench.connection)
        bench.eof()
        assert "retired" in repr(bench.connection)
        assert "reused, idle" in repr(reused_bench().connection)


def test_a_request_head_that_names_head_is_the_only_one_without_a_body():
    @run
    def _():
        for head in (b"GET ", b"POST ", b"DELETE ", b"PUT ", b"PATCH ", b"OPTIONS "):
            bench = Bench()
            receiver, _ = bench.ask(head + GET[4:])
            bench.feed(answer(b"abc"))
            assert receiver.body == b"abc"
        assert HEAD.startswith(b"HEAD")


def test_a_body_that_is_being_written_when_the_upstream_closes_is_written_no_further():
    async def test():
        bench = Bench()
        body = bytes(1_000_000)
        _, answer = bench.ask(post(len(body)), body)
        bench.transport.unsent = len(body)
        bench.eof()
        with pytest.raises(UpstreamUnreachable):
            await answer
        assert "abort" in bench.transport.calls

    asyncio.run(test())
