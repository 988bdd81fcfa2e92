"""A generation that is written down as it grows, and how its end is written and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from penstock.errors import Cancelled, PenstockError
from penstock.generation.bill import OpenBill
from penstock.generation.entry import Entry
from penstock.generation.log import Generation, State
from penstock.generation.store import Bill, Ending, Failure, Record
from penstock.messages import Attempt

CONFIRMED_WITHIN = 0.5  # seconds that the store has to say whether a generation is still this process's


class Name(NamedTuple):
    """What a generation is asked for by, beside its id: whose name it is, and the fingerprint of the request."""

    whose: str
    name: str
    fingerprint: bytes


class Written:
    """One generation of this process and its entry in the journal: each tells the other what is new.

    :param names: that were claimed for it
    :param question: of these, the one by which those find it who ask the same
    :param account: in whose ledger its attempts stand; None: in none that others could know
    :param lost: told when its store may have lost these with everything else: whose they are, these, and which is the
        question
    :param now: the store's time
    """

    __slots__ = (
        "_account",
        "_begun",
        "_kept_for",
        "_lost",
        "_now",
        "appended",
        "entry",
        "generation",
        "names",
        "question",
    )

    def __init__(
        self,
        generation: Generation,
        kept_for: float,
        names: list[Name],
        lost: Callable[[str, list[Name], Name | None], None],
        now: Callable[[], float],
        account: OpenBill | None = None,
        question: Name | None = None,
    ) -> None:
        self._account = account
        self.question = question
        self.generation = generation
        self.names = names
        self._kept_for = kept_for
        self._lost = lost
        self._now = now
        self._begun = False

    def enter(self, entry: Entry) -> None:
        self.entry = entry
        self.appended: Callable[[], None] = entry.appended
        if self._account is not None:
            attempt = self.generation.attempt
            if attempt is not None and attempt.outcome is None:
                entry.bill = self._opened(self._account, attempt, 0)
            else:
                entry.bill = self._account.now()

    @property
    def bill(self) -> Bill | None:
        """How it stands: what is not booked yet, this process is about to."""
        if self._account is None:
            return None
        return self._account.handed_over() if self.generation.events else self._account.closed()

    # ---- of the log ----

    @property
    def durable(self) -> bool:
        return self.entry.durable

    @property
    def stored(self) -> bool:
        return self.entry.out and self.entry.durable

    def end(self) -> None:
        generation = self.generation
        self.entry.end(ending_of(generation), self._now() + self._kept_for, generation.size)

    def forget(self) -> None:
        self.entry.journal.forget(self.entry)

    async def wait_confirmed(self) -> bool:
        return await self.entry.wait_confirmed(CONFIRMED_WITHIN)

    def opened(self, attempt: Attempt) -> None:
        if self._account is not None:
            self.entry.open_bill(self._opened(self._account, attempt, len(self.generation.events)))

    def _opened(self, account: OpenBill, attempt: Attempt, events: int) -> Bill:
        kept = attempt.number == self.generation.kept
        # Its row has all of the log, also what another process had received from the same run.
        return account.opened(attempt, 0 if kept else events, kept=kept)

    def settled(self, attempt: Attempt) -> None:
        if self._account is not None:
            self._account.settled(attempt, len(self.generation.events))

    # ---- of the journal ----

    def on_begin(self, record: Record) -> None:
        record.upstream, record.upstream_model = self.generation.served_by
        if self._begun and self.names:
            self._lost(self.generation.id, self.names, self.question)
        self._begun = True

    def on_stored(self, upto: int, *, ended: bool) -> None:
        generation = self.generation
        generation.on_stored(upto, ended=ended)
        if ended and self.entry.durable and generation.journal is self:
            # What writing it took goes now, its request and a dozen small objects, however long the log is kept.
            generation.journal = STORED

    def on_fenced(self, *, deleted: bool) -> None:
        self.generation.lost(deleted=deleted)


class Stored:
    """In the place of :class:`Written` once all of a log is stored, and its end."""

    durable = stored = True

    def appended(self) -> None:
        """Nothing comes after the end."""

    def end(self) -> None:
        """It is stored."""

    def forget(self) -> None:
        """It is not the journal's any more."""

    async def wait_confirmed(self) -> bool:
        """Nobody takes over what has ended."""
        return True

    def opened(self, attempt: Attempt) -> None:
        """Nothing is added to what is stored."""

    def settled(self, attempt: Attempt) -> None:
        """What was late concerns nobody who would go on with it."""

    def __repr__(self) -> str:
        return "<Stored>"


STORED = Stored()


def ending_of(generation: Generation) -> Ending:
    """How a generation has ended, for the store."""
    error = generation.error if generation.ending is State.FAILED else None
    failure = None
    if error is not None:
        failure = Failure(
            code=error.code,
            message=error.message,
            status=error.status,
            kind=error.kind,
            param=error.param,
            retry_after=error.retry_after,
        )
    return Ending(
        status=generation.status,
        headers=tuple(generation.headers),
        usage=generation.usage,
        cost=generation.cost,
        attempts=generation.attempts,
        seams=generation.seams,
        served_by=generation.served_by,
        failure=failure,
    )


def end(generation: Generation, ending: Ending) -> None:
    """End a generation as it is stored that it ended."""
    generation.status = ending.status
    generation.headers = list(ending.headers)
    generation.usage = ending.usage
    generation.cost = ending.cost
    generation.attempts = ending.attempts
    generation.seams = ending.seams
    generation.served_by = ending.served_by
    failure = ending.failure
    if failure is None:
        generation.finish()
        return
    error = (Cancelled if failure.code == Cancelled.code else PenstockError)(
        failure.message, param=failure.param, code=failure.code, retry_after=failure.retry_after
    )
    error.status = failure.status
    error.kind = failure.kind
    generation.fail(error)
