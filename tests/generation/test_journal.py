import asyncio
import logging

import pytest
from memory_store import MemoryStore
from store_suite import LARGE, LATER, NOW, end, record

from penstock.generation.journal import BATCH_BYTES, Journal
from penstock.generation.log import State
from penstock.generation.store import Ending, StoreUnavailable, size_of
from penstock.testing import FakeClock

BUDGET = 0.05


class Log:
    """A generation as the journal sees it."""

    def __init__(self, journal, **how):
        self.record = record(**how)
        self.events = []
        self.given = 0
        self.ended = False
        self.fenced = 0
        self.told = []
        self.entry = journal.begin(self.record, self.events, self)

    def append(self, *events):
        self.events += events
        self.entry.appended()

    def end(self):
        self.entry.end(Ending(), LATER)

    def on_stored(self, upto, *, ended):
        assert upto >= self.given, "what was given cannot be taken back"
        self.given = upto
        self.ended = ended
        self.told.append(upto)

    def on_begin(self, record):
        pass

    def on_fenced(self, *, deleted):
        self.fenced += 1


class TroubledStore(MemoryStore):
    """A store that hangs or fails when told to, before or after it has written."""

    def __init__(self, max_bytes=1 << 26):
        super().__init__(max_bytes)
        self.hang = None  # an event to wait for
        self.hang_after = None  # the same, once it has written
        self.fail_before = self.fail_after = ""
        self.tried = 0
        self.poison = None
        self.batches = []

    async def write(self, writes):
        self.tried += 1
        self.batches.append(len(writes))
        for write in writes:
            assert write.size == sum(map(len, write.events))
            assert write.counts == size_of(write.events)
        if self.hang is not None:
            await self.hang.wait()
        if self.fail_before:
            raise StoreUnavailable(self.fail_before)
        if self.poison is not None and any(self.poison in write.events for write in writes):
            raise ValueError("cannot be written")
        refused = await super().write(writes)
        if self.hang_after is not None:
            await self.hang_after.wait()
        if self.fail_after:
            raise StoreUnavailable(self.fail_after)
        return refused


class Time:
    """What the loop's timers go by, where nobody but the test lets it pass."""

    def __init__(self):
        self.now = 0.0
        asyncio.get_running_loop().time = lambda: self.now

    async def pass_by(self, seconds):
        self.now += seconds
        await idle()


def run(test, **how):
    async def main():
        clock, store = FakeClock(), TroubledStore(how.pop("max_bytes", 1 << 26))
        journal = Journal(store, clock, budget=BUDGET, **{"interval": 0, "begin_within": 0, **how})
        journal.start()
        try:
            await test(journal, store, clock)
        finally:
            store.hang = store.hang_after = None
            store.fail_before = store.fail_after = ""
            await journal.close(1)

    asyncio.run(main())


async def idle(rounds=20):
    for _ in range(rounds):
        await asyncio.sleep(0)


def test_a_beginning_waits_for_what_follows_it_and_not_for_long():
    async def test(journal, store, clock):
        time = Time()
        quick = Log(journal)
        quick.append(b"a")
        quick.end()
        await idle()
        assert quick.ended
        assert store.batches == [1], "beginning and end in one"
        slow = Log(journal)
        await time.pass_by(0.009)
        assert await store.load(slow.record.id) is None
        await time.pass_by(0.0011)
        assert await store.load(slow.record.id) is not None
        assert store.batches == [1, 1]

    run(test, begin_within=0.01)


def test_a_flush_stores_beginnings_too():
    async def test(journal, store, clock):
        log = Log(journal)
        assert await journal.flush(5)
        assert await store.load(log.record.id) is not None

    run(test, begin_within=100.0)


