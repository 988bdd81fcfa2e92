"""hypercorn over HTTP/3, towards clients that take nothing."""

import asyncio
from types import SimpleNamespace

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from hypercorn.protocol import events

from penstock.admin.slow_quic import HIGH_WATER, WaitingProtocol, has_ended, unacknowledged


class Client:
    """A connection of aioquic's, as far as a writer sees it, whose other end does nothing by itself."""

    def __init__(self):
        self._state = QuicConnectionState.CONNECTED
        self._streams = {0: SimpleNamespace(sender=SimpleNamespace(_buffer=bytearray()))}

    @property
    def kept(self):
        return self._streams[0].sender._buffer


def protocol(client):
    heard = []

    async def handle(event):
        heard.append(event)

    async def send():
        pass

    made = WaitingProtocol.__new__(WaitingProtocol)
    made.connection = SimpleNamespace(
        _quic=client, send_data=lambda _stream, data, _end: client.kept.extend(data)
    )
    made.send = send
    made.streams = {0: SimpleNamespace(handle=handle)}
    return made, heard


def body(size):
    return events.Body(stream_id=0, data=bytes(size))


async def turns(count=30):
    for _ in range(count):
        await asyncio.sleep(0.01)


def test_who_writes_waits_until_the_client_has_taken_what_there_is():
    async def main():
        client = Client()
        made, _ = protocol(client)
        await made.stream_send(body(HIGH_WATER))
        await made.stream_send(body(10))
        writing = asyncio.ensure_future(made.stream_send(body(20)))
        await turns()
        assert not writing.done()
        assert len(client.kept) == HIGH_WATER + 10
        client.kept.clear()
        await writing
        assert len(client.kept) == 20

    asyncio.run(main())


def test_who_writes_to_a_connection_that_has_ended_is_told():
    async def main():
        client = Client()
        made, heard = protocol(client)
        await made.stream_send(body(HIGH_WATER + 1))
        writing = asyncio.ensure_future(made.stream_send(body(20)))
        await asyncio.sleep(0)
        client._state = QuicConnectionState.DRAINING
        await writing
        assert [type(each) for each in heard] == [events.StreamClosed]
        assert len(client.kept) == HIGH_WATER + 1

    asyncio.run(main())


def test_aioquic_keeps_what_is_written_where_it_is_looked_for():
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True))
    assert unacknowledged(connection, 0) == 0
    connection.send_stream_data(0, b"abc")
    assert unacknowledged(connection, 0) == 3
    assert not has_ended(connection)
    connection.connect(("127.0.0.1", 1), now=0.0)
    connection.close()
    connection.datagrams_to_send(now=0.0)
    assert has_ended(connection)
