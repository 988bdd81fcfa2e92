"""Requests that come again in the same bytes: what is answered without being read is what reading would have answered."""

from __future__ import annotations

import contextlib

import pytest
from listener_doubles import FakeTime, FakeTransport, Showcase, feed, run, settled
from test_listener_requests import LIMITS, TABLE, anyway, get, post

from penstock.config.model import ListenerConfig
from penstock.net.clock import Clock
from penstock.net.exchange import LATER
from penstock.net.listener import Listener
from penstock.net.responses import render_fields

ASK = post(b"Content-Length: 5", body=b"hello")


class Remembering(Showcase):
    """Knows every request by its bytes that it has answered with 200."""

    def __init__(self):
        super().__init__()
        self.known = {}
        self.from_memory = 0

    def __call__(self, exchange):
        segment = exchange.segment
        respond = exchange.respond

        def note(status, headers, body):
            if segment and status == 200:
                self.known[segment] = b"content-length: %d\r\n%b\r\n%b" % (
                    len(body), render_fields(headers), body,
                )  # fmt: skip
            respond(status, headers, body)

        return super().__call__(_Noted(exchange, note))

    @property
    def lengths(self):
        return {len(segment) for segment in self.known}

    def answer(self, segment, opening, asker):
        assert asker.peer == "192.0.2.1"
        answer = self.known.get(segment)
        self.from_memory += answer is not None
        return answer and opening + answer


class _Noted:
    def __init__(self, exchange, respond):
        self._exchange = exchange
        self.respond = respond

    def __getattr__(self, name):
        return getattr(self._exchange, name)


def listener_of(application, repeats=None, clock=None):
    return Listener(application, ListenerConfig(**LIMITS), clock or Clock(FakeTime()), repeats=repeats)


@pytest.mark.parametrize("name", TABLE)
def test_a_request_that_comes_again_is_answered_as_if_it_were_read(name):
    raw = TABLE[name][0]

    async def main():
        read = await feed(listener_of(Showcase()), [raw, raw, raw])
        application = Remembering()
        again = await feed(listener_of(application, application), [raw, raw, raw])
        assert anyway(again.written) == anyway(read.written)
        assert (again.closed or again.ended) is (read.closed or read.ended)

    run(main())


def test_what_is_known_is_not_read_again():
    async def main():
        application = Remembering()
        listener = listener_of(application, application)
        transport = await feed(listener, [ASK] * 4)
        assert transport.written.count(b"200 OK") == 4
        assert (len(application.called), application.from_memory) == (1, 3)
        assert listener.statistics().requests == 4

    run(main())


