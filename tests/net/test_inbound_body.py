"""A body that comes in: what of the bytes is its own, and when it is late."""

import types

import pytest

from penstock.config.model import ListenerConfig
from penstock.errors import BodyTooLarge, Overloaded
from penstock.net._inbound_body import SMALL_BODY, InboundBody
from penstock.net._inbound_exchange import InboundExchange
from penstock.net._serving import Serving
from penstock.net._untaken import Untaken
from penstock.testing import FakeClock

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n%b"
CODED = {
    "length": (b"Content-Length: 11", b"hello world"),
    "chunks": (b"Transfer-Encoding: chunked", b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"),
}


def body_of(field, clock, **config):
    serving = Serving(None, ListenerConfig(**config), clock, None)
    exchange = InboundExchange(types.SimpleNamespace(peer=""), serving.heads.parse(HEAD % field))
    exchange.limit = 1_000_000
    return InboundBody(exchange, serving), serving


@pytest.mark.parametrize("step", [1, 3, 1_000])
@pytest.mark.parametrize("coding", CODED)
def test_what_follows_the_body_is_told_however_its_bytes_come(coding, step):
    field, raw = CODED[coding]
    raw += b"GET /next"
    body, serving = body_of(field, FakeClock())
    at = 0
    while body.left:
        body.feed(raw[at : at + step])
        at += step
    assert body.fault is None
    assert body.exchange.whole_body() == b"hello world"
    assert body.rest + raw[at:] == b"GET /next"
    assert serving.coming == 11
    body.close()
    body.close()
    assert serving.coming == 0


def test_a_body_over_its_limit_is_at_fault_at_the_first_byte_too_many():
    body, _ = body_of(b"Transfer-Encoding: chunked", FakeClock())
    body.exchange.limit = 5
    body.feed(b"5\r\nhello\r\n")
    assert body.fault is None
    body.feed(b"1\r\n!\r\n")
    assert isinstance(body.fault, BodyTooLarge)


def test_while_too_much_comes_in_only_small_bodies_go_on():
    body, serving = body_of(b"Content-Length: 100000", FakeClock(), bodies_bytes=1)
    body.feed(bytes(SMALL_BODY))
    assert body.fault is None
    body.feed(b"!")
    assert isinstance(body.fault, Overloaded)
    assert serving.refused == {"bodies": 1}


def test_nothing_is_kept_of_a_body_that_has_been_answered():
    body, serving = body_of(b"Content-Length: 11", FakeClock())
    body.exchange.ended = True
    body.feed(b"hello world")
    assert (body.left, body.exchange.received, serving.coming) == (0, 11, 0)
    assert body.exchange.whole_body() == b""


def test_a_body_is_late_in_silence_or_below_its_rate_and_a_pause_does_not_count():
    clock = FakeClock()
    body, _ = body_of(b"Content-Length: 1000", clock, body_timeout=10.0, min_body_rate=10)
    start = clock.now()
    assert body.deadline() == start + 10
    body.heard = start + 9
    body.feed(bytes(50))
    assert body.deadline() == start + 10
    assert body.lateness(start + 10) == ""
    assert "slowly" in body.lateness(start + 10.1)
    body.feed(bytes(150))  # 200 bytes may take 20 s, but none may be 10 s after the one before
    assert body.deadline() == start + 19
    assert body.lateness(start + 18.9) == ""
    assert "in time" in body.lateness(start + 19)
    body.pass_over(start + 14)
    assert body.deadline() == start + 24


def test_a_client_is_silent_from_when_it_last_took_something():
    transport = types.SimpleNamespace(
        waiting=10, get_extra_info=lambda _: None, get_write_buffer_size=lambda: transport.waiting
    )
    transport.write = lambda data: setattr(transport, "waiting", transport.waiting + len(data))
    untaken = Untaken(transport, 100.0)
    assert untaken.silence(101.0) == 1.0
    untaken.write(b"more")
    assert untaken.silence(102.0) == 2.0
    transport.waiting -= 1
    assert untaken.silence(103.0) == 0.0
    assert untaken.silence(105.0) == 2.0
