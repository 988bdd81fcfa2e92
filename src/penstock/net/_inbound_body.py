"""A request's body that was not there with its head: how much is to come, how fast it must, what it may take.

The connection feeds it what comes, and looks afterwards whether it is whole, or wrong.  What belongs to it goes to the
exchange, which keeps it until it is whole, or gives it to who reads it piece by piece; once that has been answered,
nothing is kept.  No I/O.
"""

from __future__ import annotations

from penstock.errors import BadRequest, Overloaded, PenstockError
from penstock.net._chunked import ChunkedDecoder
from penstock.net._inbound_exchange import InboundExchange, too_large
from penstock.net._request_head import CHUNKED
from penstock.net._serving import Serving

SMALL_BODY = 65_536  # bytes that each body may have, however much is coming in


class InboundBody:
    """The body of one exchange.

    :ivar left: bytes to come, or CHUNKED; 0: it is whole
    :ivar rest: what came after its end
    :ivar fault: why it will not become whole
    :ivar began: when it began, in seconds of the listener's clock
    :ivar heard: when bytes of it came last; whoever feeds it sets this
    """

    __slots__ = ("_chunks", "_held", "_serving", "began", "exchange", "fault", "heard", "left", "rest")

    def __init__(self, exchange: InboundExchange, serving: Serving) -> None:
        self.exchange = exchange
        self.left = exchange.head.length
        self.rest = b""
        self.fault: PenstockError | None = None
        self.began = self.heard = serving.clock.now()
        self._serving = serving
        self._chunks = ChunkedDecoder(serving.config.max_header_bytes) if self.left == CHUNKED else None
        self._held = 0  # bytes of it that are kept until it is whole

    def feed(self, data: bytes) -> None:
        """Take what has come, up to the body's end."""
        chunks = self._chunks
        if chunks is None:
            left = self.left
            if len(data) > left:
                self.rest = data[left:]
                data = data[:left]
            self.left = left - len(data)
            self._take(data)
            return
        for piece in chunks.feed(data):
            self._take(piece)
            if self.fault is not None:
                return
        if chunks.fault is not None:
            self._serving.count_refusal(chunks.fault.code)
            self.fault = BadRequest(chunks.fault.message, code=chunks.fault.code)
        elif chunks.done:
            self.left = 0
            self.rest = chunks.rest

    def _take(self, piece: bytes) -> None:
        exchange, serving = self.exchange, self._serving
        exchange.received += len(piece)
        if exchange.ended:
            return
        if exchange.streaming:
            exchange.push(piece)
            return
        if exchange.received > exchange.limit:
            self.fault = too_large(exchange.limit)
            return
        exchange.gather(piece)
        serving.coming += len(piece)
        self._held += len(piece)
        if self._held > SMALL_BODY and serving.coming > serving.config.bodies_bytes:
            serving.count_refusal("bodies")
            self.fault = Overloaded("too much is being sent here at once", retry_after=1.0)

    def lateness(self, now: float) -> str:
        """What is to be said of a body that has been silent for too long, or comes too slowly; empty: it is in time."""
        if now >= self._silent_until():
            return "The request's body did not come in time."
        if now > self._slow_at():
            return "The request's body comes too slowly."
        return ""

    def deadline(self) -> float:
        """When it is late if nothing more comes."""
        return min(self._silent_until(), self._slow_at())

    def _silent_until(self) -> float:
        return self.heard + self._serving.body_timeout

    def _slow_at(self) -> float:
        paced = self.exchange.received / self._serving.config.min_body_rate
        return self.began + max(paced, self._serving.body_timeout)

    def pass_over(self, now: float) -> None:
        """The time since it was heard last does not count."""
        self.began += now - self.heard
        self.heard = now

    def close(self) -> None:
        """It is whole, or will never be: it holds none of the room any more that bodies have together."""
        self._serving.coming -= self._held
        self._held = 0

    def __repr__(self) -> str:
        left = "chunks" if self.left == CHUNKED else f"{self.left} bytes"
        return f"<InboundBody {self.exchange.received} bytes here, {left} to come>"
