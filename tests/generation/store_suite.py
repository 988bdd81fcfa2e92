"""What every store must do, whatever it is made of."""

import asyncio
import contextlib
import functools

from penstock.generation.log import State, new_id
from penstock.generation.store import (
    Bill,
    Booking,
    End,
    Ending,
    Failure,
    Naming,
    Reason,
    Record,
    Refusal,
    Write,
    new_owner,
    request_size,
    size_of,
)
from penstock.messages import Usage

NOW = 1_900_000_000.0
LATER = NOW + 3_600
LARGE = 1 << 40


def record(owner="me", body=b"{}", **more):
    given = {
        "id": new_id(),
        "tenant": "t",
        "key_name": "k",
        "tier": "standard",
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "stream": True,
        "body": body,
        "headers": ((b"accept", b"text/event-stream"),),
        "created": NOW,
        "name": "",
        "fingerprint": b"\0\1",
        "owner": owner,
        "expires_at": LATER,
    }
    return Record(**{**given, **more})


def begin(of, events=(), end=None, naming=None):
    return Write(of.id, of.epoch, 0, list(events), begin=of, end=end, naming=naming)


def append(of, first, *events, epoch=None, end=None):
    return Write(of.id, of.epoch if epoch is None else epoch, first, list(events), end=end)


def end(expires_at=LATER, **how):
    return End(Ending(**how), expires_at)


FAILED = Failure("upstream_broken", "it broke", status=502, retry_after=1.5)


def with_store(test):
    """The test gets an open store; it must not look like a fixture to pytest."""

    @functools.wraps(test)
    def run(self):
        async def main():
            async with self.opened() as store:
                await test(self, store)

        asyncio.run(main())

    del run.__wrapped__
    return run


