"""A TCP link that is slow, far away, and breaks: between any two processes, without privileges.

Theory of operation
-------------------
Every connection to the proxy is carried on to the target by one of its own, chunk by chunk.  A chunk leaves when
the link, which all connections share, has had the time to carry the bytes before it, and arrives ``delay`` later;
a connection's first bytes wait two more delays, for the handshake that loopback does not show.  Of congestion control
no more is modelled than a rate of each connection, such as lost packets leave it (``alone``): who needs real packets has
``benchmarks/network`` with a TUN device.

Breaks follow the model of a constant hazard: a connection that moves ``m`` MB, both directions together, breaks with
the probability 1 − exp(−h·m), where ``h`` is :attr:`Conditions.hazard`.  So the place of a connection's break is
drawn from the exponential distribution once it is opened; with the same seed, the n-th connection always has
the same one.  A test can say itself where each connection breaks, to the byte.

What stands on the way may also mean well: it cuts what says nothing for a while (``idle``), or holds an answer back until
there is much of it (``hold``).
"""

from __future__ import annotations

import asyncio
import enum
import math
import random
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Literal, Self

import msgspec

_CHUNK = 16_384
_SOCKET_BUFFER = 65_536  # what the kernel hides of a slow link
_IN_FLIGHT = 64  # chunks of a direction that are under way, at most
_MB = 1_000_000
_LAST_CHUNK = b"0\r\n\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Kind(enum.Enum):
    """How a connection breaks."""

    RESET = "reset"  # both sides get a TCP reset
    CLOSE = "close"  # both sides get an orderly end, in the middle
    BLACK_HOLE = "black-hole"  # nothing comes through any more, and nobody is told
    LOST_ANSWER = "lost-answer"  # what the client still sends gets through; of the answer nothing more does
    STALL = "stall"  # nothing for a while, then it goes on
    CORRUPT = "corrupt"  # one bit is another one, and it goes on


class Break(msgspec.Struct, frozen=True):
    """Where a connection breaks: after so many bytes up (to the target), down, or of both together."""

    kind: Kind
    after: int
    direction: Literal["up", "down", "both"] = "both"


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What the link is like.

    :param delay: seconds, one way
    :param rate: bytes per second in each direction, shared by all connections; 0: as fast as it goes
    :param alone: bytes per second in each direction that one connection comes to, however wide the link is; 0: all of it
    :param hazard: breaks per MB (1e6 bytes)
    :param kinds: of these breaks, all as likely
    :param stall: seconds that a stall lasts
    :param idle: seconds in which nothing goes either way, after which a connection is cut, in order; 0: never
    :param hold: bytes of an answer that are held back until there are as many, or its chunked message ends; its head is not
    """

    delay: float = 0.0
    rate: float = 0.0
    alone: float = 0.0
    hazard: float = 0.0
    kinds: tuple[Kind, ...] = (Kind.RESET,)
    stall: float = 5.0
    idle: float = 0.0
    hold: int = 0
    seed: int = 1


class Figures(msgspec.Struct):
    """What went through so far."""

    connections: int = 0
    broken: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class FaultProxy:
    """The link as a listener of its own; it works in a thread, so that anybody can talk through it.

    ::

        with FaultProxy("127.0.0.1", 8080, Conditions(hazard=0.02)) as link:
            client = OpenAI(base_url=link.url + "/v1", ...)

    :param breaks: for the first connection, the second, ...; None: it does not break.  When there are no more,
        what ``conditions`` say holds
    """

    def __init__(
        self,
        host: str,
        port: int,
        conditions: Conditions | None = None,
        *,
        breaks: Iterable[Break | None] = (),
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.figures = Figures()
        self.conditions = conditions or Conditions()
        self._target = host, port
        self._listen = listen
        self._breaks: Iterator[Break | None] = iter(breaks)
        self._random = random.Random(self.conditions.seed)
        self._free = {"up": 0.0, "down": 0.0}  # when the link has carried all that it was given
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._carrying: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._error: OSError | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._listen[0]}:{self.port}"

    def start(self) -> Self:
        """:raises OSError: the port cannot be had"""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="penstock-faults")
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<FaultProxy at {self.url} to {self._target}, {self.figures}>"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._bound_buffer(sock)
            sock.bind(self._listen)
            server = await asyncio.start_server(self._accept, sock=sock, limit=_CHUNK)
        except OSError as error:
            sock.close()
            self._error = error
            self._ready.set()
            return
        self.port = sock.getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._carrying):
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.figures.connections += 1
        planned = self._next_break()
        far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_CHUNK)
        self._bound_buffer(far_writer.get_extra_info("socket"))
        connection = _Connection(self, planned, writer, far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.pump("up", reader, far_writer))
                group.create_task(connection.pump("down", far_reader, writer))
        except* (_Broken, OSError):
            pass
        finally:
            connection.hang_up()

    def _bound_buffer(self, sock: socket.socket) -> None:
        """A slow link's kernel must not hide how slow it is; on any other a small buffer would make it slow."""
        if self.conditions.rate or self.conditions.alone:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)

    def _next_break(self) -> Break | None:
        for planned in self._breaks:
            return planned
        conditions = self.conditions
        if not conditions.hazard:
            return None
        # Drawn in one order, so that the n-th connection has the same break whatever became of the others.
        after = self._random.expovariate(conditions.hazard) * _MB
        return Break(self._random.choice(conditions.kinds), int(after))

    def leaves_at(self, direction: str, size: int) -> float:
        """When the link has carried a chunk of this size, behind all that it was given before."""
        now = self._loop.time()
        rate = self.conditions.rate
        if not rate:
            return now
        free = max(self._free[direction], now) + size / rate
        self._free[direction] = free
        return free


