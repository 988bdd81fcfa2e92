"""What goes out: heads, pieces, interim answers, and what an application may and may not do."""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import json
import logging
import sys
import time

import pytest
from listener_doubles import (
    SENTINEL,
    FakeTime,
    FakeTransport,
    Served,
    Showcase,
    feed,
    read_answers,
    run,
    until,
)

from penstock.config.model import ListenerConfig
from penstock.errors import Overloaded
from penstock.net.clock import Clock
from penstock.net.listener import Listener

EAGER = sys.version_info >= (3, 12)


def listen(application=None, **limits):
    return Listener(application or Showcase(), ListenerConfig(**limits), Clock(FakeTime()))


def get(path, *fields, method=b"GET"):
    return b"\r\n".join((b"%s %s HTTP/1.1" % (method, path), b"Host: x", *fields, b"", b""))


def answered(raw, application=None, methods=(), **limits):
    """The answers to ``raw``, through a transport that takes everything at once."""
    result = []

    async def main():
        transport = await feed(listen(application, **limits), [raw])
        result.extend(read_answers(transport.written, methods, closed=transport.closed or transport.ended))

    run(main())
    return result


class Writes(FakeTransport):
    def __init__(self, protocol):
        super().__init__(protocol)
        self.writes = []

    def write(self, data):
        self.writes.append(data)


def writes_of(raw, application=None):
    result = []

    async def main():
        protocol = listen(application).protocol_factory()
        transport = Writes(protocol)
        protocol.connection_made(transport)
        protocol.data_received(raw)
        result.append(len(transport.writes))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        result.append(transport.writes)

    run(main())
    return result


def test_a_whole_answer_is_one_write():
    at_once, writes = writes_of(get(b"/"))
    assert len(writes) == 1
    assert at_once == (1 if EAGER else 0), "the application is started eagerly"


def test_the_head_of_a_stream_goes_out_with_its_first_piece():
    _, writes = writes_of(get(b"/slow-stream"))
    assert len(writes) == 1
    assert writes[0].endswith(b"\r\n\r\n5\r\nfirst\r\n")


def test_the_head_of_a_stream_does_not_wait_for_its_first_piece():
    _, writes = writes_of(get(b"/late-head"))
    assert len(writes) == 1
    assert writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert writes[0].endswith(b"\r\n\r\n")


def test_the_pieces_of_one_turn_are_one_write_and_each_a_chunk():
    _, writes = writes_of(get(b"/stream"))
    assert len(writes) == 1
    assert writes[0].endswith(
        b"\r\n\r\n" + b"".join(b"9\r\ndata: %d\n\n\r\n" % n for n in range(3)) + b"0\r\n\r\n"
    )


def test_more_than_the_high_water_mark_does_not_wait_for_the_next_turn():
    kept = []

    class Bulky(Showcase):
        async def echo(self, exchange):
            exchange.start(200, [])
            for _ in range(100):
                exchange.write(b"x" * 10_000)
                kept.append(exchange._unsent)
            exchange.end()

    _, writes = writes_of(get(b"/"), Bulky())
    assert max(kept) <= 65_536
    assert 10 < len(writes) < 20


def test_an_empty_piece_does_not_end_the_stream():
    class Empty(Showcase):
        async def echo(self, exchange):
            exchange.start(200, [])
            exchange.write(b"")
            exchange.write(b"x")
            exchange.end()

    (answer,) = answered(get(b"/"), Empty())
    assert answer.complete
    assert answer.body == b"x"


@pytest.mark.parametrize("path", [b"/", b"/stream", b"/defect", b"/early"])
def test_head_gets_the_fields_of_get_and_no_body(path):
    (head,) = answered(get(path, method=b"HEAD"), methods=["HEAD"])
    (full,) = answered(get(path))
    assert head.status == full.status
    assert head.body == b""
    assert full.body != b""
    del head.headers[b"date"], full.headers[b"date"]
    head.headers[b"x-method"] = full.headers.get(b"x-method", head.headers.get(b"x-method"))
    assert {k: v for k, v in head.headers.items() if v} == full.headers


def test_no_content_has_no_body_and_no_length():
    (answer,) = answered(get(b"/empty"))
    assert answer.status == 204
    assert b"content-length" not in answer.headers
    assert b"transfer-encoding" not in answer.headers


@pytest.mark.parametrize("status", [204, 304])
def test_a_stream_with_a_status_that_has_no_body_sends_none(status):
    class Bodiless(Showcase):
        async def echo(self, exchange):
            exchange.start(status, [])
            exchange.write(b"x")
            exchange.end()

    answers = answered(get(b"/") + SENTINEL, Bodiless())
    assert [(answer.status, answer.body) for answer in answers] == [(status, b""), (200, b"sentinel")]


def test_an_unknown_status_needs_no_phrase():
    class Odd(Showcase):
        async def echo(self, exchange):
            exchange.respond(299, [], b"odd")

    (answer,) = answered(get(b"/"), Odd())
    assert (answer.status, answer.body) == (299, b"odd")