def test_readers_are_given_what_is_stored_and_not_before():
    async def test(journal, store, clock):
        log = Log(journal)
        store.hang = asyncio.Event()
        log.append(b"a", b"b")
        await idle()
        assert log.given == 0
        store.hang.set()
        await idle()
        assert log.given == 2
        assert log.entry.durable
        assert await store.events(log.record.id, 0, LARGE) == [b"a", b"b"]

    run(test)


def test_an_answers_first_event_does_not_wait_for_the_company_that_others_wait_for():
    async def test(journal, store, clock):
        streams = Log(journal)
        streams.append(b"a")
        await idle()
        streams.append(b"b")
        await idle()
        assert store.batches == [1]
        assert streams.given == 1
        begins = Log(journal)
        begins.append(b"a")
        await idle()
        assert store.batches == [1, 2], "what waits goes with it"
        assert (streams.given, begins.given) == (2, 1)

    run(test, interval=3_600, first_interval=0, begin_within=3_600)


def test_what_comes_within_an_interval_is_stored_together_also_first_events():
    async def test(journal, store, clock):
        time = Time()
        one = Log(journal)
        one.append(b"a")
        await idle()
        logs = [Log(journal) for _ in range(3)]
        for log in logs:
            log.append(b"a")
            await idle()
        await time.pass_by(0.04)
        assert store.batches == [1]
        await time.pass_by(0.011)
        assert [log.given for log in logs] == [1, 1, 1]
        assert store.batches == [1, 3]

    run(test, interval=3_600, first_interval=0.05, begin_within=3_600)


def test_what_a_store_lost_is_written_again_though_nothing_is_added_to_it():
    async def test(journal, store, clock):
        waits, streams = Log(journal), Log(journal)
        streams.append(b"a", b"b")
        await idle()
        for log in (waits, streams):
            await store.delete(log.record.id)
        journal.verify()
        await idle()
        assert (await store.load(waits.record.id)).state is State.RUNNING
        assert await store.events(streams.record.id, 0, LARGE) == [b"a", b"b"]
        assert (waits.fenced, streams.fenced, journal.statistics().behind) == (0, 0, 0)
        journal.verify()  # nothing is lost, and nothing happens
        await idle()
        assert (await store.load(streams.record.id)).events == 2

    run(test)


def test_who_asks_whether_a_log_is_still_his_hears_what_the_store_says_from_then_on():
    async def test(journal, store, clock):
        mine, lost, new = Log(journal), Log(journal), Log(journal)
        mine.append(b"a")
        lost.append(b"a")
        await idle()
        store.hang_after = asyncio.Event()
        mine.append(b"b")
        lost.append(b"b")  # is stored before it is lost, which is heard of later
        await idle()
        answers = [asyncio.create_task(log.entry.wait_confirmed(60.0)) for log in (mine, lost)]
        await idle()
        assert not any(answer.done() for answer in answers)
        await store.cut(lost.record.id, end())
        store.hang_after.set()
        assert [await answer for answer in answers] == [True, False]
        assert (mine.fenced, lost.fenced) == (0, 1)
        assert await new.entry.wait_confirmed(60.0), "nobody can have what is not stored"

    run(test, begin_within=3_600)


def test_a_store_that_does_not_say_whose_a_log_is_takes_it_from_nobody():
    async def test(journal, store, clock):
        log, silent = Log(journal), Log(journal)
        for one in (log, silent):
            one.append(b"a")
        await idle()
        store.hang = asyncio.Event()
        assert await silent.entry.wait_confirmed(0.001)
        answer = asyncio.create_task(log.entry.wait_confirmed(60.0))
        log.append(b"b")
        await idle()
        clock.advance(2 * BUDGET)
        journal.sweep(clock.now())
        assert await answer
        store.hang.set()

    run(test)


def test_everything_that_is_not_over_can_be_asked_for_whose_it_is():
    async def test(journal, store, clock):
        cut, deleted, mine = logs = [Log(journal) for _ in range(3)]
        for log in logs:
            log.append(b"a")
        await idle()
        await store.cut(cut.record.id, end())
        await store.delete(deleted.record.id)
        journal.ask_of_all()
        await idle()
        assert [log.fenced for log in logs] == [1, 1, 0]
        assert await store.load(deleted.record.id) is None, "what was deleted is not written anew"
        assert mine.entry.durable

    run(test)


