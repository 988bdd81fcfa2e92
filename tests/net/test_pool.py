"""The pool: who gets a connection, when one is closed, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import socket

import pytest
from upstream_doubles import (
    GET,
    Collector,
    FakeTime,
    RawServer,
    answer,
    keep_answering,
    pool_to,
    read_request,
    until,
)

from penstock.config.model import PoolConfig
from penstock.errors import Overloaded, UpstreamTimeout, UpstreamUnreachable
from penstock.net.clock import Clock
from penstock.net.connection import StaleConnection
from penstock.net.origin import Origin
from penstock.net.pool import Pool


@contextlib.contextmanager
def nobody():
    """A port that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def ask(pool) -> Collector:
    receiver = Collector()
    connection = pool.acquire_nowait() or await pool.acquire()
    await connection.send(GET, b"", receiver)
    return receiver


class Held:
    """A server whose answers wait until the test lets them go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, reader, writer):
        while True:
            await read_request(reader)
            await self.go.wait()
            writer.write(answer(b"ok"))


# ---- reuse -----------------------------------------------------------------------------------------


def test_the_connection_used_last_is_used_next(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port)
            assert pool.acquire_nowait() is None
            first, second = await pool.acquire(), await pool.acquire()
            assert not first.reused
            await first.send(GET, b"", Collector())
            await second.send(GET, b"", Collector())
            assert pool.acquire_nowait() is second
            assert second.reused
            assert await pool.acquire() is first
            for connection in (first, second):
                await connection.send(GET, b"", Collector())
            statistics = pool.statistics()
            assert (statistics.open, statistics.idle, statistics.busy) == (2, 2, 0)
            assert (statistics.opened_total, statistics.reused_total) == (2, 2)
            await pool.close()
            assert server.accepted == 2

    run(main)


def test_a_fresh_connection_is_never_one_that_was_used(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port)
            await ask(pool)
            connection = await pool.acquire(fresh=True)
            assert not connection.reused
            receiver = Collector()
            await connection.send(GET, b"", receiver)
            assert receiver.body == b"1"
            assert pool.statistics().idle == 2
            await pool.close()

    run(main)


def test_a_fresh_connection_takes_the_slot_of_an_idle_one_if_it_must(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            await ask(pool)
            connection = await pool.acquire(fresh=True)
            assert not connection.reused
            assert pool.statistics().open == 1
            await connection.send(GET, b"", Collector())
            await pool.close()

    run(main)


def test_no_more_than_max_idle_are_kept_and_the_coldest_goes(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_idle=2)
            three = [await pool.acquire() for _ in range(3)]
            for connection in three:
                await connection.send(GET, b"", Collector())
            assert three[0].retired
            assert [pool.acquire_nowait(), pool.acquire_nowait(), pool.acquire_nowait()] == [
                three[2],
                three[1],
                None,
            ]
            for connection in three:
                connection.abort()
                await connection.wait_lost()
            pool = pool_to(server.port, max_idle=0)
            await ask(pool)
            assert pool.statistics().open == 0

    run(main)


def test_the_sweep_closes_what_was_idle_or_open_for_too_long(run):
    async def main():
        time = FakeTime()
        clock = Clock(time)
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, clock=clock, idle_timeout=10, max_life=100)
            await ask(pool)
            time.now += 9.9
            clock.sweep()
            assert pool.statistics().idle == 1
            await ask(pool)
            time.now += 9.9
            clock.sweep()
            assert pool.statistics().idle == 1, "use starts the time anew"
            time.now += 0.1
            clock.sweep()
            assert pool.statistics().open == 0

            await ask(pool)
            for _ in range(20):
                time.now += 4.9
                clock.sweep()
                await ask(pool)
            assert pool.statistics().idle == 1
            time.now += 2.0
            clock.sweep()
            assert pool.statistics().open == 0
            assert pool.statistics().opened_total == 2

    run(main)


def test_a_connection_past_its_life_closes_when_its_answer_is_complete(run):
    async def main():
        time = FakeTime()
        held = Held()
        async with RawServer(held) as server:
            pool = pool_to(server.port, clock=Clock(time), max_life=100)
            connection = await pool.acquire()
            receiver = Collector()
            future = connection.send(GET, b"", receiver)
            time.now += 1_000
            pool.sweep(time())
            assert not future.done(), "a busy connection is not cut"
            held.go.set()
            await future
            assert receiver.body == b"ok"
            assert pool.statistics().open == 0

    run(main)


# ---- waiting ---------------------------------------------------------------------------------------


def test_callers_wait_in_order_for_a_connection(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            order = []

            async def caller(name):
                connection = await pool.acquire()
                order.append(name)
                await connection.send(GET, b"", Collector())

            tasks = []
            for name in range(5):
                tasks.append(asyncio.create_task(caller(name)))
                await asyncio.sleep(0)
            assert pool.statistics().waiting == 5
            future = first.send(GET, b"", Collector())
            await future
            await asyncio.gather(*tasks)
            assert order == [0, 1, 2, 3, 4]
            assert server.accepted == 1
            assert pool.statistics().reused_total == 5
            await pool.close()

    run(main)


def test_nobody_overtakes_those_who_wait(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            await first.send(GET, b"", Collector())
            assert pool.acquire_nowait() is None
            assert await waiting is first
            first.abort()
            await first.wait_lost()

    run(main)


def test_a_slot_that_comes_free_lets_the_first_waiter_connect(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
            await asyncio.sleep(0)
            first.abort()
            second = await waiting[0]
            assert second is not first
            assert not waiting[1].done()
            second.abort()
            third = await waiting[1]
            assert pool.statistics().open == 1
            third.abort()
            assert pool.statistics().open == 0
            await third.wait_lost()

    run(main)


def test_one_who_waits_for_a_fresh_connection_gets_one(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire(fresh=True))
            await asyncio.sleep(0)
            await first.send(GET, b"", Collector())
            fresh = await waiting
            assert not fresh.reused
            assert first.retired
            assert pool.statistics().open == 1
            fresh.abort()
            await fresh.wait_lost()

    run(main)


def test_more_than_max_waiting_are_refused(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1, max_waiting=1)
            first = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match=r"all 1 connections to 127\.0\.0\.1:\d+ are busy"):
                await pool.acquire()
            first.abort()
            (await waiting).abort()
            assert pool.statistics().open == 0

    run(main)


def test_a_failed_connection_passes_its_slot_on(run):
    async def main():
        with nobody() as port:
            pool = pool_to(port, max_open=1)
            results = await asyncio.gather(*(pool.acquire() for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [UpstreamUnreachable] * 5
        assert pool.statistics().open == 0
        assert pool.statistics().connect_errors_total == 5

    run(main)


# ---- cancellation ----------------------------------------------------------------------------------


def then_cancel(pool, task, *, and_abort=False):
    """Cancel a task in the very turn of the loop in which a connection or slot is handed to it."""
    take_back, forget = pool.take_back, pool.forget

    def after(method):
        def wrapped(connection):
            pool.take_back, pool.forget = take_back, forget
            method(connection)
            task.cancel()
            if and_abort:
                connection.abort()

        return wrapped

    pool.take_back, pool.forget = after(take_back), after(forget)


def test_a_waiter_cancelled_while_it_waits_leaks_nothing(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert pool.statistics().waiting == 0
            first.abort()
            assert pool.statistics().open == 0
            await first.wait_lost()

    run(main)


@pytest.mark.parametrize("what", ["connection", "slot"])
def test_a_waiter_that_was_cancelled_but_does_not_know_it_yet_is_passed_over(run, what):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            waiting, behind = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            first.send(GET, b"", Collector())
            waiting.cancel()
            if what == "connection":
                first.data_received(answer(b"as if from the socket, in this very turn of the loop"))
            else:
                first.abort()
            connection = await behind
            assert (connection is first) == (what == "connection")
            assert waiting.cancelled()
            connection.abort()
            assert pool.statistics().open == 0
            await connection.wait_lost()

    run(main)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("what", ["connection", "connection that dies", "slot"])
def test_a_waiter_cancelled_just_as_it_is_served_passes_it_on(run, what, others):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            first = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            behind = [asyncio.create_task(pool.acquire()) for _ in range(others)]
            await asyncio.sleep(0)
            then_cancel(pool, waiting, and_abort=what == "connection that dies")
            if what == "slot":
                first.abort()
            else:
                await first.send(GET, b"", Collector())
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert pool.statistics().open == (0 if not others and what != "connection" else 1)
            for task in behind:
                assert (await task is first) == (what == "connection")
                (await task).abort()
            if not others:
                assert pool.acquire_nowait() is (first if what == "connection" else None)
            first.abort()
            assert pool.statistics().open == 0
            await first.wait_lost()

    run(main)


def test_a_caller_cancelled_at_any_point_of_connecting_leaks_nothing(run, tmp_path):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, max_open=1)
            finished = False
            for turns in itertools.count():
                task = asyncio.create_task(pool.acquire())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if task.done():
                    finished = True
                    (await task).abort()
                else:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                assert pool.statistics().open == 0, turns
                if finished:
                    break
            assert turns > 1
            await ask(pool)
            await pool.close()

    run(main)


def test_a_call_that_was_cancelled_without_a_word_is_found_by_the_sweep(run):
    async def main():
        time = FakeTime()
        clock = Clock(time)
        held = Held()
        async with RawServer(held) as server:
            pool = pool_to(server.port, clock=clock, max_open=1)
            connection = await pool.acquire()
            task = asyncio.ensure_future(connection.send(GET, b"", Collector()))
            await asyncio.sleep(0)
            task.cancel()
            clock.sweep()
            assert pool.statistics().open == 0
            await connection.wait_lost()

    run(main)


def test_slots_survive_a_storm_of_every_way_to_end(run):
    """Random callers hang up, abort, are cancelled, meet resets and closes; in the end nothing is open."""

    async def script(reader, writer):
        dice = random.Random(writer.get_extra_info("peername")[1])
        while True:
            await read_request(reader)
            match dice.randrange(6):
                case 0:
                    writer.transport.abort()
                    return
                case 1:
                    return
                case 2:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
                    return
                case 3:
                    writer.write(answer(b"bye", b"connection: close"))
                    return
            writer.write(answer(b"ok"))

    async def caller(pool, dice):
        for _ in range(15):
            task = asyncio.current_task()
            try:
                connection = pool.acquire_nowait() or await pool.acquire(fresh=dice.random() < 0.1)
                future = connection.send(GET, b"", Collector())
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                if not future.done():
                    match dice.randrange(6):
                        case 0:
                            connection.hang_up(0)
                        case 1:
                            connection.hang_up(5)
                        case 2:
                            connection.abort()
                        case 3:
                            asyncio.get_running_loop().call_soon(task.cancel)
                await future
            except (Overloaded, UpstreamUnreachable):
                pass
            except Exception as error:
                assert type(error).__name__ == "UpstreamBroken"
            except asyncio.CancelledError:
                task.uncancel()
                if not future.done():
                    connection.hang_up(0)

    async def main():
        clock = Clock()
        async with RawServer(script) as server:
            pool = pool_to(server.port, clock=clock, max_open=4, max_waiting=10)
            await asyncio.gather(*(caller(pool, random.Random(seed)) for seed in range(20)))
            clock._sweepables.clear()
            pool.sweep(clock.now() + 10)
            assert pool.statistics().busy == 0
            assert pool.statistics().waiting == 0
            assert pool.statistics().open <= 4
            await pool.close()
            assert pool.statistics().open == 0
            assert not pool._connections
            assert not pool._watched
            await asyncio.sleep(0)

    run(main)


# ---- connecting ------------------------------------------------------------------------------------


def test_a_refused_connection_says_where(run):
    async def main():
        with nobody() as port:
            pool = pool_to(port)
            with pytest.raises(
                UpstreamUnreachable, match=rf"^cannot connect to 127\.0\.0\.1:{port}: Connection refused$"
            ):
                await pool.acquire()

    run(main)


def test_a_host_without_an_address_says_so(run):
    async def main():
        pool = pool_to(80, host="no-such-host.invalid")
        with pytest.raises(UpstreamUnreachable, match=r"^no address for no-such-host\.invalid:80: "):
            await pool.acquire()
        assert pool.statistics().open == 0
        assert pool.statistics().connect_errors_total == 1

    run(main)


def test_a_host_that_does_not_answer_is_a_timeout_of_the_connect_clock(run):
    async def main():
        # A listener whose queue is full: Linux drops the handshakes of those who come after.
        with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for each in (one, two):
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            pool = pool_to(listener.getsockname()[1], connect_timeout=0.05)
            with pytest.raises(
                UpstreamTimeout, match=r"no connection to 127\.0\.0\.1:\d+ within 0\.05 s"
            ) as caught:
                await pool.acquire()
            assert caught.value.clock == "connect"
            assert pool.statistics().open == 0
            assert pool.statistics().connect_errors_total == 1

    run(main)


def test_a_name_with_several_addresses_is_tried_until_one_answers(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, host="localhost")  # ::1 comes first where there is one
            assert (await ask(pool)).body == b"1"
            await pool.close()

    run(main)


def test_https_and_a_tls_context_come_together():
    with pytest.raises(ValueError, match="TLS context"):
        Pool(Origin("https", "h", 443), PoolConfig(), Clock(), connect_timeout=1)


# ---- closing ---------------------------------------------------------------------------------------


def test_closing_closes_idle_connections_at_once_and_busy_ones_when_they_are_done(run):
    async def main():
        clock = Clock()
        held = Held()
        async with RawServer(held) as server:
            pool = pool_to(server.port, clock=clock)
            held.go.set()
            await ask(pool)
            held.go.clear()
            receiver = Collector()
            future = pool.acquire_nowait().send(GET, b"", receiver)
            second = await pool.acquire()
            held.go.set()
            await second.send(GET, b"", Collector())
            await future
            held.go.clear()
            future = pool.acquire_nowait().send(GET, b"", receiver := Collector())
            assert pool.statistics().idle == 1
            await pool.close()
            assert (pool.statistics().idle, pool.statistics().open) == (0, 1)
            assert pool in clock._sweepables, "it may still have to hang up"
            held.go.set()
            await future
            assert receiver.body == b"ok"
            assert pool.statistics().open == 0
            assert pool not in clock._sweepables

    run(main)


def test_a_call_that_still_knows_a_closed_pool_is_served_and_leaves_nothing(run):
    async def main():
        clock = Clock()
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port, clock=clock, max_open=1)
            first = await pool.acquire()
            waiting = asyncio.create_task(ask(pool))
            await asyncio.sleep(0)
            await pool.close()
            await first.send(GET, b"", Collector())
            assert (await waiting).body == b"1"
            connection = await pool.acquire()
            assert pool in clock._sweepables, "it may still have to hang up"
            await connection.send(GET, b"", Collector())
            assert pool.statistics().open == 0
            assert pool not in clock._sweepables
            await pool.close()

    run(main)


def test_a_closed_connection_is_freed_without_the_garbage_collector(run):
    async def main():
        async with RawServer(keep_answering) as server:
            pool = pool_to(server.port)
            await ask(pool)
            await pool.close()
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        try:
            before = sum(type(each).__name__ == "Connection" for each in gc.get_objects())
            async with RawServer(keep_answering) as server:
                pool = pool_to(server.port)
                await ask(pool)
                await pool.close()
            await asyncio.sleep(0)
            assert sum(type(each).__name__ == "Connection" for each in gc.get_objects()) == before
        finally:
            gc.enable()

    run(main)


def test_the_repr_tells_the_state():
    pool = pool_to(80, max_open=7)
    assert repr(pool) == "<Pool http://127.0.0.1: 0 open of 7, 0 idle, 0 waiting>"


def test_stale_is_an_unreachable_upstream():
    assert issubclass(StaleConnection, UpstreamUnreachable)


def test_concurrent_calls_share_the_pool_without_mixing_answers(run):
    async def echo(reader, writer):
        while True:
            request = await read_request(reader)
            path = request.split(b" ", 2)[1]
            for part in (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", path):
                writer.write(part if part is not path else b"%x\r\n%s\r\n0\r\n\r\n" % (len(path), path))
                await writer.drain()

    async def main():
        async with RawServer(echo) as server:
            pool = pool_to(server.port, max_open=8)

            async def caller(name):
                for number in range(20):
                    path = b"/%d/%d" % (name, number)
                    receiver = Collector()
                    connection = pool.acquire_nowait() or await pool.acquire()
                    await connection.send(b"GET " + path + b" HTTP/1.1\r\nhost: a\r\n\r\n", b"", receiver)
                    assert receiver.body == path

            await asyncio.gather(*(caller(name) for name in range(30)))
            assert server.accepted == 8
            await until(lambda: pool.statistics().idle == 8)
            await pool.close()

    run(main)