class _Broken(Exception):
    """The connection has had its break."""


class _Connection:
    """One connection through the link."""

    def __init__(
        self,
        link: FaultProxy,
        planned: Break | None,
        near: asyncio.StreamWriter,
        far: asyncio.StreamWriter,
    ) -> None:
        self._link = link
        self._planned = planned
        self._moved = {"up": 0, "down": 0}
        self._heard = asyncio.get_running_loop().time()  # when something went through last, either way
        self._held = b""
        self._chunked = False  # the answer that comes down
        self._tail = b""  # its last bytes so far, as many as a last chunk has
        self._deaf: set[str] = set()  # directions in which nothing comes through any more
        self._ends = near, far
        self._reset = False
        for writer in self._ends:
            # Drained: the kernel has it, and no abort takes it back.
            writer.transport.set_write_buffer_limits(high=0)

    def __repr__(self) -> str:
        return f"<_Connection {self._moved}, {self._planned or 'without a break'}>"

    async def pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction, to its end."""
        link = self._link
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)

        async def deliver() -> None:
            while True:
                at, piece = await waiting.get()
                if (wait := at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                try:
                    if not piece:
                        writer.write_eof()
                        return
                    writer.write(piece)
                    await writer.drain()
                except OSError:  # this end is gone; its own direction notices
                    self._deaf.add(direction)
                waiting.task_done()

        delivery = asyncio.create_task(deliver())
        # The handshake took a round trip more than loopback shows.
        late = 2 * link.conditions.delay if direction == "up" else 0.0
        try:
            while piece := await self._read(reader):
                rest = piece if direction == "up" else self._let_go(piece)
                while rest:
                    piece, rest = self._until_break(direction, rest)
                    due = self._is_due(direction)
                    if due and piece and self._planned is not None and self._planned.kind is Kind.CORRUPT:
                        piece = piece[:-1] + bytes([piece[-1] ^ 1])
                    if piece and direction not in self._deaf:
                        at = link.leaves_at(direction, len(piece)) + link.conditions.delay + late
                        await waiting.put((at, piece))
                        if link.conditions.alone:  # before it is through, no more is taken
                            await asyncio.sleep(len(piece) / link.conditions.alone)
                    if due:
                        await self._come_to_break(waiting)
            if direction not in self._deaf:
                if direction == "down" and self._held:
                    await waiting.put((loop.time() + link.conditions.delay, self._held))
                await waiting.put((loop.time() + link.conditions.delay + late, b""))
                await delivery
        finally:
            delivery.cancel()
            await asyncio.wait([delivery])

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """What comes next; a connection that is idle for too long ends."""
        idle = self._link.conditions.idle
        if not idle:
            return await reader.read(_CHUNK)
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._heard + idle):
                    piece = await reader.read(_CHUNK)
            except TimeoutError:
                if loop.time() < self._heard + idle:  # the other direction has said something
                    continue
                self._link.figures.broken += 1
                self._heard = math.inf  # once, and not for each direction
                raise _Broken from None
            self._heard = loop.time()
            return piece

    def _let_go(self, piece: bytes) -> bytes:
        """What of an answer is not held back."""
        hold = self._link.conditions.hold
        if not hold:
            return piece
        head, body = b"", piece
        if piece.startswith(b"HTTP/1.") and (not self._chunked or self._tail == _LAST_CHUNK):
            head, end, body = piece.partition(b"\r\n\r\n")  # the head of an answer, which comes in one piece
            head += end
            self._chunked = b"\r\ntransfer-encoding: chunked" in head.lower()
            self._tail = b""
        if not self._chunked:
            return head + body
        self._tail = (self._tail + body)[-len(_LAST_CHUNK) :]
        self._held += body
        if self._tail != _LAST_CHUNK and len(self._held) < hold:
            return head
        let_go, self._held = self._held, b""
        return head + let_go

    def _until_break(self, direction: str, piece: bytes) -> tuple[bytes, bytes]:
        """What still goes through before the break, and the rest."""
        planned = self._planned
        if planned is not None and planned.direction in (direction, "both"):
            piece, rest = piece[: self._room()], piece[self._room() :]
        else:
            rest = b""
        self._moved[direction] += len(piece)
        figures = self._link.figures
        if direction == "up":
            figures.bytes_up += len(piece)
        else:
            figures.bytes_down += len(piece)
        return piece, rest

    def _room(self) -> int:
        planned = self._planned
        assert planned is not None
        moved = self._moved
        return max(planned.after - sum(moved[way] for way in moved if planned.direction in (way, "both")), 0)

    def _is_due(self, direction: str) -> bool:
        planned = self._planned
        return planned is not None and planned.direction in (direction, "both") and self._room() == 0

    async def _come_to_break(self, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        planned, self._planned = self._planned, None
        assert planned is not None
        self._link.figures.broken += 1
        if planned.kind is Kind.STALL:
            await asyncio.sleep(self._link.conditions.stall)
        elif planned.kind is Kind.BLACK_HOLE:
            self._deaf |= {"up", "down"}
        elif planned.kind is Kind.LOST_ANSWER:
            self._deaf.add("down")
        elif planned.kind is not Kind.CORRUPT:
            await waiting.join()  # what was sent before the break arrives
            self._reset = planned.kind is Kind.RESET
            raise _Broken

    def hang_up(self) -> None:
        for writer in self._ends:
            if self._reset:
                sock = writer.get_extra_info("socket")
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                except OSError:
                    pass
                writer.transport.abort()
            else:
                writer.close()
