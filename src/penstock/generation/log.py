"""A generation: the append-only log of one answer.

Theory of operation
-------------------
One **producer** appends events, any number of **readers** follow, each at its own offset.  The log knows
nothing of sockets: a reader is an object whose :meth:`Reader.advance` is called, synchronously, whenever
there is more to read or the log has ended.  A reader takes ``events[its position:]``, so that a late one
gets everything from event 0 at once and then the tail, and one that was called too often does no harm.

States::

    RUNNING ──finish()──> FINISHED      a finish reason and the terminator came
       └─────fail(error)─> FAILED       what was received stays readable

Exactly one of ``finish`` and ``fail`` takes effect; after it nothing can be appended.

A log that is kept in a store too has a **journal**.  Then an event may be read only when the store has it,
so that nobody was shown what a killed process takes with it: ``events`` is what was received, ``readable``
how much of it may be read, and the end is seen last of all.

The log does not know what becomes of it: its **owner** is told when the last reader of a running log has
left (:meth:`Owner.deserted`; the owner may wait for somebody to come back, and then :meth:`Generation.abandon`
it), and when it has ended and nobody reads it (:meth:`Owner.released`).

Back-pressure: the log keeps everything, so a slow reader costs nobody anything but memory.  The
producer stops reading from its upstream while the *fastest* reader is more than
:data:`AHEAD_BYTES` behind (one slow reader among several must not hold up the others) and goes on when
``on_drained`` is called.  A log without readers is bounded by ``max_bytes`` alone.
"""

from __future__ import annotations

import enum
import math
import secrets
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

from penstock.errors import Gone, HandedOver, PenstockError, UpstreamBroken
from penstock.messages import Attempt, Call, Endpoint, Event, Usage

AHEAD_BYTES = 1 << 20

EVENT_OVERHEAD = 64  # bytes object header and list slot, so that many tiny events are bounded too


TOO_LARGE = "answer_too_large"


def too_large() -> UpstreamBroken:
    """The error of an answer that a log has no room for."""
    return UpstreamBroken("the answer is larger than this gateway's max_answer_bytes allows", code=TOO_LARGE)


