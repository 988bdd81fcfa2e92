"""Whether a head is recognised or read makes no difference to anybody, whatever comes and in whatever segments."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from listener_doubles import FakeTime, feed, run
from test_listener_fuzz import undated
from test_listener_requests import LIMITS, TABLE, post

from penstock.config.model import ListenerConfig
from penstock.net._precedent import Precedent
from penstock.net.clock import Clock
from penstock.net.listener import Listener

ASK = post(b"Content-Length: 5", b"Authorization: Bearer x", body=b"hello")
seeds = st.one_of(st.just(ASK), st.sampled_from([raw for raw, _, _ in TABLE.values()]))
changes = st.tuples(
    st.integers(0, 120),
    st.integers(0, 4),
    st.sampled_from(
        [b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b"0", b"7", b"12", b"\xff", b"\0", b"X"]
    ),
)


class Telling:
    """Answers with what it was asked, and keeps what it has made of a head as the gateway does."""

    def __init__(self):
        self.asked = []
        self.opened = 0

    def opening(self, exchange):
        said = {name: value for name, value in exchange.headers.items() if name != b"content-length"}
        made = exchange.method, exchange.path, exchange.query, said
        if exchange.meaning is None:
            self.opened += 1
            exchange.meaning = made
        assert exchange.meaning == made
        exchange.state = "opened"
        return 150

    def __call__(self, exchange):
        told = exchange.method, exchange.path, exchange.query, dict(exchange.headers), exchange.whole_body()
        self.asked.append(told)
        exchange.respond(200, [], repr(told).encode())


def comes_to(segments):
    """What a connection's client gets, what the application was asked, how it ended, and what was counted."""
    told = []

    async def main():
        application = Telling()
        listener = Listener(application, ListenerConfig(**LIMITS), Clock(FakeTime()))
        transport = await feed(listener, segments)
        figures = listener.statistics()
        told.append(
            (
                undated(transport.written),
                application.asked,
                transport.closed or transport.ended,
                (figures.requests, figures.refused, figures.in_progress),
            )
        )

    run(main())
    return told[0]


@settings(deadline=None, max_examples=400)
@given(seeds, st.lists(st.lists(changes, max_size=2), min_size=1, max_size=4), st.data())
def test_what_is_recognised_is_what_would_have_been_read(first, others, data):
    requests = [first, first]
    for changed in others:
        raw = bytearray(first)
        for at, size, put in changed:
            raw[at : at + size] = put
        requests += [bytes(raw), first]
    stream = b"".join(requests)
    if data.draw(st.booleans()):
        segments = [raw for raw in requests if raw]
    else:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
        segments = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    recognised = comes_to(segments)
    with mock.patch.object(Precedent, "again", return_value=None):
        assert comes_to(segments) == recognised


def test_what_was_made_of_a_head_is_there_when_it_comes_again_and_not_with_another():
    async def main():
        application = Telling()
        listener = Listener(application, ListenerConfig(**LIMITS), Clock(FakeTime()))
        longer = ASK.replace(b": 5", b": 11") + b" again"
        another = ASK.replace(b"Bearer x", b"Bearer y")
        for segments, opened in [([ASK, ASK, longer, ASK + longer], 1), ([ASK, another, another, ASK], 3)]:
            application.opened = 0
            transport = await feed(listener, segments)
            assert application.opened == opened
            assert transport.written.count(b"200 OK") == len(segments) + (b"again" in segments[-1])

    run(main())
