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

Back-pressure: the log keeps everything, so a slow reader costs nobody anything but memory.  The
producer stops reading from its upstream while the *fastest* reader is more than
:data:`AHEAD_BYTES` behind (one slow reader among several must not hold up the others) and goes on when
``on_drained`` is called.  A log without readers is bounded by ``max_bytes`` alone.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable, Iterator
from typing import Protocol

from penstock.errors import PenstockError, UpstreamBroken
from penstock.messages import Endpoint, Event, Usage

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


class Reader(Protocol):
    """Follows a generation.  Neither method may block or raise."""

    @property
    def read_bytes(self) -> int:
        """How much of the log this reader has taken, in bytes: each event with :data:`EVENT_OVERHEAD`."""

    def advance(self) -> None:
        """There is more to read, or the log has ended."""


class Producer(Protocol):
    """Fills a generation."""

    def abandon(self) -> None:
        """The last reader has left: stop paying for what nobody reads."""

    def drained(self) -> None:
        """A reader has caught up: the upstream may be read again."""


def _ids() -> Iterator[str]:
    # 256 at a time: a system call costs more than an id.
    while True:
        block = secrets.token_hex(16 * 256)
        for at in range(0, len(block), 32):
            yield "gen_" + block[at : at + 32]


new_id = _ids().__next__
"""An unguessable id: ``gen_`` and 128 random bits."""


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

    ``prompt_bytes``: the request, which is kept as long as its answer may have to be asked for again.
    ``headers`` are those of the upstream's answer that the caller may see.  ``attempts`` counts the
    upstream calls that were made for it, ``seams`` how many of them continued an earlier one.
    """

    __slots__ = (
        "_account",
        "_prompt_bytes",
        "_release",
        "abandoned",
        "attempts",
        "cost",
        "endpoint",
        "error",
        "events",
        "first_event",
        "headers",
        "id",
        "max_bytes",
        "model",
        "producer",
        "readers",
        "seams",
        "served_by",
        "size",
        "started",
        "state",
        "status",
        "stream",
        "tenant",
        "usage",
    )

    def __init__(
        self,
        id: str,  # noqa: A002
        *,
        endpoint: Endpoint,
        tenant: str,
        model: str,
        stream: bool,
        started: float,
        max_bytes: int,
        account: Account | None = None,
        release: Callable[[Generation], None] | None = None,
        prompt_bytes: int = 0,
    ) -> None:
        self.id = id
        self.endpoint = endpoint
        self.tenant = tenant
        self.model = model
        self.stream = stream
        self.started = started  # monotonic seconds
        self.max_bytes = max_bytes
        self.events: list[Event] = []
        self.size = 0
        self.state = State.RUNNING
        self.status = 200  # of a plain answer
        self.headers: list[tuple[bytes, bytes]] = []
        self.error: PenstockError | None = None
        self.usage: Usage | None = None
        self.cost = 0  # of all attempts, in 1e-12 US dollars
        self.first_event = 0.0  # monotonic seconds; 0: none came yet
        self.attempts = 0
        self.seams = 0
        self.served_by = ("", "")  # upstream and its model's name
        self.producer: Producer | None = None
        self.abandoned = False  # its last reader left while it ran: it will not become complete
        self.readers: list[Reader] = []
        self._account = account or Account(max_bytes)
        self._release = release
        self._prompt_bytes = prompt_bytes
        self._account.held += prompt_bytes

    def __repr__(self) -> str:
        return (
            f"<Generation {self.id} {self.state.value}, {len(self.events)} events, {self.size} bytes, "
            f"{len(self.readers)} readers>"
        )

    # ---- the producer's side ----

    def append(self, events: list[Event], now: float) -> None:
        """Add events and let the readers advance.

        :raises UpstreamBroken: :func:`too_large`; nothing was appended
        """
        if self.state is not State.RUNNING:
            return
        added = sum(map(len, events)) + EVENT_OVERHEAD * len(events)
        if self.size + added > self.max_bytes:
            raise too_large()
        self.size += added
        self._account.held += added
        if not self.events:
            self.first_event = now
        self.events += events
        for reader in self.readers:
            reader.advance()

    def hold(self, added: int) -> None:
        """Bytes that wait outside the log, on the same account; the producer takes them back, negative."""
        self._account.held += added

    def finish(self) -> None:
        """The answer is complete."""
        self._close(State.FINISHED)

    def fail(self, error: PenstockError) -> None:
        """The answer will not become complete; what was received stays readable."""
        if self.state is State.RUNNING:
            self.error = error
            self._close(State.FAILED)

    def _close(self, state: State) -> None:
        if self.state is not State.RUNNING:
            return
        self.state = state
        self.producer = None
        for reader in self.readers.copy():  # a reader that is done leaves
            reader.advance()
        if not self.readers:
            self._let_go()

    def _let_go(self) -> None:
        """Ended and read by nobody: the owner may forget this log."""
        if self._release is not None:
            release, self._release = self._release, None
            self._account.held -= self.size + self._prompt_bytes
            release(self)

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
        if self.events or self.state is not State.RUNNING:
            reader.advance()
            self.caught_up()  # it may be the fastest one now

    def leave(self, reader: Reader) -> None:
        """Follow no longer; the last one to leave a running log abandons it."""
        if reader not in self.readers:
            return
        self.readers.remove(reader)
        if self.readers:
            return
        if self.state is not State.RUNNING:
            self._let_go()
        elif self.producer is not None:
            self.abandoned = True
            self.producer.abandon()

    def caught_up(self) -> None:
        """A reader has taken more: wake the producer if it waited for that."""
        if self.producer is not None and not self.ahead:
            self.producer.drained()
