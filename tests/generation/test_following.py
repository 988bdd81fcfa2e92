"""What runs elsewhere is followed: every event once, whoever fetches it."""

import asyncio
import time

from store_suite import LATER, append, begin, record

from penstock.generation.attention import Attention
from penstock.generation.following import Following
from penstock.generation.log import Generation
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.generation.trouble import Trouble
from penstock.messages import Endpoint
from penstock.net.clock import Clock


class SlowStore(SQLiteStore):
    """Tells what is new once only when it is told to."""

    def __init__(self, path):
        super().__init__(path, 1 << 26)
        self.holds = False
        self.held = asyncio.Event()
        self.go_on = asyncio.Event()
        self.answered = asyncio.Event()

    async def tail(self, wanted):
        found = await super().tail(wanted)
        if self.holds and any(tail.events for tail in found.values()):
            self.holds = False
            self.held.set()
            await self.go_on.wait()
        elif self.go_on.is_set():
            self.answered.set()
        return found


def test_what_a_reader_brings_who_comes_back_is_not_brought_once_more_by_a_look_that_was_under_way(tmp_path):
    async def test():
        elsewhere = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await elsewhere.start()
        await elsewhere.renew("me", LATER)
        one = record()
        await elsewhere.write([begin(one, [b"0", b"1"])])

        store = SlowStore(tmp_path / "g.db")
        await store.start()
        clock = Clock()
        following = Following(store, clock, Trouble(store, clock), Attention(store, time.time))
        looking = asyncio.get_running_loop().create_task(following.run())
        generation = Generation(
            one.id, endpoint=Endpoint.CHAT, tenant="t", model="m", stream=True, started=0.0, max_bytes=1 << 20
        )
        await following.restore(await store.load(one.id), generation)
        store.holds = True
        await elsewhere.write([append(one, 2, b"2", b"3")])
        await store.held.wait()  # its own look has the two that are new, and is not back
        await following.catch_up(generation)
        assert generation.events == [b"0", b"1", b"2", b"3"]
        store.go_on.set()
        await store.answered.wait()  # its next look
        assert generation.events == [b"0", b"1", b"2", b"3"]
        following.leave(generation)
        looking.cancel()
        await asyncio.wait([looking])
        await store.close()
        await elsewhere.close()

    asyncio.run(test())
