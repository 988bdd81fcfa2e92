"""Whose request it is that has come through a proxy: nobody is believed but the proxies that are named."""

import asyncio

import pytest
from listener_doubles import FakeTime, FakeTransport, Showcase, feed, run

from penstock.config.model import ListenerConfig
from penstock.net._proxies import Proxies
from penstock.net.asgi import serve_asgi
from penstock.net.clock import Clock
from penstock.net.listener import Listener

PEER = FakeTransport(None).get_extra_info("peername")[0]
OURS = Proxies(["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"])


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        (b"198.51.100.7", "198.51.100.7"),
        (b"198.51.100.7, 10.1.2.3", "198.51.100.7"),  # two proxies, one behind the other
        (b"127.0.0.1, 198.51.100.7", "198.51.100.7"),  # what the caller has written itself stands before
        (b"10.0.0.9, 198.51.100.7", "198.51.100.7"),  # in vain, also with an address of ours
        (b"198.51.100.7,2001:db8::1", "198.51.100.7"),
        (b"198.51.100.7:4711", "198.51.100.7"),
        (b"[2001:db9::7]:4711", "2001:db9::7"),
        (b"2001:db9::7", "2001:db9::7"),
        (b"::ffff:198.51.100.7", "198.51.100.7"),
        (b"10.1.2.3, 10.4.5.6", "10.1.2.3"),  # everybody is ours: the furthest
        (b"198.51.100.7, unknown", "192.0.2.1"),
        (b"198.51.100.7, unknown, 10.1.2.3", "10.1.2.3"),
        (b"", "192.0.2.1"),
        (b"<script>\xff", "192.0.2.1"),
    ],
)
def test_the_caller_is_the_last_address_that_is_none_of_the_proxies(forwarded, caller):
    assert OURS.caller("192.0.2.1", {b"x-forwarded-for": forwarded}) == caller
    segment = b"POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\n\r\nX-Forwarded-For: 1.2.3.4" % forwarded
    assert OURS.caller_of("192.0.2.1", segment) == caller


def test_several_fields_are_one():
    segment = b"POST / HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1\r\nx-forwarded-for: 198.51.100.7\r\n\r\n"
    assert OURS.caller_of("192.0.2.1", segment) == "198.51.100.7"
    assert OURS.caller("192.0.2.1", {}) == "192.0.2.1"


@pytest.mark.parametrize("address", ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8:1::5"])
def test_the_proxies_are_known_by_their_networks(address):
    assert OURS.trusts(address)
    assert not Proxies([]).trusts(address)


@pytest.mark.parametrize("address", ["11.0.0.1", "192.0.2.2", "unix", ""])
def test_others_are_not(address):
    assert not OURS.trusts(address)


class Repeated(Showcase):
    """Whom it was asked for where the bytes of a request are recognised."""

    lengths = range(1_000)

    def __init__(self):
        super().__init__()
        self.askers = []

    def answer(self, segment, opening, asker):
        self.askers.append(asker.peer)


def asking_for(*callers):
    return [b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\n\r\n" % one for one in callers]


@pytest.mark.parametrize(
    ("trusted", "peers"),
    [([], [PEER] * 3), (["198.51.100.0/24"], [PEER] * 3), ([PEER], ["198.51.100.7", "198.51.100.8", PEER])],
)
def test_a_listener_knows_callers_by_the_proxies_that_it_trusts(trusted, peers):
    application = Repeated()

    async def main():
        config = ListenerConfig(trusted_proxies=trusted)
        listener = Listener(application, config, Clock(FakeTime()), repeats=application)
        segments = [*asking_for(b"198.51.100.7", b"198.51.100.8"), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
        await feed(listener, segments)

    run(main())
    assert [exchange.peer for exchange in application.seen] == peers
    assert application.askers == peers


@pytest.mark.parametrize(("trusted", "peer"), [([], PEER), ([PEER], "198.51.100.7")])
def test_so_does_the_gateway_behind_another_server(trusted, peer):
    application = Showcase()
    scope = {"type": "http", "method": "GET", "path": "/", "client": (PEER, 1)}
    scope["headers"] = [(b"x-forwarded-for", b"198.51.100.7")]

    messages = [{"type": "http.request"}]

    async def receive():
        if not messages:
            await asyncio.Event().wait()  # the client stays
        return messages.pop()

    async def send(message):
        pass

    async def main():
        await serve_asgi(application, scope, receive, send, ListenerConfig(trusted_proxies=trusted))

    run(main())
    assert [exchange.peer for exchange in application.seen] == [peer]
