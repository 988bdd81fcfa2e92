"""How a request goes out on a connection of an upstream's, and when that upstream is idle."""

import asyncio

import pytest
from calling import a_call, generation_of, upstream

from penstock.config.model import PoolConfig, TimeoutConfig
from penstock.errors import Overloaded, UpstreamBroken, UpstreamUnreachable
from penstock.net.connection import StaleConnection
from penstock.testing import FakeClock


class Wire:
    """A connection whose answers are futures in the test's hands."""

    def __init__(self):
        self.answer = asyncio.get_running_loop().create_future()
        self.log = []
        self.cut = False

    def send(self, head, body, receiver):
        self.log.append("send")
        return self.answer

    def abort(self):
        self.log.append("abort")
        if not self.answer.done():
            self.answer.set_exception(UpstreamBroken("cut off by this side"))

    def hang_up(self, grace):
        self.log.append("hang_up")
        if not self.answer.done():
            self.answer.set_result(None)


class Connections:
    """A pool that hands out what it is given, when it is given."""

    def __init__(self):
        self.next = asyncio.get_running_loop().create_future()

    def acquire_nowait(self):
        return None

    async def acquire(self, *, fresh=False):
        return await self.next

    async def close(self):
        pass


def under_way(clock, **more):
    an_upstream = upstream(clock=clock, **more)
    an_upstream.pool = Connections()
    call = a_call()
    transfer = an_upstream.transfer(call, generation_of(call), TimeoutConfig(first_token=10, total=100))
    return an_upstream, transfer


def stale():
    return StaleConnection("up.test:81 closed the connection while it was idle")


def test_a_connection_that_was_closed_while_idle_is_replaced_once():
    async def main():
        an_upstream, transfer = under_way(FakeClock())
        first, second = Wire(), Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, first, b"", b""))
        await asyncio.sleep(0)
        first.answer.set_exception(stale())
        an_upstream.pool.next.set_result(second)
        while "send" not in second.log:
            await asyncio.sleep(0)
        second.answer.set_exception(stale())
        with pytest.raises(UpstreamUnreachable) as caught:
            await sending
        return caught.value

    error = asyncio.run(main())
    assert error.upstream == "up"
    assert "up.test" not in error.message


def test_who_leaves_while_a_replacement_is_sought_is_not_served_by_it():
    async def main():
        an_upstream, transfer = under_way(FakeClock())
        first = Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, first, b"", b""))
        await asyncio.sleep(0)
        first.answer.set_exception(stale())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transfer.connection is None, "there is nothing to hang up on: who leaves cancels the task"
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert an_upstream._transfers == {}

    asyncio.run(main())


def test_a_clock_that_runs_out_while_a_replacement_is_sought_lets_nothing_be_sent():
    async def main():
        clock = FakeClock()
        an_upstream, transfer = under_way(clock)
        first, second = Wire(), Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, first, b"", b""))
        await asyncio.sleep(0)
        first.answer.set_exception(stale())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.advance(11)
        an_upstream.pool.next.set_result(second)
        with pytest.raises(Exception, match="sent nothing"):
            await sending
        return second.log

    assert asyncio.run(main()) == ["abort"]


def test_a_connection_that_has_gone_on_to_another_call_is_left_alone():
    """Between the end of an answer and the turn of the task that waits for it, the connection is the pool's."""

    async def main():
        clock = FakeClock()
        an_upstream, transfer = under_way(clock)
        wire = Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, wire, b"", b""))
        await asyncio.sleep(0)
        transfer.on_head(200, {b"content-type": b"application/json"})
        transfer.on_data(b'{"choices":[]}')
        wire.answer.set_result(None)
        transfer.hang_up(1.0)
        transfer.resume()
        clock.advance(1_000)
        await sending
        return wire.log, transfer.cancelled

    assert asyncio.run(main()) == (["send"], False)


def test_a_cancelled_call_cuts_its_connection():
    async def main():
        an_upstream, transfer = under_way(FakeClock())
        wire = Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, wire, b"", b""))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        return wire.log

    assert asyncio.run(main()) == ["send", "abort"]


@pytest.mark.parametrize("waiters", [1, 3])
def test_who_waits_for_idleness_is_woken_even_if_another_gave_up(waiters):
    async def main():
        an_upstream, transfer = under_way(FakeClock())
        wire = Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, wire, b"", b""))
        waiting = [asyncio.ensure_future(an_upstream.wait_idle()) for _ in range(waiters)]
        await asyncio.sleep(0)
        gave_up = asyncio.ensure_future(an_upstream.wait_idle())
        await asyncio.sleep(0)
        gave_up.cancel()
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiting)
        wire.hang_up(0)
        with pytest.raises(UpstreamBroken):
            await sending
        await asyncio.gather(*waiting)

    asyncio.run(main())


def test_a_closed_upstream_is_swept_as_long_as_it_has_calls():
    async def main():
        clock = FakeClock()
        an_upstream, transfer = under_way(clock)
        await an_upstream.close()
        assert an_upstream not in clock._sweepables
        wire = Wire()
        sending = asyncio.ensure_future(an_upstream.send(transfer, wire, b"", b""))
        await asyncio.sleep(0)
        clock.advance(11)
        with pytest.raises(Exception, match="sent nothing"):
            await sending
        assert an_upstream not in clock._sweepables

    asyncio.run(main())


def test_nobody_waits_for_a_connection_for_ever():
    async def main():
        an_upstream = upstream()
        an_upstream.pool = Connections()
        with pytest.raises(Overloaded) as caught:
            await an_upstream.acquire(0.01)
        return caught.value

    error = asyncio.run(main())
    assert (error.status, error.retry_after) == (503, 1.0)
    assert error.message.startswith("no connection to up ")


def test_an_upstream_that_is_not_there_is_told_by_its_name_only():
    async def main():
        an_upstream = upstream(base_url="http://127.0.0.1:9/v1", pool=PoolConfig(max_open=1))
        with pytest.raises(UpstreamUnreachable) as caught:
            await an_upstream.acquire(5)
        return caught.value

    error = asyncio.run(main())
    assert error.upstream == "up"
    assert "127.0.0.1" not in error.message
    assert "'up'" in error.message
