"""Requests that h11 makes, and bytes that nobody should send."""

from __future__ import annotations

import asyncio
import logging
import re

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listener_doubles import SENTINEL, FakeTime, Served, Showcase, feed, read_answers, run
from test_listener_requests import LIMITS, TABLE

from penstock.config.model import ListenerConfig
from penstock.net._request_head import _LINE_SLACK
from penstock.net.clock import Clock
from penstock.net.listener import Listener

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.text(TOKEN, min_size=1, max_size=20).map("x-{}".format)
values = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc"], exclude_characters="\x80\x7f"), max_size=30
).map(str.strip)
paths = st.text("abcABC019-._~!$&'()*+,;=:@/%", max_size=40).map("/".__add__)
bodies = st.lists(st.binary(max_size=400), max_size=4)
requests = st.tuples(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"]),
    paths,
    st.lists(st.tuples(names, values), max_size=8),
    bodies,
    st.booleans(),
)


def written_by_h11(method, path, fields, body, chunked):
    """The request as h11 writes it, and its body."""
    client = h11.Connection(h11.CLIENT)
    whole = b"".join(body)
    framing = ("transfer-encoding", "chunked") if chunked else ("content-length", str(len(whole)))
    fields = [(name, value.encode("latin-1")) for name, value in fields]
    data = client.send(h11.Request(method=method, target=path, headers=[("host", "x"), *fields, framing]))
    for part in body:
        data += client.send(h11.Data(part))
    return data + client.send(h11.EndOfMessage()), whole


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=4), st.data())
def test_what_h11_writes_is_understood_and_h11_understands_the_answers(several, data):
    written = [written_by_h11(*request) for request in several]
    stream = b"".join(raw for raw, _ in written)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)))
    segments = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    application = Echoing()

    received = []

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                for segment in segments:
                    await client.send(segment)
                    await asyncio.sleep(0)
                await client.send(SENTINEL)
                await client.receive_until(b"sentinel-answer")
                received.append(client.received)

    run(main())
    methods = [request[0] for request in several]
    answers = read_answers(received[0], [*methods, "GET"])
    assert [answer.status for answer in answers] == [200] * (len(several) + 1)
    for request, (_, body), answer, exchange in zip(
        several, written, answers, application.seen, strict=False
    ):
        method, path, fields, _, chunked = request
        assert exchange.method == method
        assert exchange.path == path
        assert answer.headers[b"content-length"] == b"%d" % len(body)
        assert answer.body == (b"" if method == "HEAD" else body)
        joined = {}
        for name, value in fields:
            joined.setdefault(name.lower().encode(), []).append(value.encode("latin-1"))
        theirs = dict(exchange.headers)
        assert theirs.pop(b"host") == b"x"
        assert theirs.pop(b"transfer-encoding" if chunked else b"content-length")
        assert theirs == {name: b", ".join(parts) for name, parts in joined.items()}


class Echoing(Showcase):
    async def __call__(self, exchange):
        body = await exchange.body()
        exchange.respond(200, [], b"sentinel-answer" if exchange.path == "/sentinel" else body)


seeds = st.sampled_from([raw for raw, _, _ in TABLE.values()])


@st.composite
def mutated(draw):
    """A request, or several, with something changed."""
    data = bytearray(b"".join(draw(st.lists(seeds, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["insert", "delete", "replace", "repeat"])):
            case "insert":
                odd = [b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"\0", b"0", b"\xff", b"chunked"]
                data[at:at] = draw(st.sampled_from(odd))
            case "delete":
                del data[at : at + draw(st.integers(1, 10))]
            case "replace":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
            case "repeat":
                data[at:at] = data[max(0, at - draw(st.integers(1, 30))) : at]
    return bytes(data)


@pytest.fixture(autouse=True)
def quiet():
    """Thousands of defects on purpose need not be logged."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Slow(Showcase):
    """Answers after some turns of the loop."""

    def __init__(self, turns):
        super().__init__()
        self.turns = turns

    async def __call__(self, exchange):
        for _ in range(self.turns):
            await asyncio.sleep(0)
        await super().__call__(exchange)


def settles(segments, turns=0, full=frozenset()):
    """What a connection comes to when its client sends these, goes on to send nothing, and waits."""
    result = []

    async def main():
        time = FakeTime()
        application = Slow(turns)
        application.go.set()
        clock = Clock(time)
        listener = Listener(application, ListenerConfig(**LIMITS), clock)
        transport = await feed(listener, segments, full)
        written = transport.written
        for _ in range(6):
            time.now += 200
            clock.sweep()
            for _ in range(10):
                await asyncio.sleep(0)
        assert listener.statistics().open == 0, "stuck"
        assert not listener._serving.tasks
        assert not listener._serving.stalled
        result.append(written)

    run(main())
    return result[0]


@settings(deadline=None, max_examples=600)
@given(st.one_of(mutated(), st.binary(max_size=300)), st.data())
def test_whatever_is_sent_the_connection_settles_the_same_in_any_segments(raw, data):
    whole = settles([raw] if raw else [])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=5)))
    segments = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]
    parts = settles(segments, data.draw(st.integers(0, 2)), data.draw(st.frozensets(st.integers(0, 5))))
    singly = settles([bytes([byte]) for byte in raw])
    assert len(read_answers(whole)) <= raw.count(b"\n") + 1
    assert undated(parts) == undated(whole)
    assert undated(singly) == undated(whole)


def undated(written):
    return re.sub(rb"date: [^\r]*", b"date: -", written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))


@pytest.mark.parametrize("begins", [b"GET /", b"GET / HTTP/1.1\r\nhost: a\r\nx: "], ids=["target", "head"])
@pytest.mark.parametrize("ends", [b"\r", b"\n", b"\0", b"\r\n", b"\r\n\r\n"], ids=repr)
def test_at_the_edge_of_a_limit_it_is_the_same_fault_in_any_segments(begins, ends):
    limit = LIMITS["max_header_bytes"] if b"x:" in begins else LIMITS["max_target_bytes"] + _LINE_SLACK
    for length in range(limit - 4, limit + 5):
        for more in (b"", b"a", b"a" * 400):
            raw = begins + b"a" * (length - len(begins)) + ends + more
            assert undated(settles([raw])) == undated(settles([bytes([byte]) for byte in raw])), (
                length,
                more,
            )
