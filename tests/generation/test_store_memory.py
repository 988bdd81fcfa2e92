import asyncio

from memory_store import MemoryStore
from store_suite import StoreSuite, append, begin, record

from penstock.generation.store import Reason


class TestMemoryStore(StoreSuite):
    def make(self, max_bytes=1 << 26):
        return MemoryStore(max_bytes)


def test_what_has_no_room_beside_those_that_run_is_refused_and_they_stay():
    async def main():
        store = MemoryStore(10_000)
        running = record()
        assert await store.write([begin(running, [bytes(5_000)])]) == {}
        refused = await store.write(
            [append(running, 1, bytes(5_000)), begin(late := record(), [bytes(5_000)])]
        )
        assert [refusal.reason for refusal in refused.values()] == [Reason.FULL, Reason.FULL]
        assert await store.load(late.id) is None
        assert (await store.load(running.id)).events == 1

    asyncio.run(main())
