"""A board over a pool in this process."""

import asyncio


class PoolBoard:
    """A pool in this process, which can be gone, or silent."""

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
