"""Deadlines, which the clock's sweep keeps; the tests own the clock."""

from __future__ import annotations

import asyncio

import pytest
from listener_doubles import SENTINEL, Served, read_answers, run, until

from penstock.errors import RequestTimeout

POST = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
PIECES = POST.replace(b"/read", b"/pieces")
TIMES = {"header_timeout": 10.0, "body_timeout": 20.0, "idle_timeout": 30.0, "write_timeout": 40.0}


def phase(served):
    connections = list(served.listener._serving.connections)
    assert len(connections) == 1
    return repr(connections[0]).split()[3]


def buffered(served):
    (connection,) = served.listener._serving.connections
    return len(connection._head._came)


def test_a_head_that_does_not_end_in_time_gets_408(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"GET / HTTP/1.1\r\n")
                await until(lambda: served.listener.statistics().in_progress == 1)
                served.pass_time(9)
                await client.send(b"Host: x\r\n")  # more of it gives it no more time
                await until(lambda: buffered(served) == 25)
                served.pass_time(0.5)
                assert phase(served) == "head"
                served.pass_time(1)
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 408
                assert answer.closes
                assert served.refusals == ["header_timeout"]

    run(main(), loop)


def test_the_head_of_a_later_request_has_its_own_time(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(SENTINEL)
                await client.receive_until(b"sentinel")
                served.pass_time(25)
                await client.send(SENTINEL[:-1])
                await until(lambda: phase(served) == "head")
                served.pass_time(9)
                assert phase(served) == "head"
                await client.send(SENTINEL[-1:])
                client.received.clear()
                await client.receive_until(b"sentinel")
                await client.send(SENTINEL[:1])
                await until(lambda: phase(served) == "head")
                served.pass_time(11)
                assert read_answers(await client.receive_all())[-1].status == 408

    run(main(), loop)


def test_an_idle_connection_is_closed_without_a_word(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as fresh, await served.client() as used:
                await used.send(SENTINEL)
                await used.receive_until(b"sentinel")
                used.received.clear()
                served.pass_time(29)
                assert served.listener.statistics().open == 2
                served.pass_time(2)
                assert await fresh.receive_all() == b""
                assert await used.receive_all() == b""
                await until(lambda: served.listener.statistics().open == 0)
                assert served.refusals == []  # the client did nothing wrong

    run(main(), loop)


def test_a_request_that_takes_long_is_not_idle(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: served.application.called)
                for _ in range(10):
                    served.pass_time(100)
                served.application.go.set()
                await client.receive_until(b"went")
                await client.send(SENTINEL)
                await client.receive_until(b"sentinel")

    run(main(), loop)


@pytest.mark.parametrize("request_head", [POST, PIECES], ids=["whole", "pieces"])
def test_a_body_that_falls_silent_gets_408_and_the_application_is_told(loop, request_head):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(request_head)
                await until(lambda: served.application.seen)
                served.pass_time(19)
                await client.send(b"x" * 10)
                await until(lambda: served.application.seen[0].received == 10)
                served.pass_time(19)  # 38 s since the head, but only 19 of silence: the rate is judged
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 408
                assert answer.closes
                assert isinstance(served.application.failures[0], RequestTimeout)
                assert served.refusals == ["request_timeout"]

    run(main(), loop)


@pytest.mark.parametrize("request_head", [POST, PIECES], ids=["whole", "pieces"])
def test_silence_is_judged_also_where_the_rate_is_right(loop, request_head):
    async def main():
        async with Served(**TIMES, min_body_rate=1) as served:
            with await served.client() as client:
                await client.send(request_head)
                await until(lambda: served.application.seen)
                served.pass_time(5)
                await client.send(b"x" * 99)
                await until(lambda: served.application.seen[0].received == 99)
                served.pass_time(19)
                assert phase(served) == "body"
                served.pass_time(2)
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 408

    run(main(), loop)


def test_a_body_that_trickles_below_the_least_rate_gets_408(loop):
    async def main():
        async with Served(**TIMES, min_body_rate=10) as served:
            with await served.client() as client:
                await client.send(POST.replace(b"100", b"100000"))
                await until(lambda: served.application.seen)
                exchange = served.application.seen[0]
                for second in range(19):  # 9 bytes a second: never silent, but too slow
                    served.pass_time(1)
                    await client.send(b"x" * 9)
                    await until(lambda second=second: exchange.received == 9 * (second + 1))
                    assert phase(served) == "body"
                served.pass_time(2)
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 408
                assert b"slowly" in answer.body

    run(main(), loop)


def test_a_body_at_the_least_rate_may_take_its_time(loop):
    async def main():
        async with Served(**TIMES, min_body_rate=10) as served:
            with await served.client() as client:
                await client.send(POST.replace(b"100", b"1000"))
                await until(lambda: served.application.seen)
                exchange = served.application.seen[0]
                for second in range(100):
                    await client.send(b"x" * 10)
                    await until(lambda second=second: exchange.received == 10 * (second + 1))
                    served.pass_time(1)
                await client.receive_until(b"\r\n\r\n")
                assert read_answers(client.received)[0].status == 200

    run(main(), loop)


def test_time_in_which_the_application_does_not_read_is_not_the_clients(loop):
    async def main():
        async with Served(**TIMES, pipeline_bytes=1_000) as served:
            with await served.client() as client:
                request = POST.replace(b"/read", b"/pieces-late").replace(b"100", b"1000000")
                await client.send(request)
                sending = asyncio.create_task(client.send(b"x" * 1_000_000))
                await until(lambda: "reading paused" in repr(served.listener._serving.connections))
                for _ in range(10):
                    served.pass_time(15)
                served.application.go.set()
                await sending
                await client.receive_until(b"1000000")

    run(main(), loop)


def test_an_answered_request_whose_body_does_not_come_is_closed(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(POST.replace(b"/read", b"/early"))
                await client.receive_until(b"early")
                served.pass_time(21)
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 401
                client.close()
                await until(lambda: served.listener.statistics().open == 0)

    run(main(), loop)


def test_a_client_that_takes_nothing_is_cut(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: "writing paused" in repr(served.listener._serving.connections))
                await settled(served)
                served.pass_time(1)
                served.pass_time(38)
                assert served.application.watching.times_gone == 0
                served.pass_time(3)
                await served.application.watching.gone.wait()
                assert served.application.watching.times_gone == 1
                await until(lambda: served.listener.statistics().open == 0)
                assert served.refusals == ["write_timeout"]

    run(main(), loop)


def test_a_client_that_takes_little_is_not_cut(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: "writing paused" in repr(served.listener._serving.connections))
                for _ in range(20):
                    taken = len(client.received)
                    while len(client.received) < taken + 500_000:
                        await client.receive()
                    await settled(served)
                    served.pass_time(30)
                await client.receive_until(b"\r\n0\r\n\r\n")
                (answer,) = read_answers(client.received)
                assert answer.complete
                assert len(answer.body) == 320 * 65_536
                assert served.application.watching.times_gone == 0

    run(main(), loop)


def test_a_closing_connection_whose_client_takes_nothing_is_cut(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"GET /bulk HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await until(lambda: served.application.called and phase(served) == "closed")
                await settled(served)
                served.pass_time(1)
                served.pass_time(41)
                await until(lambda: served.listener.statistics().open == 0)
                assert served.refusals == ["write_timeout"]

    run(main(), loop)


async def settled(served):
    """Until the kernel takes no more."""
    (connection,) = served.listener._serving.connections
    size = None
    same = 0
    while same < 50:
        now = connection.transport.get_write_buffer_size()
        same = same + 1 if now == size else 0
        size = now
        await asyncio.sleep(0)


def test_after_a_refusal_the_client_has_time_to_read_it(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"bad\r\n\r\n")
                await client.send(b"x" * 1_000_000)  # closing on unread bytes would reset the connection
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 400
                await client.send(b"x")
                await until(lambda: phase(served) == "lingering")
                served.pass_time(2.5)
                await until(lambda: served.listener.statistics().open == 0)

    run(main(), loop)


def test_lingering_has_an_end_even_for_a_client_that_goes_on_sending(loop):
    async def main():
        async with Served(**TIMES) as served:
            with await served.client() as client:
                await client.send(b"bad\r\n\r\n")
                await client.receive_all()
                (connection,) = served.listener._serving.connections
                end = connection.deadline - 2 + 30
                for _ in range(29):
                    served.pass_time(1)
                    await client.send(b"x")
                    due = min(served.time.now + 2, end)
                    await until(lambda due=due: connection.deadline == due)
                    assert served.listener.statistics().open == 1
                served.pass_time(2)
                await until(lambda: served.listener.statistics().open == 0)

    run(main(), loop)


def test_a_timeout_of_zero_is_none(loop):
    async def main():
        never = dict.fromkeys(TIMES, 0.0)
        async with Served(**never) as served:
            with await served.client() as idle, await served.client() as head, await served.client() as body:
                await head.send(b"GET")
                await body.send(POST)
                await until(lambda: served.listener.statistics().in_progress == 2)
                served.pass_time(1_000_000)
                await idle.send(SENTINEL)
                await idle.receive_until(b"sentinel")
                assert served.listener.statistics().open == 3

    run(main(), loop)