class State(enum.Enum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


# Enum members that are asked for on the way of every request, bound once: Python 3.11 takes 80 ns to find one.
_RUNNING, _FINISHED, _FAILED = State.RUNNING, State.FINISHED, State.FAILED


class Reader(Protocol):
    """Follows a generation.  Neither method may block or raise."""

    @property
    def read_bytes(self) -> int:
        """How much of the log this reader has taken, in bytes: each event with :data:`EVENT_OVERHEAD`."""

    def advance(self) -> None:
        """There is more to read, or the log has ended."""


class Producer(Protocol):
    """Fills a generation."""

    @property
    def complete(self) -> bool:
        """Whether all of the answer is in the log, though what brought it has not ended yet."""

    def abandon(self) -> None:
        """Nobody will read this any more: stop paying for it."""

    def drained(self) -> None:
        """A reader has caught up: the upstream may be read again."""


class Owner(Protocol):
    """Keeps generations."""

    def deserted(self, generation: Generation) -> None:
        """The last reader of a running log has left."""

    def rejoined(self, generation: Generation) -> None:
        """A log that had been deserted has a reader again."""

    def released(self, generation: Generation) -> None:
        """The log has ended and nobody reads it; may come again, if somebody reads it once more."""


class Journal(Protocol):
    """Writes one log down.  Nothing here may block or raise; one method waits, and nobody has to call that."""

    @property
    def durable(self) -> bool:
        """Whether no reader has been given more than is stored."""

    @property
    def stored(self) -> bool:
        """Whether all of it is stored, its end too."""

    def appended(self) -> None:
        """Events were added; :meth:`Generation.on_stored` is called when they may be read."""

    def end(self) -> None:
        """The log has ended; :meth:`Generation.on_stored` is called when that may be seen."""

    def forget(self) -> None:
        """Store no more of the log, and forget what is stored."""

    async def wait_confirmed(self) -> bool:
        """Whether the log is still this process's to write: not, if another has taken it over, ended or deleted it.

        If it is not, :meth:`Generation.lost` has been called.  A store that says nothing in time is not waited for.
        """

    def opened(self, attempt: Attempt) -> None:
        """An upstream is asked, and its row in the ledger is open."""

    def settled(self, attempt: Attempt) -> None:
        """That row is settled."""


def _ids() -> Iterator[str]:
    # 256 at a time: a system call costs more than an id.  They begin with the time, as UUIDs of version 7 do, because
    # a store that keeps them in order then has one page to write for all new ones, and not one for each.
    while True:
        begins = f"gen_{time.time_ns() // 1_000_000:012x}"
        block = secrets.token_hex(10 * 256)
        for at in range(0, len(block), 20):
            yield begins + block[at : at + 20]


new_id = _ids().__next__
"""An unguessable id: ``gen_``, some time before now in milliseconds (48 bits), and 80 random bits, in hexadecimal."""


class Account:
    """What all logs of a worker hold together, with the requests that they answer, in bytes."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.limit = limit

    def __repr__(self) -> str:
        return f"<Account {self.held} of {self.limit} bytes>"


class Generation:
    """The log of one answer; see the module's theory of operation.

    ``body`` is the request that it answers, for as long as a repetition of it must be known; ``whole`` the one that says
    all of it, where that goes on with a conversation which it only names; ``background``: it
    was to be answered though nobody read.  ``names`` are those under which its owner finds it.
    ``on_first`` is called once, with the log and its first event.  ``grace``: seconds for which the owner waits
    for a new reader once the last has left.
    ``delivered``: a caller has had the whole answer.
    ``headers`` are those of the upstream's answer that the caller may see.  ``attempts`` counts the
    upstream calls that were made for it, ``seams`` how many of them continued an earlier one.
    """

    __slots__ = (
        "_account",
        "_closing",
        "_held",
        "_owner",
        "abandoned",
        "attempt",
        "attempts",
        "background",
        "body",
        "cost",
        "delivered",
        "ended",
        "endpoint",
        "error",
        "events",
        "first_event",
        "grace",
        "headers",
        "id",
        "include_usage",
        "journal",
        "kept",
        "max_bytes",
        "model",
        "names",
        "on_first",
        "producer",
        "readable",
        "readers",
        "restored",
        "running_usage",
        "seams",
        "served_by",
        "size",
        "started",
        "state",
        "status",
        "stream",
        "tenant",
        "usage",
        "whole",
    )

    def __init__(
        self,
        id: str,  # noqa: A002
        endpoint: Endpoint,
        tenant: str,
        model: str,
        stream: bool,
        started: float,
        max_bytes: int,
        account: Account | None = None,
        owner: Owner | None = None,
        call: Call | None = None,
    ) -> None:
        self.id = id
        self.endpoint = endpoint
        self.tenant = tenant
        self.model = model
        self.stream = stream
        self.started = started  # monotonic seconds
        self.max_bytes = max_bytes
        self.events: list[Event] = []
        self.readable = 0  # how many of the events may be read
        self.size = 0
        self.state = _RUNNING
        self.status = 200  # of a plain answer
        self.headers: list[tuple[bytes, bytes]] = []
        self.error: PenstockError | None = None
        self.usage: Usage | None = None
        self.cost = 0  # of all attempts, in 1e-12 US dollars
        self.first_event = 0.0  # monotonic seconds; 0: none came yet
        self.attempts = 0
        self.attempt: Attempt | None = None  # that was begun last
        self.kept = 0  # the number of the attempt of which the upstream keeps a run of its own; 0: of none
        self.seams = 0
        self.served_by = ("", "")  # upstream and its model's name
        self.producer: Producer | None = None
        self.journal: Journal | None = None
        self.restored = False  # its events came from a store
        self.abandoned = False  # given up while it ran: it will not become complete
        self.delivered = False
        self.on_first: Callable[[Generation, Event], None] | None = None
        self.grace = 0.0
        self.ended = 0.0  # monotonic seconds; 0: it has not, or its owner does not care
        self.whole = b""
        if call is not None:
            self.body = call.body
            self.background = call.background
            # Which usage an OpenAI stream's events tell: what the call asked for that it was made for.
            self.include_usage = call.include_usage
            self.running_usage = call.running_usage
        else:
            self.body = b""
            self.background = self.include_usage = self.running_usage = False
        self.names: list[Hashable] = []
        self.readers: list[Reader] = []
        self._closing: State | None = None
        self._account = account = account or Account(max_bytes)
        self._owner = owner
        self._held = held = len(self.body)
        account.held += held

    @classmethod
    def of(cls, call: Call, *, started: float, max_bytes: int) -> Generation:
        """The log of a plain answer that the gateway asks for itself, and that counts for nobody's memory."""
        return cls(
            call.id,
            endpoint=call.endpoint,
            tenant=call.tenant.name,
            model=call.model,
            stream=False,
            started=started,
            max_bytes=max_bytes,
        )

    def __repr__(self) -> str:
        return (
            f"<Generation {self.id} {self.state.value}, {len(self.events)} events, {self.size} bytes, "
            f"{len(self.readers)} readers>"
        )

    @property
    def is_wanted(self) -> bool:
        """Whether somebody reads it, or is known to come for it."""
        return bool(self.readers) or self.grace == math.inf

    # ---- the producer's side ----

    def append(self, events: list[Event], now: float) -> None:
        """Add events and let the readers advance.

        :raises UpstreamBroken: :func:`too_large`; nothing was appended
        """
        if self._closing is not None:
            return
        if len(events) == 1:
            added = len(events[0]) + EVENT_OVERHEAD
        else:
            added = sum(map(len, events)) + EVENT_OVERHEAD * len(events)
        if self.size + added > self.max_bytes:
            raise too_large()
        self.size += added
        self._held += added
        self._account.held += added
        if not self.events:
            self.first_event = now
            if self.on_first is not None and events:
                self.on_first(self, events[0])
        self.events += events
        if self.journal is not None:
            self.journal.appended()
            return
        self.readable = len(self.events)
        for reader in self.readers:
            reader.advance()

    def on_stored(self, upto: int, *, ended: bool) -> None:
        """Of a journaled log, the events below index ``upto`` may be read, and the end if it is there."""
        if upto > self.readable:
            self.readable = upto
            for reader in self.readers.copy():
                reader.advance()
        if ended and self._closing is not None and self.state is _RUNNING:
            self._close(self._closing)

    def forget(self) -> None:
        """Let this log not outlive the process, nor anything of it that is stored."""
        journal, self.journal = self.journal, None
        if journal is not None:
            journal.forget()

    def lost(self, *, deleted: bool = False) -> None:
        """Another process has taken this log over, or ended or ``deleted`` it: what was not stored of it never was."""
        if self.state is not _RUNNING:
            return
        self.journal = None
        self.abandon()
        if deleted:  # nobody goes on with it
            self.error = Gone("this answer was deleted")
        else:
            self.error = HandedOver(
                "another process has taken this answer over, or cancelled it; ask for the rest",
                retry_after=0.0,
            )
        self._closing = _FAILED
        self.producer = None
        self._close(_FAILED)

    def hold(self, added: int) -> None:
        """Bytes that wait outside the log, on the same account; the producer takes them back, negative."""
        self._account.held += added

    def finish(self) -> None:
        """The answer is complete."""
        self._end(_FINISHED)

    def fail(self, error: PenstockError) -> None:
        """The answer will not become complete; what was received stays readable."""
        if self._closing is None:
            self.error = error
            self._end(_FAILED)

    def _end(self, state: State) -> None:
        if self._closing is not None:
            return
        self._closing = state
        self.producer = None
        if self.journal is not None:
            self.journal.end()
        else:
            self._close(state)

    @property
    def ending(self) -> State | None:
        """How it will end, or has; None: its producer is still at work."""
        return self._closing

    @property
    def complete(self) -> bool:
        """Whether all of the answer has been received, though its end may not be told yet."""
        if self._closing is None:
            return self.producer is not None and self.producer.complete
        return self._closing is _FINISHED

    def _close(self, state: State) -> None:
        self.state = state
        if not self.readers:
            self._let_go()
        for reader in self.readers.copy():  # a reader that is done leaves
            reader.advance()

    def _let_go(self) -> None:
        """Ended and read by nobody: the owner may forget this log."""
        self._account.held -= self._held
        self._held = 0
        if self._owner is not None:
            self._owner.released(self)

    def abandon(self) -> None:
        """Nobody will come back: stop paying for it, unless it is all there."""
        if self._closing is None and not self.abandoned and not self.complete:
            self.abandoned = True
            if self.producer is not None:
                self.producer.abandon()

    @property
    def durable(self) -> bool:
        """Whether what its readers have would outlive this process."""
        return self.journal.durable if self.journal is not None else self.restored

    @property
    def stored(self) -> bool:
        """Whether a store had all of it; another process may have deleted it there since."""
        return self.journal.stored if self.journal is not None else self.restored

    @property
    def ahead(self) -> bool:
        """Whether the log has run so far ahead of its fastest reader that the producer should wait."""
        if self.size < AHEAD_BYTES or not self.readers:
            return False
        return self.size - max(reader.read_bytes for reader in self.readers) > AHEAD_BYTES

    # ---- the readers' side ----

    def join(self, reader: Reader) -> None:
        """Follow from the reader's own position; it is advanced at once if there is something to read."""
        self.readers.append(reader)
        if self._owner is not None and len(self.readers) == 1:
            self._owner.rejoined(self)
        if self.readable or self.state is not _RUNNING:
            reader.advance()
            self.caught_up()  # it may be the fastest one now

    def leave(self, reader: Reader) -> None:
        """Follow no longer; the owner is told when the last one has left."""
        if reader not in self.readers:
            return
        self.readers.remove(reader)
        if self.readers:
            return
        if self.state is not _RUNNING:
            self._let_go()
        elif self._owner is not None:
            self._owner.deserted(self)
        else:
            self.abandon()

    def caught_up(self) -> None:
        """A reader has taken more: wake the producer if it waited for that."""
        if self.producer is not None and not self.ahead:
            self.producer.drained()
