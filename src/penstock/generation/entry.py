"""One generation in the journal: what the store has of it, and what it is to be given next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Protocol

from penstock.generation.store import Bill, End, Ending, Naming, Record, Write
from penstock.messages import Event

log = logging.getLogger("penstock.generation.journal")


class Journaled(Protocol):
    """A log that is being stored.  None of its methods may block or raise."""

    def on_begin(self, record: Record) -> None:
        """Its record is about to be stored: complete it with what is known by now."""

    def on_stored(self, upto: int, *, ended: bool) -> None:
        """Readers may have the events below index ``upto``, and the end if it is there.

        They are stored, or the journal is behind and nobody waits for it: :attr:`Entry.durable` tells which.
        """

    def on_fenced(self, *, deleted: bool) -> None:
        """Another process has taken this generation over, or ended or ``deleted`` it: stop producing."""


class Keeping(Protocol):
    """The journal of an entry."""

    def queue(self, entry: Entry) -> None:
        """There is something to store of it."""

    def hold(self, entry: Entry, size: int) -> None:
        """It has ended, with events of so many bytes."""

    def forget(self, entry: Entry) -> None:
        """It is not to be stored, and what the store has of it is to go."""


class Entry:
    """One generation in the journal.

    For the log: :meth:`appended`, :meth:`open_bill`, :attr:`bill`, :meth:`end`, :attr:`durable`, :meth:`wait_begun` and
    :meth:`wait_confirmed`; the rest is the journal's.
    """

    __slots__ = (
        "begun",
        "behind",
        "bill",
        "billed",
        "billing",
        "dirty",
        "ending",
        "events",
        "fenced",
        "journal",
        "log",
        "naming",
        "out",
        "proved",
        "record",
        "sending",
        "stored",
        "waiting",
    )

    def __init__(
        self,
        journal: Keeping,
        record: Record,
        events: list[Event],
        log: Journaled,
        *,
        begun: bool,
        proved: int,
        naming: Naming | None = None,
    ) -> None:
        self.journal = journal
        self.record = record
        self.events = events
        self.log = log
        self.naming = naming
        self.begun = begun  # the store has its record
        self.stored = record.events if begun else 0  # as far as we know
        self.sending = self.stored  # upto which index, in the batch under way
        self.proved = proved  # how much trouble there had been when the store last accepted something
        self.ending: End | None = None
        self.bill: Bill | None = None  # goes with the next write, unless that is the end
        self.billing: Bill | None = None  # in the batch under way
        self.billed: Bill | None = None  # as far as we know, the store has this one
        self.dirty = False  # it is in the queue for the next batch
        self.behind = False  # readers have more than the store
        self.out = False  # fenced, given up, or stored to its end
        self.fenced = False
        self.waiting: list[asyncio.Future[None]] = []  # for news of it from the store

    @property
    def durable(self) -> bool:
        """Whether readers have nothing that is not stored."""
        return not self.behind

    def appended(self) -> None:
        """Events were added to the log's list."""
        if not self.dirty:
            self.journal.queue(self)
        if self.behind:
            self.log.on_stored(len(self.events), ended=False)

    def open_bill(self, bill: Bill) -> None:
        """An attempt begins: whose it is, the store hears before there is more of it to be stored."""
        self.bill = bill
        if self.begun and not self.dirty:
            self.journal.queue(self)

    def end(self, ending: Ending, expires_at: float, size: int | None = None) -> None:
        """The log has ended; nothing will be added to its list.

        :param expires_at: Unix time until which the store shall keep it
        :param size: bytes that the list takes, where they have been counted already
        """
        self.ending = End(ending, expires_at)
        self.journal.hold(self, sum(map(len, self.events)) if size is None else size)
        if self.behind:
            self.log.on_stored(len(self.events), ended=True)

    async def wait_begun(self) -> None:
        """Wait until the store has its record, or nobody waits for that."""
        while not (self.begun or self.behind or self.out):
            await self._news()

    async def wait_confirmed(self, seconds: float) -> bool:
        """Whether it is still this process's to write, by what the store says to a write that begins from now on.

        One that it does not have yet nobody can have taken; and of one that is behind, or of which it says nothing for
        so many seconds, that is assumed.
        """
        if self.begun and not (self.behind or self.out):
            if not self.dirty:
                self.journal.queue(self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not (self.behind or self.out):
                        await self._news()
                        if not self.dirty:  # else that was of the batch which was under way before
                            break
        return not self.fenced

    async def _news(self) -> None:
        news = asyncio.get_running_loop().create_future()
        self.waiting.append(news)
        await news

    def tell(self) -> None:
        """There is news of it from the store, or nobody waits for that any more."""
        waiting, self.waiting = self.waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)

    def take(self, room: int) -> Write:
        """What is to be written of it in the next batch: up to so many bytes of events, and at least one."""
        self.dirty = False
        events = self.events[self.stored :]
        size = len(events[0]) if len(events) == 1 else sum(map(len, events))
        if size > room and len(events) > 1:
            events = _first_bytes(events, room)
            size = sum(map(len, events))
        self.sending = upto = self.stored + len(events)
        end = self.ending if upto == len(self.events) else None
        self.billing = bill = self.bill if self.bill is not self.billed and end is None else None
        record = self.record
        if self.begun:
            return Write(record.id, record.epoch, self.stored, events, None, end, None, bill, size)
        try:
            self.log.on_begin(record)
        except Exception:  # the others must be stored
            log.exception("defect while beginning %s", record.id)
        record.bill = self.bill
        return Write(record.id, record.epoch, self.stored, events, record, end, self.naming, size=size)

    def __repr__(self) -> str:
        how = "out" if self.out else "behind" if self.behind else "durable"
        return f"<Entry {self.record.id}, {self.stored} of {len(self.events)} events stored, {how}>"


def _first_bytes(events: Iterable[Event], limit: int) -> list[Event]:
    """The first events, up to so many bytes, and at least one."""
    taken: list[Event] = []
    for event in events:
        limit -= len(event)
        if limit < 0 and taken:
            break
        taken.append(event)
    return taken
