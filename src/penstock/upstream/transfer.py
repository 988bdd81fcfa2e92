"""One upstream answer on its way into a generation's log.

A transfer receives bytes from a connection, turns them into events and appends them; it keeps the clocks
of the answer and knows, at the end, what the answer used.  All of it happens in callbacks: a streamed
chunk costs no task switch and no timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from penstock.config.model import TimeoutConfig
from penstock.errors import InternalError, PenstockError, UpstreamBroken, UpstreamTimeout
from penstock.flow.gate import Turn
from penstock.generation.log import EVENT_OVERHEAD, Generation, too_large
from penstock.messages import Call, Dialect, Endpoint, Event, Headers, Usage
from penstock.net.connection import Connection
from penstock.upstream.inquiry import Form, id_in, id_in_head
from penstock.upstream.run import Run, of_generation
from penstock.wire import counting, problems, usage
from penstock.wire.not_json import NOT_JSON
from penstock.wire.progress import Progress, progress
from penstock.wire.splice import Splice
from penstock.wire.sse import MAX_FRAME_BYTES, Splitter
from penstock.wire.translate import StreamTranslation, Translation

MAX_ERROR_BYTES = 65_536
_AS_IT_IS = frozenset({b"", b"identity"})  # content codings that are none
LAST_BYTES = 1.0  # seconds that an upstream has for ending its message after its answer's terminator
PACE_WINDOW = 10.0  # seconds over which a stream's pace is measured
MAX_HELD_BACK = 65_536  # bytes of first events that wait; a burst is delivered at once
ERROR_SILENCE = 5.0  # seconds without a byte after which what has come of an error's body must do

log = logging.getLogger("penstock.upstream")

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# What an answer may show of the upstream's own header fields: request ids for support, and limits.
_SHOWN = (
    b"x-request-id",
    b"request-id",
    b"openai-processing-ms",
    b"openai-version",
    b"anthropic-organization-id",
)


_REQUEST_ID = {Dialect.OPENAI: b"x-request-id", Dialect.ANTHROPIC: b"request-id"}
_REQUEST_IDS = frozenset(_REQUEST_ID.values())


class Job(msgspec.Struct, gc=False):
    """What is to be transferred.

    ``endpoint`` is that of the upstream's answer (the caller's may be another, then there is a
    ``translation``), ``prompt_tokens`` what is reserved for the prompt, by its size;
    ``callers_key``: the caller's own key was sent, so if it is wrong the caller is told;
    ``hold_back``: seconds that the first events wait; ``splice``: the answer goes on with one that broke,
    and ``sent`` is what was asked for it; ``keeps_runs``: the upstream is another Penstock; ``shared``: its request is that of others, too, and so its
    usage a share; ``herald``: hears of the answer's head whether the upstream goes away.
    """

    upstream: str
    call: Call
    endpoint: Endpoint
    translation: Translation | None
    prompt_tokens: int
    timeouts: TimeoutConfig
    callers_key: bool = False
    running_usage: bool = False  # the upstream is asked for its usage so far in every chunk
    hold_back: float = 0.0
    splice: Splice | None = None
    sent: bytes = b""
    keeps_runs: bool = False
    shared: bool = False  # several calls' request: the usage is a share of what the upstream tells
    cancel_grace: float = 0.0
    herald: Herald | None = None


class Herald(Protocol):
    """Hears of an upstream's answers whether it goes away."""

    is_asked_soon: bool

    def on_head(self, status: int, headers: Headers) -> bool:
        """The head of an answer is there; whether it says so."""

    def on_probe(self, status: int, headers: Headers, asked_at: float) -> None:
        """The head of an answer to the question whether it is there."""


class Race(Protocol):
    """Several transfers for one answer, of which one writes the log."""

    def first(self, transfer: Transfer) -> None:
        """Its first event is there: unless another was quicker, it is the one, and the others have lost."""


class Lookup(msgspec.Struct, frozen=True):
    """How it can be asked afterwards what an answer has cost, and who is to be told the answer's id."""

    form: Form
    found: Callable[[str], None]


