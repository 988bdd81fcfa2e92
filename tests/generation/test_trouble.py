"""What the log says of a store in trouble: that it is, and that it is over."""

import asyncio

from penstock.generation.keeper import Keeper
from penstock.generation.store import StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.generation.trouble import QUIET
from penstock.testing import FakeClock
from waiting import until


class NobodysRuns:
    def deserted(self):
        return []


class TroubledStore(SQLiteStore):
    """Its lease cannot be renewed as long as that is in ``trouble``; ``renewals`` counts the tries."""

    def __init__(self, path, clock):
        super().__init__(path, 1 << 26)
        self.trouble = ""
        self.renewals = 0
        self._clock = clock

    async def time(self):
        return self._clock.now()

    async def renew(self, owner, until):
        self.renewals += 1
        if self.trouble:
            raise StoreUnavailable(f"{self.trouble} {self.renewals}")
        await super().renew(owner, until)


def test_trouble_with_the_store_is_told_once_with_its_place_and_so_is_its_end(tmp_path, caplog):
    async def test():
        clock = FakeClock()
        store = TroubledStore(tmp_path / "g.db", clock)
        keeper = Keeper(store, clock, kept_for=60.0, lease=0.02)
        await keeper.start(NobodysRuns())

        async def some_turns():
            seen = store.renewals
            await until(lambda: store.renewals >= seen + 3)

        store.trouble = "no"
        await some_turns()
        clock.advance(30.0)
        await some_turns()
        store.trouble = ""
        await some_turns()  # for a moment it is well
        store.trouble = "not yet"
        await some_turns()
        store.trouble = ""
        await some_turns()
        assert len(caplog.records) == 1
        clock.advance(QUIET + 1.0)
        await some_turns()
        await keeper.close()

    with caplog.at_level("WARNING", "penstock.gateway"):
        asyncio.run(test())
    began, over = [found.getMessage() for found in caplog.records]
    assert began.startswith(f"stored answers cannot be read now ({tmp_path}/g.db: no ")
    assert over == f"stored answers can be read again: {tmp_path}/g.db was in trouble for 30 s"
