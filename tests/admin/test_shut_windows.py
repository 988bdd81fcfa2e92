import asyncio

from hypercorn.asyncio.worker_context import EventWrapper
from hypercorn.protocol import h2

from penstock.admin.shut_windows import WaitingBuffer


def test_who_writes_waits_until_something_could_be_sent():
    async def main():
        buffer = WaitingBuffer(EventWrapper)
        writing = asyncio.ensure_future(buffer.push(b"x" * (h2.BUFFER_HIGH_WATER + 10)))
        await asyncio.sleep(0)
        for _ in range(3):
            assert await buffer.pop(0) == b""  # the window is shut
            await asyncio.sleep(0)
        assert not writing.done()
        assert len(await buffer.pop(h2.BUFFER_HIGH_WATER)) == h2.BUFFER_HIGH_WATER
        assert await buffer.pop(100) == b"x" * 10
        await writing
        assert await buffer.pop(0) == b""
        await buffer.drain()

    asyncio.run(main())