def test_http_1_0_keep_alive_is_confirmed():
    answers = answered(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answers[0].headers[b"connection"] == b"keep-alive"


def test_the_date_is_right_and_follows_the_sweep(monkeypatch):
    listener = listen()

    async def dated():
        transport = await feed(listener, [get(b"/")])
        return email.utils.parsedate_to_datetime(
            read_answers(transport.written, closed=False)[0].headers[b"date"].decode()
        ).timestamp()

    async def main():
        assert abs(await dated() - time.time()) < 60
        monkeypatch.setattr(time, "time", lambda: 2_000_000_000.7)
        listener.sweep(0)
        assert await dated() == 2_000_000_000
        monkeypatch.setattr(time, "time", lambda: 1_000_000_000.2)  # set back by somebody
        listener.sweep(0)
        assert await dated() == 1_000_000_000

    run(main())


def test_an_interim_answer_comes_first():
    (answer,) = answered(get(b"/inform"))
    assert answer.interim == [104]
    assert answer.body == b"informed"


@pytest.mark.parametrize("status", [101, 200, 404])
def test_only_interim_statuses_inform(status):
    class Wrong(Showcase):
        async def echo(self, exchange):
            exchange.inform(status, [])

    assert answered(get(b"/"), Wrong())[0].status == 500


def test_injection_into_an_interim_answer_is_refused():
    class Wrong(Showcase):
        async def echo(self, exchange):
            exchange.inform(104, [(b"a", b"b\r\n\r\nHTTP/1.1 200 OK")])

    (answer,) = answered(get(b"/"), Wrong())
    assert (answer.status, answer.interim) == (500, [])


@pytest.mark.parametrize(
    "field",
    [(b"a", b"b\rc"), (b"a", b"b\nc"), (b"a", b"b\0c"), (b"a\r\nb", b"c"), (b"a", b"b\r\n"), (b"a\n", b"b")],
)
def test_injection_into_fields_is_refused(field):
    class Wrong(Showcase):
        async def echo(self, exchange):
            exchange.respond(200, [(b"fine", b"fine"), field], b"")

    (answer,) = answered(get(b"/"), Wrong())
    assert answer.status == 500
    assert b"fine" not in answer.headers


def test_a_defect_is_logged_and_told_without_detail(caplog):
    with caplog.at_level(logging.ERROR):
        (answer,) = answered(get(b"/defect"))
    assert json.loads(answer.body) == {
        "error": {"message": "internal error", "type": "api_error", "code": "internal_error"}
    }
    assert "KeyError" in caplog.text
    assert "GET /defect" in caplog.text


def test_an_application_that_does_not_answer_is_logged(caplog):
    answered(get(b"/silent"))
    assert "without an answer" in caplog.text


def test_an_error_of_ours_that_leaves_the_application_is_told_with_its_own_status():
    class Busy(Showcase):
        async def echo(self, exchange):
            raise Overloaded("no room", retry_after=1.2)

    (answer,) = answered(get(b"/"), Busy())
    assert answer.status == 503
    assert answer.headers[b"retry-after"] == b"2"
    assert json.loads(answer.body)["error"] == {
        "message": "no room",
        "type": "overloaded_error",
        "code": "overloaded",
    }


@pytest.mark.parametrize("step", ["respond", "start", "write", "end"])
def test_steps_out_of_order_are_defects(step):
    class Misuse(Showcase):
        async def echo(self, exchange):
            if step in ("respond", "start"):
                exchange.start(200, [])
                exchange.write(b"begun")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            getattr(exchange, step)(
                *{"respond": (200, [], b""), "start": (200, []), "write": (b"",)}.get(step, ())
            )

    (answer,) = answered(get(b"/"), Misuse())
    if step in ("respond", "start"):
        assert (answer.status, answer.body, answer.complete) == (200, b"begun", False)
    else:
        assert answer.status == 500


def test_nothing_can_follow_the_end():
    failures = []

    class Late(Showcase):
        async def echo(self, exchange):
            exchange.respond(200, [], b"one")
            for attempt in (
                lambda: exchange.respond(200, [], b"two"),
                lambda: exchange.start(200, []),
                lambda: exchange.write(b"three"),
                exchange.end,
            ):
                with pytest.raises(RuntimeError) as failure:
                    attempt()
                failures.append(failure)
            exchange.abort()  # of an answer that has ended: nothing
            exchange.inform(104, [])

    answers = answered(get(b"/") + SENTINEL, Late())
    assert [answer.body for answer in answers] == [b"one", b"sentinel"]
    assert len(failures) == 4


def test_the_state_is_the_applications():
    class Keeping(Showcase):
        def opening(self, exchange):
            assert exchange.state is None
            exchange.state = "kept"
            return 0

        async def echo(self, exchange):
            exchange.respond(200, [], exchange.state.encode())

    assert answered(get(b"/"), Keeping())[0].body == b"kept"


def test_the_application_sees_the_request():
    application = Showcase()
    answered(
        b"PUT http://elsewhere/a%2Fb?c=d?e HTTP/1.1\r\nhOST: x\r\nX-Two: 1\r\nx-two:  2 \r\nContent-Length: 2\r\n\r\nhi",
        application,
    )
    (exchange,) = application.seen
    assert (exchange.method, exchange.path, exchange.query) == ("PUT", "/a%2Fb", "c=d?e")
    assert exchange.headers == {b"host": b"x", b"x-two": b"1, 2", b"content-length": b"2"}
    assert exchange.peer == "192.0.2.1"
    assert exchange.started
    assert not exchange.gone


def test_requests_of_one_connection_share_no_context():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Contextual(Showcase):
        async def echo(self, exchange):
            seen.append(variable.get())
            variable.set("set")
            await asyncio.sleep(0)
            exchange.respond(200, [], b"")
            variable.set("set again")

    answers = answered(get(b"/") * 3, Contextual())
    assert len(answers) == 3
    assert seen == ["unset"] * 3


def test_pipelined_requests_are_begun_one_after_the_other():
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                await client.send(get(b"/hang") + get(b"/second") + get(b"/stream") + SENTINEL)
                await until(lambda: application.seen)
                await until(lambda: next(iter(served.listener._serving.connections))._rest)
                assert [exchange.path for exchange in application.seen] == ["/hang"]
                application.go.set()
                await client.receive_until(b"sentinel")
                answers = read_answers(client.received)
                assert [answer.body for answer in answers] == [
                    b"went",
                    b"/second",
                    b"data: 0\n\ndata: 1\n\ndata: 2\n\n",
                    b"sentinel",
                ]

    run(main())


def test_remembered_lines_mean_the_same_as_new_ones():
    listener = listen()
    application = listener._serving.application

    async def main():
        for _ in range(3):
            await feed(listener, [get(b"/", b"Accept: a", b"accept: b", b"Content-Length: 2") + b"hi"])
        for exchange in application.seen:
            assert exchange.headers[b"accept"] == b"a, b"
        transport = await feed(listener, [get(b"/", b"Content-Length: 2", b"Content-Length: 2") + b"hi"])
        assert transport.written.startswith(b"HTTP/1.1 400 ")
        await feed(listener, [get(b"/", b"Authorization: Bearer secret", b"X-Api-Key: secret")])
        assert "secret" not in repr(listener._serving.heads._fields)
        for number in range(5_000):
            await feed(listener, [get(b"/", b"User-Agent: %d" % number)])
        assert len(listener._serving.heads._fields) <= 2_048

    run(main())


def test_a_repr_tells_the_state():
    application = Showcase()

    async def main():
        async with Served(application) as served:
            assert repr(served.listener) == "<Listener accepting, 0 connections, 0 requests so far>"
            with await served.client() as client:
                await client.send(get(b"/hang"))
                await until(lambda: application.called)
                (connection,) = served.listener._serving.connections
                assert repr(connection) == (
                    "<Inbound from 127.0.0.1 answering <InboundExchange GET /hang from 127.0.0.1, answer open>>"
                )
        assert repr(served.listener) == "<Listener draining, 0 connections, 1 requests so far>"

    run(main())


class InCallbacks(Showcase):
    """Answers without a task: `__call__` returns None."""

    def __call__(self, exchange):
        self.called.append(exchange)
        if exchange.path == "/defect":
            raise KeyError("defect")
        body = exchange.whole_body()
        asyncio.get_running_loop().call_soon(exchange.respond, 200, [], body or b"callback")


def test_an_application_may_answer_in_callbacks():
    post = get(b"/", b"Content-Length: 5", method=b"POST") + b"hello"
    answers = answered(get(b"/") + post + get(b"/defect") + get(b"/"), InCallbacks())
    assert [answer.status for answer in answers] == [200, 200, 500, 200]
    assert [answer.body for answer in answers if answer.status == 200] == [b"callback", b"hello", b"callback"]


def test_a_body_that_failed_is_told_to_an_application_without_a_task():
    (answer,) = answered(get(b"/", b"Content-Length: 5", method=b"POST") + b"hello", InCallbacks(limit=4))
    assert answer.status == 413


def test_a_watcher_that_fails_harms_nobody(caplog):
    class Failing(Showcase):
        async def hang(self, exchange):
            self.watching.on_gone = None  # calling it fails
            await super().hang(exchange)

    application = Failing()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                await client.send(get(b"/hang"))
                await until(lambda: application.called)
                client.reset()
                await until(lambda: served.listener.statistics().open == 0)
                application.go.set()

    run(main())
    assert "a watcher failed" in caplog.text


def test_a_defect_after_a_head_without_a_body_has_one():
    class Bodiless(Showcase):
        async def echo(self, exchange):
            exchange.start(204, [])
            raise KeyError("defect")

    (answer,) = answered(get(b"/"), Bodiless())
    assert answer.status == 500
    assert b"internal error" in answer.body


def test_a_long_answer_is_not_copied():
    _, writes = writes_of(get(b"/big"))
    assert [len(write) for write in writes][1:] == [1_000_000]