class Transfer:
    """Base of the two kinds of answers: :class:`StreamTransfer` and :class:`PlainTransfer`."""

    __slots__ = (
        "_error_body",
        "_paused",
        "answer",
        "cancelled",
        "connection",
        "cut",
        "failure",
        "generation",
        "headers",
        "held",
        "job",
        "last",
        "lookup",
        "lost",
        "notices",
        "now",
        "race",
        "seen",
        "sent",
        "started",
        "status",
        "turn",
    )

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        self.generation = generation
        self.job = job
        self.now = now
        self.started = self.sent = now()  # sent: when it had its turn, and the request went out
        self.last = 0.0  # when the last bytes of the answer came; 0: none yet
        self.seen = 0.0  # when the first event came; 0: none yet
        self.held = 0  # bytes on the generation's account that are not in its log yet
        self.status = 0
        self.headers: Headers = {}
        self.failure: PenstockError | None = None
        self.cancelled = False
        self.cut = False  # this side broke it off: the upstream may have sent, and will bill, more than came
        self.connection: Connection | None = None
        self.answer: asyncio.Future[None] | None = None  # done: the connection is not ours any more
        self.turn: Turn | None = None  # where the upstream has a gate
        self.race: Race | None = None  # where another may be asked as well
        self.notices: Sequence[tuple[bytes, bytes]] = ()  # header fields that the caller gets with the answer
        self.lost = False  # another was quicker
        self.lookup: Lookup | None = None  # where the upstream tells afterwards what the answer has cost
        self._error_body: bytearray | None = None  # an answer that is not the one that was asked for
        self._paused = False

    # ---- Receiver ----

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self.last = now = self.now()
        if self.turn is not None:
            self.turn.on_head(headers, now)
        if self.lookup is not None and (name := id_in_head(self.lookup.form, headers)):
            self.lookup.found(name)
        if self.job.herald is not None:
            self.job.herald.on_head(status, headers)
        if status != 200:
            self._error_body = bytearray()
        elif headers.get(b"content-encoding", b"identity").lower() not in _AS_IT_IS:
            self._give_up(UpstreamBroken("the upstream compressed its answer, though it was not asked to"))
        else:
            self._begin(headers)

    def on_data(self, data: bytes) -> None:
        self.last = now = self.now()
        if self.failure is not None:
            return
        if self._error_body is not None:
            self._error_body += data
            if len(self._error_body) > MAX_ERROR_BYTES:  # enough for any honest error
                self._give_up(self._refusal(self._error_body))
            return
        try:
            self._take(data, now)
        except PenstockError as error:
            self._give_up(error)
        except Exception:
            log.exception("defect while reading an answer of %s", self.job.upstream)
            self._give_up(InternalError("internal error"))

    def _begin(self, headers: Headers) -> None:
        raise NotImplementedError

    def _take(self, data: bytes, now: float) -> None:
        raise NotImplementedError

    def _give_up(self, error: PenstockError) -> None:
        self.failure = error
        connection = self._live()
        if connection is not None:
            connection.abort()

    def _live(self) -> Connection | None:
        """The connection, while it is ours: once the answer has been received it may be busy for another
        call before the task that waits for this one has its turn.
        """
        answer = self.answer
        return self.connection if answer is not None and not answer.done() else None

    def _refusal(self, body: bytes | bytearray) -> PenstockError:
        """What an answer means that is not the one that was asked for."""
        job = self.job
        return problems.from_upstream(
            job.upstream,
            job.endpoint.dialect,
            self.status,
            self.headers,
            bytes(body),
            callers_key=job.callers_key,
        )

    # ---- the producer's side ----

    def hang_up(self, grace: float) -> None:
        """Nobody reads any more: tell the upstream, but count what was under way already."""
        connection = self._live()
        if connection is not None and not self.cancelled:
            self.cancelled = True
            if self._paused:
                self.resume()
            connection.hang_up(grace)

    def lose(self, grace: float) -> None:
        """Another transfer answers: nothing of this one is needed any more, but what came is counted."""
        self.lost = True
        self.hang_up(grace)
        self.cancelled = True  # also if there is no connection at the moment

    def move(self, error: PenstockError) -> bool:
        """Break the answer off, to be gone on with elsewhere; whether there was something to break off."""
        if self.cancelled or self.failure is not None or self._live() is None:
            return False
        self._give_up(error)
        return True

    def cut_short(self) -> None:
        """Do not wait any longer for what is under way."""
        connection = self._live()
        if connection is not None:
            connection.abort()

    def resume(self) -> None:
        """A reader has caught up."""
        if self._paused:
            self._paused = False
            self.last = self.now()
            connection = self._live()
            if connection is not None:
                connection.resume()

    def check_clocks(self, now: float) -> None:
        """End the attempt when one of its clocks has run out."""
        if self.cancelled or self.failure is not None or (self.answer is not None and self.answer.done()):
            return
        timeouts = self.job.timeouts
        late = timeouts.total and now - self.started > timeouts.total
        if self.told:
            patience = LAST_BYTES if self._error_body is None else ERROR_SILENCE
            if (late or now - self.last > patience) and (connection := self._live()) is not None:
                connection.abort()
        elif late:
            self._time_out("total", timeouts.total)
        elif not self.seen:
            if timeouts.first_token and now - self.sent > timeouts.first_token:
                self._time_out("first_token", timeouts.first_token)
        elif timeouts.between_tokens and not self._paused and now - self.last > timeouts.between_tokens:
            self._time_out("between_tokens", timeouts.between_tokens)
        else:
            self._check_pace(now)

    def _check_pace(self, now: float) -> None:
        """End the attempt when it is too slow to be worth waiting for."""

    def _time_out(self, clock: str, limit: float) -> None:
        words = {
            "first_token": "sent nothing for",
            "between_tokens": "stopped in mid-answer for",
            "total": "did not finish within",
            "min_token_rate": "was slower than the least pace for",
        }[clock]
        self._give_up(
            UpstreamTimeout(
                f"{self.job.upstream} {words} {limit:g} s", clock=clock, upstream=self.job.upstream
            )
        )

    @property
    def told(self) -> bool:
        """Whether we know all that matters, even if the connection breaks or stalls from here on."""
        return self._error_body is not None

    @property
    def complete(self) -> bool:
        """Whether the log has all of the answer; what is left of the upstream's message is no part of it."""
        return False

    def conclude(self) -> None:
        """The connection is done: was that an answer?

        :raises PenstockError: it was not
        """
        if self.failure is not None:
            raise self.failure
        if self.cancelled:
            return
        if self._error_body is not None:
            raise self._refusal(self._error_body)
        self._complete()

    def _complete(self) -> None:
        raise NotImplementedError

    def used(self) -> Usage:
        """The upstream's own figures, else what was received, marked as estimated.

        What an upstream told before it was cut short is marked, too: it is the least that it may charge for.
        """
        used = self._received()
        if self.cut and not self._whole and self._error_body is None and not used.estimated:
            return msgspec.structs.replace(used, estimated=True)
        if self.job.shared and not used.estimated:
            return msgspec.structs.replace(used, estimated=True)
        return used

    def _received(self) -> Usage:
        raise NotImplementedError

    def _prompt_tokens(self) -> int:
        """What the prompt may have cost, where nobody says: read closely, for this is rare and it is money."""
        return counting.prompt_tokens(self.job.sent or self.job.call.body)

    def told_usage(self) -> Usage | None:
        """What the upstream itself has said of its usage so far."""
        return None

    def look_for_id(self) -> None:
        """Say by which id the answer can be asked for, if what came of it tells."""
        lookup, job = self.lookup, self.job
        if lookup is None or job.translation is not None:
            return
        name = id_in(lookup.form, job.call, self._beginning())
        if name:
            lookup.found(name)

    def _beginning(self) -> bytes:
        """The first of what has come of the answer."""
        return b""

    @property
    def _whole(self) -> bool:
        """Whether the upstream has told all that it will ever tell."""
        raise NotImplementedError

    def shown_headers(self) -> list[tuple[bytes, bytes]]:
        """The upstream's header fields that the caller may see, and our own about it."""
        headers = self.headers
        shown = [(name, headers[name]) for name in _SHOWN if name in headers]
        if self.job.translation is not None:
            own = _REQUEST_ID[self.job.call.endpoint.dialect]  # where the caller's SDK looks for it
            shown = [(own if name in _REQUEST_IDS else name, value) for name, value in shown]
        if self.notices:
            shown += self.notices
        return shown