def test_what_comes_while_a_batch_is_under_way_goes_together_into_the_next():
    async def test(journal, store, clock):
        logs = [Log(journal) for _ in range(3)]
        await idle()
        store.hang = asyncio.Event()
        logs[0].append(b"x")
        await idle()
        for log in logs:
            log.append(b"1")
            log.append(b"2")
        store.hang.set()
        await idle()
        assert store.batches == [3, 1, 3]
        assert [log.given for log in logs] == [3, 2, 2]

    run(test)


def test_an_end_is_told_once_it_is_stored_and_the_journal_forgets_the_log():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a")
        log.end()
        assert not log.ended
        await idle()
        assert (log.given, log.ended) == (1, True)
        assert (await store.load(log.record.id)).state is State.FINISHED
        assert journal.statistics().open == 0
        assert journal.statistics().held_bytes == 0

    run(test)


def test_a_generation_without_events_can_end():
    async def test(journal, store, clock):
        log = Log(journal)
        await idle()
        log.end()
        await idle()
        assert (log.given, log.ended) == (0, True)

    run(test)


def test_a_slow_store_does_not_hold_up_readers_and_durability_returns_with_it(caplog):
    async def test(journal, store, clock):
        log, quiet = Log(journal), Log(journal)
        await idle()
        store.hang = asyncio.Event()
        log.append(b"a")
        await idle()
        clock.advance(BUDGET * 0.9)
        assert log.given == 0
        clock.advance(BUDGET * 0.2)
        assert log.given == 1
        assert not log.entry.durable
        assert quiet.entry.durable  # it has nothing that is not stored
        log.append(b"b")
        assert log.given == 2  # at once
        late = Log(journal)
        late.append(b"x")
        assert late.given == 1
        assert not late.entry.durable
        assert journal.statistics().behind == 2

        store.hang.set()
        await idle()
        assert log.entry.durable
        assert late.entry.durable
        assert journal.statistics().behind == 0
        assert journal.statistics().exposed == 2
        assert await store.events(log.record.id, 0, LARGE) == [b"a", b"b"]
        store.hang = asyncio.Event()
        log.append(b"c")
        await idle()
        assert log.given == 2  # it waits again
        store.hang.set()
        await idle()
        assert log.given == 3

    with caplog.at_level(logging.WARNING):
        run(test)
    assert len([r for r in caplog.records if "slow" in r.getMessage()]) == 1


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
def test_when_the_store_fails_generations_go_on_and_are_stored_once_it_is_back(when, caplog):
    async def test(journal, store, clock):
        old, ending = Log(journal), Log(journal)
        old.append(b"1")
        await idle()
        setattr(store, when, "the disk is gone")
        old.append(b"2")
        ending.append(b"x")
        ending.end()
        await idle()
        assert old.given == 2
        assert (ending.given, ending.ended) == (1, True)
        assert not old.entry.durable
        new = Log(journal)
        for i in range(50):
            new.append(b"%d" % i)
            assert new.given == i + 1
        for _ in range(20):
            clock.advance(0.1)
            await idle()
        assert 2 <= store.tried <= 8  # it is tried again, with pauses
        assert journal.statistics().trouble == "the disk is gone"
        setattr(store, when, "")
        clock.advance(10)
        await idle(50)
        assert journal.statistics().trouble == ""
        assert journal.statistics().behind == 0
        assert old.entry.durable
        assert new.entry.durable
        assert await store.events(old.record.id, 0, LARGE) == [b"1", b"2"]
        assert await store.events(new.record.id, 0, LARGE) == [b"%d" % i for i in range(50)]
        assert (await store.load(ending.record.id)).state is State.FINISHED
        assert not old.fenced

    with caplog.at_level(logging.WARNING):
        run(test)
    assert len(caplog.records) == 2  # that it is gone, and that it is back


