"""A board over a pool in this process, and the processes that share it."""

import asyncio

from penstock.flow.sharing import Pool


class PoolBoard:
    """A pool in this process, which can be gone, or silent."""

    name = "the pool"

    def __init__(self, pool, member, clock):
        self.pool = pool
        self.member = member
        self.clock = clock
        self.state = "well"
        self.resets = 0

    def exchange(self, reports, *, rejoins):
        found = asyncio.get_running_loop().create_future()
        if self.state == "well":
            found.set_result(self.pool.exchange(self.member, reports, self.clock.now(), rejoins=rejoins))
        elif self.state == "gone":
            found.set_exception(ConnectionError("nobody there"))
        return found

    def reset(self):
        self.resets += 1

    async def open(self):
        pass

    async def close(self):
        pass


class SharedPool:
    """``processes``, each with its ``lessee`` and ``board``, over one pool."""

    def __init__(self, clock, count):
        self.clock = clock
        self.count = count
        self.pool = Pool()
        self.processes = []

    async def start(self):
        # Timers go by the same clock: by the machine's they would fire between any two steps of a test.
        asyncio.get_running_loop().time = self.clock.now
        for process in self.processes:
            await process.lessee.use(process.board)
        await self.turn(0.2)
        return self

    async def turn(self, seconds=0.1):
        """So much later all processes have said what they had to."""
        await self.settle()
        self.clock.advance(seconds)
        for process in self.processes:
            process.sweep(self.clock.now())
        await self.settle()

    async def kill(self, process):
        """It says nothing any more, also of what it was about to say."""
        self.processes.remove(process)
        await process.lessee.use(None)

    async def settle(self):
        for _ in range(3):
            await asyncio.sleep(0)
