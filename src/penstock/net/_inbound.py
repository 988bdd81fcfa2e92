"""An accepted connection: which bytes are what, when the next request begins, and how it all ends.

Theory of operation
-------------------
An :class:`Inbound` is an ``asyncio.Protocol`` that reads one request at a time.  Its ``phase`` says
what the bytes that come next are:

========== ===================================================================== ====================
phase      incoming bytes                                                        deadline
========== ===================================================================== ====================
IDLE       the first bytes of a request                                          idle_timeout
HEAD       the rest of ``_head``                                                 header_timeout
BODY       the body of ``exchange``, which may be answered already               body_timeout and rate
ANSWERING  read-ahead, kept up to ``pipeline_bytes``                             the application's
LINGERING  dropped: the last answer is out, the client may still be sending      LINGER_*
CLOSED     nothing comes any more; perhaps answers still go out                  write_timeout
========== ===================================================================== ====================

An exchange has two halves that end in any order, its body and its answer; the next request begins when
both have ended.  Whatever makes the connection unfit for another request (a client that wants so, a fault
in the framing, an early answer to a long body, drain) sets ``last``, and then the answer says
``connection: close``.

No deadline has a timer of its own.  Each connection keeps one number, and the listener's sweep looks for
those that have passed.  Connections whose writing or reading is paused get no events, so they are in
``Serving.stalled`` and each sweep looks whether their clients still take anything, or are there at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from penstock.errors import BodyTooLarge, PenstockError, RequestTimeout
from penstock.net._inbound_body import InboundBody
from penstock.net._inbound_exchange import InboundExchange, too_large
from penstock.net._inbound_head import InboundHead
from penstock.net._precedent import Precedent
from penstock.net._request_head import CHUNKED, Refusal, RequestHead
from penstock.net._serving import LINGER_SILENCE, LINGER_TOTAL, NEVER, Serving
from penstock.net._sockets import hung_up, readable, reset_on_close
from penstock.net._untaken import Untaken
from penstock.net.exchange import LATER, Repeats
from penstock.net.responses import CLOSE, CONTINUE, last_error

_log = logging.getLogger(__name__)

_IDLE, _HEAD, _BODY, _ANSWERING, _LINGERING, _CLOSED = range(6)
_PHASES = ("idle", "head", "body", "answering", "lingering", "closed")

LINGERING_REFUSED = 256  # connections over the limit that still get a 503; the others are cut
DROPPED_BODY_BYTES = 65_536  # an answered request's body up to this long is read, not cut


class Inbound(asyncio.Protocol):
    __slots__ = (
        "_ahead",
        "_asked",
        "_body",
        "_head",
        "_linger_until",
        "_looping",
        "_over_limit",
        "_precedent",
        "_reading_paused",
        "_rest",
        "_rest_at",
        "_stripped",
        "_unread",
        "_untaken",
        "broken",
        "deadline",
        "exchange",
        "last",
        "loop",
        "peer",
        "phase",
        "proxy",
        "segment",
        "serving",
        "transport",
        "write",
        "writing_paused",
    )

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.loop = serving.loop
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.write: Callable[[bytes], None] = _write_nowhere
        self.peer = ""
        self.proxy = ""  # the address at the other end, if who is there tells us for whom it asks
        self.phase = _IDLE
        self.exchange: InboundExchange | None = None
        self._head: InboundHead | None = None  # that is still coming
        self._precedent: Precedent | None = None
        self.segment = b""  # what has come at once, while it is looked at; of use to who knows repeats
        # Read ahead, in this order, and only while an answer is under way or the client takes nothing:
        self._rest = b""  # from _rest_at on, what followed the request within one segment
        self._rest_at = 0
        self._ahead = bytearray()  # what came later
        self._asked = b""  # a request whose answer is looked for elsewhere, without its being read
        self._stripped = False  # an empty line in front of the request has been ignored
        self._body: InboundBody | None = None  # that is still coming; None: it was there with its head
        self.last = False  # no request after this one
        self.broken = False  # lost, and with it what had been written and not yet sent
        self._looping = False  # _serve is on the stack
        self._reading_paused = False
        self.writing_paused = False
        self._over_limit = False
        self._untaken: Untaken | None = None  # while writing is paused, and after close
        self._linger_until = NEVER
        # While lingering: bytes of the last body that are still to come; below nought: nobody knows.
        self._unread = -1
        self.deadline = NEVER

    # ---- what asyncio says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        serving = self.serving
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write
        self.transport.set_write_buffer_limits(high=serving.config.write_high_water)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else "unix"
        if serving.proxies.trusts(self.peer):
            self.proxy = self.peer
        serving.accepted += 1
        if len(serving.connections) - serving.over_limit >= serving.config.max_connections:
            self._refuse_connection()
            return
        serving.connections.add(self)
        self.deadline = serving.clock.now() + serving.idle_timeout
        if serving.draining:
            self.drain()

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase == _IDLE:
            self._serve(data)
        elif phase == _BODY:
            self._feed_body(data)
        elif phase == _HEAD:
            self._feed_head(data)
        elif phase == _ANSWERING:
            if not self.last:
                self._read_ahead(data)
        elif phase == _LINGERING:
            self._unread -= len(data)
            if self._unread == 0:
                self.close()  # all that was announced has been read, so no reset follows
            else:
                self.deadline = min(self.serving.clock.now() + LINGER_SILENCE, self._linger_until)

    def eof_received(self) -> bool:
        """A half-closed connection is a closed one: nobody could tell it from a client that is gone."""
        if self.exchange is not None:
            self.exchange.flush()  # written before it left: a peer that only half-closed reads it, and pays for it
        self._client_gone()
        self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = exc is not None
        if self._over_limit:
            self.serving.over_limit -= 1
        self._client_gone()
        self.phase = _CLOSED
        self.deadline = NEVER
        self._forget_input()
        self.write = _write_nowhere
        self._untaken = None
        self.serving.lost(self)

    def pause_writing(self) -> None:
        self.writing_paused = True
        self.write = self._watch_taking().write

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.write = self.transport.write
        if self.phase != _CLOSED:
            self._untaken = None
        self._unstall()
        exchange = self.exchange
        if exchange is None:
            self._serve_ahead()
        elif exchange.watcher is not None:
            exchange.watcher.on_writable()

    # ---- requests

    def _serve(self, data: bytes, at: int = 0, *, looked: bool = False) -> None:
        """Begin the requests that ``data`` holds from ``at`` on; a request begins there.

        :param looked: whether who knows repeats has been asked, and has no answer
        """
        serving = self.serving
        size = len(data)
        repeats = serving.repeats
        if repeats is not None and at == 0:
            if size in repeats.lengths and not looked and self._answer_repeat(data, repeats):
                return
            self.segment = data
        self._looping = True
        try:
            while at < size:
                if self.writing_paused:  # no more answers than the client takes
                    self.phase = _ANSWERING
                elif data[at] == 13 and not self._stripped and data.startswith(b"\r\n", at):
                    self._stripped = True  # RFC 9112 2.2: an empty line before a request is ignored
                    at += 2
                    continue
                else:
                    precedent = self._precedent
                    again = precedent.again(data, at) if precedent is not None else None
                    if again is not None:
                        head, body_at = again
                    else:
                        end = data.find(b"\r\n\r\n", at)
                        if end < 0:
                            self._begin_head(data[at:])
                            break
                        raw = data[at:end]
                        head = serving.heads.parse(raw)
                        self._precedent = Precedent(raw, head, serving.config.max_header_bytes)
                        body_at = end + 4
                    at = self._begin(head, data, body_at)
                if self.phase != _IDLE:
                    if at < size and self.phase == _ANSWERING and not self.last:
                        self._rest, self._rest_at = data, at
                        self._read_ahead(b"")
                    break
        except Refusal as refusal:
            self._refuse(refusal)
        finally:
            self._looping = False
            self.segment = b""
        if self.phase == _IDLE:
            self.deadline = serving.clock.now() + serving.idle_timeout

    def _answer_repeat(self, data: bytes, repeats: Repeats) -> bool:
        """Answer a request that came before in the same bytes, without reading it."""
        serving = self.serving
        if self.writing_paused or serving.ending:
            return False
        if self.proxy:
            self.peer = serving.proxies.caller_of(self.proxy, data)
        try:
            answer = repeats.answer(data, serving.openings[200], self)
        except Exception:  # noqa: BLE001 - then it is read like any other
            _log.exception("an answer that is at hand could not be given to %r", self)
            return False
        if answer is None:
            return False
        if answer == LATER:
            self._asked = data
            self.phase = _ANSWERING
            return True
        serving.requests += 1
        self._stripped = False
        self.deadline = serving.clock.now() + serving.idle_timeout
        self.write(answer)
        return True

    # ---- penstock.net.exchange.Asker

    @property
    def gone(self) -> bool:
        return self.phase in (_LINGERING, _CLOSED)

    def told(self, answer: bytes | None) -> None:
        """The answer that was looked for; None: the request is to be read."""
        data, self._asked = self._asked, b""
        if self.gone:
            return
        serving = self.serving
        try:
            if answer is None:
                self.phase = _IDLE
                self._serve(data, looked=True)
                return
            serving.requests += 1
            self._stripped = False
            if self.ends_connection():
                self.write(serving.openings[200] + CLOSE + answer)
                self._end()
                return
            self.write(serving.openings[200] + answer)
            self._go_on()
            if self.phase == _IDLE:
                self.deadline = serving.clock.now() + serving.idle_timeout
        except Exception:  # noqa: BLE001 - who has found the answer must not suffer from it
            _log.exception("an answer could not be given to %r", self)
            self.close(at_once=True)

    def _serve_ahead(self) -> None:
        """Go on with what was read ahead."""
        if self.phase != _ANSWERING or self.exchange is not None or self._asked:
            return
        self.phase = _IDLE
        self.resume_reading()
        rest, at = self._rest, self._rest_at
        self._rest, self._rest_at = b"", 0
        if rest:
            self._serve(rest, at)
        if self._ahead and self.phase in (_IDLE, _HEAD, _BODY):
            ahead = bytes(self._ahead)
            self._ahead.clear()
            self.data_received(ahead)

    def _begin_head(self, data: bytes) -> None:
        serving = self.serving
        if self.phase == _IDLE:
            self.phase = _HEAD
            self.deadline = serving.clock.now() + serving.header_timeout
        self._head = InboundHead(serving.heads, data, stripped=self._stripped)

    def _feed_head(self, data: bytes) -> None:
        head = self._head
        assert head is not None
        try:
            whole = head.feed(data)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._stripped = head.stripped
        if whole:
            self._head = None
            self.phase = _IDLE
            self._serve(whole)

    def _begin(self, head: RequestHead, data: bytes, at: int) -> int:
        """Begin one request, whose body begins in ``data`` at ``at``.

        :returns: how much of ``data`` belongs to it or is used up
        """
        serving = self.serving
        serving.requests += 1
        self._stripped = False
        if self.proxy:
            self.peer = serving.proxies.caller(self.proxy, head.headers)
        exchange = self.exchange = InboundExchange(self, head)
        if not head.keep_alive or serving.ending:
            self.last = True
        length = head.length
        size = len(data)
        self.phase = _ANSWERING if length == 0 else _BODY
        exchange.continue_wanted = head.expects_continue and size == at
        try:
            limit = serving.application.opening(exchange)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            exchange.defect(error)
            limit = 0
        head.meaning = exchange.meaning
        if exchange.gone:  # the application cut the connection
            return size
        exchange.streaming = limit is None
        if limit is not None:
            exchange.limit = min(limit, serving.config.max_body_bytes)

        if length == 0:
            if not exchange.ended:
                exchange.run()
            self._settle()
            return at
        if limit is not None and length != CHUNKED and not exchange.ended:
            if length > exchange.limit:
                exchange.received = size - at
                self._fail_body(too_large(exchange.limit))
                return size
            if size - at >= length:  # the usual case: nothing to wait for
                exchange.gather(data[at : at + length])
                self._body_done()
                return at + length
        return size - len(self._begin_body(exchange, data[at:]))

    def _begin_body(self, exchange: InboundExchange, data: bytes) -> bytes:
        """Take a body as it comes, of which ``data`` is there; returns what follows the body."""
        serving = self.serving
        body = self._body = InboundBody(exchange, serving)
        self.deadline = body.began + serving.body_timeout
        if exchange.continue_wanted and not exchange.streaming and not exchange.ended:
            exchange.continue_wanted = False
            self.transport.write(CONTINUE)
        rest = self._take_body(body, data) if data else b""
        if exchange.streaming and not exchange.ended:
            exchange.run()
        self._settle()
        return rest

    def _feed_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        now = body.heard = self.serving.clock.now()
        rest = self._take_body(body, data)
        if self.phase == _IDLE:
            if rest:
                self._serve(rest)
            else:
                self.deadline = now + self.serving.idle_timeout
        elif rest and self.phase == _ANSWERING and not self.last:
            self._read_ahead(rest)

    def _take_body(self, body: InboundBody, data: bytes) -> bytes:
        """Give the exchange its part of ``data``; returns what follows the body."""
        body.feed(data)
        if body.fault is not None:
            self._fail_body(body.fault)
        elif body.left == 0:
            self._let_go()
            self._body_done()
            return body.rest
        return b""

    def _let_go(self) -> None:
        """The body is whole, or will never be."""
        if self._body is not None:
            self._body.close()
            self._body = None

    def _body_done(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        exchange.whole = True
        self.deadline = NEVER
        self.phase = _ANSWERING
        if exchange.streaming:
            exchange.wake()
        elif not exchange.ended:
            exchange.run()
        self._settle()

    def _fail_body(self, error: PenstockError) -> None:
        """The body will not become whole.  The application is told, and answers; then we close."""
        exchange = self.exchange
        assert exchange is not None
        self._let_go()
        if isinstance(error, BodyTooLarge | RequestTimeout):
            self.serving.count_refusal(error.code)
        self.last = True
        self.phase = _ANSWERING
        self.deadline = NEVER
        exchange.fail(error)
        if exchange.ended:
            self._linger()
        elif exchange.streaming:
            self.resume_reading()  # what comes now is dropped, and its end must be seen
        else:
            exchange.run()
            self._settle()

    def _settle(self) -> None:
        """Go on to the next request, or to the end, if both halves of this one have ended."""
        exchange = self.exchange
        if exchange is None or not exchange.ended or self.phase not in (_BODY, _ANSWERING):
            return
        if self.last:
            if exchange.whole:
                self._end()
            else:
                self._linger()
        elif self.phase == _BODY:  # a short rest, read and dropped
            exchange.drop()
            self.resume_reading()
        else:
            self.exchange = None
            self._go_on()

    def _end(self) -> None:
        """The last request has been answered."""
        if self._rest or self._ahead:
            self._linger()
        else:
            self.close()

    def _go_on(self) -> None:
        """To the next request, from one that has been answered."""
        if self._rest or self._ahead:
            # A turn later, and not in the context of the application that has just answered.
            self.loop.call_soon(self._serve_ahead, context=self.serving.context)
        elif self.serving.draining:  # the head was out before
            self.close()
        else:
            self.phase = _IDLE

    def answered(self) -> None:
        """The application has ended the answer."""
        if not self._looping:
            self._settle()
            if self.phase == _IDLE:
                self.deadline = self.serving.clock.now() + self.serving.idle_timeout

    def ends_connection(self) -> bool:
        """Whether the answer whose head goes out now is the last one of the connection."""
        if not self.last:
            exchange = self.exchange
            if self.serving.ending or (
                exchange is not None
                and (
                    exchange.continue_wanted  # nobody knows whether the client will send the body now
                    or (self.phase == _BODY and self._much_is_left(exchange))
                )
            ):
                self.last = True
        return self.last

    def _much_is_left(self, exchange: InboundExchange) -> bool:
        """Whether more of the body is still to come than is read after the answer, and dropped."""
        left = exchange.head.length if self._body is None else self._body.left
        return left == CHUNKED or left > DROPPED_BODY_BYTES

    def _read_ahead(self, data: bytes) -> None:
        self._ahead += data
        if len(self._rest) - self._rest_at + len(self._ahead) > self.serving.config.pipeline_bytes:
            self.pause_reading()

    def _forget_input(self) -> None:
        self._asked = b""
        self._head = None
        self._precedent = None
        self._rest, self._rest_at = b"", 0
        self._ahead.clear()

    # ---- flow

    def pause_reading(self) -> None:
        if not self._reading_paused and self.phase != _CLOSED:
            self._reading_paused = True
            self.transport.pause_reading()
            self.serving.stalled.add(self)

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self.phase != _CLOSED:
                self.transport.resume_reading()
            self._unstall()

    def _unstall(self) -> None:
        if not self._reading_paused and not self.writing_paused and self.phase != _CLOSED:
            self.serving.stalled.discard(self)

    def _watch_taking(self) -> Untaken:
        """From now on the sweep looks whether what was written is taken."""
        untaken = self._untaken = Untaken(self.transport, self.serving.clock.now())
        self.serving.stalled.add(self)
        return untaken

    def check_stalled(self, now: float) -> None:
        """Look after a connection that gets no events because it is paused, or is closing."""
        if self._untaken is not None and self._untaken.silence(now) >= self.serving.write_timeout:
            self.cut("write_timeout")
            return
        if self._reading_paused:
            if self._body is not None:
                self._body.pass_over(now)  # the time that we do not read is not the client's
            if hung_up(self.transport):
                self._client_gone()
                self.close()

    # ---- the end

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        phase = self.phase
        if phase == _HEAD:
            self._refuse(Refusal(408, "header_timeout", "The request header did not come in time."))
        elif phase == _BODY:
            self._expire_body(now)
        elif phase in (_IDLE, _LINGERING):
            self.close()
        else:
            self.deadline = NEVER

    def _expire_body(self, now: float) -> None:
        body = self._body
        assert body is not None
        if self._reading_paused:
            self.deadline = now + self.serving.body_timeout
        elif message := body.lateness(now):
            self._fail_body(RequestTimeout(message))
        else:
            self.deadline = body.deadline()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that has no exchange, and end the connection."""
        self.serving.count_refusal(refusal.code)
        kind = "api_error" if refusal.status >= 500 else "invalid_request_error"
        opening = self.serving.openings[refusal.status]
        self.transport.write(last_error(opening, refusal.code, refusal.message, kind))
        self._linger()

    def _refuse_connection(self) -> None:
        serving = self.serving
        serving.count_refusal("connections")
        if serving.over_limit >= LINGERING_REFUSED or serving.draining:
            self.phase = _CLOSED
            self.transport.abort()
            return
        self._over_limit = True
        serving.over_limit += 1
        serving.connections.add(self)
        self.transport.write(
            last_error(serving.openings[503], "overloaded", "Too many connections.", "overloaded_error")
        )
        self._linger()

    def _linger(self) -> None:
        """End our side, and read on for a while: closing on unread bytes would reset the connection, and the
        client would lose the answer (RFC 9112 9.6).
        """
        if self.phase in (_LINGERING, _CLOSED):
            return
        transport = self.transport
        if transport.is_closing():
            self.close()
            return
        self.resume_reading()
        self.phase = _LINGERING
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.whole:
            self._unread = exchange.head.length - exchange.received
            if self._unread == 0:
                self.close()
                return
        self._forget_input()
        self._let_go()
        now = self.serving.clock.now()
        self._linger_until = now + LINGER_TOTAL
        self.deadline = now + LINGER_SILENCE
        if transport.can_write_eof():
            transport.write_eof()

    def close(self, *, at_once: bool = False) -> None:
        """Close once everything written has gone out; or at once, with a reset, which no client takes for
        the end of an answer.
        """
        if self.phase == _CLOSED:
            return
        self.phase = _CLOSED
        self.exchange = None
        self.deadline = NEVER
        self._let_go()
        self._forget_input()
        self._watch_taking()
        if at_once:
            reset_on_close(self.transport)
            self.transport.abort()
        else:
            self.transport.close()

    def cut(self, reason: str) -> bool:
        """Abort at once; whether something was lost by it."""
        lost = self.in_progress or self.transport.get_write_buffer_size() > 0
        if lost:
            self.serving.count_refusal(reason)
        exchange = self.exchange
        if reason == "write_timeout" or (exchange is not None and exchange.started and not exchange.chunked):
            reset_on_close(self.transport)  # nothing may wait in the kernel, nor look like an end
        self._client_gone()
        self.phase = _CLOSED
        self.transport.abort()
        return lost

    def drain(self) -> None:
        """Close if nothing is under way, and else after the answer that is."""
        if self.phase == _IDLE and not readable(self.transport):
            self.close()

    @property
    def in_progress(self) -> bool:
        return self.exchange is not None or self.phase == _HEAD or bool(self._asked)

    def _client_gone(self) -> None:
        self._let_go()
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.leave()

    def __repr__(self) -> str:
        paused = " reading paused" * self._reading_paused + " writing paused" * self.writing_paused
        return f"<Inbound from {self.peer} {_PHASES[self.phase]}{paused} {self.exchange!r}>"


def _write_nowhere(data: bytes) -> None:
    """In place of a transport's, after it is lost; keeps the transport from being kept."""
