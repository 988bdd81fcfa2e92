"""Where generations outlive their process: the vocabulary, and what every store must do.

A store keeps, for each generation, its **record** (who asked for what, and how it ended) and its events.
Three things are promised by every store, whatever it is made of:

**Fencing.**  A running generation has an owner (a process) and an *epoch*.  :meth:`Store.take_over` gives it
another owner and the next epoch, once the old owner's lease has run out; of several who try, one wins.
A :class:`Write` with an epoch that is not the present one writes nothing.  With the present one, only the
process writes that began the generation or took it over.

**No gaps, no doubles.**  A write names the index of its first event, and is refused if that is not how many
events are stored.  What is refused is told with the number of events that are there, so that a writer
who does not know whether its last write held can find out.

**Atomic per generation.**  Of one :class:`Write` everything is stored, or nothing.

Leases belong to owners, not to generations: a process lives or is dead as a whole, and renewing costs one
write however many generations it has.  Times are Unix seconds, given by the caller, by the one clock that the
store tells (:meth:`Store.time`): whatever the time is on a machine, it harms nobody.  An owner that never renewed has
none.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.generation.log import EVENT_OVERHEAD, State
from penstock.messages import Event, Usage

YOUNG = 0.5  # seconds in which a generation that has claimed a name is written down, at the latest

BOOKED_FOR = 90 * 86_400.0
"""Seconds for which word is kept for a ledger whose machine does not come back."""

GONE_FOR = 7 * 86_400.0
"""Seconds for which it is known that there was a generation which is gone."""

MAX_GONE = 50_000
"""How many of these a store knows; the oldest are forgotten first."""

RECORD_OVERHEAD = 1_024
"""Bytes that a generation counts for beside its request and its events."""


class StoreUnavailable(Exception):
    """The store cannot be read or written now; the message says why.  Never reaches a caller."""


def trouble_at(place: str, why: str) -> str:
    """Where it is, and why, as the log has it."""
    return why if place in why else f"{place}: {why}"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The error that a generation ended with, as :class:`~penstock.errors.PenstockError` has it."""

    code: str
    message: str
    status: int = 500
    kind: str = "api_error"
    param: str | None = None
    retry_after: float | None = None


