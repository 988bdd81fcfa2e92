"""For how long a call waits to learn whose its name is, and for how long it is whose it is."""

import asyncio
import math
import time

from store_suite import begin, record

from penstock.generation.names import CLAIM_BUDGET, KEY_PATIENCE, Names
from penstock.generation.store import Naming, StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.generation.trouble import Trouble
from penstock.generation.written import Name
from penstock.net.clock import Clock
from penstock.testing import FakeClock
from waiting import until


def test_a_store_is_waited_for_as_long_as_the_answer_is_of_use_and_only_until_it_has_failed_somebody(
    tmp_path,
):
    clock, store = FakeClock(), SQLiteStore(tmp_path / "g.db", 1 << 26)
    names = Names(store, clock.now, clock, Trouble(store, clock), kept_for=60.0)
    usual, longest = CLAIM_BUDGET, KEY_PATIENCE
    assert usual < 2.0 < longest
    assert [names.patience(left, named=True) for left in (math.inf, 2.0)] == [longest, 2.0]
    assert names.patience(math.inf, named=False) == usual
    names.unheard(StoreUnavailable("no answer"), named=False)
    assert names.patience(math.inf, named=True) == longest
    names.unheard(StoreUnavailable("no answer"), named=True)
    assert names.patience(math.inf, named=True) == usual
    assert names.unclaimed == 2


def test_a_question_that_a_store_has_lost_is_its_generations_again_for_as_long_as_that_runs(tmp_path):
    async def test():
        store, clock = SQLiteStore(tmp_path / "g.db", 1 << 26), Clock()
        names = Names(store, time.time, clock, Trouble(store, clock), kept_for=60.0)
        await store.start()
        one = record()
        await store.write([begin(one)])
        question = Name("t", "question 00", b"")
        names.claim_again(one.id, [question], question)
        await until(lambda: not names.unnamed)
        later = time.time() + 600.0
        claim = await store.take(Naming(*question, later, later + 60.0, 0.0), "gen_other")
        await names.close()
        await store.close()
        return claim.generation == one.id

    assert asyncio.run(test())
