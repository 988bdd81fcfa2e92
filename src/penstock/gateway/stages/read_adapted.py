"""Readers who want a log in another form than the one in which it was made.

Identical calls share one log (``stages.join``), whatever form of answer each of them wants: a plain caller of a
streamed log waits for its end and folds it (``Reading`` does); a streaming caller of a plain log gets it
unfolded, once it is there; and of two streaming callers one may want the usage chunk and the other not.
What a reader gets depends on the log alone, so a reader who comes back at an offset gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.errors import Conflict, PenstockError
from penstock.gateway.stages.read import STREAM_HEADERS, Reading
from penstock.gateway.stages.read_opaque import OpaqueReading
from penstock.generation.log import EVENT_OVERHEAD, Generation, State
from penstock.messages import Call, Endpoint, Event
from penstock.net.exchange import Exchange
from penstock.wire import sse
from penstock.wire.unfold import unfold
from penstock.wire.usage_view import adapt

_TELLS_USAGE = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})


def open_reading(
    call: Call,
    generation: Generation,
    exchange: Exchange,
    status_name: bytes,
    on_done: Callable[[Reading], None],
    position: int = 0,
) -> Reading:
    """A reading in the form that the call wants."""
    kind = Reading
    if call.stream:
        if not generation.stream:
            kind = UnfoldedReading if not call.endpoint.opaque else OpaqueReading
        elif _tells_other_usage(call, generation.include_usage, generation.running_usage):
            kind = UsageReading
    elif call.endpoint.opaque:
        kind = OpaqueReading
    return kind(call, generation, exchange, status_name, on_done, position)


def shows_as_made(call: Call, stream: bool, include_usage: bool, running_usage: bool) -> bool:
    """Whether a reading shows this caller the events of a log as they are: it was made in the form that the call wants.

    :param stream: of the log, as :class:`Generation` has it, and so are the others
    """
    return (
        call.stream == stream
        and not call.endpoint.opaque
        and not (stream and _tells_other_usage(call, include_usage, running_usage))
    )


def _tells_other_usage(call: Call, include_usage: bool, running_usage: bool) -> bool:
    return (
        call.include_usage != include_usage or call.running_usage != running_usage
    ) and call.endpoint in _TELLS_USAGE


def ahead_of_head(after: int, readable: int) -> Conflict:
    """The error of a reader who says that it has an event which is not there yet, or never was."""
    return Conflict(f"event {after} is ahead of the log, which has {readable}", code="ahead_of_head")


class UsageReading(Reading):
    """Of an OpenAI stream, by a caller who wants its usage told otherwise than the log tells it."""

    __slots__ = ()

    def _stream(self, generation: Generation) -> None:
        events = generation.events
        call = self.call
        while (position := self._position) < generation.readable:
            event = events[position]
            if (
                call.include_usage
                and not generation.include_usage
                and generation.state is State.RUNNING
                and sse.data_of(event) == b"[DONE]"
            ):
                return  # what the answer used is known when it has ended
            shown = adapt(
                event,
                has_usage=generation.include_usage,
                wants_usage=call.include_usage,
                usage=generation.usage,
                first=events[0],
                drop_running=generation.running_usage and not call.running_usage,
            )
            self._position = position + 1
            self.read_bytes += len(event) + EVENT_OVERHEAD
            # A chunk that is added stands before the event, and the number stands with the event: a reader who
            # has lost the one comes back for both.
            added = shown.removesuffix(event) if shown.endswith(event) else b""
            if shown and not self._send(position, shown[len(added) :], added):
                return
        if generation.state is not State.RUNNING:
            self._end_stream(generation)

    def _send(self, position: int, shown: Event, added: bytes = b"") -> bool:
        """False: the caller must take what it has first."""
        exchange = self.exchange
        if not exchange.started:
            exchange.start(200, [*STREAM_HEADERS, *self._own_headers(), *self.generation.headers])
        if not exchange.write(b"%bid: %d\n%b" % (added, position, shown)):
            self._paused = True
        return not self._paused


class UnfoldedReading(UsageReading):
    """Of a plain answer, by a caller who wants a stream: it begins when the answer is whole."""

    __slots__ = ("_unfolded",)

    def __init__(
        self,
        call: Call,
        generation: Generation,
        exchange: Exchange,
        status_name: bytes,
        on_done: Callable[[Reading], None],
        position: int = 0,
    ) -> None:
        super().__init__(call, generation, exchange, status_name, on_done)
        self._position = self._alive_position = position
        self._unfolded: list[Event] | None = None

    def _stream(self, generation: Generation) -> None:
        if generation.state is State.RUNNING:
            return
        if generation.state is State.FINISHED:
            if self._unfolded is None:
                try:
                    self._unfolded = unfold(
                        generation.endpoint,
                        b"".join(generation.events),
                        include_usage=self.call.include_usage,
                        usage=generation.usage,
                    )
                except PenstockError as error:
                    self._break_stream(error)
                    return
                if self._position > len(self._unfolded):
                    self._break_stream(ahead_of_head(self._position - 1, len(self._unfolded)))
                    return
                self.read_bytes = generation.size
            while (position := self._position) < len(self._unfolded):
                self._position = position + 1
                if not self._send(position, self._unfolded[position]):
                    return
        self._end_stream(generation)