@pytest.mark.parametrize(
    "segments",
    [
        [ASK[:-2], ASK[-2:]],
        [ASK + ASK],
        [ASK + ASK[:-2], ASK[-2:]],
        [post(b"Content-Length: 5", b"Connection: close", body=b"hello")],
        [post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello")],
        [post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")],
        [get()],
        [get(b"/", b"Content-Length: 5", version=b"HTTP/1.0") + b"hello"],
    ],
    ids=lambda segments: repr(b"|".join(segments))[:60],
)
def test_only_a_whole_request_that_came_at_once_and_alone_has_a_segment(segments):
    async def main():
        application = Remembering()
        await feed(listener_of(application, application), segments)
        assert application.called
        assert not application.known

    run(main())


def test_the_segment_is_nobodys_once_the_application_has_returned():
    async def main():
        application = Showcase()
        listener = listener_of(application, Remembering())
        await feed(listener, [post(b"Content-Length: 5", body=b"hello", target=b"/hang")])
        assert [exchange.segment for exchange in application.called] == [b""]

    run(main())


def test_a_client_that_takes_nothing_is_not_written_to():
    async def main():
        application = Remembering()
        transport = await feed(listener_of(application, application), [ASK, ASK], full={1})
        assert transport.written.count(b"200 OK") == 2, "once it takes something again"
        assert application.from_memory <= 1

    run(main())


def test_once_the_end_is_announced_every_answer_ends_its_connection():
    async def main():
        application = Remembering()
        listener = listener_of(application, application)
        await feed(listener, [ASK])
        listener.announce_end()
        transport = await feed(listener, [ASK])
        assert application.from_memory == 0
        assert transport.closed or transport.ended

    run(main())


def test_a_defect_in_what_is_at_hand_disturbs_nobody(caplog):
    class Broken:
        lengths = range(1_000)

        def answer(self, segment, opening, asker):
            raise KeyError(segment)

    async def main():
        transport = await feed(listener_of(Showcase(), Broken()), [ASK, ASK])
        assert transport.written.count(b"200 OK") == 2
        assert "could not be given" in caplog.text

    run(main())


# ---- answers that are looked for elsewhere ----


class LookingElsewhere(Remembering):
    """Has its answers told later, or never: when :meth:`tell` says so."""

    def __init__(self):
        super().__init__()
        self.askers = []

    def answer(self, segment, opening, asker):
        answer = super().answer(segment, b"", asker)  # what it begins with is said when it is told
        if answer is None:
            return None
        self.askers.append((asker, answer))
        return LATER

    def tell(self, *, found=True):
        asker, answer = self.askers.pop(0)
        asker.told(answer if found else None)


@contextlib.asynccontextmanager
async def asked_again(**limits):
    """``(application, listener, connection, transport)``; what was asked a second time has no answer yet."""
    application = LookingElsewhere()
    config = ListenerConfig(**{**LIMITS, **limits})
    listener = Listener(application, config, Clock(FakeTime()), repeats=application)
    connection = listener.protocol_factory()
    transport = FakeTransport(connection)
    connection.connection_made(transport)
    for _ in range(2):
        connection.data_received(ASK)
        await settled(transport)
    assert transport.written.count(b"200 OK") == 1
    assert connection.in_progress
    yield application, listener, connection, transport
    await settled(transport)


@pytest.mark.parametrize("found", [True, False], ids=["found", "to be read"])
def test_an_answer_that_is_told_later_is_the_one_that_reading_gives(found):
    async def main():
        async with asked_again() as (application, listener, connection, transport):
            application.tell(found=found)
            await settled(transport)
            first, second = transport.written.split(b"HTTP/1.1")[1:]
            assert anyway(first) == anyway(second)
            assert len(application.called) == (1 if found else 2)
            assert listener.statistics().requests == 2
            assert not connection.in_progress

    run(main())


@pytest.mark.parametrize("found", [True, False], ids=["found", "to be read"])
def test_what_comes_while_an_answer_is_looked_for_waits_its_turn(found):
    async def main():
        async with asked_again() as (application, _, connection, transport):
            other = post(b"Content-Length: 5", body=b"other")
            connection.data_received(other[:20])
            connection.data_received(other[20:] + get(b"/third"))
            await settled(transport)
            assert transport.written.count(b"200 OK") == 1
            application.tell(found=found)
            await settled(transport)
            bodies = [part.rpartition(b"\r\n\r\n")[2] for part in transport.written.split(b"HTTP/1.1")[1:]]
            assert bodies == [b"hello", b"hello", b"other", b"/third"]

    run(main())


def test_a_flood_behind_a_look_is_not_read():
    async def main():
        async with asked_again(pipeline_bytes=1_000) as (application, _, connection, transport):
            connection.data_received(get() * 100)
            assert transport.paused
            application.tell()
            await settled(transport)
            assert not transport.paused
            assert transport.written.count(b"200 OK") == 102

    run(main())


@pytest.mark.parametrize("found", [True, False], ids=["found", "to be read"])
@pytest.mark.parametrize("how", ["half-closed", "lost", "cut"])
def test_who_leaves_meanwhile_is_not_answered_and_nothing_is_asked(how, found):
    async def main():
        async with asked_again() as (application, listener, connection, transport):
            asker = application.askers[0][0]
            assert not asker.gone
            before = transport.written
            if how == "half-closed":
                connection.eof_received()
            elif how == "lost":
                connection.connection_lost(None)
            else:
                assert connection.cut("drain")
            await settled(transport)
            assert asker.gone
            assert not connection.in_progress
            application.tell(found=found)
            await settled(transport)
            assert (transport.written, len(application.called)) == (before, 1)
            assert asker.gone
            assert not listener._serving.connections

    run(main())


@pytest.mark.parametrize("found", [True, False], ids=["found", "to be read"])
def test_a_listener_that_drains_waits_for_what_is_looked_for_and_ends_the_connection_with_it(found):
    async def main():
        async with asked_again() as (application, listener, connection, transport):
            listener.announce_end()
            connection.drain()
            await settled(transport)
            assert not transport.closed
            application.tell(found=found)
            await settled(transport)
            assert transport.written.count(b"200 OK") == 2
            assert transport.written.count(b"connection: close") == 1
            assert transport.closed

    run(main())


def test_a_client_that_takes_nothing_for_a_moment_keeps_its_order():
    async def main():
        async with asked_again() as (application, _, connection, transport):
            connection.data_received(get(b"/third"))
            connection.pause_writing()
            connection.resume_writing()
            await settled(transport)
            assert transport.written.count(b"200 OK") == 1
            application.tell()
            await settled(transport)
            assert transport.written.count(b"200 OK") == 3

    run(main())


def test_a_look_has_no_deadline_of_the_connection():
    async def main():
        async with asked_again() as (application, _, connection, transport):
            connection.expire(1e9)
            assert not transport.closed
            application.tell()
            await settled(transport)
            assert transport.written.count(b"200 OK") == 2
            assert connection.deadline < 1e9

    run(main())