def test_a_store_that_lost_everything_is_given_everything_again():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a", b"b")
        await idle()
        store.fail_before = "restarting"
        log.append(b"c")
        await idle()
        await store.delete(log.record.id)
        store.fail_before = ""
        clock.advance(1)
        await idle()
        assert log.entry.durable
        assert not log.fenced
        assert await store.events(log.record.id, 0, LARGE) == [b"a", b"b", b"c"]

    run(test)


def test_a_store_that_lost_the_last_events_is_given_these_again():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a", b"b", b"c")
        await idle()
        kept = store._kept[log.record.id]
        del kept.events[1:]
        log.append(b"d")
        await idle()
        assert await store.events(log.record.id, 0, LARGE) == [b"a", b"b", b"c", b"d"]
        assert log.entry.durable

    run(test)


def test_a_generation_that_was_taken_over_is_fenced_and_its_readers_get_no_more():
    async def test(journal, store, clock):
        log, other = Log(journal), Log(journal)
        log.append(b"a")
        await idle()
        assert (await store.take_over(log.record.id, "somebody", NOW)).epoch == 2
        log.append(b"b")
        other.append(b"x")
        await idle()
        assert log.fenced == 1
        assert log.given == 1
        assert other.given == 1
        log.append(b"c")
        log.end()
        await idle()
        assert log.given == 1
        assert await store.events(log.record.id, 0, LARGE) == [b"a"]
        assert journal.statistics().fenced == 1
        assert journal.statistics().open == 1

    run(test)


def test_a_process_that_stood_still_shows_nothing_that_is_not_stored_before_it_hears_that_it_is_fenced():
    """As after SIGSTOP and SIGCONT: it wakes with a batch under way, and the clocks run out before the answer is read."""

    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a")
        await idle()
        store.hang = asyncio.Event()
        log.append(b"b")
        await idle()
        await store.take_over(log.record.id, "another", NOW)
        clock.advance(10)
        log.append(b"c")
        clock.advance(BUDGET * 0.9)
        await idle()
        assert log.given == 1
        store.hang.set()
        await idle()
        assert (log.given, log.fenced) == (1, 1)
        assert await store.events(log.record.id, 0, LARGE) == [b"a"]

    run(test)


def test_but_a_store_that_is_slow_after_that_is_waited_for_no_longer():
    async def test(journal, store, clock):
        log = Log(journal)
        store.hang = asyncio.Event()
        log.append(b"a")
        await idle()
        clock.advance(10)
        clock.advance(BUDGET * 1.1)
        assert (log.given, log.entry.durable) == (1, False)
        store.hang.set()

    run(test)


def test_a_generation_that_was_deleted_is_fenced_too():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a")
        await idle()
        await store.delete(log.record.id)
        log.append(b"b")
        await idle()
        assert log.fenced == 1
        assert await store.load(log.record.id) is None

    run(test)


def test_whoever_takes_over_goes_on_where_the_store_is():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a", b"b")
        await idle()
        taken = await store.take_over(log.record.id, "me again", NOW)

        class Successor(Log):
            def __init__(self):
                self.events = [b"a", b"b"]
                self.record = taken
                self.given, self.ended, self.fenced, self.told = 2, False, 0, []
                self.entry = journal.resume(taken, self.events, self)

        successor = Successor()
        successor.append(b"c")
        successor.end()
        await idle()
        assert (successor.given, successor.ended) == (3, True)
        assert await store.events(taken.id, 0, LARGE) == [b"a", b"b", b"c"]

    run(test)