class StoreSuite:
    """Subclasses say in :meth:`make` what is tested; all that it makes within one test share their data."""

    def make(self, max_bytes=1 << 26):
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def opened(self, **how):
        store = self.make(**how)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    # ---- what is ended by another ----

    @with_store
    async def test_what_anybody_has_cut_has_ended_and_its_producer_is_fenced(self, store):
        one, over = record(), record()
        await store.write([begin(one, [b"a"]), begin(over, [b"a"], end())])
        await store.write([append(one, 1, b"b")])
        cut = end(failure=FAILED)
        assert await store.cut(one.id, cut)
        assert [await store.cut(of, cut) for of in (one.id, over.id, new_id())] == [False] * 3
        loaded = await store.load(one.id)
        assert (loaded.state, loaded.ending, loaded.expires_at) == (State.FAILED, cut.ending, LATER)
        assert loaded.events == 2
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b"]
        refused = await store.write([append(one, 2, b"c")])
        assert refused[one.id].reason is Reason.FENCED
        assert await store.expired(LATER, 10) == []
        assert (await store.load(over.id)).state is State.FINISHED
        statistics = await store.statistics()
        assert (statistics.generations, statistics.running) == (2, 0)
        await store.expire(LATER + 1)
        assert await store.load(one.id) is None

    # ---- what is known of what is gone ----

    @with_store
    async def test_of_what_is_gone_its_tenant_hears_that_it_was_there(self, store):
        past, deleted, kept, running = record(), record(), record(), record(owner="alive")
        await store.renew("alive", LATER + 60)
        over = end(expires_at=NOW + 1)
        await store.write([begin(past, [b"a"], over), begin(deleted), begin(kept, end=end()), begin(running)])
        await store.expire(NOW + 2)
        await store.delete(deleted.id)
        everything = [past.id, deleted.id, kept.id, running.id, new_id()]

        async def known(tenant):
            return [await store.was_there(one, tenant) for one in everything]

        assert await known("t") == [True, True, False, False, False]
        assert await known("another") == [False] * 5

    @with_store
    async def test_so_does_that_of_what_nobody_went_on_with(self, store):
        left = record(owner="dead")
        await store.write([begin(left)])
        await store.expire(LATER + 1)
        assert await store.load(left.id) is None
        assert await store.was_there(left.id, "t")

    # ---- in whose ledger it stands ----

    @with_store
    async def test_a_bill_is_that_of_the_last_write_or_of_who_let_go(self, store):
        first, second, third = (
            Bill("ledger", "process", row, {"ledger": row}, "up", "m") for row in (1, 2, 0)
        )
        one, other = record(owner="a", bill=first), record(owner="a")
        await store.write([begin(one, [b"a"]), begin(other)])
        assert [(await store.load(of.id)).bill for of in (one, other)] == [first, None]
        changed = append(one, 1, b"b")
        changed.bill = second
        assert await store.write([changed]) == {}
        assert await store.write([append(one, 2, b"c")]) == {}
        assert (await store.load(one.id)).bill == second
        assert await store.write([append(one, 3, b"d"), begin(record())]) == {}
        assert (await store.load(one.id)).bill == second
        alone = append(other, 0)
        alone.bill = first
        assert await store.write([alone]) == {}
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b", b"c", b"d"]
        await store.release("a", [one.id, other.id], {one.id: third})
        assert (await store.take_over(one.id, "b", NOW)).bill == third
        assert (await store.take_over(other.id, "b", NOW)).bill == first

    @with_store
    async def test_who_is_fenced_changes_no_bill(self, store):
        one = record(owner="a", bill=Bill("ledger", "process", 1))
        await store.write([begin(one)])
        await store.take_over(one.id, "b", NOW)
        late = append(one, 0)
        late.bill = Bill("ledger", "process", 2)
        assert (await store.write([late]))[one.id].reason is Reason.FENCED
        assert (await store.load(one.id)).bill.row == 1

    @with_store
    async def test_word_for_another_ledger_is_left_once_and_kept_until_it_is_forgotten(self, store):
        one, other = (Booking("process", row, "gen", Usage(3, 4), 5, NOW) for row in (1, 2))
        assert await store.bookings("ledger") == []
        assert await store.book("ledger", one)
        assert await store.book("ledger", other)
        assert not await store.book("ledger", Booking("process", 1, "gen", Usage(9, 9), 9, NOW + 1))
        assert await store.book("another", one)
        assert sorted(await store.bookings("ledger"), key=lambda found: found.row) == [one, other]
        await store.expire(NOW + 60)
        await store.forget_bookings("ledger", [one])
        await store.forget_bookings("ledger", [])
        assert await store.bookings("ledger") == [other]
        assert await store.bookings("another") == [one]

    # ---- a log is stored as it was written ----

    @with_store
    async def test_what_was_written_is_read(self, store):
        one = record(name="again", body=b'{"model":"m"}')
        assert await store.write([begin(one, [b"a", b"b"])]) == {}
        assert await store.write([append(one, 2, b"", b"\0\xff\n")]) == {}

        loaded = await store.load(one.id)
        assert loaded.state is State.RUNNING
        assert (loaded.events, loaded.ending) == (4, None)
        assert loaded.size == request_size(one) + size_of([b"a", b"b", b"", b"\0\xff\n"])
        for field in ("tenant", "key_name", "tier", "endpoint", "model", "stream", "body", "headers"):
            assert getattr(loaded, field) == getattr(one, field)
        for field in ("created", "name", "fingerprint", "owner", "epoch", "expires_at"):
            assert getattr(loaded, field) == getattr(one, field)
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b", b"", b"\0\xff\n"]

    @with_store
    async def test_an_end_is_kept_with_all_that_a_later_reader_must_know(self, store):
        finished, failed = record(), record()
        how = {
            "status": 201,
            "headers": ((b"x-request-id", b"7"),),
            "usage": Usage(7, 5, estimated=True),
            "cost": 123,
            "attempts": 3,
            "seams": 1,
            "served_by": ("a", "b"),
        }
        await store.write([begin(finished, [b"x"]), begin(failed)])
        await store.write(
            [append(finished, 1, b"y", end=end(LATER + 1, **how)), append(failed, 0, end=end(failure=FAILED))]
        )

        loaded = await store.load(finished.id)
        assert (loaded.state, loaded.events, loaded.expires_at) == (State.FINISHED, 2, LATER + 1)
        assert loaded.ending == Ending(**how)
        loaded = await store.load(failed.id)
        assert (loaded.state, loaded.ending.failure) == (State.FAILED, FAILED)
        assert await store.events(finished.id, 0, LARGE) == [b"x", b"y"]

    @with_store
    async def test_a_generation_may_begin_and_end_at_once(self, store):
        one = record()
        assert await store.write([begin(one, [b"all"], end())]) == {}
        assert (await store.load(one.id)).state is State.FINISHED
        assert await store.events(one.id, 0, LARGE) == [b"all"]
        assert await store.tail({one.id: 0}) == await store.tail({one.id: 0})

    @with_store
    async def test_events_are_read_from_any_index_and_up_to_a_limit(self, store):
        one = record()
        events = [b"%04d" % i for i in range(500)]
        await store.write([begin(one)])
        for at in range(0, 500, 7):
            await store.write([append(one, at, *events[at : at + 7])])
        for start in (0, 1, 63, 64, 65, 128, 490, 499):
            assert await store.events(one.id, start, LARGE) == events[start:]
            assert await store.events(one.id, start, 12) == events[start : start + 3]
            assert await store.events(one.id, start, 0) == events[start : start + 1]
        assert await store.events(one.id, 500, LARGE) == []
        assert await store.events(one.id, 501, LARGE) == []
        await store.write([append(one, 500, end=end())])
        for start in (0, 64, 447, 448, 499):
            assert await store.events(one.id, start, LARGE) == events[start:]

    @with_store
    async def test_large_requests_and_events_are_kept_whole(self, store):
        body, event = bytes(range(256)) * 8_192, bytes(range(255, -1, -1)) * 8_192
        one = record(body=body)
        await store.write([begin(one, [event, b"small"])])
        await store.write([append(one, 2, event)])
        assert (await store.load(one.id)).body == body
        assert await store.events(one.id, 0, LARGE) == [event, b"small", event]

    @with_store
    async def test_what_nobody_wrote_is_not_there(self, store):
        assert await store.load(new_id()) is None
        assert await store.events(new_id(), 0, LARGE) == []
        assert (await store.tail({(missing := new_id()): 3}))[missing].state is None
        assert await store.take_over(new_id(), "me", NOW) is None
        await store.delete(new_id())
        await store.release("me", [new_id()])
        assert await store.write([]) == {}

    @with_store
    async def test_a_record_that_was_loaded_can_be_changed_without_harm(self, store):
        one = record()
        await store.write([begin(one)])
        loaded = await store.load(one.id)
        loaded.epoch, loaded.owner, loaded.state = 9, "nobody", State.FAILED
        one.owner = "nobody"
        assert (await store.load(one.id)).owner == "me"
        assert await store.write([append(record(id=one.id), 0, b"x")]) == {}

    # ---- what is refused ----

    @with_store
    async def test_gaps_and_doubles_are_refused_with_what_is_there(self, store):
        one = record()
        await store.write([begin(one, [b"a", b"b"])])
        for first in (0, 1, 3, 100):
            assert await store.write([append(one, first, b"x")]) == {one.id: Refusal(Reason.MISPLACED, 2)}
            assert await store.write([append(one, first, end=end())]) == {
                one.id: Refusal(Reason.MISPLACED, 2)
            }
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b"]
        assert await store.write([append(one, 2, b"c")]) == {}

    @with_store
    async def test_nothing_begins_twice_nor_goes_on_after_its_end(self, store):
        one = record()
        await store.write([begin(one, [b"a"])])
        assert await store.write([begin(one, [b"other"])]) == {one.id: Refusal(Reason.EXISTS, 1)}
        await store.write([append(one, 1, b"b", end=end())])
        assert await store.write([append(one, 2, b"x")]) == {one.id: Refusal(Reason.ENDED, 2)}
        assert await store.write([append(one, 2, end=end(failure=FAILED))]) == {
            one.id: Refusal(Reason.ENDED, 2)
        }
        assert await store.write([begin(one)]) == {one.id: Refusal(Reason.EXISTS, 2)}
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b"]

    @with_store
    async def test_what_begins_in_its_middle_is_refused_and_unknown(self, store):
        one = record()
        middle = begin(one, [b"b"])
        middle.first = 1
        assert await store.write([middle]) == {one.id: Refusal(Reason.MISPLACED)}
        assert await store.load(one.id) is None
        assert await store.write([begin(one, [b"a"])]) == {}

    @with_store
    async def test_of_one_batch_the_refused_are_named_and_the_others_stored(self, store):
        good, bad, unknown, new = record(), record(), record(), record()
        await store.write([begin(good), begin(bad)])
        refused = await store.write(
            [append(good, 0, b"1"), append(bad, 5, b"2"), append(unknown, 0, b"3"), begin(new, [b"4"])]
        )
        assert refused == {bad.id: Refusal(Reason.MISPLACED, 0), unknown.id: Refusal(Reason.UNKNOWN, 0)}
        assert await store.events(good.id, 0, LARGE) == [b"1"]
        assert await store.events(bad.id, 0, LARGE) == []
        assert await store.events(new.id, 0, LARGE) == [b"4"]

    # ---- leases and fences ----

    @with_store
    async def test_a_generation_whose_owner_lives_cannot_be_taken(self, store):
        one = record(owner="old")
        await store.renew("old", NOW + 10)
        await store.write([begin(one)])
        assert await store.expired(NOW + 9, 10) == []
        assert await store.take_over(one.id, "new", NOW + 9) is None
        await store.renew("old", NOW + 20)
        assert await store.take_over(one.id, "new", NOW + 19) is None

    @with_store
    async def test_once_the_lease_has_run_out_one_takes_over_and_the_old_owner_is_fenced(self, store):
        one = record(owner="old")
        await store.renew("old", NOW + 10)
        await store.renew("new", NOW + 100)
        await store.renew("newer", NOW + 100)
        await store.write([begin(one, [b"a"])])
        await store.write([append(one, 1, b"b")])
        assert await store.expired(NOW + 10, 10) == [one.id]

        taken = await store.take_over(one.id, "new", NOW + 10)
        assert (taken.owner, taken.epoch, taken.events, taken.state) == ("new", 2, 2, State.RUNNING)
        assert taken.body == one.body
        assert await store.take_over(one.id, "newer", NOW + 10) is None
        assert await store.expired(NOW + 10, 10) == []

        refusal = {one.id: Refusal(Reason.FENCED, 2)}
        assert await store.write([append(one, 2, b"from the dead")]) == refusal
        assert await store.write([append(one, 2, end=end())]) == refusal
        await store.renew("old", NOW + 50)  # it lives after all: too late
        assert await store.write([append(one, 2, b"from the dead")]) == refusal
        assert await store.write([append(one, 2, b"c", epoch=2)]) == {}
        assert await store.write([append(one, 3, end=end(), epoch=2)]) == {}
        # Also of what has ended: its end is not the old owner's.
        assert await store.write([append(one, 3, end=end())]) == {one.id: Refusal(Reason.FENCED, 3)}
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b", b"c"]

    @with_store
    async def test_of_many_who_take_over_one_wins(self, store):
        ones = [record(owner="dead") for _ in range(5)]
        await store.write([begin(one, [b"x"]) for one in ones])
        owners = [new_owner() for _ in range(8)]
        for owner in owners:
            await store.renew(owner, LATER)
        for one in ones:
            won = await asyncio.gather(*(store.take_over(one.id, owner, NOW) for owner in owners))
            assert [taken.epoch for taken in won if taken is not None] == [2]

    @with_store
    async def test_until_when_an_owner_is_believed_to_live_is_known(self, store):
        await store.renew("old", NOW + 10)
        await store.renew("new", NOW + 10)
        await store.renew("new", NOW + 20)
        assert [await store.lease(owner) for owner in ("old", "new", "nobody")] == [NOW + 10, NOW + 20, 0.0]

    @with_store
    async def test_an_owner_that_never_renewed_has_no_lease(self, store):
        one = record(owner="careless")
        await store.write([begin(one)])
        assert await store.expired(NOW, 10) == [one.id]

    @with_store
    async def test_what_was_released_is_free_at_once_and_its_owner_not_fenced_yet(self, store):
        one, other = record(owner="going"), record(owner="staying")
        for owner in ("going", "staying", "next"):
            await store.renew(owner, LATER)
        await store.write([begin(one), begin(other)])
        await store.release("going", [one.id, other.id])  # the other is not its own
        assert await store.expired(NOW, 10) == [one.id]
        assert await store.write([append(one, 0, b"last words")]) == {}
        taken = await store.take_over(one.id, "next", NOW)
        assert (taken.epoch, taken.events) == (2, 1)
        assert await store.take_over(other.id, "next", NOW) is None
        await store.release("going", [one.id])  # it is not its own any more
        assert await store.expired(NOW, 10) == []

    @with_store
    async def test_what_has_ended_is_nobodys_to_take(self, store):
        one = record(owner="dead")
        await store.write([begin(one, end=end())])
        assert await store.expired(NOW, 10) == []
        assert await store.take_over(one.id, "me", NOW) is None

    @with_store
    async def test_as_many_as_asked_for_are_found_expired(self, store):
        await store.write([begin(record(owner="dead")) for _ in range(5)])
        assert len(await store.expired(NOW, 3)) == 3
        assert len(await store.expired(NOW, 10)) == 5

    # ---- following ----

    @with_store
    async def test_whoever_follows_gets_every_event_once_and_then_the_end(self, store):
        ones = [record() for _ in range(3)]
        got = {one.id: [] for one in ones}
        state = {}

        async def look():
            for generation_id, tail in (
                await store.tail({i: len(events) for i, events in got.items()})
            ).items():
                got[generation_id] += tail.events
                state[generation_id] = tail.state

        await look()
        assert set(state.values()) == {None}
        await store.write([begin(one, [b"0"]) for one in ones])
        await look()
        assert set(state.values()) == {State.RUNNING}
        for at in range(1, 200, 2):
            await store.write(
                [append(one, at, b"%d" % at, b"%d" % (at + 1)) for one in ones[: 1 + at % 3]]
                if at == 1
                else [append(ones[0], at, b"%d" % at, b"%d" % (at + 1))]
            )
            if at % 5 == 1:
                await look()
        await look()
        await look()
        assert got[ones[0].id] == [b"%d" % i for i in range(201)]
        await store.write(
            [append(ones[0], 201, b"last", end=end()), append(ones[2], 1, end=end(failure=FAILED))]
        )
        await look()
        assert got[ones[0].id][-1] == b"last"
        assert len(got[ones[0].id]) == 202
        assert [state[one.id] for one in ones] == [State.FINISHED, State.RUNNING, State.FAILED]

    @with_store
    async def test_one_may_follow_from_any_index_and_come_back_to_an_earlier_one(self, store):
        one = record()
        await store.write([begin(one, [b"a", b"b", b"c"])])
        for start in (0, 2, 3, 1, 0):
            assert (await store.tail({one.id: start}))[one.id].events == [b"a", b"b", b"c"][start:]
        await store.write([append(one, 3, b"d")])
        assert (await store.tail({one.id: 3}))[one.id].events == [b"d"]
        await store.delete(one.id)
        assert (await store.tail({one.id: 4}))[one.id].state is None

    @with_store
    async def test_whoever_follows_sees_a_new_owner_go_on(self, store):
        one = record(owner="dead")
        await store.write([begin(one, [b"a"])])
        assert (await store.tail({one.id: 0}))[one.id].events == [b"a"]
        await store.take_over(one.id, "new", NOW)
        assert await store.tail({one.id: 1}) == {one.id: (await store.tail({one.id: 1}))[one.id]}
        await store.write([append(one, 1, b"b", epoch=2)])
        assert (await store.tail({one.id: 1}))[one.id].events == [b"b"]
        await store.write([append(one, 2, epoch=2, end=end())])
        assert (await store.tail({one.id: 2}))[one.id].state is State.FINISHED

    # ---- names ----

    @with_store
    async def test_the_first_to_claim_a_name_has_it_and_others_learn_whose_it_is(self, store):
        claims = await asyncio.gather(
            *(store.claim("t", "key", b"f%d" % i, f"gen_{i}", now=NOW, until=LATER) for i in range(10))
        )
        (winner,) = [claim for claim in claims if claim.won]
        assert {(claim.generation, claim.fingerprint) for claim in claims} == {
            (winner.generation, winner.fingerprint)
        }
        assert (await store.claim("other", "key", b"g", "gen_x", now=NOW, until=LATER)).won
        assert (await store.claim("t", "other", b"g", "gen_x", now=NOW, until=LATER)).won

    @with_store
    async def test_names_of_any_characters_are_kept_apart(self, store):
        names = ["a", "A", "a ", "a{b}", "ä", "a\0b", "", "x" * 255]
        for i, name in enumerate(names):
            assert (await store.claim("t", name, b"f", f"gen_{i}", now=NOW, until=LATER)).won, name
        assert (await store.claim("ta", "", b"f", "gen_y", now=NOW, until=LATER)).won

    @with_store
    async def test_a_claim_ends_with_its_time_or_when_its_generation_is_known_to_be_gone(self, store):
        await store.claim("t", "key", b"1", "gen_1", now=NOW, until=NOW + 10)
        assert not (await store.claim("t", "key", b"2", "gen_2", now=NOW + 9, until=LATER)).won
        assert (await store.claim("t", "key", b"2", "gen_2", now=NOW + 10, until=LATER)).won
        assert not (
            await store.claim("t", "key", b"3", "gen_3", now=NOW + 10, until=LATER, instead_of="gen_1")
        ).won
        assert (
            await store.claim("t", "key", b"3", "gen_3", now=NOW + 10, until=LATER, instead_of="gen_2")
        ).won

    @with_store
    async def test_a_generation_takes_its_name_as_it_begins(self, store):
        one, other, third = record(), record(), record()
        names = [Naming("t", f"request {i}", b"%d" % i, NOW, LATER, 20.0) for i in range(3)]
        await store.write(
            [
                begin(one, naming=names[0]),
                begin(other, [b"a"], naming=names[1]),
                begin(third, [b"a"], end(), names[2]),
            ]
        )
        for of, name in zip((one, other, third), names, strict=True):
            claim = await store.claim("t", name.name, b"", "gen_x", now=NOW, until=LATER)
            assert (claim.generation, claim.fingerprint, claim.won) == (of.id, name.fingerprint, False)

    @with_store
    async def test_a_name_that_is_taken_at_the_beginning_stays_with_whom_it_still_stands_for(self, store):
        async def taken_from(holder, *, now=NOW):
            """Whether one that begins gets the name of this one."""
            name = f"request {holder.id}"
            new = record()
            naming = Naming("t", name, b"2", now, now + 3_600, 20.0)
            assert await store.write([begin(new, naming=naming)]) == {}
            claim = await store.claim("t", name, b"", "gen_x", now=now, until=now + 1)
            assert claim.generation in {holder.id, new.id}
            return claim.generation == new.id

        def held(of, *, until=LATER):
            return Naming("t", f"request {of.id}", b"1", NOW, until, 20.0)

        running, lately, long_ago = record(), record(), record()
        await store.write([begin(one, naming=held(one)) for one in (running, lately, long_ago)])
        await store.write([append(lately, 0, end=end(LATER - 19))])
        await store.write([append(long_ago, 0, end=end(LATER - 21))])
        assert not await taken_from(running)
        assert not await taken_from(lately)
        assert await taken_from(long_ago)
        assert await taken_from(running, now=LATER), "its claim has run out"
        unwritten, never_written = record(), record()
        await store.claim("t", f"request {unwritten.id}", b"1", unwritten.id, now=NOW, until=LATER - 0.25)
        await store.claim(
            "t", f"request {never_written.id}", b"1", never_written.id, now=NOW, until=LATER - 1
        )
        assert not await taken_from(unwritten), "it may be written down just now"
        assert await taken_from(never_written)

    @with_store
    async def test_of_two_that_begin_together_the_first_has_the_name(self, store):
        one, other = record(), record()
        naming = Naming("t", "request", b"f", NOW, LATER, 20.0)
        await store.write([begin(one, naming=naming), begin(other, naming=naming)])
        assert (await store.claim("t", "request", b"", "gen_x", now=NOW, until=LATER)).generation == one.id

    @with_store
    async def test_of_many_who_take_a_name_one_has_it_and_others_learn_whose_it_is(self, store):
        taken = Naming("t", "question", b"", NOW, LATER, 0.0)
        claims = await asyncio.gather(*(store.take(taken, f"gen_{i}") for i in range(10)))
        (winner,) = [claim for claim in claims if claim.won]
        assert {claim.generation for claim in claims} == {winner.generation}
        assert await store.take(taken, winner.generation) == winner, "it has it already"
        other = Naming("other", "question", b"", NOW, LATER, 0.0)
        assert (await store.take(other, "gen_x")).won, "of another tenant it is another name"

    @with_store
    async def test_a_name_that_was_taken_ends_with_its_generation(self, store):
        one = record()
        taken = Naming("t", "question", b"", NOW, LATER, 0.0)
        assert (await store.take(taken, one.id)).won
        await store.write([begin(one, [b"a"])])
        assert (await store.take(taken, "gen_x")).generation == one.id, "it runs"
        await store.write([append(one, 1, end=end(LATER - 5))])
        lately = Naming("t", "question", b"", NOW, LATER, 6.0)
        assert (await store.take(lately, "gen_x")).generation == one.id, "it has ended lately"
        assert (await store.take(taken, "gen_x")).won
        assert not (await store.take(taken, "gen_y")).won, "the next one may be written down just now"
        much_later = Naming("t", "question", b"", NOW, LATER + 1, 0.0)
        assert (await store.take(much_later, "gen_y")).won, "it was never written down"

    @with_store
    async def test_a_name_goes_on_to_another_if_whose_it_is_answers_nobody(self, store):
        one = record()
        taken = Naming("t", "question", b"f", NOW, LATER, 0.0)
        await store.take(taken, one.id)
        await store.write([begin(one)])
        assert not (await store.take(taken, "gen_x", "gen_y")).won, "that one has not got it"
        assert (await store.take(taken, "gen_x", one.id)).won
        claim = await store.take(taken, "gen_y")
        assert (claim.generation, claim.fingerprint, claim.won) == ("gen_x", b"f", False)

    @with_store
    async def test_what_question_a_generation_answers_is_told_to_who_takes_it_over(self, store):
        one = record()
        one.question = "question 1"
        await store.write([begin(one)])
        await store.release("here", [one.id])
        assert (await store.take_over(one.id, "there", NOW)).question == "question 1"

    # ---- letting go ----

    @with_store
    async def test_what_is_past_its_time_goes_unless_somebody_is_at_it(self, store):
        short, long, running, orphan = record(), record(), record(owner="alive"), record(owner="dead")
        await store.renew("alive", LATER + 1_000)
        await store.write(
            [
                begin(short, [b"x"], end(NOW + 10)),
                begin(long, [b"x"], end(NOW + 20)),
                begin(running, [b"x"]),
                begin(orphan, [b"x"]),
            ]
        )
        assert await store.expire(NOW + 9) == 0
        assert await store.expire(NOW + 10) == 1
        assert await store.load(short.id) is None
        assert await store.events(short.id, 0, LARGE) == []
        assert await store.expire(LATER + 1) == 2
        assert await store.load(long.id) is None
        assert await store.load(orphan.id) is None
        assert (await store.load(running.id)).events == 1
        assert await store.write([append(running, 1, b"y")]) == {}

    @with_store
    async def test_a_generation_that_was_deleted_is_gone_and_cannot_be_written(self, store):
        one, other = record(), record()
        await store.write([begin(one, [b"x"]), begin(other, [b"x"], end())])
        await store.delete(one.id)
        await store.delete(other.id)
        assert await store.write([append(one, 1, b"y")]) == {one.id: Refusal(Reason.UNKNOWN, 0)}
        assert await store.load(one.id) is None
        assert await store.load(other.id) is None
        assert await store.events(one.id, 0, LARGE) == []
        statistics = await store.statistics()
        assert (statistics.generations, statistics.running, statistics.size) == (0, 0, 0)

    def test_the_oldest_finished_go_first_when_there_is_too_much(self):
        async def main():
            async with self.opened(max_bytes=200_000) as store:
                await store.renew("me", LATER)
                running = record()
                await store.write([begin(running, [bytes(1_000)])])
                ones = [record() for _ in range(30)]
                for one in ones:
                    assert await store.write([begin(one, [bytes(10_000)], end())]) == {}
                await store.expire(NOW)
                kept = [await store.load(one.id) is not None for one in ones]
                assert kept == sorted(kept)  # False before True: the older ones went
                assert any(kept)
                assert not all(kept)
                assert (await store.load(running.id)).events == 1
                statistics = await store.statistics()
                assert 100_000 < statistics.size <= 200_000
                assert statistics.generations == sum(kept) + 1
                assert statistics.running == 1
                assert statistics.dropped == kept.count(False)

        asyncio.run(main())

    @with_store
    async def test_statistics_count_what_is_there(self, store):
        one, other = record(), record()
        await store.write([begin(one, [b"abc"]), begin(other, [b"d"], end())])
        statistics = await store.statistics()
        assert (statistics.generations, statistics.running) == (2, 1)
        assert statistics.size >= request_size(one) + request_size(other)

    @with_store
    async def test_many_generations_grow_side_by_side(self, store):
        ones = [record() for _ in range(40)]
        await store.write([begin(one) for one in ones])
        for at in range(150):
            await store.write(
                [append(one, at, b"%d:%d" % (i, at)) for i, one in enumerate(ones) if (i + at) % 7]
            )
            await store.write(
                [append(one, at, b"%d:%d" % (i, at)) for i, one in enumerate(ones) if not (i + at) % 7]
            )
        for i, one in enumerate(ones):
            assert await store.events(one.id, 0, LARGE) == [b"%d:%d" % (i, at) for at in range(150)]
            assert (await store.load(one.id)).events == 150


