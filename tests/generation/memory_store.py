"""A store in this process's memory: the plainest thing that keeps the promises of :class:`Store`.

It outlives a connection, not the process; the other stores are tested against it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from penstock.generation.log import State
from penstock.generation.store import (
    YOUNG,
    Bill,
    Booking,
    Claim,
    End,
    Naming,
    Reason,
    Record,
    Refusal,
    StoreStatistics,
    Tail,
    Write,
    request_size,
    size_of,
)
from penstock.messages import Event


class _Kept:
    """One generation."""

    __slots__ = ("events", "record")

    def __init__(self, record: Record) -> None:
        self.record = msgspec.structs.replace(record, events=0, size=request_size(record))
        self.events: list[Event] = []


class MemoryStore:
    """A :class:`~penstock.generation.store.Store` of one event loop.

    :param max_bytes: all generations together; the oldest finished ones go first
    """

    losses = 0

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: dict[str, _Kept] = {}
        self._ended: dict[str, None] = {}  # in the order in which they did
        self._claims: dict[tuple[str, str], tuple[Claim, float]] = {}
        self._leases: dict[str, float] = {}
        self._gone: set[tuple[str, str]] = set()
        self._bookings: dict[str, dict[str, Booking]] = {}  # by ledger and name
        self._size = 0
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._kept)} generations, {self._size} of {self.max_bytes} bytes>"

    @property
    def place(self) -> str:
        return "memory"

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def time(self) -> float:
        return time.time()

    # ---- writing ----

    async def write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        refused = {}
        for write in writes:
            refusal = self._write(write)
            if refusal is not None:
                refused[write.id] = refusal
        return refused

    def _write(self, write: Write) -> Refusal | None:
        kept = self._kept.get(write.id)
        begin = write.begin
        if begin is not None:
            if kept is not None:
                return Refusal(Reason.EXISTS, len(kept.events))
            kept = _Kept(begin)
        elif kept is None:
            return Refusal(Reason.UNKNOWN)
        record = kept.record
        stored = len(kept.events)
        if write.epoch != record.epoch:
            return Refusal(Reason.FENCED, stored)
        if record.state is not State.RUNNING:
            return Refusal(Reason.ENDED, stored)
        if write.first != stored:
            return Refusal(Reason.MISPLACED, stored)
        added = size_of(write.events) + (record.size if begin is not None else 0)
        if not self._has_room(added):
            return Refusal(Reason.FULL, stored)
        self._size += added
        self._kept[write.id] = kept
        kept.events += write.events
        record.events = len(kept.events)
        if write.bill is not None and begin is None:
            record.bill = write.bill
        if begin is None:
            record.size += added
        else:
            record.size = added
        if begin is not None and write.naming is not None:
            self._name(write.naming, write.id)
        if write.end is not None:
            record.state = write.end.state
            record.ending = write.end.ending
            record.expires_at = write.end.expires_at
            self._ended[write.id] = None
        return None

    def _name(self, name: Naming, generation_id: str) -> None:
        held, until = self._claims.get((name.tenant, name.name), (None, 0.0))
        if held is not None and until > name.now:
            kept = self._kept.get(held.generation)
            if kept is None:
                counts = until > name.until - YOUNG
            else:
                running = kept.record.state is State.RUNNING
                counts = running or kept.record.expires_at > name.until - name.recent
            if counts:
                return
        claim = Claim(generation_id, name.fingerprint, won=False)
        self._claims[name.tenant, name.name] = (claim, name.until)

    async def take(self, naming: Naming, generation_id: str, instead_of: str = "") -> Claim:
        whose = naming.tenant, naming.name
        if instead_of and whose in self._claims and self._claims[whose][0].generation == instead_of:
            del self._claims[whose]
        self._name(naming, generation_id)
        claim, _ = self._claims[whose]
        return msgspec.structs.replace(claim, won=claim.generation == generation_id)

    def _has_room(self, added: int) -> bool:
        while self._size + added > self.max_bytes:
            if not self._ended:
                return False
            self._forget(next(iter(self._ended)))
            self._dropped += 1
        return True

    def _forget(self, generation_id: str) -> None:
        kept = self._kept.pop(generation_id, None)
        if kept is not None:
            self._gone.add((generation_id, kept.record.tenant))
            self._size -= kept.record.size
            self._ended.pop(generation_id, None)

    # ---- reading ----

    async def load(self, generation_id: str) -> Record | None:
        kept = self._kept.get(generation_id)
        return None if kept is None else msgspec.structs.replace(kept.record)

    async def events(self, generation_id: str, start: int, limit: int) -> list[Event]:
        kept = self._kept.get(generation_id)
        if kept is None:
            return []
        taken: list[Event] = []
        for event in kept.events[start:]:
            limit -= len(event)
            if limit < 0 and taken:
                break
            taken.append(event)
        return taken

    async def tail(self, wanted: Mapping[str, int]) -> dict[str, Tail]:
        tails = {}
        for generation_id, start in wanted.items():
            kept = self._kept.get(generation_id)
            tails[generation_id] = (
                Tail([], None) if kept is None else Tail(kept.events[start:], kept.record.state)
            )
        return tails

    # ---- whose is it? ----

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
        present, expires_at = self._claims.get((tenant, name), (None, 0.0))
        if present is not None and expires_at > now and present.generation != instead_of:
            return present
        mine = Claim(generation_id, fingerprint, won=False)
        self._claims[tenant, name] = mine, until
        return msgspec.structs.replace(mine, won=True)

    async def renew(self, owner: str, until: float) -> None:
        self._leases[owner] = until

    async def lease(self, owner: str) -> float:
        return self._leases.get(owner, 0.0)

    async def expired(self, now: float, limit: int) -> list[str]:
        found: list[str] = []
        for generation_id, kept in self._kept.items():
            if len(found) == limit:
                break
            if kept.record.state is State.RUNNING and not self._owned(kept.record, now):
                found.append(generation_id)
        return found

    async def take_over(self, generation_id: str, owner: str, now: float) -> Record | None:
        kept = self._kept.get(generation_id)
        if kept is None or kept.record.state is not State.RUNNING or self._owned(kept.record, now):
            return None
        kept.record.owner = owner
        kept.record.epoch += 1
        return msgspec.structs.replace(kept.record)

    async def release(
        self, owner: str, generation_ids: Sequence[str], bills: Mapping[str, Bill] | None = None
    ) -> None:
        for generation_id in generation_ids:
            kept = self._kept.get(generation_id)
            if kept is not None and kept.record.owner == owner:
                kept.record.owner = ""
                kept.record.bill = (bills or {}).get(generation_id, kept.record.bill)

    # ---- several ledgers ----

    async def book(self, ledger: str, booking: Booking) -> bool:
        return self._bookings.setdefault(ledger, {}).setdefault(booking.name, booking) is booking

    async def bookings(self, ledger: str) -> list[Booking]:
        return list(self._bookings.get(ledger, {}).values())

    async def forget_bookings(self, ledger: str, bookings: Sequence[Booking]) -> None:
        for one in bookings:
            self._bookings.get(ledger, {}).pop(one.name, None)

    def _owned(self, record: Record, now: float) -> bool:
        return self._leases.get(record.owner, 0.0) > now

    # ---- letting go ----

    async def delete(self, generation_id: str) -> None:
        self._forget(generation_id)

    async def cut(self, generation_id: str, end: End) -> bool:
        kept = self._kept.get(generation_id)
        if kept is None or kept.record.state is not State.RUNNING:
            return False
        kept.record.state, kept.record.ending = end.state, end.ending
        kept.record.expires_at = end.expires_at
        kept.record.epoch += 1
        self._ended[generation_id] = None
        return True

    async def was_there(self, generation_id: str, tenant: str) -> bool:
        return (generation_id, tenant) in self._gone

    async def expire(self, now: float) -> int:
        gone = [
            generation_id
            for generation_id, kept in self._kept.items()
            if kept.record.expires_at <= now
            and (kept.record.state is not State.RUNNING or not self._owned(kept.record, now))
        ]
        for generation_id in gone:
            self._forget(generation_id)
        self._claims = {name: held for name, held in self._claims.items() if held[1] > now}
        self._leases = {owner: until for owner, until in self._leases.items() if until > now}
        return len(gone)

    async def statistics(self) -> StoreStatistics:
        running = len(self._kept) - len(self._ended)
        return StoreStatistics(len(self._kept), running, self._size, self._dropped)