class StreamTransfer(Transfer):
    """A streamed answer: SSE frames in, events of the caller's dialect out."""

    __slots__ = (
        "_first",
        "_held_back",
        "_measured",
        "_progress",
        "_splitter",
        "_translator",
        "_undelivered",
        "run",
    )

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        super().__init__(generation, job, now)
        translation, splice = job.translation, job.splice
        relayed = translation is None and splice is None
        self._splitter = Splitter(min(MAX_FRAME_BYTES, generation.max_bytes))
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
        self._undelivered: list[Event] = []
        self._held_back: list[Event] | None = [] if job.hold_back else None  # None: nothing waits any more
        self._measured = (0.0, 0)  # when the pace was last measured, and the log's length then
        self.run: Run | None = None  # the upstream's own run of this answer, if it is known to keep one

    def successor(self, run: Run) -> StreamTransfer:
        """The receiver for the rest of the same answer, over another connection."""
        other = StreamTransfer(self.generation, self.job, self.now)
        other.started, other.seen, other.turn = self.started, self.seen, self.turn
        other._progress, other._translator = self._progress, self._translator
        other._first, other._held_back = self._first, self._held_back
        other.run = run.broken()
        return other

    def _begin(self, headers: Headers) -> None:
        kind = headers.get(b"content-type", b"").lower()
        if kind.startswith(b"text/event-stream"):
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
        told = problems.error_in_event(self.job.endpoint, bytes(body), self.job.upstream)
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
        except PenstockError:
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
        if generation.ahead and not self._paused and (connection := self._live()) is not None:
            self._paused = True
            connection.pause()

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

    def _check_pace(self, now: float) -> None:
        least = self.job.timeouts.min_token_rate
        if not least:
            return
        since, before = self._measured
        events = len(self.generation.events)
        if self._paused or not since:
            self._measured = (now, events)
        elif now - since >= PACE_WINDOW:
            self._measured = (now, events)
            if events - before < least * (now - since):
                self._time_out("min_token_rate", now - since)

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
        """What came in one piece with a fault, before it, has been paid for."""
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
            return told  # an OpenAI chunk's usage covers all that came before it
        splice = self.job.splice
        others = self.lost or (self.race is not None and not self.seen)  # what is in the log is not from here
        mine = [] if others else self.generation.events[self._first :]
        received = mine or self._held_back or self._undelivered
        if told is None and not (received or (splice is not None and splice.came)):
            return Usage()
        if splice is not None:
            output = splice.received  # of a repeated answer only what is new is in the log
        else:
            output = usage.output_tokens_in(self.generation.endpoint, received)
        if told is None:
            return Usage(input_tokens=self._prompt_tokens(), output_tokens=output, estimated=True)
        return usage.merge(told, Usage(input_tokens=told.input_tokens, output_tokens=output, estimated=True))


