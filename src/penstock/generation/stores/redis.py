"""A store in a Redis server, which the processes of several machines share.

What the server acknowledged outlives every gateway.  Whether it outlives the server depends on how that is
run: with ``appendonly yes`` a restart loses a second at most, with a replica a failover loses what was not
copied yet.  The journal notices, and writes again what is missing.

Per generation there is a hash (its record) and a stream, whose entries are the events of one write, numbered by
the index of the first of them.  A stream, because an entry is found by its number, wherever it is; in a list
that is a walk, and with several events in an entry a search.  Beside them, for all generations together: who
owns what, and what has ended.  These are on other slots of a cluster, so they are no part of any promise:
what is missing there is found late, or expires by the server's own clock.

Of a cluster's nodes this store talks to the one that it is given, so it needs a proxy in front of them; the
names of the keys allow it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from penstock.config.redis_address import Address
from penstock.generation.log import State
from penstock.generation.store import (
    BOOKED_FOR,
    GONE_FOR,
    MAX_GONE,
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
    StoreUnavailable,
    Tail,
    Write,
    trace_of,
)
from penstock.generation.stores import _redis_fields as fields
from penstock.generation.stores import _redis_scripts as scripts
from penstock.messages import Event
from penstock.net.redis_client import Client, sha_of

log = logging.getLogger(__name__)

BUDGET = 1.0  # seconds for one answer; the journal's readers do not wait that long
_PAGE = 64  # stream entries of one answer
_AT_ONCE = 100  # generations of one round trip, where there may be any number

_REASONS = {reason.value.encode(): reason for reason in Reason}
_SHA = {script: sha_of(script) for script in scripts.ALL}
_OF_SEVERAL = frozenset({scripts.WRITE, scripts.APPEND, scripts.READ})

_P = ParamSpec("_P")
_T = TypeVar("_T")
# What comes of reading an answer that is none to what was asked: of another type, shorter, or of other bytes.
_NONSENSE = (TypeError, ValueError, LookupError, AttributeError, AssertionError, msgspec.MsgspecError)


def _sensible(
    ask: Callable[Concatenate[RedisStore, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[RedisStore, _P], Coroutine[Any, Any, _T]]:
    """An answer that makes no sense is none, and after it nothing on that connection can be believed."""

    @functools.wraps(ask)
    async def asked(store: RedisStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await ask(store, *args, **kwargs)
        except _NONSENSE as error:
            raise store.disbelieved(error) from error

    return asked


class RedisStore:
    """A :class:`~penstock.generation.store.Store` in a Redis server, version 7 or newer.

    :param url: see :meth:`penstock.config.redis_address.Address.parse`
    :param max_bytes: all generations together; more than that is there only between two :meth:`expire`
    :param budget: seconds for one answer
    :param prefix: of all keys, for several gateways on one server
    :raises ValueError: the URL is none of Redis
    """

    def __init__(
        self, url: str, max_bytes: int, *, budget: float = BUDGET, prefix: str = "penstock:generations"
    ) -> None:
        self.address = Address.parse(url)
        self.max_bytes = max_bytes
        self._prefix = prefix.encode()
        index = self._prefix + b":{ended}:"
        self._index = (index + b"order", index + b"expiry", index + b"sizes", index + b"total")
        self._owners = self._prefix + b":owners"
        self._gone = self._prefix + b":gone"
        self._announced: set[str] = set()  # owners that the server knows of
        self._leases: dict[str, float] = {}  # of owners in this process, as last renewed
        self._dropped = 0
        self.losses = 0
        # Two connections: a long answer to a reader must not hold up a write.
        self._writing = Client(self.address, budget, scripts.ALL, StoreUnavailable, _Full, self._lost)
        self._reading = Client(self.address, budget, scripts.ALL, StoreUnavailable, _Full)

    def __repr__(self) -> str:
        host, port = self.address.hosts[0]
        return f"<RedisStore {host}:{port}, {self._writing.trouble or 'well'}>"

    @property
    def place(self) -> str:
        host, port = self.address.hosts[0]
        return f"Redis at {host}:{port}"

    def disbelieved(self, error: Exception) -> StoreUnavailable:
        """Both connections are made anew; what the error is then that came of reading an answer."""
        why = f"an answer that makes no sense ({type(error).__name__}: {error})"
        for client in (self._writing, self._reading):
            client.reset(why)
        return StoreUnavailable(f"{self.place}: {why}")

    def _lost(self) -> None:
        """The server may have lost its last second, or all: the connection broke, or it does not know us any more."""
        self._announced.clear()
        self.losses += 1

    async def start(self) -> None:
        await self._writing.ask(b"PING")

    async def close(self) -> None:
        await self._writing.close()
        await self._reading.close()

    @_sensible
    async def time(self) -> float:
        seconds, microseconds = await self._run(self._reading, scripts.TIME, [self._owners], ())
        return int(seconds) + int(microseconds) / 1e6

    # ---- writing ----

    async def write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        if not writes:
            return {}
        await self._writing.ready()
        begun = [write for write in writes if write.begin is not None]
        if begun:
            await self._begin(begun)
        keys: list[bytes] = []
        values: list[bytes] = []
        plain = not any(
            write.begin is not None or write.end is not None or not write.events or write.bill is not None
            for write in writes
        )
        for write in writes:
            keys += self._keys(write.id)
            values += fields.appended(write) if plain else fields.arguments(write)
        script = scripts.APPEND if plain else scripts.WRITE
        losses = self.losses
        try:
            answers = await self._run(self._writing, script, keys, values)
        except _Full:
            await self._drop(self.max_bytes * 9 // 10)
            raise
        try:
            refused = self._refused(writes, answers)
        except _NONSENSE as error:
            raise self.disbelieved(error) from error
        if any(refusal.reason is Reason.UNKNOWN for refusal in refused.values()):
            await self._check_leases(losses)
        return refused

    async def _check_leases(self, losses: int) -> None:
        """What is unknown was deleted, or the server was emptied: then it does not know either that we live.

        :param losses: before it was asked
        :raises StoreUnavailable: it was emptied
        """
        if losses == self.losses:
            now = await self.time()
            living = [owner for owner in self._announced if self._leases.get(owner, 0.0) > now]
            if all([await self.lease(owner) for owner in living]):
                return
            if losses == self.losses:
                self._lost()
        raise StoreUnavailable(f"{self.place}: what was stored is not there any more")

    def _refused(self, writes: Sequence[Write], answers: Any) -> dict[str, Refusal]:
        """What the scripts say of these writes; what has ended is counted."""
        if answers is None:  # nothing was refused
            return {}
        refused = {}
        counted: list[bytes] = []
        for write, answer in zip(writes, answers, strict=True):
            if answer is None:
                continue
            if answer[0]:
                refused[write.id] = Refusal(_REASONS[answer[0]], answer[1])
            elif write.end is not None:
                _, size, owner = answer
                self._writing.tell(b"SREM", self._owned(owner.decode()), write.id.encode())
                counted += (write.id.encode(), size, b"%.6f" % write.end.expires_at)
        if counted:
            self._count_in(*counted)
        return refused

    def _count_in(self, *counted: bytes) -> None:
        self._writing.tell(b"EVALSHA", _SHA[scripts.COUNT_IN], b"4", *self._index, *counted)

    async def _begin(self, begun: list[Write]) -> None:
        """What is about to begin can be found, before it does."""
        self._announce([write.begin for write in begun if write.begin is not None])
        named = [(write.id, write.naming) for write in begun if write.naming is not None]
        if not named:
            return
        claims = [self._claim(name, generation_id) for generation_id, name in named]
        for (generation_id, name), held in zip(named, await self._writing.ask_all(claims), strict=True):
            if held is not None and not await self._counts(name, held):
                await self._writing.ask_all([self._claim(name, generation_id, held[0])])

    @_sensible
    async def _counts(self, name: Naming, held: list[bytes]) -> bool:
        """Whether a name stays whose it is."""
        key = self._keys(held[0].decode())[0]
        state, expires_at = await self._reading.ask(b"HMGET", key, b"state", b"expires_at")
        if state is None:
            return float(held[2]) > name.until - YOUNG
        return state == State.RUNNING.value.encode() or float(expires_at) > name.until - name.recent

    def _claim(self, name: Naming, generation_id: str, instead_of: bytes = b"") -> tuple[bytes, ...]:
        until = (b"%.6f" % name.until, fields.milliseconds(name.until))
        values = (b"%.6f" % name.now, instead_of, generation_id.encode(), name.fingerprint, *until)
        return (b"EVALSHA", _SHA[scripts.CLAIM], b"1", self._claim_key(name.tenant, name.name), *values)

    def _claim_key(self, tenant: str, name: str) -> bytes:
        digest = hashlib.blake2b(fields.encode((tenant, name)), digest_size=20).hexdigest()
        return self._prefix + b":claim:" + digest.encode()

    def _announce(self, begun: list[Record]) -> None:
        # Before it is written: commands of a connection are done in order.
        for record in begun:
            if record.owner not in self._announced:
                # A server that has lost everything has lost the lease, too.
                until = self._leases.get(record.owner, 0.0)
                self._writing.tell(b"ZADD", self._owners, b"NX", b"%.6f" % until, record.owner.encode())
                self._announced.add(record.owner)
            self._writing.tell(b"SADD", self._owned(record.owner), record.id.encode())

    # ---- reading ----

    @_sensible
    async def load(self, generation_id: str) -> Record | None:
        return fields.record_of(
            await self._reading.ask(b"HMGET", self._keys(generation_id)[0], *fields.FIELDS)
        )

    @_sensible
    async def events(self, generation_id: str, start: int, limit: int) -> list[Event]:
        taken: list[Event] = []
        while True:
            ((_, _, events),) = await self._read({generation_id: start + len(taken)}, _PAGE)
            for event in events:
                limit -= len(event)
                if limit < 0 and taken:
                    return taken
                taken.append(event)
            if not events:
                return taken

    @_sensible
    async def tail(self, wanted: Mapping[str, int]) -> dict[str, Tail]:
        tails = {}
        read = await self._read(wanted, 1 << 31)
        for generation_id, (state, _, events) in zip(wanted, read, strict=True):
            tails[generation_id] = Tail(events, None if state is None else State(state.decode()))
        return tails

    async def _read(
        self, wanted: Mapping[str, int], entries: int
    ) -> list[tuple[bytes | None, int, list[Event]]]:
        if not wanted:
            return []
        keys = [key for generation_id in wanted for key in self._keys(generation_id)]
        values = [b"%d" % entries, *(b"%d" % start for start in wanted.values())]
        found = []
        answers = await self._run(self._reading, scripts.READ, keys, values, shared=1)
        for start, (state, count, stored) in zip(wanted.values(), answers, strict=True):
            events: list[Event] = []
            for number, (_, content) in stored:
                first = int(number.partition(b"-")[0]) - 1
                events += fields.decode_events(content)[max(0, start - first) :]
            found.append((state, int(count or 0), events))
        return found

    # ---- whose is it? ----

    @_sensible
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
        mine = Naming(tenant, name, fingerprint, now, until, 0.0)
        return fields.claimed(mine, generation_id, await self._try(mine, generation_id, instead_of.encode()))

    @_sensible
    async def take(self, naming: Naming, generation_id: str, instead_of: str = "") -> Claim:
        held = await self._try(naming, generation_id, instead_of.encode())
        if held is not None and not await self._counts(naming, held):
            held = await self._try(naming, generation_id, held[0])
        mine = held is not None and held[0] == generation_id.encode()  # its last word was not heard
        return fields.claimed(naming, generation_id, None if mine else held)

    async def _try(self, naming: Naming, generation_id: str, instead_of: bytes) -> list[bytes] | None:
        """Claim a name; who has it, as ``CLAIM`` tells, or None: the generation that is given."""
        await self._writing.ready()
        held: list[bytes] | None = await self._writing.ask(*self._claim(naming, generation_id, instead_of))
        return held

    @_sensible
    async def renew(self, owner: str, until: float) -> None:
        self._leases[owner] = until  # also if the server does not hear of it now
        is_new = await self._writing.ask(b"ZADD", self._owners, b"%.6f" % until, owner.encode())
        if is_new and owner in self._announced:
            self._lost()

    @_sensible
    async def lease(self, owner: str) -> float:
        until = await self._reading.ask(b"ZSCORE", self._owners, owner.encode())
        return float(until) if until is not None else 0.0

    @_sensible
    async def expired(self, now: float, limit: int) -> list[str]:
        dead = await self._reading.ask(b"ZRANGEBYSCORE", self._owners, b"-inf", b"%.6f" % now)
        found: list[str] = []
        for owner in (b"", *dead):
            owned = await self._reading.ask(b"SMEMBERS", self._owned(owner.decode()))
            for at in range(0, len(owned), _AT_ONCE):
                some = owned[at : at + _AT_ONCE]
                records = await self._reading.ask_all(
                    [(b"HMGET", self._keys(member.decode())[0], b"state", b"owner") for member in some]
                )
                for member, (state, present) in zip(some, records, strict=True):
                    if state == b"running" and present == owner:
                        found.append(member.decode())
                        if len(found) == limit:
                            return found
                    else:  # it ended, or changed hands, and somebody died before he could say so
                        self._writing.tell(b"SREM", self._owned(owner.decode()), member)
        return found

    @_sensible
    async def take_over(self, generation_id: str, owner: str, now: float) -> Record | None:
        record = await self.load(generation_id)
        if record is None or record.state is not State.RUNNING or await self.lease(record.owner) > now:
            return None
        await self._writing.ready()
        self._announce([msgspec.structs.replace(record, owner=owner)])
        values = (record.owner.encode(), b"%d" % record.epoch, owner.encode())
        epoch = await self._run(self._writing, scripts.TAKE_OVER, [self._keys(generation_id)[0]], values)
        if epoch is None:
            return None
        self._writing.tell(b"SREM", self._owned(record.owner), generation_id.encode())
        return await self.load(generation_id)

    async def release(
        self, owner: str, generation_ids: Sequence[str], bills: Mapping[str, Bill] | None = None
    ) -> None:
        for generation_id in generation_ids:
            key = self._keys(generation_id)[0]
            bill = bills.get(generation_id) if bills is not None else None
            values = (owner.encode(), b"" if bill is None else fields.encode(bill))
            if await self._run(self._writing, scripts.RELEASE, [key], values):
                await self._writing.ask(b"SADD", self._owned(""), generation_id.encode())
                self._writing.tell(b"SREM", self._owned(owner), generation_id.encode())

    # ---- several ledgers ----

    async def book(self, ledger: str, booking: Booking) -> bool:
        key = self._booked(ledger)
        won, _ = await self._writing.ask_all(
            [
                (b"HSETNX", key, booking.name.encode(), fields.encode(booking)),
                (b"PEXPIREAT", key, fields.milliseconds(booking.at + BOOKED_FOR)),
            ]
        )
        return bool(won)

    @_sensible
    async def bookings(self, ledger: str) -> list[Booking]:
        return [fields.decode_booking(one) for one in await self._reading.ask(b"HVALS", self._booked(ledger))]

    async def forget_bookings(self, ledger: str, bookings: Sequence[Booking]) -> None:
        if bookings:
            await self._writing.ask(b"HDEL", self._booked(ledger), *(one.name.encode() for one in bookings))

    def _booked(self, ledger: str) -> bytes:
        return self._prefix + b":booked:" + ledger.encode()

    # ---- letting go ----

    @_sensible
    async def delete(self, generation_id: str) -> None:
        await self._remove([generation_id])

    @_sensible
    async def cut(self, generation_id: str, end: End) -> bool:
        ended = await self._run(self._writing, scripts.CUT, self._keys(generation_id), fields.ended(end))
        if ended is None:
            return False
        size, owner = ended
        self._writing.tell(b"SREM", self._owned(owner.decode()), generation_id.encode())
        self._count_in(generation_id.encode(), size, b"%.6f" % end.expires_at)
        return True

    @_sensible
    async def was_there(self, generation_id: str, tenant: str) -> bool:
        trace = trace_of(generation_id, tenant).encode()
        until = await self._reading.ask(b"ZSCORE", self._gone, trace)
        return until is not None and float(until) > await self.time()

    async def _let_go(self, traces: Sequence[bytes]) -> None:
        values = (b"%d" % GONE_FOR, b"%d" % MAX_GONE, *traces)
        if traces:
            with contextlib.suppress(_Full):  # what makes room must not need any
                await self._run(self._writing, scripts.LET_GO, [self._gone], values)

    @_sensible
    async def expire(self, now: float) -> int:
        past = await self._reading.ask(b"ZRANGEBYSCORE", self._index[1], b"-inf", b"%.6f" % now)
        await self._remove([member.decode() for member in past])
        removed = len(past)
        for generation_id in await self.expired(now, 1_000):
            record = await self.load(generation_id)
            if record is not None and record.expires_at <= now:
                removed += await self._remove_dead(record)
        for owner in await self._reading.ask(b"ZRANGEBYSCORE", self._owners, b"-inf", b"%.6f" % now):
            if not await self._reading.ask(b"SCARD", self._owned(owner.decode())):
                self._writing.tell(b"ZREM", self._owners, owner)
                self._announced.discard(owner.decode())
        return removed + await self._drop(self.max_bytes)

    async def _remove_dead(self, record: Record) -> bool:
        """Remove what nobody owned a moment ago; whether it has neither ended since, nor changed hands."""
        values = (record.owner.encode(), b"%d" % record.epoch)
        gone = await self._run(self._writing, scripts.REMOVE_DEAD, self._keys(record.id), values)
        if gone:
            await self._let_go([trace_of(record.id, record.tenant).encode()])
            self._writing.tell(b"SREM", self._owned(record.owner), record.id.encode())
        return bool(gone)

    async def _drop(self, max_bytes: int) -> int:
        """Remove the oldest ended generations while there is more than so much."""
        excess = (await self.statistics()).size - max_bytes
        gone: list[str] = []
        while excess > 0:
            some = await self._reading.ask(
                b"ZRANGE", self._index[0], b"%d" % len(gone), b"%d" % (len(gone) + _AT_ONCE - 1)
            )
            if not some:
                break
            sizes = await self._reading.ask(b"HMGET", self._index[2], *some)
            for member, size in zip(some, sizes, strict=True):
                if excess > 0:
                    gone.append(member.decode())
                    excess -= int(size or 0)
        await self._remove(gone)
        self._dropped += len(gone)
        return len(gone)

    async def _remove(self, generation_ids: Sequence[str]) -> None:
        for at in range(0, len(generation_ids), _AT_ONCE):
            some = generation_ids[at : at + _AT_ONCE]
            traces: list[bytes] = []
            found = await self._reading.ask_all(
                [(b"HMGET", self._keys(i)[0], b"owner", b"trace") for i in some]
            )
            for generation_id, (owner, trace) in zip(some, found, strict=True):
                if owner is not None:
                    self._writing.tell(b"SREM", self._owned(owner.decode()), generation_id.encode())
                if trace is not None:
                    traces.append(trace)
            await self._writing.ask_all([(b"DEL", *self._keys(i)) for i in some])
            await self._run(self._writing, scripts.COUNT_OUT, self._index, [i.encode() for i in some])
            await self._let_go(traces)

    @_sensible
    async def statistics(self) -> StoreStatistics:
        ended, total = await self._reading.ask_all([(b"ZCARD", self._index[0]), (b"GET", self._index[3])])
        running: dict[bytes, None] = {}
        for owner in (b"", *await self._reading.ask(b"ZRANGE", self._owners, b"0", b"-1")):
            running.update(dict.fromkeys(await self._reading.ask(b"SMEMBERS", self._owned(owner.decode()))))
        ids = list(running)
        count, size = 0, int(total or 0)
        for at in range(0, len(ids), _AT_ONCE):
            records = await self._reading.ask_all(
                [(b"HMGET", self._keys(i.decode())[0], b"state", b"size") for i in ids[at : at + _AT_ONCE]]
            )
            for state, held in records:
                if state == b"running":
                    count += 1
                    size += int(held)
        return StoreStatistics(ended + count, count, size, self._dropped)

    # ---- keys and scripts ----

    def _keys(self, generation_id: str) -> tuple[bytes, bytes]:
        stem = b"%b:{%b}:" % (self._prefix, generation_id.encode())
        return stem + b"record", stem + b"events"

    def _owned(self, owner: str) -> bytes:
        return self._prefix + b":owned:" + owner.encode()

    @staticmethod
    async def _run(
        client: Client, script: bytes, keys: Sequence[bytes], values: Sequence[bytes], *, shared: int = 0
    ) -> Any:
        """Run a script; on a cluster one that is for several generations is run for each.

        :param shared: how many of the values are for all of them
        """
        await client.ready()
        if not client.cluster or len(keys) == 2 or script not in _OF_SEVERAL:
            return await client.run(script, keys, *values)
        each = (len(values) - shared) // (len(keys) // 2)
        commands = []
        for i in range(len(keys) // 2):
            own = values[shared + i * each : shared + (i + 1) * each]
            commands.append(
                (b"EVALSHA", _SHA[script], b"2", *keys[2 * i : 2 * i + 2], *values[:shared], *own)
            )
        return [None if answers is None else answers[0] for answers in await client.ask_all(commands)]


class _Full(StoreUnavailable):
    """The server has no memory left."""
