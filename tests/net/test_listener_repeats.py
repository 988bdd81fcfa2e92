"""Requests that come again in the same bytes: what is answered without being read is what reading would have answered."""

from __future__ import annotations

import pytest
from listener_doubles import FakeTime, Showcase, feed, run
from test_listener_requests import LIMITS, TABLE, anyway, get, post

from penstock.config.model import ListenerConfig
from penstock.net.clock import Clock
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

    def answer(self, segment, opening, peer):
        assert peer == "192.0.2.1"
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


def test_while_the_listener_drains_every_answer_ends_its_connection():
    async def main():
        application = Remembering()
        listener = listener_of(application, application)
        await feed(listener, [ASK])
        listener._serving.draining = True
        transport = await feed(listener, [ASK])
        assert application.from_memory == 0
        assert transport.closed or transport.ended

    run(main())


def test_a_defect_in_what_is_at_hand_disturbs_nobody(caplog):
    class Broken:
        lengths = range(1_000)

        def answer(self, segment, opening, peer):
            raise KeyError(segment)

    async def main():
        transport = await feed(listener_of(Showcase(), Broken()), [ASK, ASK])
        assert transport.written.count(b"200 OK") == 2
        assert "could not be given" in caplog.text

    run(main())
