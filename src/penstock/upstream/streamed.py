"""A streamed answer: SSE frames in, events of the caller's dialect out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Protocol

import msgspec

from penstock.errors import PenstockError, UpstreamBroken
from penstock.generation.log import Generation
from penstock.messages import Endpoint, Event, Headers, Usage
from penstock.upstream.job import Job
from penstock.upstream.run import Run, of_generation, of_response
from penstock.upstream.transfer import Race, Transfer
from penstock.wire import problems, usage
from penstock.wire.progress import Progress, progress
from penstock.wire.splice import Splice
from penstock.wire.sse import MAX_FRAME_BYTES, Splitter
from penstock.wire.translate import StreamTranslation

PACE_WINDOW = 10.0  # seconds over which a stream's pace is measured
MAX_HELD_BACK = 65_536  # bytes of first events that wait; a burst is delivered at once


class Frames(Protocol):
    """Makes frames of server-sent events from an answer's bytes as they come."""

    def __init__(self, max_frame_bytes: int) -> None: ...

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that this chunk completes.

        :raises UpstreamBroken: nobody can make frames of that
        """


class StreamTransfer(Transfer):
    """The receiver of such an answer."""

    __slots__ = (
        "_behind",
        "_first",
        "_held_back",
        "_measured",
        "_progress",
        "_silent",
        "_splitter",
        "_translator",
        "_undelivered",
        "run",
    )

    media_type: ClassVar[bytes] = b"text/event-stream"
    splitter: ClassVar[type[Frames]] = Splitter

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        super().__init__(generation, job, now)
        translation, splice = job.translation, job.splice
        relayed = translation is None and splice is None
        self._splitter = self.splitter(min(MAX_FRAME_BYTES, generation.max_bytes))
        self._progress: Progress = progress(
            job.endpoint,
            keep_usage=job.call.include_usage or not relayed,
            keep_running=job.call.running_usage or not job.running_usage or not relayed,
            upstream=job.upstream,
        )
        self._translator: StreamTranslation | Splice | None = splice
        if splice is None and translation is not None:
            self._translator = translation.stream(
                job.call.model, job.call.include_usage, created=int(time.time())
            )
        self._first = len(generation.events)
        self._behind = 0  # output tokens that came behind a fault
        self._undelivered: list[Event] = []
        self._held_back: list[Event] | None = [] if job.hold_back else None  # None: nothing waits any more
        self._measured = (0.0, 0)  # when the pace was last measured, and how far the answer had come then
        self._silent: int | None = 0  # how far it had come when no token had; None: one has
        self.run: Run | None = None  # the upstream's own run of this answer, if it is known to keep one

    @property
    def rest(self) -> str:
        """Where the rest of the answer is to be had, below the API's base; ``""``: nowhere."""
        if self.run is None or self.cancelled or self._undelivered:
            return ""  # what was not delivered would be lacking
        return self.run.target

    def keep_run(self) -> None:
        """The upstream is asked to keep a run of it.

        Its first event tells where that is, and is not held back: whoever is to read on must find it in the store.
        """
        self.run = of_response()
        self._held_back = None

    def take_up(self, run: Run) -> None:
        """Go on from the log, all of which another process has received from this run."""
        self._progress.take(self.generation.events, [])
        self._first, self._held_back = 0, None
        self.seen = self.now()
        self.run = run

    def successor(self, run: Run) -> StreamTransfer:
        """The receiver for the rest of the same answer, over another connection."""
        other = StreamTransfer(self.generation, self.job, self.now)
        other.started, other.seen, other.turn = self.started, self.seen, self.turn
        other.last = self.now()  # its silence begins here
        other._progress, other._translator = self._progress, self._translator
        other._first, other._held_back = self._first, self._held_back
        other._silent = self._silent
        other.run = run.broken()
        return other

    def _begin(self, headers: Headers) -> None:
        kind = headers.get(b"content-type", b"").lower()
        if kind.startswith(self.media_type):
            if self.job.splice is None and self.race is None:
                self.generation.headers = self.shown_headers()
            if self.job.keeps_runs and self.run is None and (name := headers.get(b"penstock-generation")):
                self.run = of_generation(name)
        elif b"json" in kind:
            self._error_body = bytearray()  # some tell of an error like this, with status 200
        else:
            self._give_up(_no_stream())

    @property
    def told(self) -> bool:
        return self._progress.complete or self._error_body is not None

    @property
    def complete(self) -> bool:
        splice = self.job.splice
        fits = splice is None or splice.mismatch is None
        return self._progress.complete and fits and self.failure is None and not (self.cancelled or self.lost)

    def _refusal(self, body: bytes | bytearray) -> PenstockError:
        if self.status != 200:
            return super()._refusal(body)
        told = problems.error_in_event(bytes(body), self.job.upstream, callers_key=self.job.callers_key)
        return _no_stream() if told is None else told

    def _take(self, data: bytes, now: float) -> None:
        if self._progress.complete:  # what follows the terminator is no part of the answer
            return
        frames = self._splitter.feed(data)
        if self.run is not None:
            frames = self.run.note(frames)
        if not frames:
            return
        events: list[Event] = []
        try:
            self._progress.take(frames, events)
        except PenstockError as error:
            endpoint = self.job.endpoint
            self._behind = usage.output_tokens_in(endpoint, frames) - usage.output_tokens_in(endpoint, events)
            if self.run is not None:
                self.run.stopped(events, error)
            self._salvage(events, now)
            raise
        if self._translator is not None:
            events = self._translated(self._translator, events, now)
        if events:
            self._deliver(events, now)

    def _deliver(self, events: list[Event], now: float) -> None:
        if not self.seen:
            self.seen = now
            if self.race is not None:
                self._run(self.race)
        if self.lost:
            self._leave_out(events)
            return
        if self._held_back is not None:
            events = self._waited_for(self._held_back, events, now)
            if not events:
                return
        generation = self.generation
        generation.append(events, now)
        if generation.ahead:
            self._pause()

    def _run(self, race: Race) -> None:
        race.first(self)
        if not self.lost:
            self.generation.headers = self.shown_headers()

    def _leave_out(self, events: list[Event]) -> None:
        """Another's answer is being delivered: what comes all the same will be billed, so it is counted."""
        if sum(map(len, self._undelivered)) > MAX_HELD_BACK:
            self.cut_short()
        else:
            self._undelivered += events

    def _waited_for(self, waiting: list[Event], events: list[Event], now: float) -> list[Event]:
        """What may go out now: nothing, until the first events have waited long enough."""
        waiting += events
        added = sum(map(len, events))
        early = now - self.seen < self.job.hold_back and not self._progress.complete
        if early and self.held + added <= MAX_HELD_BACK:
            self.held += added
            self.generation.hold(added)
            return []
        self._held_back = None
        self.generation.hold(-self.held)
        self.held = 0
        return waiting

    def check_clocks(self, now: float) -> None:
        """As for every transfer; events that have waited long enough go out."""
        super().check_clocks(now)
        if self._held_back and self.failure is None:
            try:
                self._deliver([], now)
            except PenstockError as error:
                self._give_up(error)

    def _may_think(self, now: float) -> bool:
        """As for every transfer: the head of a stream may come long before its first token."""
        if self._silent is None or now - self.sent > self.job.timeouts.first_token:
            return False
        tokens, reached = self._tokens_since(self._silent)
        self._silent = None if tokens else reached
        return not tokens

    def _check_pace(self, now: float) -> None:
        least = self.job.timeouts.min_token_rate
        if not least:
            return
        since, mark = self._measured
        if since and not self._paused and now - since < PACE_WINDOW:
            return
        tokens, reached = self._tokens_since(mark)
        if self._paused:  # it is we who do not read
            self._measured = (now, reached)
        elif not since:  # before its first token a model thinks, and the other clocks see to that
            self._measured = (now if tokens else 0.0, reached)
        elif tokens < least * (now - since):
            self._time_out("min_token_rate", now - since)
        else:
            self._measured = (now, reached)

    def _tokens_since(self, mark: int) -> tuple[int, int]:
        """How many output tokens have come since it had come as far as this, and how far it is now.

        Of one that goes on with another answer those count that it says again; keep-alives never do.
        """
        splice = self.job.splice
        if splice is not None:
            return splice.received - mark, splice.received
        events = self.generation.events
        fresh = events[max(mark, self._first) :]
        return usage.output_tokens_in(self.generation.endpoint, fresh), len(events)

    def _translated(
        self, translator: StreamTranslation | Splice, frames: list[Event], now: float
    ) -> list[Event]:
        events: list[Event] = []
        try:
            for frame in frames:
                events += translator.feed(frame)
            if self._progress.complete:
                events += translator.close()
        except PenstockError:
            self._hold_or_deliver(events, now)
            raise
        if isinstance(translator, Splice) and translator.mismatch is not None:
            self._turn_down()
        return events

    def _turn_down(self) -> None:
        """What comes does not fit: no more of it, please; but what is under way will be billed, so count it."""
        connection = self._live()
        if connection is not None:
            connection.hang_up(self.job.cancel_grace)

    def _salvage(self, frames: list[Event], now: float) -> None:
        """What came in one piece with a fault, before it, has been paid for; and behind it, but nobody gets that."""
        if self._translator is not None:
            frames = self._translated(self._translator, frames, now)
        self._hold_or_deliver(frames, now)

    def _hold_or_deliver(self, events: list[Event], now: float) -> None:
        """Deliver, but for a caller who has nothing yet: for him another attempt may begin anew."""
        if self._held_back is not None:
            self._held_back += events
        elif self.generation.events:
            self._deliver(events, now)
        else:
            self._undelivered = events

    def conclude(self) -> None:
        """As for every transfer; one that does not fit where it should go on is none.

        :raises penstock.wire.boundary.Mismatch: it does not
        """
        splice = self.job.splice
        if splice is not None and splice.mismatch is not None and not self.cancelled:
            raise splice.mismatch
        super().conclude()

    def _complete(self) -> None:
        if not self._progress.complete:
            raise UpstreamBroken("the upstream's answer ended before it was complete")

    def told_usage(self) -> Usage | None:
        return self._progress.usage

    def _beginning(self) -> bytes:
        if self.job.splice is not None:
            return b""
        mine = [] if self.lost else self.generation.events[self._first : self._first + 1]
        received = mine or self._held_back or self._undelivered
        return received[0] if received else b""

    @property
    def _whole(self) -> bool:
        return self._progress.complete

    def _received(self) -> Usage:
        told = self._progress.usage
        if told is not None and (self._progress.complete or self.job.endpoint is Endpoint.CHAT):
            # An OpenAI chunk's usage covers all that came before it.
            return self._with_behind(told) if self._behind else told
        splice = self.job.splice
        others = self.lost or (self.race is not None and not self.seen)  # what is in the log is not from here
        mine = [] if others else self.generation.events[self._first :]
        received = mine or self._held_back or self._undelivered
        if told is None and not (received or self._behind or (splice is not None and splice.came)):
            # Its head alone does not tell whether anything was computed, and lost on its way.
            return Usage(estimated=self._broke_off and not self.seen)
        if splice is not None:
            output = splice.received  # of a repeated answer only what is new is in the log
        else:
            output = usage.output_tokens_in(self.generation.endpoint, received)
        output += self._behind
        if told is None:
            return Usage(input_tokens=self._prompt_tokens(), output_tokens=output, estimated=True)
        return usage.merge(told, Usage(input_tokens=told.input_tokens, output_tokens=output, estimated=True))

    def _with_behind(self, told: Usage) -> Usage:
        """What the upstream had told before a fault, and what came behind that."""
        output = told.output_tokens + self._behind
        return msgspec.structs.replace(told, output_tokens=output, estimated=True)


def _no_stream() -> UpstreamBroken:
    return UpstreamBroken("the upstream answered a call for a stream with something else")
