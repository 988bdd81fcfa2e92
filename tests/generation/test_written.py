"""A generation and its entry in the journal."""

import asyncio
import gc

import pytest
from memory_store import MemoryStore
from store_suite import LATER, record

from penstock.generation.bill import OpenBill
from penstock.generation.entry import Entry
from penstock.generation.journal import Journal
from penstock.generation.log import Generation, State
from penstock.generation.store import StoreUnavailable
from penstock.generation.written import Written
from penstock.messages import Attempt, Endpoint, Outcome, Usage
from penstock.net.clock import Clock


class Broken(MemoryStore):
    broken = True

    async def write(self, writes):
        if self.broken:
            raise StoreUnavailable("broken")
        return await super().write(writes)


def written(journal, one, account=None):
    generation = Generation(
        one.id, endpoint=Endpoint.CHAT, tenant="t", model="m", stream=True, started=0.0, max_bytes=1 << 20
    )
    generation.journal = entry = Written(generation, 60.0, [], lambda *_: None, lambda: 0.0, account)
    entry.enter(journal.begin(one, generation.events, entry))
    return generation


@pytest.mark.parametrize(("kept", "booked"), [(True, 5), (False, 0)])
def test_an_attempt_that_reads_a_kept_run_on_has_all_of_the_log_in_its_row_and_another_what_it_has_brought(
    kept, booked
):
    async def test():
        account = OpenBill("mine", "process")
        generation = written(Journal(MemoryStore(1 << 20), Clock()), record(), account)
        generation.append([b"what another process had received"], 0.0)
        generation.kept = int(kept)
        names = "gen", 1, "t", "k", "", "responses", "m", "up", "um"
        attempt = Attempt("id", *names, 0.0, Usage(), outcome=Outcome.PARTIAL)
        attempt.usage = Usage(2, 5)
        generation.journal.opened(attempt)
        generation.journal.settled(attempt)
        assert account.now().booked.get("mine", 0) == booked

    asyncio.run(test())


@pytest.mark.parametrize("broken", [False, True])
def test_what_writing_a_log_took_goes_when_all_of_it_is_stored_and_not_before(broken):
    async def test():
        store = Broken(1 << 20)
        store.broken = broken
        await store.start()
        await store.renew("me", LATER)
        journal = Journal(store, Clock(), interval=0.0, begin_within=0.0)
        generation = written(journal, record())
        generation.append([b"event"], 0.0)
        journal.start()
        generation.finish()
        assert await journal.flush(0.05 if broken else 5.0) is not broken
        assert generation.state is State.FINISHED
        assert generation.durable is not broken
        gc.collect()
        entries = [one for one in gc.get_objects() if isinstance(one, Entry) and one.journal is journal]
        assert bool(entries) is broken
        generation.forget()
        await journal.close(0.1)

    asyncio.run(test())
