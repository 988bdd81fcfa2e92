"""hypercorn's HTTP/3 towards clients that mean no good: they end their own connections, and nobody else's."""

import asyncio
import ssl
import time
from types import SimpleNamespace

import pytest
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ProtocolNegotiated, StopSendingReceived, StreamReset
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol import events
from hypercorn.protocol import h3 as hypercorn_h3
from hypercorn.protocol import quic as hypercorn_quic
from running import issue_certificate

from penstock.admin import guarded_quic
from penstock.admin.guarded_quic import MAX_BLOCK, GuardedProtocol, GuardedQuic, LimitedConnection

ENTRY = bytes([0x3F, 0xE1, 0x1F, 0x41]) + b"a" + bytes([0x7F, 0xA1, 0x1E]) + b"v" * 4_000  # RFC 9204, 4.3
NAMED_60_000_TIMES = bytes([2, 0]) + b"\x80" * 60_000
FOREVER = (1 << 40 | 0xC0 << 56).to_bytes(8, "big")


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    monkeypatch.setattr(hypercorn_h3, "H3Connection", LimitedConnection)
    monkeypatch.setattr(hypercorn_quic, "H3Protocol", GuardedProtocol)


class Client:
    """aioquic's, with a way to its server that takes no time."""

    def __init__(self, server, number=0):
        self.server, self.address = server, ("127.0.0.1", 1_000 + number)
        configuration = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
        self.quic = QuicConnection(configuration=configuration)
        self.quic.connect(("127.0.0.1", 443), now=time.monotonic())
        self.h3 = None
        self.heads = []

    @property
    def ended(self):
        """The error with which the server has closed the connection; None: it has not."""
        closed = self.quic._close_event
        return closed and closed.error_code

    def hear(self, data):
        self.quic.receive_datagram(data, ("127.0.0.1", 443), now=time.monotonic())
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, ProtocolNegotiated):
                self.h3 = H3Connection(self.quic)
            if self.h3 is not None:
                found = self.h3.handle_event(event)
                self.heads += [dict(one.headers)[b":status"] for one in found if hasattr(one, "headers")]

    async def talk(self, turns=12):
        for _ in range(turns):
            for data, _ in self.quic.datagrams_to_send(now=time.monotonic()):
                await self.server.handle(RawData(data=data, address=self.address))
            await asyncio.sleep(0.001)  # aioquic sends by the clock

    async def begin(self):
        await self.talk()
        return self

    async def ask(self, method=b"GET", *, whole=True):
        stream = self.quic.get_next_available_stream_id()
        fields = [(b":method", method), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
        self.h3.send_headers(stream, fields, end_stream=whole)
        await self.talk()
        return stream


async def app(_scope, _receive, send, *_):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def served(tmp_path, test):
    async def main():
        config = Config()
        tls = issue_certificate(tmp_path, "localhost")
        config.certfile, config.keyfile = tls["certificate"], tls["key"]
        clients = {}

        async def send(event):
            if (client := clients.get(event.address)) is not None:
                client.hear(event.data)

        async with TaskGroup(asyncio.get_running_loop()) as group:
            server = GuardedQuic(app, config, WorkerContext(None), group, {}, ("127.0.0.1", 443), send)

            def client(number=0):
                made = Client(server, number)
                clients[made.address] = made
                return made

            await test(server, client)
            for connection in set(map(id, server.connections.values())):
                for found in [each for each in server.connections.values() if id(each) == connection][:1]:
                    await found.task.stop()  # unless it has ended meanwhile

    asyncio.run(main())


async def dynamic_table(client):
    client.quic.send_stream_data(client.h3._local_encoder_stream_id, ENTRY)
    stream = client.quic.get_next_available_stream_id()
    size = (len(NAMED_60_000_TIMES) | 0xC0 << 56).to_bytes(8, "big")
    client.quic.send_stream_data(stream, b"\x01" + size + NAMED_60_000_TIMES, end_stream=True)
    await client.talk(60)


async def long_head(client):
    stream = client.quic.get_next_available_stream_id()
    block = bytes(2) + b"\xd1" * MAX_BLOCK
    size = (len(block) | 0xC0 << 56).to_bytes(8, "big")
    client.quic.send_stream_data(stream, b"\x01" + size + block, end_stream=True)
    await client.talk(60)


async def head_without_end(client):
    stream = client.quic.get_next_available_stream_id()
    client.quic.send_stream_data(stream, b"\x01" + FOREVER + bytes(3 * MAX_BLOCK))
    await client.talk(60)


async def method_that_is_none(client):
    await client.ask(b"\xff")


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (dynamic_table, ErrorCode.QPACK_ENCODER_STREAM_ERROR),
        (long_head, ErrorCode.H3_EXCESSIVE_LOAD),
        (head_without_end, ErrorCode.H3_EXCESSIVE_LOAD),
        (method_that_is_none, ErrorCode.H3_INTERNAL_ERROR),
    ],
)
def test_an_attack_ends_its_own_connection_and_no_other(tmp_path, attack, error):
    async def test(_server, client):
        good = await client(1).begin()
        bad = await client(2).begin()
        await attack(bad)
        assert bad.ended == error
        await good.ask()
        assert good.heads == [b"200"]
        assert good.ended is None

    served(tmp_path, test)


def test_what_comes_after_the_answer_is_forgotten(tmp_path):
    async def test(_server, client):
        one = await client().begin()
        stream = await one.ask(b"POST", whole=False)
        assert one.heads == [b"200"]
        one.h3.send_data(stream, b"the rest", end_stream=True)
        await one.talk()
        await one.ask()
        assert one.ended is None
        assert one.heads == [b"200", b"200"]

    served(tmp_path, test)


def test_connections_whose_handshake_does_not_end_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(guarded_quic, "HALF_OPEN", 5)

    async def test(server, client):
        good = await client(99).begin()
        for number in range(20):
            flood = client(number)
            first = flood.quic.datagrams_to_send(now=time.monotonic())[0][0]
            await server.handle(RawData(data=first, address=("127.0.0.1", 1)))
        assert len(server._half_open) == 5
        assert len({id(each) for each in server.connections.values()}) == 6
        await good.ask()  # who was there stays
        assert good.heads == [b"200"]

    served(tmp_path, test)


def test_no_more_connections_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(GuardedQuic, "most", 2)

    async def test(server, client):
        for number in range(2):
            await client(number).begin()
        late = client(3)
        await late.talk()
        assert len(server._open) == 2
        assert late.quic._handshake_complete is False

    served(tmp_path, test)


@pytest.mark.parametrize(
    "left", [StreamReset(error_code=0x10C, stream_id=0), StopSendingReceived(error_code=0x10C, stream_id=0)]
)
def test_who_stops_or_resets_a_stream_has_left(left):
    heard = []

    async def handle(event):
        heard.append(event)

    made = GuardedProtocol.__new__(GuardedProtocol)
    made.streams = {0: SimpleNamespace(handle=handle)}
    asyncio.run(made.handle(left))
    assert [type(each) for each in heard] == [events.StreamClosed]