class SharedStoreSuite(StoreSuite):
    """Of stores that several processes share; each store that is made stands for one."""

    def test_what_one_process_writes_another_reads(self):
        async def main():
            async with self.opened() as mine, self.opened() as theirs:
                one = record()
                await mine.write([begin(one, [b"a"])])
                assert (await theirs.tail({one.id: 0}))[one.id].events == [b"a"]
                for at in range(1, 100):
                    await mine.write([append(one, at, b"%d" % at)])
                assert len((await theirs.tail({one.id: 1}))[one.id].events) == 99
                await mine.write([append(one, 100, end=end())])
                assert (await theirs.tail({one.id: 100}))[one.id].state is State.FINISHED
                assert len(await theirs.events(one.id, 0, LARGE)) == 100

        asyncio.run(main())

    def test_a_producer_that_another_process_has_replaced_is_fenced(self):
        async def main():
            async with self.opened() as old, self.opened() as new:
                one, other = record(owner="old"), record(owner="old")
                await old.renew("old", NOW + 1)
                await new.renew("new", LATER)
                await old.write([begin(one, [b"a"]), begin(other, [b"a"])])
                await old.write([append(one, 1, b"b"), append(other, 1, b"b")])
                assert sorted(await new.expired(NOW + 1, 10)) == sorted([one.id, other.id])
                taken = await new.take_over(one.id, "new", NOW + 1)
                assert (taken.epoch, taken.events) == (2, 2)
                # Only what was taken is fenced.
                assert await old.write([append(one, 2, b"c"), append(other, 2, b"c")]) == {
                    one.id: Refusal(Reason.FENCED, 2)
                }
                assert await new.write([append(taken, 2, b"C", end=end())]) == {}
                assert await new.events(one.id, 0, LARGE) == [b"a", b"b", b"C"]
                assert await new.events(other.id, 0, LARGE) == [b"a", b"b", b"c"]

        asyncio.run(main())

    def test_two_processes_fight_over_leases_and_each_generation_has_one_winner(self):
        async def main():
            async with self.opened() as one, self.opened() as other:
                for store, owner in ((one, "one"), (other, "other")):
                    await store.renew(owner, LATER)
                records = [record(owner="dead") for _ in range(30)]
                await one.write([begin(r, [b"x"]) for r in records])

                async def take(store, owner):
                    return {
                        r.id
                        for r in records
                        if (taken := await store.take_over(r.id, owner, NOW)) is not None
                        and taken.owner == owner
                    }

                mine, theirs = await asyncio.gather(take(one, "one"), take(other, "other"))
                assert not mine & theirs
                assert mine | theirs == {r.id for r in records}

        asyncio.run(main())

    def test_processes_write_at_the_same_time_without_losing_anything(self):
        async def main():
            async with self.opened() as one, self.opened() as other:

                async def produce(store, owner):
                    mine = [record(owner=owner) for _ in range(5)]
                    await store.write([begin(r) for r in mine])
                    for at in range(60):
                        refused = await store.write([append(r, at, b"%d" % at) for r in mine])
                        assert refused == {}
                    return mine

                written = await asyncio.gather(produce(one, "one"), produce(other, "other"))
                for r in written[0] + written[1]:
                    assert await one.events(r.id, 0, LARGE) == [b"%d" % at for at in range(60)]

        asyncio.run(main())

    def test_what_was_written_is_there_after_a_restart(self):
        async def main():
            running, finished = record(owner="before"), record()
            async with self.opened() as store:
                await store.write([begin(running, [b"a"]), begin(finished, [b"x"], end(cost=5))])
                await store.write([append(running, 1, b"b")])
            async with self.opened() as store:
                assert (await store.load(finished.id)).ending.cost == 5
                assert await store.expired(NOW, 10) == [running.id]
                taken = await store.take_over(running.id, "after", NOW)
                assert (taken.epoch, taken.events) == (2, 2)
                assert await store.write([append(taken, 2, b"c", end=end())]) == {}
                assert await store.events(running.id, 0, LARGE) == [b"a", b"b", b"c"]

        asyncio.run(main())
