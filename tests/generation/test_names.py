"""For how long a call waits to learn whether its name is somebody else's."""

import math

from penstock.generation.names import CLAIM_BUDGET, KEY_PATIENCE, Names
from penstock.generation.store import StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.generation.trouble import Trouble
from penstock.testing import FakeClock


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