class Ending(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a generation ended: what a reader that comes later must know beside the events.

    ``headers`` are those of the upstream's answer that the caller may see; ``cost`` is in 1e-12 US dollars.
    """

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    usage: Usage | None = None
    cost: int = 0
    attempts: int = 0
    seams: int = 0
    served_by: tuple[str, str] = ("", "")
    failure: Failure | None = None  # None: it finished


class Bill(msgspec.Struct, frozen=True, omit_defaults=True):
    """In which ledgers stands what an answer has cost until now.

    What its log has beyond ``booked`` (output tokens, by the id of the ledger that has them) is of the attempt that
    is under way: its row is the one of this number that this process has in this ledger.  Row 0: none is under way,
    and what is not in ``booked`` the process has entered there itself.  ``kept``: the upstream keeps its own run of that
    attempt, which who takes over reads on, and then books the whole of it.
    """

    ledger: str
    process: str
    row: int = 0
    booked: dict[str, int] = {}
    upstream: str = ""
    upstream_model: str = ""
    kept: bool = False


class Booking(msgspec.Struct, frozen=True, omit_defaults=True):
    """What who took an answer over has entered in its own ledger of an attempt whose row stands in another one.

    ``process`` and ``row`` are that row's, as in :class:`Bill`; ``cost`` is in 1e-12 US dollars, ``at`` Unix time.
    """

    process: str
    row: int
    generation: str
    usage: Usage
    cost: int
    at: float

    @property
    def name(self) -> str:
        """What it is about: of several bookings with one name the first one counts."""
        return f"{self.process}/{self.row}"


class Record(msgspec.Struct, kw_only=True):
    """Everything about a generation but its events.

    ``headers`` are those of the request that are needed to repeat it, without any credential of ours;
    ``name`` is its ``Idempotency-Key``, ``fingerprint`` that of its body; ``background``: it goes on without readers;
    ``deferred``: and its caller was told an id of the gateway's own, before there was any other;
    ``upstream`` and ``upstream_model``: who was asked first, as far as that was known when it was begun; ``bill`` None:
    its process has no ledger that others could know; ``question``: its name for those who ask the same while it runs.
    """

    id: str
    tenant: str
    key_name: str
    tier: str
    endpoint: str  # path of the API's operation
    model: str  # as the caller named it
    stream: bool
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    created: float
    name: str = ""
    fingerprint: bytes = b""
    background: bool = False
    deferred: bool = False
    upstream: str = ""
    upstream_model: str = ""
    owner: str
    epoch: int = 1
    state: State = State.RUNNING
    events: int = 0
    size: int = 0  # bytes: request and events, with the overhead of each
    ending: Ending | None = None  # once it has ended
    expires_at: float  # a running one is kept longer, as long as its owner lives
    bill: Bill | None = None
    question: str = ""

    def __repr__(self) -> str:
        return (
            f"<Record {self.id} {self.state.value}, {self.events} events, owner {self.owner or 'none'}, "
            f"epoch {self.epoch}>"
        )


class End(msgspec.Struct, frozen=True):
    """The last write of a generation; it is kept until ``expires_at``."""

    ending: Ending
    expires_at: float

    @property
    def state(self) -> State:
        return State.FINISHED if self.ending.failure is None else State.FAILED


class Naming(msgspec.Struct, frozen=True, gc=False):
    """A name that a generation takes before it begins, or as it does, for what may come again without being kept apart.

    Somebody else has it already, and keeps it, if his claim has not run out ``now`` and his generation runs, or is
    kept for longer than ``until - recent`` (it has ended within so many seconds), or is not known but may be written
    down just now (:data:`YOUNG`).
    """

    tenant: str
    name: str
    fingerprint: bytes
    now: float
    until: float
    recent: float


class Write(msgspec.Struct, gc=False):
    """What is new of one generation: its beginning, events, its end, or several of these.

    ``size``: of its events, in bytes and without the overhead of each, where who writes has counted them already.
    """

    id: str
    epoch: int
    first: int  # index of the first of these events: how many are stored
    events: list[Event]
    begin: Record | None = None
    end: End | None = None
    naming: Naming | None = None  # with ``begin``
    bill: Bill | None = None  # in the place of the one before; with ``begin`` it is in the record
    size: int | None = None

    @property
    def counts(self) -> int:
        """Bytes that its events count for."""
        return size_of(self.events) if self.size is None else self.size + EVENT_OVERHEAD * len(self.events)


class Reason(enum.Enum):
    """Why nothing was written."""

    FENCED = "fenced"  # another process has taken it over
    MISPLACED = "misplaced"  # `first` is not how many events are stored
    EXISTS = "exists"  # it began already
    ENDED = "ended"  # it has ended already
    UNKNOWN = "unknown"  # no such generation, or no longer
    FULL = "full"  # no room for it, and nothing finished that could be dropped


class Refusal(msgspec.Struct, frozen=True):
    """``events``: how many of the generation's events are stored; 0 if it is unknown."""

    reason: Reason
    events: int = 0


class Claim(msgspec.Struct, frozen=True):
    """Whose a name is: the generation that claimed it first, and the fingerprint of its body."""

    generation: str
    fingerprint: bytes
    won: bool  # it is the generation that was just given


class Tail(msgspec.Struct, frozen=True):
    """What has come to a generation since it was last looked at.  ``state`` None: the store does not know it."""

    events: list[Event]
    state: State | None


class StoreStatistics(msgspec.Struct, frozen=True):
    """``size``: bytes of all generations, as :attr:`Record.size` counts them."""

    generations: int
    running: int
    size: int
    dropped: int = 0  # finished ones that had to go before their time, by this process


class Store(Protocol):
    """Keeps generations.  Called off the hot path; every method may raise :class:`StoreUnavailable`.

    Methods may be called side by side; :meth:`write` is called by one caller at a time.
    """

    @property
    def place(self) -> str:
        """Where it is, in the log's words."""

    @property
    def losses(self) -> int:
        """How often since the start what was stored may have been lost, with a server or a file."""

    async def start(self) -> None:
        """Open, and make sure that it can be used."""

    async def close(self) -> None:
        """Let go of everything; what was written stays."""

    async def time(self) -> float:
        """Unix time by the clock that all who share the store go by, not later than it is when this returns."""

    async def write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        """Store all of it together; each generation is named once.

        When this returns, what was not refused outlives this process.  When it raises, each write may or may
        not have been stored.

        :returns: the generations of which nothing was written, and why
        """

    async def load(self, generation_id: str) -> Record | None:
        """The record, or None if there is none (any more)."""

    async def events(self, generation_id: str, start: int, limit: int) -> list[Event]:
        """Stored events from index ``start`` on: up to ``limit`` bytes, but at least one if there is one."""

    async def tail(self, wanted: Mapping[str, int]) -> dict[str, Tail]:
        """For each generation what is stored from the given index on; cheap enough to be asked often."""

    async def claim(
        self,
        tenant: str,
        name: str,
        fingerprint: bytes,
        generation_id: str,
        *,
        now: float,
        until: float,
        instead_of: str = "",
    ) -> Claim:
        """Say that a generation answers to a name of its tenant's.  The first to say so has it until ``until``.

        :param instead_of: a generation that has the name and is known to be gone: it gives way
        """

    async def take(self, naming: Naming, generation_id: str, instead_of: str = "") -> Claim:
        """Let a generation that is about to begin have a name, unless somebody has it already, as :class:`Naming` says.

        :param instead_of: a generation that has the name, and is known to answer nobody: it gives way
        :returns: whose it is now; of several who take it at once, one wins
        """

    async def renew(self, owner: str, until: float) -> None:
        """The owner lives, and has its generations until then at least."""

    async def lease(self, owner: str) -> float:
        """Until when the owner is believed to live; 0 or what is past: it is not."""

    async def expired(self, now: float, limit: int) -> list[str]:
        """Running generations that nobody owns: their owner's lease has run out, or they were released."""

    async def take_over(self, generation_id: str, owner: str, now: float) -> Record | None:
        """Own a running generation that nobody owns; its epoch grows by one.

        :returns: the record as it is now; None: it is owned, has ended or is gone
        """

    async def release(
        self, owner: str, generation_ids: Sequence[str], bills: Mapping[str, Bill] | None = None
    ) -> None:
        """Own these no longer: anybody may take them over at once.  Their epoch stays.

        :param bills: how each of them stands, if that is not what was written last
        """

    # ---- several ledgers ----

    async def book(self, ledger: str, booking: Booking) -> bool:
        """Leave word for those who have this ledger; whether nobody did before of the same attempt.

        It is kept for :data:`BOOKED_FOR`, or until it is forgotten.
        """

    async def bookings(self, ledger: str) -> list[Booking]:
        """What was left for this ledger."""

    async def forget_bookings(self, ledger: str, bookings: Sequence[Booking]) -> None:
        """They are in the ledger, and nobody will leave word of the same once more."""

    async def delete(self, generation_id: str) -> None:
        """Forget it, running or not; what its producer still writes is refused."""

    async def cut(self, generation_id: str, end: End) -> bool:
        """End a running one, whoever owns it; its epoch grows, so what its producer still writes is refused.

        :returns: whether it ran
        """

    async def was_there(self, generation_id: str, tenant: str) -> bool:
        """Whether this tenant had such a generation, which is gone by now.

        For :data:`GONE_FOR`, of the last :data:`MAX_GONE`.
        """

    async def expire(self, now: float) -> int:
        """Remove what is past its time, and the oldest finished ones while there is too much.

        A running generation goes only if it is past its time and nobody owns it.

        :returns: how many generations went
        """

    async def statistics(self) -> StoreStatistics: ...


def trace_of(generation_id: str, tenant: str) -> str:
    """What is left of a generation that is gone: who asks for it must know both."""
    whose = f"{len(tenant)}:{tenant}{generation_id}".encode()
    return base64.urlsafe_b64encode(hashlib.blake2b(whose, digest_size=15).digest()).decode()


def new_owner() -> str:
    """A name for this process that no other has had: host, process number, and 64 random bits."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(8)}"


def size_of(events: Sequence[Event]) -> int:
    """Bytes that events count for."""
    return sum(map(len, events)) + EVENT_OVERHEAD * len(events)


def request_size(record: Record) -> int:
    """Bytes that a generation without events counts for."""
    return RECORD_OVERHEAD + len(record.body)
