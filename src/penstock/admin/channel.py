"""What the supervisor and a worker say to each other, and the socket pair over which they say it.

One JSON object per line in each direction.  The pair is private to the two processes, so the resolved
configuration, secrets included, travels here and not on a command line or in an environment.

The end of the stream is a message too: a worker that reads it knows that its supervisor is gone (even
by ``kill -9``), and a supervisor that reads it knows that the worker is going.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgspec

from penstock.config.model import Config
from penstock.config.secret import Secret
from penstock.flow import canary, sharing

MAX_LINE = 256 * 1024 * 1024  # a snapshot of many thousands of generations fits; more is a defect


class _Message(msgspec.Struct, frozen=True, tag=str.lower, tag_field="say"):
    pass


# ---- supervisor to worker ------------------------------------------------------------------------


class Configure(_Message, frozen=True):
    """The first message: what to run with."""

    config: msgspec.Raw
    version: int


class Reload(_Message, frozen=True):
    """Swap to this configuration; answered by :class:`Reloaded`."""

    config: msgspec.Raw
    version: int


class Ask(_Message, frozen=True):
    """Answered by :class:`Told` with the same id."""

    id: int


class Ping(_Message, frozen=True):
    """Answered by :class:`Pong`, as soon as the worker's event loop has its turn."""


class Drain(_Message, frozen=True):
    """Close the port, finish what is in flight within ``seconds``, exit.  Sent again, the later counts."""

    seconds: float


class Adopt(_Message, frozen=True):
    """Accept connections for the worker in this place too: it is not there."""

    index: int


class Release(_Message, frozen=True):
    """The worker in this place is back; connections that were accepted for it stay."""

    index: int


class Purge(_Message, frozen=True):
    """Let kept answers with these tags, or of these keys, count no more."""

    tags: tuple[str, ...]
    keys: tuple[str, ...]  # hexadecimal


class Depart(_Message, frozen=True):
    """An upstream goes away in so many seconds; None: some time.

    ``holds``: how long after that, or from now on, this is remembered; None: until it is taken back.
    """

    upstream: str
    seconds: float | None
    holds: float | None = None


class Stay(_Message, frozen=True):
    """An upstream stays."""

    upstream: str


class Leased(_Message, frozen=True):
    """The worker's part of the limits that it has reported of."""

    id: int
    leases: sharing.Leases


class Explain(_Message, frozen=True):
    """What would this request come to?  Answered by :class:`Explained` with the same id."""

    id: int
    path: str
    headers: dict[str, str]
    body: str


class Decide(_Message, frozen=True):
    """What is to become of a model's new version, by hand; answered by :class:`Decided` with the same id."""

    id: int
    model: str
    action: canary.Action
    wholly: bool
    reason: str


# ---- worker to supervisor ------------------------------------------------------------------------


class Report(_Message, frozen=True):
    """What was taken of limits that the workers share; answered by :class:`Leased` with the same id."""

    id: int
    reports: list[sharing.Report]
    rejoins: bool  # this worker has been leased before


class Leaves(_Message, frozen=True):
    """An upstream has said that it goes away in so many seconds (None: some time); ``holds``: see :class:`Depart`."""

    upstream: str
    seconds: float | None
    holds: float


class IsBack(_Message, frozen=True):
    """An upstream that had said so has said that it is there."""

    upstream: str


class Ready(_Message, frozen=True):
    """The worker accepts connections."""


class Failed(_Message, frozen=True):
    """The worker could not start; it exits after this."""

    message: str
    mistakes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "; ".join((self.message, *self.mistakes))


class Reloaded(_Message, frozen=True):
    """The outcome of a :class:`Reload`; ``mistakes`` is empty where the configuration was taken."""

    version: int
    mistakes: tuple[str, ...] = ()


class Told(_Message, frozen=True):
    """The worker's state; see :func:`penstock.admin.worker.Worker.state`."""

    id: int
    state: msgspec.Raw


class Explained(_Message, frozen=True):
    """See :func:`penstock.gateway.explain.explain`."""

    id: int
    found: msgspec.Raw


class Decided(_Message, frozen=True):
    """How the trial stands now; or ``status`` and ``detail``, why it could not be decided."""

    id: int
    found: msgspec.Raw


class Pong(_Message, frozen=True):
    """The worker's event loop runs."""


class Draining(_Message, frozen=True):
    """The worker begins to end: told to by a :class:`Drain`, or by a signal of its own."""


class Drained(_Message, frozen=True):
    """Everything has ended; ``cut`` calls were hung up at the deadline.  The worker exits after this."""

    cut: int


ToWorker: TypeAlias = (
    Configure
    | Reload
    | Ask
    | Ping
    | Drain
    | Adopt
    | Release
    | Purge
    | Depart
    | Stay
    | Leased
    | Explain
    | Decide
)
ToSupervisor: TypeAlias = (
    Ready
    | Failed
    | Reloaded
    | Told
    | Pong
    | Draining
    | Drained
    | Report
    | Explained
    | Decided
    | Leaves
    | IsBack
)

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
