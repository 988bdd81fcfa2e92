"""Give a log that nobody here understands to one caller: in the form in which its upstream answered.

Whether that is a stream of events, sound that goes on as it comes, or an answer in one piece, is known when the log
has begun.  An answer that is there already goes out in one piece, with its length.
"""

from __future__ import annotations

from penstock.gateway.stages.read import SLICE_BYTES, Reading
from penstock.generation.log import EVENT_OVERHEAD, Generation, State
from penstock.messages import Endpoint

_RUNNING, _FINISHED, _FAILED = State.RUNNING, State.FINISHED, State.FAILED
_TYPE = b"content-type"
_JSON = (_TYPE, b"application/json")


class OpaqueReading(Reading):
    """A reading of an opaque endpoint's log."""

    __slots__ = ()

    def advance(self) -> None:
        """Write what the log has beyond our position; at its end, end the answer."""
        if self._paused or self.done:
            return
        generation = self.generation
        if generation.stream:
            self._stream(generation)
        elif self.exchange.started:
            self._go_on(generation)
        elif generation.state is _FINISHED:
            self._whole(generation)  # from its beginning, wherever who comes back was: bytes have no numbers
        elif generation.state is _FAILED:
            self._refuse(generation.error, final=bool(generation.events))
        elif generation.endpoint is Endpoint.SPEECH and generation.readable:
            self.exchange.start(200, self._headers(generation))
            self._go_on(generation)

    def keep_alive(self, now: float) -> None:
        """Only within a stream: before its first event nobody knows that it will be one."""
        if self.generation.stream and self.exchange.started and not (self._paused or self.done):
            self._sign_of_life(now)

    def _go_on(self, generation: Generation) -> None:
        events = generation.events
        while (position := self._position) < generation.readable:
            end, size = position, 0
            while end < generation.readable and (end == position or size + len(events[end]) <= SLICE_BYTES):
                size += len(events[end])
                end += 1
            self._position = end
            self.read_bytes += size + EVENT_OVERHEAD * (end - position)
            if not self.exchange.write(b"".join(events[position:end])):
                self._paused = True
                return
        if generation.state is _FINISHED:
            self.exchange.end()
            self._finish(200)
        elif generation.state is _FAILED:
            # There is no word for it in the middle of sound: a caller sees that the answer was cut.
            self.error = generation.error.code if generation.error is not None else ""
            exchange = self.exchange
            self._finish(200)
            exchange.abort()

    def _whole(self, generation: Generation) -> None:
        self.read_bytes = generation.size
        self.exchange.respond(200, self._headers(generation), b"".join(generation.events))
        self._finish(200)

    def _headers(self, generation: Generation) -> list[tuple[bytes, bytes]]:
        headers = [*self._own_headers(), *generation.headers]
        if not any(name == _TYPE for name, _ in headers):
            headers.append(_JSON)
        return headers
