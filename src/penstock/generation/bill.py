"""In whose ledger stands what an answer has cost, where several machines have one each.

Theory of operation
-------------------
The rows of an answer's attempts stand in the ledgers of the processes that made them.  When one dies, who takes its
answer over knows what the attempt that was under way has brought, by the log, and enters that in its own ledger, for
the dead may never come back.  So that no token is in two ledgers:

* With the log is stored whose attempt is under way (:class:`~penstock.generation.store.Bill`): the ledger, the row in
  it, and how many tokens of the log are in rows already.  A process that hands an answer over says that it enters the
  rest itself.
* Who takes over enters what is not in rows, and leaves word for the other ledger, once for each row
  (:class:`~penstock.generation.store.Booking`).  He who leaves it second enters nothing.
* Where the upstream keeps its own run of the answer, who takes over reads that on and enters the whole of it; who
  hands over leaves his row empty, and who ends it before anybody has taken it over enters what its log has.  One that
  was cut off, and lives, has settled it with what it had received: word is left for that row that nothing of it
  counts, also where both have one ledger.
* Who has that ledger, then or whenever it is back, takes off that row what the word says, once.  If the process was
  not dead but cut off, its row keeps what only it has received; one that died before it could settle its row has
  nothing there to be taken off.  Either way the sum over both ledgers is what the attempt has brought.

Two moments lose what an attempt has cost, and none counts it twice.  Who is killed between leaving word and entering
has it taken off the other ledger, and enters it in none.  Who ends while the store is away has left no word, and enters
nothing: it stands only in the row of a process that was not dead but cut off.

Where both have one ledger it sees to all else itself, by its rows (``ledger._recovery``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.generation.store import Bill, Booking, Store
from penstock.messages import Attempt, Outcome, Usage

_ALL = 1 << 50  # tokens, and more than any answer has
NOTHING_COUNTS = Usage(_ALL, _ALL, _ALL, _ALL, _ALL), _ALL << 10
"""Usage and cost of a word that takes off a row whatever it has, or comes to have."""

PATIENCE = (
    2.0  # seconds for which a start waits for the ledger's name; without it, the first answers have no bill
)
HEAR_EVERY = 1.0  # seconds between two looks for word of others
# Seconds after which it may be forgotten: whoever else might leave word of the same has heard of it by then.
REMEMBERED = 600.0


class Books(Protocol):
    """The ledger of this process, as far as those who take over its answers must know."""

    @property
    def ledger(self) -> str:
        """The same for all processes that have it, and after a restart; ``""``: none is known now."""

    @property
    def process(self) -> str:
        """What this process is called in it."""

    async def open(self, patience: float = 0.0) -> None:
        """Find out the ledger's name, if that is not known yet.

        :param patience: seconds that its file may take to be there
        """

    async def deduct(self, bookings: Sequence[Booking]) -> list[Booking]:
        """Take what others have entered off our rows, each once.

        :returns: of these, what is done with; a row that is still open is not
        """


class OpenBill:
    """How the bill of one answer stands, in the process that makes it.

    :param booked: output tokens of the log that are in rows, by ledger
    :param inherited: of a process that is no more, whose run at the upstream is about to be read on: it holds until then
    """

    __slots__ = ("_booked", "_inherited", "_kept", "_ledger", "_open", "_process")

    def __init__(
        self,
        ledger: str,
        process: str,
        booked: Mapping[str, int] | None = None,
        inherited: Bill | None = None,
    ) -> None:
        self._inherited = inherited
        self._ledger = ledger
        self._process = process
        self._booked = dict(booked) if booked else {}
        # Several, where one is hedged; with the events that there were before it.
        self._open: list[tuple[Attempt, int]] = []
        self._kept: Attempt | None = None  # of which the upstream keeps a run of its own

    def opened(self, attempt: Attempt, events: int, *, kept: bool = False) -> Bill:
        """:param events: of the log, by now"""
        self._inherited = None
        if not self._open or all(one is not attempt for one, _ in self._open):
            self._open.append((attempt, events))
        if kept:
            self._kept = attempt
        return self.now()

    def settled(self, attempt: Attempt, events: int) -> None:
        """What it has brought is in a row; and also in the log, if that has grown by it.

        What broke as half a body, or was not begun with, is in no log: who goes on has it to bring once more.

        :param events: of the log, by now
        """
        self._inherited = None
        before = 0
        for at, (one, there) in enumerate(self._open):
            if one is attempt:
                before = there
                del self._open[at]
                break
        if attempt.outcome is not Outcome.HEDGED_AWAY and events > before:
            mine = self._booked.get(self._ledger, 0)
            self._booked[self._ledger] = mine + attempt.usage.output_tokens

    def now(self) -> Bill:
        if not self._open:
            return self._inherited or self.closed()
        first, _ = self._open[0]
        names = first.upstream, first.upstream_model
        # Of several nobody knows yet whose the log will be.
        kept = first is self._kept and len(self._open) == 1
        return Bill(self._ledger, self._process, first.row, self._booked.copy(), *names, kept)

    def handed_over(self) -> Bill:
        """What is not in rows yet, this process is about to enter; or who reads the upstream's run on enters all of it."""
        now = self.now()
        return now if now.kept else self.closed()

    def closed(self) -> Bill:
        """What is not in rows yet, this process is about to enter."""
        return Bill(self._ledger, self._process, 0, self._booked.copy())

    def __repr__(self) -> str:
        return f"<OpenBill {self.now()}>"


def left(known: Usage, booked: int) -> Usage | None:
    """What is not in rows yet, of what a log says to have cost.

    An attempt after the first was shown what there was, as a part of its prompt.

    :param booked: output tokens that are in rows
    :returns: None: nothing
    """
    if not booked:
        return msgspec.structs.replace(known, estimated=True)
    rest = known.output_tokens - booked
    return Usage(known.input_tokens + booked, rest, estimated=True) if rest > 0 else None


def booked_now(bill: Bill | None, ledger: str, output_tokens: int) -> dict[str, int]:
    """What is in rows once an answer was taken over.

    :param ledger: of who took it over
    :param output_tokens: of the log
    """
    booked = dict(bill.booked) if bill is not None else {}
    by = bill.ledger if bill is not None and not bill.row else ledger
    booked[by] = booked.get(by, 0) + max(0, output_tokens - sum(booked.values()))
    return booked


class Bookings:
    """What others have entered for rows of our ledger: it is looked for now and then, and taken off these."""

    def __init__(self, store: Store, books: Books) -> None:
        self.books = books
        self._store = store
        self._done: set[str] = set()  # by name
        self._next = 0.0

    async def hear(self, now: float) -> None:
        """Look, if it is time to.

        :param now: the store's time
        :raises StoreUnavailable: the store does not answer
        """
        if now < self._next:
            return
        self._next = now + HEAR_EVERY
        await self.books.open()
        ledger = self.books.ledger
        if not ledger:
            return
        bookings = await self._store.bookings(ledger)
        fresh = [one for one in bookings if one.name not in self._done]
        if fresh:
            self._done.update(one.name for one in await self.books.deduct(fresh))
        old = [one for one in bookings if one.name in self._done and one.at < now - REMEMBERED]
        await self._store.forget_bookings(ledger, old)
        if not bookings:
            self._done.clear()

    def __repr__(self) -> str:
        return f"<Bookings for {self.books!r}, {len(self._done)} done>"
