"""One HTTP/1.1 connection to an upstream.

Theory of operation.  A connection is *idle* (in its pool), *taken* (acquired, nothing sent), *busy*
(a request was sent, its future is open) or *retired* (of no further use, its slot given back).  All of
it happens in callbacks of the event loop: ``data_received`` feeds llhttp, whose callbacks only collect;
what was collected then goes to the receiver in at most one ``on_head`` and one ``on_data``, however many
chunks the piece held, and the exchange is ended from the same place.  So a burst of streamed events
costs one call, and nobody is called back from inside the parser.

llhttp does not know which request an answer belongs to (HEAD has no body, whatever the fields say), nor
when the connection ends: both are decided here.

Two rules keep exchanges apart.  A connection goes back to its pool only when nothing of the exchange
can still arrive: the answer was complete, nothing came after it, and the request was written to its
end.  And whoever sent the request lets go of the connection when the future is done: from then on it
may be busy for somebody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from penstock.errors import UpstreamBroken, UpstreamError, UpstreamUnreachable
from penstock.net import tasks
from penstock.net.response import Receiver

MAX_HEAD_BYTES = 65_536  # status line, fields and interim answers; also trailers and other non-body bytes
MAX_FIELDS = 200
SMALL = 65_536  # up to here, joining head and body is cheaper than two buffers
FULL = 131_072  # bytes of one piece; who sends so much at once has more, and libuv would take 32 such pieces in a row
STALE_WINDOW = 2.0  # seconds; see StaleConnection

_SALVAGED_PIECES = 64  # of 256 KiB: more than a kernel holds of one connection

# Probes on silent connections: a model may think for minutes, and NAT gateways forget a flow after
# about 350 s (AWS) without a packet; the probes keep it known and find a dead peer in two minutes.
KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 15
KEEPALIVE_PROBES = 4


class StaleConnection(UpstreamUnreachable):
    """A reused connection turned out to be closed: no byte of an answer came, so nothing was lost.

    The upstream closed while the connection was idle and the news crossed with the request; it is safe
    to send it again on a fresh connection.  News that takes longer than :data:`STALE_WINDOW` does not
    cross: the upstream may have worked, and plain :class:`UpstreamUnreachable` leaves the decision to
    the retry policy.
    """


class Home(Protocol):
    """What a connection needs of its pool."""

    now: Callable[[], float]

    def take_back(self, connection: Connection) -> None:
        """The exchange is over, and the connection is good for another."""

    def forget(self, connection: Connection) -> None:
        """The connection is of no further use; called exactly once."""

    def watch(self, connection: Connection) -> None:
        """``connection.deadline`` was set: call ``out_of_grace`` after it has passed."""

    def stale(self) -> None:
        """A connection was found closed when it was used again, or the upstream spoke unasked."""


class _MalformedError(HttpParserError):
    """An answer that llhttp lets pass and that we do not."""


_FAULTS = (HttpParserError, HttpParserUpgrade)


class Connection(asyncio.Protocol):
    """One connection; made by :class:`penstock.net.pool.Pool`.

    ``reused`` is False for the first request on it.  ``cut`` tells that the last exchange was broken off
    by this side, while more may have been on its way.  All methods are for the event loop's thread, and
    for the caller whose future is not done yet.
    """

    __slots__ = (
        "_address",
        "_bodiless",
        "_complete",
        "_duplicates",
        "_feed",
        "_future",
        "_gone",
        "_head",
        "_head_request",
        "_head_room",
        "_headers",
        "_home",
        "_keep",
        "_large",
        "_loop",
        "_lost",
        "_overhead",
        "_parser",
        "_paused",
        "_pieces",
        "_receiver",
        "_retired",
        "_sent",
        "_status",
        "_transport",
        "cut",
        "deadline",
        "idle_since",
        "on_body",
        "opened",
        "reused",
    )

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._home = home
        self._loop = loop
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._future: tasks.Answer | None = None
        self._receiver: Receiver | None = None
        self._lost: asyncio.Future[None] | None = None
        self._retired = False
        self.reused = False
        self.cut = False
        self.opened = 0.0
        self.idle_since = 0.0
        self.deadline = 0.0
        # What one exchange changes; send() sets it back.
        self._status = 0  # of the final answer, once its head is complete
        self._head: dict[bytes, bytes] = {}  # of the final answer
        self._headers: dict[bytes, bytes] = {}  # where fields are being collected: interim, final, trailer
        self._duplicates = 0
        self._head_room = MAX_HEAD_BYTES
        self._overhead = 0
        self._complete = False
        self._keep = False
        self._bodiless = False
        self._head_request = False
        self._large = False
        self._paused = False
        self._gone = False
        self._sent = 0.0
        # llhttp's body callback is the list's own append: no Python frame per chunk.
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._new_parser()

    # ---- for the caller ----------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes, receiver: Receiver) -> tasks.Answer:
        """Write one request; ``receiver`` gets the answer as it comes.

        The future is done (result None) when the answer is complete and the connection has gone back to
        its pool, or has closed because it cannot be used again.  Its exception is one of

        - :class:`StaleConnection`: send it again on a fresh one;
        - :class:`~penstock.errors.UpstreamUnreachable`: the connection ended before the answer's first byte;
        - :class:`~penstock.errors.UpstreamBroken`: the answer broke off or made no sense.

        Cancelling the future does not stop the answer: call :meth:`hang_up` or :meth:`abort`.
        """
        if self._future is not None:
            raise RuntimeError(f"{self!r} is busy")
        future = tasks.answer(self._loop)
        self.cut = False
        if self._retired:
            self._sent = self._home.now()
            future.set_exception(self._ended_early("was closed"))
            return future
        self._future = future
        self._receiver = receiver
        self._status = self._duplicates = self._overhead = 0
        self._head_room = MAX_HEAD_BYTES
        self._complete = self._bodiless = False
        self._head_request = head[0] == 72  # "H": no other method begins with it
        self._sent = self._home.now()
        transport = self._transport
        assert transport is not None
        if len(body) <= SMALL:
            self._large = False
            transport.write(head + body)
        else:
            self._large = True
            transport.writelines((head, body))
        return future

    def pause(self) -> None:
        """Stop reading: the receiver's own reader is slow.  At most one more piece comes."""
        if self._future is not None and not self._paused and not self._gone and not self._retired:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._retired:
                cast(asyncio.Transport, self._transport).resume_reading()

    def _rest(self) -> None:
        """Read on in the event loop's next turn, when others have had theirs."""
        transport = cast(asyncio.Transport, self._transport)
        if not transport.is_closing():  # else this is what it has left
            transport.pause_reading()
            self._loop.call_soon(self._rested)

    def _rested(self) -> None:
        if not (self._paused or self._retired):
            cast(asyncio.Transport, self._transport).resume_reading()

    def hang_up(self, grace: float) -> None:
        """The caller has gone: tell the upstream, and take what is under way for ``grace`` seconds.

        Half-closes where the transport can; the receiver goes on being fed until the upstream ends the
        answer or the connection.  Where it cannot (TLS), or with ``grace`` 0, or while the request is
        still being written, the connection is closed at once.  The future of :meth:`send` completes
        with None when nothing more will come.
        """
        if self._future is None or self._gone:
            return
        self._gone = True
        transport = cast(asyncio.Transport, self._transport)
        unsent = transport.get_write_buffer_size()
        if grace <= 0 or not transport.can_write_eof() or unsent:
            self.abort()
            self.cut = not unsent  # who has not got the whole request does not answer it
            return
        self.deadline = self._home.now() + grace
        self._home.watch(self)
        self.resume()
        transport.write_eof()

    def abort(self) -> None:
        """Cut the connection at once; the receiver is not called again.

        A future that is still open gets :class:`~penstock.errors.UpstreamBroken`, so that nobody takes
        the answer for a complete one (after :meth:`hang_up`: None, as promised there).
        """
        future = self._future
        if future is not None:
            self.cut = True
            self._settle(UpstreamBroken(f"the call to {self._address} was cut off by this side"))
            if not future.cancelled():
                future.exception()  # whoever aborts knows: asyncio need not say that nobody looked
        self._retire(abort=True)

    # ---- for the pool ------------------------------------------------------------------------------

    @property
    def abandoned(self) -> bool:
        """The caller cancelled the future and told nobody; sweeping these keeps slots from leaking."""
        return self._future is not None and self._future.cancelled() and not self._gone

    def close(self) -> None:
        """Close an idle connection."""
        self._retire(abort=False)

    @property
    def retired(self) -> bool:
        """Of no further use: closed by either side, or about to be."""
        return self._retired

    def must_be_open(self) -> None:
        """:raises ConnectionResetError: it was accepted and closed before anything was sent."""
        if self._retired:
            raise ConnectionResetError("it was closed as soon as it was accepted")

    async def wait_lost(self) -> None:
        """Until the transport has let go of the socket."""
        if self._transport is not None:
            self._lost = self._lost or self._loop.create_future()
            await asyncio.wait([self._lost])

    def out_of_grace(self) -> None:
        """The time that :meth:`hang_up` granted is over.

        A process that had no CPU for so long finds the deadline before it finds what came in time.
        """
        ended = self._future is not None and self._salvage()
        if self._future is not None:
            self.abort()
            self.cut = not ended

    # ---- from the transport ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            keep_alive(sock)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            # A server that talks unasked (a 408 for idling, or the rest of a wrong answer): whatever it
            # says could be taken for the answer to the next request.
            if not self._retired:
                self._home.stale()
                self._retire(abort=True)
            return
        awaits_head = not self._status
        fault: Exception | None = None
        try:
            if awaits_head and len(data) > self._head_room:
                self._feed_in_two(data)
            else:
                self._feed(data)
        except _FAULTS as error:
            fault = error
        if awaits_head:
            if self._status:
                receiver.on_head(self._status, self._head)
            else:
                self._head_room -= len(data)
        pieces = self._pieces
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._overhead = 0
            if self._bodiless:
                self._keep = False
            elif self._receiver is not None:  # on_head may have aborted
                receiver.on_data(body)
        elif not awaits_head and not self._complete:
            # Chunk extensions and trailers: llhttp may be collecting them, so they have an end too.
            self._overhead += len(data)
            if self._overhead > MAX_HEAD_BYTES and fault is None:
                fault = _MalformedError(f"over {MAX_HEAD_BYTES} bytes of trailers or chunk extensions")
        if self._receiver is None:
            return
        if self._complete:
            self._finish(fault)
        elif fault is not None:
            self.cut = True
            self._settle(UpstreamBroken(f"{self._address} sent an answer that is not HTTP: {_words(fault)}"))
            self._retire(abort=True)
        elif len(data) > FULL:
            self._rest()

    def eof_received(self) -> None:
        # Returning None lets the transport close itself: after the upstream's last byte there is
        # nothing that we could still tell it.
        if self._future is not None:
            if self._status and self._runs_until_close() and not self._cut_off():
                self._keep = False
                self._finish(None)
            else:
                self._settle(self._end("closed the connection"))
        self._retire(abort=self._large)  # what is still to be written nobody may ever read

    def connection_lost(self, exc: Exception | None) -> None:
        if self._future is not None:
            if exc is not None:
                self._salvage()
            if self._future is not None:
                self._settle(self._end(f"broke the connection ({exc or 'without saying so'})"))
        self._retire(abort=False)
        # Parser and connection hold each other; parting them leaves nothing to the garbage collector.
        del self._parser, self._feed, self.on_body
        self._transport = None
        if self._lost is not None:
            self._lost.set_result(None)

    # ---- from llhttp: collect, decide nothing that takes time --------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise _MalformedError("bytes after the end of the answer")
        self._headers = {}
        self._duplicates = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        if name in headers:
            # Counted here only: distinct names are counted at the end of the head, and 200 joins of at
            # most 64 KiB cannot take long.
            self._duplicates += 1
            if self._duplicates > MAX_FIELDS:
                raise _MalformedError(f"over {MAX_FIELDS} header fields")
            headers[name] = headers[name] + b", " + value.rstrip()
        else:
            headers[name] = value.rstrip()  # llhttp leaves the white space that RFC 9110, 5.5 excludes

    def on_headers_complete(self) -> None:
        headers = self._headers
        parser = self._parser
        status = parser.get_status_code()
        if len(headers) + self._duplicates > MAX_FIELDS:
            raise _MalformedError(f"over {MAX_FIELDS} header fields")
        if status < 200:
            # RFC 9110, 15.2: interim answers have no content; one that announces some would be read
            # differently by different readers.
            if status < 102 and status != 100:
                raise _MalformedError(f"status {status}, for which nobody asked")
            if b"content-length" in headers or b"transfer-encoding" in headers:
                raise _MalformedError("an interim answer with a body")
            return
        keep = parser.should_keep_alive()
        if not keep or b"connection" in headers:
            # Without these, llhttp says True to HTTP/1.1 alone.  It also reads 0.9 and 2.0.
            version = parser.get_http_version()
            if version == "1.0":
                keep = False  # even if it offers keep-alive: not worth its traps (RFC 9112, C.2.2)
            elif version != "1.1":
                raise _MalformedError(f"HTTP/{version}")
        if b"transfer-encoding" in headers and (
            # We never send TE, so nothing but chunked may come (RFC 9112, 7.4); in HTTP/1.0 a transfer
            # coding is faulty framing (6.1).
            headers[b"transfer-encoding"].lower() != b"chunked" or parser.get_http_version() == "1.0"
        ):
            raise _MalformedError("a transfer coding that nobody asked for")
        self._status = status
        self._keep = keep
        self._head = headers
        self._headers = {}
        if self._head_request or status == 204 or status == 304:  # noqa: PLR1714
            self._bodiless = self._complete = True
            if b"transfer-encoding" in headers:
                self._keep = False  # what may follow cannot be told from the next answer

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True

    # ---- ends --------------------------------------------------------------------------------------

    def _new_parser(self) -> None:
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data

    def _feed_in_two(self, data: bytes) -> None:
        """Feed what the head may still take; if it did not end there, it is too long."""
        room = self._head_room
        self._feed(data[:room])
        if not self._status:
            raise _MalformedError(f"a head of over {MAX_HEAD_BYTES} bytes")
        self._feed(data[room:])

    def _runs_until_close(self) -> bool:
        return b"content-length" not in self._head and b"transfer-encoding" not in self._head

    def _cut_off(self) -> bool:
        """TLS ended without close_notify: anybody on the way may have cut the body (RFC 9112, 9.8).

        uvloop calls ``connection_lost`` then, asyncio ``eof_received`` all the same.
        """
        tls = cast(asyncio.Transport, self._transport).get_extra_info("ssl_object")
        if tls is None:
            return False
        try:
            return bool(tls.read(1))
        except ssl.SSLError:  # wants to read more: no close_notify came
            return True

    def _finish(self, fault: Exception | None) -> None:
        """The answer is complete; ``fault`` is what came after it."""
        future, transport = self._future, self._transport
        assert future is not None
        assert transport is not None
        if (
            self._keep
            and fault is None
            and not self._gone
            and not (self._large and transport.get_write_buffer_size())
        ):
            self._future = self._receiver = None
            if self._bodiless:
                self._new_parser()  # the old one may still wait for the body that the fields announced
            if self._paused:
                self.resume()
            self.reused = True
            self._home.take_back(self)
            if not future.done():
                future.succeed()
        else:
            self._settle(None)
            # What is still to be written is of no use any more (the upstream answered early).
            self._retire(abort=self._large)

    def _settle(self, error: UpstreamError | None) -> None:
        """Tell the caller, once, how it ended."""
        future = self._future
        if future is None:
            return
        self._future = self._receiver = None
        if future.done():
            return
        future.fail(None if self._gone else error)

    def _retire(self, *, abort: bool) -> None:
        if not self._retired:
            self._retired = True
            transport = self._transport
            if transport is not None:
                if abort:
                    transport.abort()
                else:
                    transport.close()
            self._home.forget(self)

    def _end(self, how: str) -> UpstreamError:
        """The connection ended while the answer was awaited or under way."""
        if self._status or self._head_room < MAX_HEAD_BYTES:
            return UpstreamBroken(f"{self._address} {how} in the middle of its answer")
        return self._ended_early(how)

    def _ended_early(self, how: str) -> UpstreamError:
        if self.reused and not self._gone and self._home.now() - self._sent <= STALE_WINDOW:
            self._home.stale()
            return StaleConnection(f"{self._address} {how} while it was idle")
        return UpstreamUnreachable(f"{self._address} {how} before it answered")

    def _salvage(self) -> bool:
        """Read what the kernel still holds; whether that was all, to the end of the connection.

        An upstream that refuses a large body answers, closes, and resets the connection because of the
        bytes that it left unread.  The transport reports our broken pipe and never reads the answer.
        """
        transport = cast(asyncio.Transport, self._transport)
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("ssl_object") is not None or sock.fileno() < 0:
            return False
        with socket.socket(fileno=os.dup(sock.fileno())) as copy:
            copy.setblocking(False)
            for _ in range(_SALVAGED_PIECES):
                if self._future is None:
                    return True
                try:
                    data = copy.recv(262_144)
                except BlockingIOError:
                    return False
                except OSError:
                    return True
                if not data:
                    return True
                self.data_received(data)
        return False

    def __repr__(self) -> str:
        if self._retired:
            state = "retired"
        elif self._future is None:
            state = "idle" if self.reused else "unused"
        else:
            state = f"busy, status {self._status}" if self._status else "busy, no answer yet"
            if self._paused:
                state += ", paused"
            if self._gone:
                state += ", hung up"
        return f"<Connection to {self._address}, {'reused' if self.reused else 'fresh'}, {state}>"


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel ask a silent peer for a sign of life."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    except OSError:
        pass  # an optimisation that some platforms refuse


def _words(fault: Exception) -> str:
    """What was wrong, from the exception that a callback raised if one did."""
    cause = fault.__context__
    return str(cause if isinstance(cause, _MalformedError) else fault) or type(fault).__name__