def _no_stream() -> UpstreamBroken:
    return UpstreamBroken("the upstream answered a call for a stream with something else")


# What an answer has and the report of an error has not.
_SUBSTANCE = frozenset({"choices", "content", "data", "output", "input_tokens"})
_COUNT_TOKENS = Endpoint.COUNT_TOKENS


class PlainTransfer(Transfer):
    """An answer in one piece."""

    __slots__ = ("_pieces", "_size", "_usage")

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        super().__init__(generation, job, now)
        self._pieces: list[bytes] = []
        self._size = 0
        self._usage: Usage | None = None

    def _begin(self, headers: Headers) -> None:
        # A wrong base URL or a proxy's own page: no SDK could tell its caller what went wrong.
        if b"json" not in headers.get(b"content-type", b"application/json").lower():
            self._give_up(UpstreamBroken("the upstream answered with something else than JSON"))

    def _take(self, data: bytes, now: float) -> None:
        if not self.seen:
            self.seen = now
        self._size += len(data)
        if self._pieces:  # most answers come in one piece and are logged at once
            self.held += len(data)
            self.generation.hold(len(data))
        self._pieces.append(data)
        if self._size + EVENT_OVERHEAD * len(self._pieces) > self.generation.max_bytes:
            raise too_large()

    def conclude(self) -> None:
        """As for every transfer; a whole answer that came after a cancel is counted, too."""
        if self.cancelled and self.failure is None and self._pieces:
            try:
                self._usage = usage.usage_of_body(self.job.endpoint, b"".join(self._pieces))
            except PenstockError:
                self._usage = None
        super().conclude()

    def _complete(self) -> None:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        job = self.job
        self._usage = usage.usage_of_body(job.endpoint, body)
        if self._usage is None or job.endpoint is _COUNT_TOKENS:
            self._check_substance(body)
        if job.translation is not None:
            body = job.translation.answer(body, job.call.model, created=int(time.time()))
        self.generation.headers = self.shown_headers()
        self.generation.append([body], self.seen or self.now())

    def _beginning(self) -> bytes:
        return self._pieces[0] if self._pieces else b""

    def charge(self, status: int, used: Usage) -> None:
        """It was part of a request that failed: what that had used of the upstream."""
        self.status = status
        self._usage = used

    def _check_substance(self, body: bytes) -> None:
        """:raises PenstockError: no JSON object, or one that only tells of an error, whatever the status said"""
        try:
            members = _object(body)
        except NOT_JSON:
            broken = UpstreamBroken("the upstream's answer is not a JSON object")
            if body.lstrip().startswith(b"{"):
                raise broken from None  # an answer that was spoiled on its way: it was made, and will be billed
            error: PenstockError | None = broken
        else:
            if "error" not in members or not members.keys().isdisjoint(_SUBSTANCE):
                return
            error = problems.error_in_event(self.job.endpoint, body, self.job.upstream)
        if error is not None:
            self._pieces, self._usage, self.seen = [], None, 0.0  # nothing that was made, or will be billed
            raise error

    @property
    def _whole(self) -> bool:
        return self._usage is not None

    def _received(self) -> Usage:
        if self._usage is not None:
            return self._usage
        if not self._pieces:
            return Usage()
        output = usage.output_tokens_in_part(b"".join(self._pieces)) if self.job.endpoint.streams else 0
        return Usage(input_tokens=self._prompt_tokens(), output_tokens=output, estimated=True)