def test_a_log_that_is_far_behind_is_stored_in_several_batches():
    async def test(journal, store, clock):
        log = Log(journal)
        events = [bytes([i]) * (BATCH_BYTES // 3) for i in range(10)]
        log.append(*events)
        log.end()
        await idle(100)
        assert log.told == [3, 6, 9, 10]
        assert log.ended
        assert len(store.batches) == 4
        assert await store.events(log.record.id, 0, LARGE) == events

    run(test)


def test_an_event_that_cannot_be_written_costs_only_its_own_generation_its_durability(caplog):
    async def test(journal, store, clock):
        good, bad = Log(journal), Log(journal)
        store.poison = b"poison"
        bad.append(b"poison")
        good.append(b"fine")
        for _ in range(20):
            clock.advance(1)
            await idle()
        assert good.entry.durable
        assert await store.events(good.record.id, 0, LARGE) == [b"fine"]
        assert not bad.entry.durable
        assert bad.given == 1
        bad.append(b"more")
        assert bad.given == 2
        bad.end()
        assert bad.ended
        assert journal.statistics().given_up == 1
        assert await store.load(bad.record.id) is None

    run(test)


def test_ended_generations_that_wait_too_long_are_given_up_oldest_first_and_never_half_kept():
    async def test(journal, store, clock):
        old = Log(journal)
        old.append(b"begun")
        await idle()
        store.fail_before = "gone"
        logs = [old] + [Log(journal) for _ in range(5)]
        for log in logs:
            log.append(bytes(1_000))
            await idle()
            log.end()
            assert (log.given, log.ended) == (len(log.events), True)
        assert journal.statistics().held_bytes <= 3_500
        assert journal.statistics().given_up == 3
        store.fail_before = ""
        clock.advance(10)
        await idle(100)
        kept = [await store.load(log.record.id) for log in logs]
        assert [record is not None and record.state is State.FINISHED for record in kept] == [False] * 3 + [
            True
        ] * 3
        assert kept[:3] == [None] * 3
        assert journal.statistics().behind == 0

    run(test, max_held_bytes=3_500)


def test_what_the_store_has_no_room_for_is_not_claimed_to_be_durable():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"x" * 100)
        await idle()
        log.append(bytes(100_000))
        await idle()
        assert log.given == 2
        assert not log.entry.durable
        assert not log.fenced
        other = Log(journal)
        other.append(b"y")
        await idle()
        assert other.entry.durable
        assert await store.load(log.record.id) is None  # nobody shall take over the half of it

    run(test, max_bytes=50_000)


def test_flush_waits_for_everything_that_was_appended():
    async def test(journal, store, clock):
        log = Log(journal)
        store.hang = asyncio.Event()
        log.append(b"a")
        assert not await journal.flush(0.01)
        store.hang.set()
        assert await journal.flush(1)
        assert log.given == 1
        assert await journal.flush(0)

    run(test)


def test_close_writes_what_waits_and_says_what_it_could_not(caplog):
    async def main():
        for hangs in (False, True):
            store = TroubledStore()
            journal = Journal(store, FakeClock(), interval=0)
            journal.start()
            log = Log(journal)
            log.append(b"a")
            if hangs:
                store.hang = asyncio.Event()
            await journal.close(0.05)
            assert log.given == (0 if hangs else 1)
            assert ("not stored to their end" in caplog.text) is hangs

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())


def test_a_defect_of_one_log_does_not_reach_the_others(caplog):
    class Broken(Log):
        def on_stored(self, upto, *, ended):
            raise RuntimeError("mine")

    async def test(journal, store, clock):
        broken, good = Broken(journal), Log(journal)
        broken.append(b"a")
        good.append(b"b")
        await idle()
        assert good.given == 1
        good.append(b"c")
        await idle()
        assert good.given == 2

    run(test)
    assert "defect" in caplog.text


def test_reprs_tell_the_state():
    async def test(journal, store, clock):
        log = Log(journal)
        log.append(b"a")
        await idle()
        assert "1 of 1 events stored, durable" in repr(log.entry)
        assert "1 generations, 0 behind, well" in repr(journal)

    run(test)
