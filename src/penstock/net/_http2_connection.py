"""One connection of HTTP/2 to an upstream, and its streams; the protocol itself is in ``_http2_frames``.

Theory of operation.  A :class:`Stream` stands where HTTP/1.1 has a connection: it takes one request, feeds the answer
to a receiver, and ends in one future.  All bytes go through :class:`Http2Connection`: ``data_received`` has
:class:`~penstock.net._http2_frames.Frames` tell what has come, hands it to the streams, and writes what there is to say.

*Windows.*  The connection's is kept open whatever its streams do, so that one slow reader stops nobody else.  A
stream's is opened further only as its receiver takes what came: who pauses is sent ``STREAM_WINDOW`` bytes more at
most, which are held here until it resumes.

*Leaving.*  Whoever hangs up resets the stream (RFC 9113, 5.4.2, CANCEL) at once, and the others go on.  HTTP/2 has no
way to tell an upstream that nobody reads any more, and to read on.

*Silence.*  A server that hangs, or that nobody can reach any more, keeps its connection for a quarter of an hour, and
would get every new call.  So who has calls and says nothing for :data:`SILENCE` seconds is asked by a PING, and where
nothing has come after :data:`ANSWER` more, the connection takes no new streams; those that it has go by their own clocks.

*Going away.*  A server that says GOAWAY finishes the streams that it names, and has done nothing for the later ones,
which are :class:`StaleConnection`: safe to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from penstock.errors import PenstockError, UpstreamBroken, UpstreamUnreachable
from penstock.net import tasks
from penstock.net._http2_frames import Code, Frames, Http2Error
from penstock.net.connection import MAX_HEAD_BYTES, STALE_WINDOW, StaleConnection, keep_alive
from penstock.net.origin import Origin
from penstock.net.response import Receiver

STREAM_WINDOW = 1 << 20  # bytes of one answer that may be on their way, or wait here for who pauses
_CONNECTION_WINDOW = 1 << 26
# Seconds without a byte, while a call waits, after which a server is asked whether it is there.
SILENCE = 10.0
ANSWER = 5.0  # seconds that it has to say so
CLOSING = 2.0  # seconds that a server may take to read what was sent before a connection was closed
MOST_UNREAD = 1 << 22  # bytes of frames that are sent, beside data, while the server reads nothing
_ACKNOWLEDGE = 2  # a window is opened again when this part of it is used
_NOT_SENT = frozenset({b"content-length", b"connection", b"transfer-encoding"})  # HTTP/1.1's own


class Home(Protocol):
    """What a connection needs of its pool."""

    now: Callable[[], float]

    def let_go(self) -> None:
        """A stream has ended; called exactly once for each."""

    def idle(self, connection: Http2Connection) -> None:
        """The last one has."""

    def forget(self, connection: Http2Connection) -> None:
        """The connection is of no further use."""

    def stale(self) -> None:
        """A stream was turned away."""


class Stream:
    """One call on a connection.  All methods are for the event loop's thread.

    ``cut`` tells that it was broken off by this side, while more may have been on its way.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_future",
        "_held",
        "_let_go",
        "_owed",
        "_paused",
        "_receiver",
        "answered",
        "cut",
        "number",
        "reused",
        "sent",
        "unsent",
    )

    def __init__(self, connection: Http2Connection, *, reused: bool) -> None:
        self._connection = connection
        self._future: tasks.Answer | None = None
        self._receiver: Receiver | None = None
        self._paused = False
        self._held = bytearray()  # came while paused
        self._ended = False  # all has come
        self._owed = 0  # bytes of the window that were taken
        self._let_go = False
        self.number = 0  # 0: nothing was sent
        self.answered = False
        self.reused = reused  # the connection lay idle before
        self.sent = 0.0
        self.unsent = memoryview(b"")
        self.cut = False

    def __repr__(self) -> str:
        return f"<Stream {self.number or 'not begun'} of {self._connection!r}>"

    @property
    def abandoned(self) -> bool:
        """The caller cancelled the future and told nobody."""
        return self._future is not None and self._future.cancelled() and not self._let_go

    def send(self, head: bytes, body: bytes, receiver: Receiver) -> tasks.Answer:
        """As :meth:`penstock.net.connection.Connection.send`, which says what the future may fail with.

        :param head: as HTTP/1.1 has it
        """
        if self._future is not None:
            raise RuntimeError(f"{self!r} is busy")
        self._future = future = tasks.answer(asyncio.get_running_loop())
        self._receiver = receiver
        self._connection.begin(self, head, body)
        return future

    def pause(self) -> None:
        """The receiver's own reader is slow: nothing more comes until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._held:
                data, self._held = bytes(self._held), bytearray()
                self._deliver(data)
            if self._ended and not self._paused:
                self.finish()

    def hang_up(self, grace: float) -> None:  # noqa: ARG002 - see the top of the file
        """The caller has gone: the stream is reset, and the future has no error."""
        self._cut_off(None)

    def abort(self) -> None:
        """Reset it; nobody shall take the answer for a complete one."""
        self._cut_off(UpstreamBroken(f"the call to {self._connection.address} was cut off by this side"))

    def _cut_off(self, error: PenstockError | None) -> None:
        if self._let_go:
            return
        self._connection.reset(self)
        future = self._future
        self.cut = future is not None
        self._end()
        if future is not None and not future.done():
            future.fail(error)
            if error is not None:
                future.exception()  # whoever aborts knows

    # ---- for the connection ------------------------------------------------------------------------

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.answered = True
        if self._receiver is not None:
            self._receiver.on_head(status, headers)

    def on_data(self, data: bytes, credit: int) -> None:
        """A piece of the answer, which took ``credit`` bytes of the window."""
        self._owed += credit
        if self._paused:
            self._held += data
        else:
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        if self._receiver is not None and data:
            self._receiver.on_data(data)
        if not self._let_go and not self._ended and self._owed >= STREAM_WINDOW // _ACKNOWLEDGE:
            owed, self._owed = self._owed, 0
            self._connection.widen(self, owed)

    def on_end(self) -> None:
        self._ended = True
        if not self._paused:
            self.finish()

    def finish(self) -> None:
        """The answer is complete."""
        if self._let_go:
            return
        future = self._future
        self._end()
        if future is not None and not future.done():
            future.succeed()

    def fail(self, error: PenstockError) -> None:
        if self._let_go:
            return
        if self._held and self._receiver is not None:  # what came before the break came
            held, self._held = bytes(self._held), bytearray()
            self._receiver.on_data(held)
            if self._let_go:  # the receiver has cut it off
                return
        future = self._future
        self._end()
        if future is not None and not future.done():
            future.fail(error)

    def _end(self) -> None:
        self._let_go = True
        self._receiver = None
        self._held.clear()
        self._connection.ended(self)


class Http2Connection(asyncio.Protocol):
    """One connection; made by :class:`penstock.net.http2.Streams`."""

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop, origin: Origin) -> None:
        self._home = home
        self._loop = loop
        self._origin = origin
        self._scheme, self._authority = origin.scheme.encode(), origin.authority.encode("latin-1")
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] | None = None
        self._streams: dict[int, Stream] = {}
        self._given = 0  # streams that were given out and have sent nothing yet
        self._owed = 0
        self._writing = True  # the transport takes more
        self._unread = 0  # bytes written since it does not
        self._heard = False  # since the last sweep
        self._silent_since = 0.0
        self._asked = 0.0  # when a sign of life was asked for; 0: not since it was heard
        self._used = False
        self._idle_since = 0.0
        self.opened = 0.0
        self.is_http2 = False
        self.retired = False  # takes no new streams
        self._frames = Frames(
            self,
            stream_window=STREAM_WINDOW,
            connection_window=_CONNECTION_WINDOW,
            most_head=MAX_HEAD_BYTES,
        )

    def __repr__(self) -> str:
        state = "retired" if self.retired else "open"
        return f"<Http2Connection to {self.address}, {len(self._streams)} streams, {state}>"

    @property
    def address(self) -> str:
        return self._origin.address

    @property
    def busy(self) -> bool:
        return bool(self._streams) or self._given > 0

    @property
    def takes_streams(self) -> bool:
        return not self.retired and len(self._streams) + self._given < self._frames.max_streams

    def must_be_open(self) -> None:
        """:raises ConnectionResetError: it was accepted and closed before anything was sent."""
        if self.retired:
            raise ConnectionResetError("it was closed as soon as it was accepted")

    def must_take_streams(self) -> None:
        """:raises UpstreamUnreachable: it was closed, or went away, before it could be used, or allows no stream."""
        if self.retired or not self._frames.max_streams:
            raise UpstreamUnreachable(f"{self.address} ends each connection before it can be used")

    async def wait_lost(self) -> None:
        """Until the transport has let go of the socket."""
        if self._transport is not None:
            self._lost = self._lost or self._loop.create_future()
            await asyncio.wait([self._lost])

    def stream(self) -> Stream:
        """A new one."""
        made = Stream(self, reused=self._used and not self.busy)
        self._given += 1
        self._used = True
        return made

    def sweep(self, unused_since: float, opened_before: float) -> None:
        if not self.busy:
            if self._idle_since <= unused_since or self.opened <= opened_before or not self.takes_streams:
                self.close()
            return
        self._listen(self._home.now())
        for stream in [each for each in self._streams.values() if each.abandoned]:
            stream.abort()

    def _listen(self, now: float) -> None:
        """Ask a server that is silent though a call waits, and give it no new ones where it does not answer."""
        if self._heard or not self._silent_since:
            self._heard, self._silent_since, self._asked = False, now, 0.0
        elif self._asked:
            self.retired = self.retired or now - self._asked >= ANSWER
        elif now - self._silent_since >= SILENCE:
            self._asked = now
            self._frames.ping()
            self._flush()

    def close(self) -> None:
        """Close it, streams or not."""
        self._retire()
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():  # else it would wait until that has been read
                self._loop.call_later(CLOSING, self._transport.abort)

    # ---- for its streams ---------------------------------------------------------------------------

    def begin(self, stream: Stream, head: bytes, body: bytes) -> None:
        """Send a request, as much of its body as the windows allow."""
        stream.sent = self._home.now()
        if self._transport is None or self._transport.is_closing():
            self._home.stale()
            self._loop.call_soon(stream.fail, self._turned_away())
            return
        stream.number = self._frames.ask(self._fields(head), end=not body)
        self.retired = self.retired or self._frames.exhausted
        self._given -= 1
        self._streams[stream.number] = stream
        stream.unsent = memoryview(body)
        self._send_body(stream)
        self._flush()

    def _fields(self, head: bytes) -> list[tuple[bytes, bytes]]:
        """A head of HTTP/1.1 as HTTP/2 has it (RFC 9113, 8.3.1)."""
        first, *lines = head.split(b"\r\n")
        method, path, _ = first.split(b" ", 2)
        authority = self._authority
        fields = []
        for line in lines:
            name, colon, value = line.partition(b":")
            name = name.lower()
            if name == b"host":
                authority = value.strip()
            elif colon and name not in _NOT_SENT:
                fields.append((name, value.strip()))
        pseudo = [
            (b":method", method),
            (b":scheme", self._scheme),
            (b":authority", authority),
            (b":path", path),
        ]
        return pseudo + fields

    def reset(self, stream: Stream) -> None:
        if stream.number and self._transport is not None:
            self._frames.reset(stream.number, Code.CANCEL)
            self._flush()

    def widen(self, stream: Stream, size: int) -> None:
        """The stream may have so many bytes more."""
        if self._transport is not None:
            self._frames.widen(stream.number, size)
            self._flush()

    def ended(self, stream: Stream) -> None:
        if self._streams.pop(stream.number, None) is None:
            self._given -= 1
        self._home.let_go()
        if not self.busy:
            self._idle_since = self._home.now()
            self._silent_since = 0.0
            if not self.takes_streams:
                self.close()
            else:
                self._home.idle(self)

    # ---- writing -----------------------------------------------------------------------------------

    def _send_body(self, stream: Stream) -> None:
        frames, number = self._frames, stream.number
        while stream.unsent and self._writing and (size := frames.room(number)):
            piece = stream.unsent[:size]
            stream.unsent = stream.unsent[size:]
            frames.send(number, piece, end=not stream.unsent)
            self._flush()

    def _flush(self) -> None:
        if frames := self._frames.out:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(bytes(frames))
                if not self._writing:
                    self._unread += len(frames)
            frames.clear()

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self._unread = 0
        self.on_room()

    # ---- from the transport ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        secure = transport.get_extra_info("ssl_object")
        if secure is not None and secure.selected_alpn_protocol() != "h2":
            return
        self.is_http2 = True
        if (sock := transport.get_extra_info("socket")) is not None:
            keep_alive(sock)
        self._idle_since = self._home.now()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._unread > MOST_UNREAD:
            self._leave(Code.ENHANCE_YOUR_CALM, "reads nothing of what it is sent")
            return
        try:
            self._frames.receive(data)
        except Http2Error as error:
            self._leave(error.code, f"sent what is not HTTP/2: {error}")
            return
        if self._owed >= _CONNECTION_WINDOW // _ACKNOWLEDGE:
            owed, self._owed = self._owed, 0
            self._frames.widen(0, owed)
        self._flush()

    def _leave(self, code: Code, why: str) -> None:
        self._frames.leave(code)
        self._flush()
        self._fail_all(why)
        self.close()

    # ---- from the frames ---------------------------------------------------------------------------

    def on_head(self, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        if (stream := self._streams.get(number)) is not None:
            stream.on_head(*_head_of(fields))

    def on_data(self, number: int, data: bytes, credit: int) -> None:
        self._owed += credit
        if (stream := self._streams.get(number)) is not None:
            stream.on_data(data, credit)

    def on_end(self, number: int) -> None:
        if (stream := self._streams.get(number)) is not None:
            if stream.unsent:  # it has its answer, and wants no more of the question
                self.reset(stream)
            stream.on_end()

    def on_mistake(self, number: int, why: str) -> None:
        if (stream := self._streams.get(number)) is not None:
            stream.fail(UpstreamBroken(f"{self.address} sent what is not HTTP/2: {why}"))

    def on_room(self) -> None:
        for stream in [each for each in self._streams.values() if each.unsent]:
            self._send_body(stream)

    def on_reset(self, number: int, code: int) -> None:
        if (stream := self._streams.get(number)) is None:
            return
        if code == Code.REFUSED_STREAM and not stream.answered:  # RFC 9113, 8.7: it was not looked at
            self._home.stale()
            stream.fail(self._turned_away())
        else:
            stream.fail(self._end_of(stream, f"reset the stream ({_name_of(code)})"))

    def on_going_away(self, last: int, code: int) -> None:
        self.retired = True
        if code:
            self._fail_all(f"ended the connection ({_name_of(code)})", after=last)
            self.close()
            return
        for stream in [each for each in self._streams.values() if each.number > last]:
            self._home.stale()
            stream.fail(self._turned_away())
        if not self.busy:
            self.close()

    def eof_received(self) -> None:
        self._fail_all("closed the connection")
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail_all(f"broke the connection ({exc or 'without saying so'})")
        self._retire()
        if self._lost is not None:
            self._lost.set_result(None)

    def _fail_all(self, how: str, after: int | None = None) -> None:
        """End all streams.

        :param after: those with a higher number were never looked at; None: nobody has said so
        """
        self.retired = True
        for stream in list(self._streams.values()):
            crossed = stream.reused and self._home.now() - stream.sent < STALE_WINDOW
            untouched = crossed if after is None else stream.number > after
            if untouched and not stream.answered:
                self._home.stale()
                stream.fail(self._turned_away())
            else:
                stream.fail(self._end_of(stream, how))

    def _retire(self) -> None:
        self.retired = True
        self._home.forget(self)

    def _turned_away(self) -> StaleConnection:
        return StaleConnection(f"{self.address} went away before it had looked at the request")

    def _end_of(self, stream: Stream, how: str) -> PenstockError:
        if stream.answered:
            return UpstreamBroken(f"{self.address} {how} before the end of its answer")
        return UpstreamUnreachable(f"{self.address} {how} without an answer")


def _head_of(fields: list[tuple[bytes, bytes]]) -> tuple[int, dict[bytes, bytes]]:
    """Status, and fields as a receiver takes them: what comes twice is joined."""
    found = dict[bytes, bytes]()
    for name, value in fields:
        found[name] = found[name] + b", " + value if name in found else value
    return int(found.pop(b":status")), found


def _name_of(code: int) -> str:
    try:
        return Code(code).name
    except ValueError:
        return str(code)
