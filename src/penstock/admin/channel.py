"""The socket pair over which the supervisor and a worker talk.

One JSON object per line in each direction.  The pair is private to the two processes, so the resolved
configuration, secrets included, travels here and not on a command line or in an environment.

The end of the stream is a message too: a worker that reads it knows that its supervisor is gone (even
by ``kill -9``), and a supervisor that reads it knows that the worker is going.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import msgspec

from penstock.admin.channel_messages import ToSupervisor, ToWorker
from penstock.config.model import Config
from penstock.config.secret import Secret

MAX_LINE = 256 * 1024 * 1024  # the state of many thousands of generations fits; more is a defect

_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(cast("type[ToWorker]", ToWorker))
_to_supervisor: msgspec.json.Decoder[ToSupervisor] = msgspec.json.Decoder(
    cast("type[ToSupervisor]", ToSupervisor)
)


class Channel(asyncio.Protocol):
    """One end.  ``on_message`` and ``on_lost`` are called from the event loop.

    A peer that talks nonsense is a defect of ours: the channel is closed, as if the peer had gone.
    """

    def __init__(
        self,
        decoder: msgspec.json.Decoder[Any],
        on_message: Callable[[Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self.lost = asyncio.Event()

    async def open(self, sock: socket.socket) -> None:
        """Talk over this socket; messages may come before this returns."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def send(self, message: ToWorker | ToSupervisor) -> None:
        """Does nothing once the peer is gone."""
        if self._transport is not None and not self.lost.is_set():
            self._transport.write(self._encoder.encode(message) + b"\n")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        searched = len(buffer)
        buffer += data
        start = 0
        while (end := buffer.find(b"\n", max(start, searched))) >= 0:
            try:
                message = self._decoder.decode(bytes(buffer[start:end]))
            except msgspec.DecodeError:
                self._fail()
                return
            start = end + 1
            self._on_message(message)
        del buffer[:start]
        if len(buffer) > MAX_LINE:
            self._fail()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost.set()
        self._on_lost()

    def _fail(self) -> None:
        self._buffer.clear()
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<Channel {'lost' if self.lost.is_set() else 'open'}, {len(self._buffer)} bytes of an unfinished line>"


def channel_to_worker(on_message: Callable[[ToSupervisor], None], on_lost: Callable[[], None]) -> Channel:
    """The supervisor's end."""
    return Channel(_to_supervisor, on_message, on_lost)


def channel_to_supervisor(on_message: Callable[[ToWorker], None], on_lost: Callable[[], None]) -> Channel:
    """A worker's end."""
    return Channel(_to_worker, on_message, on_lost)


# ---- the configuration on its way -------------------------------------------------------------------


def pack_config(config: Config) -> msgspec.Raw:
    """The configuration with its secrets in clear: for this channel only."""
    return msgspec.Raw(msgspec.json.encode(config, enc_hook=_reveal))


def unpack_config(raw: msgspec.Raw) -> Config:
    return msgspec.json.decode(raw, type=Config, dec_hook=_conceal)


def _reveal(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"a configuration holds no {type(value).__name__}")


def _conceal(kind: type, value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    raise NotImplementedError(f"a configuration holds no {kind.__name__}")
