"""In whose ledger stands what an answer has cost."""

import asyncio

import pytest
from journaled_log import JournaledLog
from memory_store import MemoryStore
from store_suite import NOW

from penstock.generation.bill import HEAR_EVERY, REMEMBERED, Bookings, OpenBill, booked_now, left
from penstock.generation.journal import Journal
from penstock.generation.store import Bill, Booking
from penstock.messages import Attempt, Outcome, Usage
from penstock.net.clock import Clock


def attempt(row, output_tokens=0, outcome=None):
    one = Attempt("id", "gen", 1, "t", "k", "", "chat", "m", "up", "um", NOW, Usage(), row=row)
    one.usage, one.outcome = Usage(2, output_tokens), outcome
    return one


def test_a_bill_names_the_row_that_is_open_and_what_is_in_rows():
    bill = OpenBill("mine", "process", {"theirs": 5})
    assert bill.now() == Bill("mine", "process", 0, {"theirs": 5})
    first, second = attempt(1), attempt(2)
    assert bill.opened(first, 4) == Bill("mine", "process", 1, {"theirs": 5}, "up", "um")
    first.usage, first.outcome = Usage(2, 3), Outcome.PARTIAL
    bill.settled(first, 7)
    assert bill.opened(second, 7) == Bill("mine", "process", 2, {"theirs": 5, "mine": 3}, "up", "um")
    assert bill.closed() == Bill("mine", "process", 0, {"theirs": 5, "mine": 3})


def test_what_is_in_a_row_and_not_in_the_log_is_not_taken_for_a_part_of_it():
    """Half a body of a plain answer, say: who goes on is asked for all of it, and pays for all of it."""
    bill = OpenBill("mine", "process")
    broken, begun = attempt(1), attempt(2)
    bill.opened(broken, 0)
    broken.usage, broken.outcome = Usage(2, 19, estimated=True), Outcome.PARTIAL
    bill.settled(broken, 0)
    after = bill.opened(begun, 0)
    assert after == Bill("mine", "process", 2, {}, "up", "um")
    assert left(Usage(2, 12), sum(after.booked.values())) == Usage(2, 12, estimated=True)


def test_of_two_that_were_asked_at_once_the_one_that_is_left_is_named():
    for lost, won in ((1, 2), (2, 1)):
        bill = OpenBill("mine", "process")
        both = {row: attempt(row) for row in (1, 2)}
        for one in both.values():
            bill.opened(one, 0)
        both[lost].usage, both[lost].outcome = Usage(2, 4), Outcome.HEDGED_AWAY
        bill.settled(both[lost], 3)
        assert bill.now() == Bill("mine", "process", won, {}, "up", "um")


def test_a_run_that_the_upstream_keeps_is_left_to_who_takes_over_unless_another_is_asked_at_once():
    bill = OpenBill("mine", "process")
    first, second = attempt(1), attempt(2)
    kept = bill.opened(first, 0, kept=True)
    assert kept == bill.handed_over() == Bill("mine", "process", 1, {}, "up", "um", kept=True)
    assert not bill.opened(second, 0, kept=True).kept
    assert bill.handed_over() == bill.closed()
    first.outcome = Outcome.HEDGED_AWAY
    bill.settled(first, 1)
    assert bill.handed_over().row == 2
    second.outcome = Outcome.PARTIAL
    bill.settled(second, 1)
    assert bill.handed_over() == bill.closed()


def test_what_is_left_is_what_no_row_has():
    assert left(Usage(7, 5), 0) == Usage(7, 5, estimated=True)
    assert left(Usage(7, 5), 2) == Usage(
        9, 3, estimated=True
    )  # the text that there was is part of the prompt
    assert left(Usage(7, 5), 5) is None


@pytest.mark.parametrize(
    ("bill", "booked"),
    [
        (None, {"new": 9}),
        (Bill("old", "p", 3, {"old": 2, "new": 1}), {"old": 2, "new": 7}),  # who took over enters the rest
        (Bill("old", "p", 0, {"old": 2, "new": 1}), {"old": 8, "new": 1}),  # who handed over does
        (Bill("old", "p", 3, {"old": 12}), {"old": 12, "new": 0}),
    ],
)
def test_once_it_was_taken_over_all_of_it_is_in_rows(bill, booked):
    assert booked_now(bill, "new", 9) == booked


class Clumsy(MemoryStore):
    """Each write's outcome is unknown the first time."""

    def __init__(self):
        super().__init__(1 << 20)
        self.bills = []

    async def write(self, writes):
        self.bills += [write.bill for write in writes]
        return await super().write(writes)


def test_the_store_hears_of_each_bill_once_and_before_there_is_more_of_the_answer():
    async def test():
        store = Clumsy()
        journal = Journal(store, Clock(), interval=0.0, begin_within=0.0)
        log = JournaledLog(journal)
        first, second = Bill("l", "p", 1), Bill("l", "p", 2, {"l": 1})
        log.entry.bill = first
        journal.start()
        log.append(b"a")
        assert await journal.flush(5.0)
        assert (await store.load(log.record.id)).bill == first
        log.append(b"b")
        assert await journal.flush(5.0)
        assert store.bills == [None, None]  # with its beginning it is in the record
        log.entry.open_bill(second)  # nothing of the answer has come yet
        assert await journal.flush(5.0)
        assert (await store.load(log.record.id)).bill == second
        log.append(b"c")
        assert await journal.flush(5.0)
        assert store.bills == [None, None, second, None]
        await store.delete(log.record.id)
        journal.verify()  # it may have lost everything
        assert await journal.flush(5.0)
        assert (await store.load(log.record.id)).bill == second
        await journal.close()

    asyncio.run(test())


class OurBooks:
    """A ledger whose rows are settled one by one."""

    process = "process"

    def __init__(self):
        self.ledger = ""
        self.settled = set()
        self.deducted = []

    async def open(self, patience=0.0):
        self.ledger = "ours"

    async def deduct(self, bookings):
        done = [one for one in bookings if one.row in self.settled]
        self.deducted += [one.row for one in done]
        return done


def test_what_others_have_entered_is_taken_off_once_each_row_is_settled_and_forgotten_later():
    async def test():
        store, books = MemoryStore(1 << 20), OurBooks()
        bookings = Bookings(store, books)
        for row in (1, 2):
            await store.book("ours", Booking("process", row, "gen", Usage(1, 1), 0, NOW))
        books.settled = {1}
        await bookings.hear(NOW)
        assert books.deducted == [1]
        await bookings.hear(NOW + HEAR_EVERY / 2)  # it is not looked all the time
        books.settled = {1, 2}
        assert books.deducted == [1]
        await bookings.hear(NOW + HEAR_EVERY)
        assert books.deducted == [1, 2]
        # Somebody else may be about to leave word of the same.
        assert not await store.book("ours", Booking("process", 1, "gen", Usage(1, 1), 0, NOW + 1))
        await bookings.hear(NOW + REMEMBERED + HEAR_EVERY)
        assert await store.bookings("ours") == []
        assert books.deducted == [1, 2]

    asyncio.run(test())
