"""Clients that leave, dawdle, send too much or come in crowds; and how the listener goes itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import shutil
import socket
import subprocess
import sys

import pytest
from listener_doubles import (
    SENTINEL,
    Client,
    Served,
    Showcase,
    Watching,
    feed,
    read_answers,
    run,
    until,
)

from penstock.errors import BodyTooLarge, Overloaded
from penstock.net import _inbound
from penstock.net._inbound import Inbound
from penstock.net._inbound_exchange import InboundExchange


def get(path, *fields, method=b"GET"):
    return b"\r\n".join((b"%s %s HTTP/1.1" % (method, path), b"Host: x", *fields, b"", b""))


def leave(client, way):
    {"reset": client.reset, "close": client.close, "half-close": client.half_close}[way]()


WAYS = pytest.mark.parametrize("way", ["reset", "close", "half-close"])


@WAYS
@pytest.mark.parametrize("path", [b"/hang", b"/slow-stream"])
def test_a_client_that_leaves_during_the_answer_is_noticed_at_once(loop, way, path):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                await client.send(get(path))
                await until(lambda: application.called)
                if path == b"/slow-stream":
                    await client.receive_until(b"first")
                (exchange,) = application.called
                assert not exchange.unsent
                leave(client, way)
                await application.watching.gone.wait()
                assert exchange.gone
                assert exchange.unsent == (way == "reset")  # then nobody knows what was under way
                application.go.set()  # what it writes now, goes nowhere
                await until(lambda: served.listener.statistics().open == 0)
                await until(lambda: not served.listener._serving.tasks)
                assert application.watching.times_gone == 1
                late = Watching()
                exchange.watch(late)
                assert late.times_gone == 1

    run(main(), loop)


@WAYS
@pytest.mark.parametrize("path", [b"/read", b"/pieces"])
def test_a_client_that_leaves_within_its_body(loop, way, path):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                await client.send(get(path, b"Content-Length: 10", method=b"POST") + b"half")
                await until(lambda: application.seen and application.seen[0].received == 4)
                leave(client, way)
                await until(lambda: served.listener.statistics().open == 0)
                await until(lambda: not served.listener._serving.tasks)
                if path == b"/read":
                    assert application.called == []
                else:
                    assert isinstance(application.failures[0], ConnectionError)

    run(main(), loop)


@WAYS
@pytest.mark.parametrize("sent", [b"", b"GET", SENTINEL])
def test_a_client_that_leaves_between_requests(loop, way, sent):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                await client.send(sent)
                await until(lambda: served.listener.statistics().open == 1)
                if sent == SENTINEL:
                    await client.receive_until(b"sentinel")
                elif sent:
                    await until(lambda: served.listener.statistics().in_progress == 1)
                leave(client, way)
                await until(lambda: served.listener.statistics().open == 0)

    run(main(), loop)


@WAYS
def test_leaving_is_noticed_behind_more_than_is_read_ahead(loop, way):
    application = Showcase()

    async def main():
        async with Served(application, pipeline_bytes=1_000) as served:
            with await served.client() as client:
                await client.send(get(b"/hang") + SENTINEL * 100)
                await until(lambda: "reading paused" in repr(served.listener._serving.connections))
                served.pass_time(0.1)
                assert not application.watching.gone.is_set()
                leave(client, way)
                async with asyncio.timeout(60):
                    while not application.watching.gone.is_set():
                        served.pass_time(0.1)
                        await asyncio.sleep(0)
                assert len(application.seen) == 1
                await until(lambda: served.listener.statistics().open == 0)

    run(main(), loop)


@WAYS
def test_leaving_is_noticed_while_the_application_does_not_read(loop, way):
    application = Showcase()

    async def main():
        async with Served(application, pipeline_bytes=1_000) as served:
            with await served.client() as client:
                head = get(b"/pieces-late", b"Content-Length: 5000", method=b"POST")
                await client.send(head + b"x" * 4_000)
                await until(lambda: "reading paused" in repr(served.listener._serving.connections))
                leave(client, way)
                async with asyncio.timeout(60):
                    while not application.watching.gone.is_set():
                        served.pass_time(0.1)
                        await asyncio.sleep(0)
                application.go.set()
                await until(lambda: application.failures)
                assert isinstance(application.failures[0], ConnectionError)

    run(main(), loop)


def test_requests_read_ahead_are_bounded_and_none_is_lost(loop):
    application = Showcase()

    async def main():
        async with Served(application, pipeline_bytes=10_000) as served:
            with await served.client() as client:
                sending = asyncio.create_task(client.send(get(b"/hang") + SENTINEL * 20_000 + get(b"/last")))
                await until(lambda: "reading paused" in repr(served.listener._serving.connections))
                (connection,) = served.listener._serving.connections
                for _ in range(100):
                    await asyncio.sleep(0)
                assert len(connection._rest) + len(connection._ahead) <= 10_000 + 262_144  # and one read
                application.go.set()
                await client.receive_until(b"went")
                await client.receive_until(b"/last")
                assert client.received.count(b"sentinel") == 20_000
                await sending
                assert served.listener.statistics().requests == 20_002

    run(main(), loop)


def test_a_client_that_asks_and_does_not_take_is_not_answered_without_end(loop):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                sending = asyncio.create_task(client.send(get(b"/big") * 200))
                await until(lambda: "writing paused" in repr(served.listener._serving.connections))
                for _ in range(200):
                    await asyncio.sleep(0)
                (connection,) = served.listener._serving.connections
                assert connection.transport.get_write_buffer_size() < 3_000_000
                assert served.listener.statistics().requests < 50
                taken = 0
                while taken < 200 * 1_000_000:
                    client.received.clear()
                    taken += len(await client.receive())
                await sending
                assert served.listener.statistics().requests == 200

    run(main(), loop)


def test_a_slow_reader_pauses_its_stream_and_only_that(loop):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as slow, await served.client() as other:
                await slow.send(get(b"/flood"))
                await until(lambda: "writing paused" in repr(served.listener._serving.connections))
                for _ in range(200):
                    await asyncio.sleep(0)
                sizes = [c.transport.get_write_buffer_size() for c in served.listener._serving.connections]
                assert max(sizes) < 300_000
                await other.send(SENTINEL)
                await other.receive_until(b"sentinel")
                await slow.receive_until(b"\r\n0\r\n\r\n")
                (answer,) = read_answers(slow.received)
                assert len(answer.body) == 320 * 65_536

    run(main(), loop)


def test_a_body_that_the_application_reads_slowly_is_not_read_ahead_without_end(loop):
    application = Showcase()

    async def main():
        async with Served(application, pipeline_bytes=10_000) as served:
            with await served.client() as client:
                head = get(b"/pieces-late", b"Content-Length: 8000000", method=b"POST")
                sending = asyncio.create_task(client.send(head + b"x" * 8_000_000))
                await until(lambda: "reading paused" in repr(served.listener._serving.connections))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert application.seen[0]._queued <= 10_000 + 262_144
                application.go.set()
                await client.receive_until(b"8000000")
                await sending

    run(main(), loop)


def test_a_body_that_comes_byte_by_byte_costs_about_a_byte_each():
    async def main():
        served = Served(Showcase(limit=200_000))
        protocol_bytes = [b"x"] * 100_000
        await feed(served.listener, [get(b"/read", b"Content-Length: 100001", method=b"POST")])
        (connection,) = served.listener._serving.connections
        for byte in protocol_bytes:
            connection.data_received(byte)
        exchange = served.application.seen[0]
        assert sum(sys.getsizeof(part) for part in exchange._parts) < 150_000
        connection.data_received(b"x")
        await until(lambda: served.application.called)
        assert await exchange.body() == b"x" * 100_001
        assert await exchange.body() == b"x" * 100_001  # a second time is the same

    run(main())


def test_pieces_that_come_byte_by_byte_are_put_together_where_they_wait():
    async def main():
        served = Served()
        await feed(served.listener, [get(b"/pieces-late", b"Content-Length: 30000", method=b"POST")])
        (connection,) = served.listener._serving.connections
        for _ in range(30_000):
            connection.data_received(b"x")
        exchange = served.application.seen[0]
        assert len(exchange._queue) < 20
        served.application.go.set()
        await until(lambda: connection.transport.written.endswith(b"30000"))

    run(main())


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("path", [b"/read", b"/pieces"])
def test_100_continue_is_said_when_the_body_is_wanted(loop, path):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                await client.send(get(path, b"Content-Length: 5", b"Expect: 100-Continue", method=b"POST"))
                await client.receive_until(CONTINUE)
                assert client.received == CONTINUE
                await client.send(b"hello" + SENTINEL)
                await client.receive_until(b"sentinel")
                assert [answer.status for answer in read_answers(client.received)] == [200, 200]

    run(main(), loop)


def test_100_continue_waits_until_the_application_reads(loop):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                head = get(b"/pieces-late", b"Content-Length: 5", b"Expect: 100-continue", method=b"POST")
                await client.send(head)
                await until(lambda: application.called)
                for _ in range(20):
                    await asyncio.sleep(0)
                client.sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.sock.recv(1)
                application.go.set()
                await client.receive_until(CONTINUE)

    run(main(), loop)


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [(b"/read", 9_000_000, 413), (b"/early", 5, 401), (b"/pieces-unread", 5, 200)],
)
def test_100_continue_is_not_said_for_a_body_that_nobody_wants(loop, path, length, status):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                head = get(path, b"Content-Length: %d" % length, b"Expect: 100-continue", method=b"POST")
                await client.send(head)
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == status
                assert answer.interim == []
                assert answer.closes, "nobody can say whether the client sends its body now"

    run(main(), loop)


def test_a_long_body_that_is_refused_does_not_cost_the_client_the_answer(loop):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                await client.send(get(b"/read", b"Content-Length: 50000000", method=b"POST"))
                for _ in range(50):
                    await client.send(b"x" * 1_000_000)
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 413
                assert isinstance(application.failures[0], BodyTooLarge)
                assert application.seen[0]._parts == []
                assert served.refusals == ["body_too_large"]

    run(main(), loop)


def test_after_an_answer_with_little_of_a_long_body_to_come_the_connection_is_used_again(loop):
    async def main():
        async with Served(Showcase()) as served:
            with await served.client() as client:
                await client.send(get(b"/pieces-refused", b"Content-Length: 150000", method=b"POST"))
                await client.send(b"x" * 100_000)
                await client.receive_until(b"refused")
                assert b"connection: close" not in client.received
                await client.send(b"x" * 50_000)
                await client.send(get(b"/sentinel"))
                await client.receive_until(b"sentinel")

    run(main(), loop)


@pytest.mark.parametrize(("target", "more"), [(b"/early", 0), (b"/read", 0), (b"/early", 1)])
def test_a_refused_body_ends_its_connection_with_its_last_byte_if_nothing_else_comes(loop, target, more):
    async def main():
        async with Served(Showcase()) as served:
            with await served.client() as client:
                await client.send(get(target, b"Content-Length: 9000000", method=b"POST") + b"x" * 1_000)
                (answer,) = read_answers(await client.receive_all())
                assert (answer.status, answer.closes) == (401 if target == b"/early" else 413, True)
                (connection,) = served.listener._serving.connections
                await client.send(b"x" * 8_998_999)
                assert "lingering" in repr(connection)
                await client.send(b"x" * (1 + more))
                await until(lambda: connection._unread == -more)
                await until(lambda: served.listener.statistics().open == bool(more))

    run(main(), loop)


def test_bodies_that_are_coming_in_have_a_bound_together_and_small_ones_always_pass(loop):
    application = Showcase()

    async def main():
        async with Served(application, bodies_bytes=300_000) as served:
            coming = served.listener._serving
            async with contextlib.AsyncExitStack() as stack:
                slow = [stack.enter_context(await served.client()) for _ in range(3)]
                for number, client in enumerate(slow, 1):
                    await client.send(get(b"/read", b"Content-Length: 150000", method=b"POST"))
                    await client.send(b"x" * 120_000)
                    await until(lambda n=number: coming.coming == min(n, 2) * 120_000)
                (answer,) = read_answers(await slow[-1].receive_all())
                assert answer.status == 503
                assert isinstance(application.failures[0], Overloaded)
                assert served.refusals == ["bodies"]
                await until(lambda: coming.coming == 240_000)
                with await served.client() as small:
                    await small.send(get(b"/read", b"Content-Length: 60000", method=b"POST") + b"x" * 30_000)
                    await until(lambda: coming.coming == 270_000)
                    await small.send(b"x" * 30_000)
                    await small.receive_until(b"200 OK")
                slow[0].close()  # leaves in the middle
                await until(lambda: coming.coming == 120_000)
                await slow[1].send(b"x" * 30_000)
                await slow[1].receive_until(b"200 OK")
                assert coming.coming == 0

    run(main(), loop)


def test_connections_over_the_limit_get_503_and_no_place(loop):
    async def main():
        async with Served(max_connections=2) as served:
            with await served.client() as one, await served.client() as two:
                await one.send(SENTINEL)
                await one.receive_until(b"sentinel")
                await two.send(SENTINEL)
                await two.receive_until(b"sentinel")
                with await served.client() as three:
                    await three.send(SENTINEL)
                    (answer,) = read_answers(await three.receive_all())
                    assert answer.status == 503
                    assert answer.closes
                assert served.refusals == ["connections"]
                one.close()
                await until(lambda: served.listener.statistics().open == 1)
                with await served.client() as four:
                    await four.send(SENTINEL)
                    await four.receive_until(b"sentinel")

    run(main(), loop)


def test_a_crowd_over_the_limit_is_cut_without_an_answer(loop, monkeypatch):
    monkeypatch.setattr(_inbound, "LINGERING_REFUSED", 1)

    async def main():
        async with Served(max_connections=1) as served:
            first = await served.client()
            await until(lambda: served.listener.statistics().open == 1)
            crowd = [await served.client() for _ in range(5)]
            await until(lambda: served.refusals == ["connections"] * 5)
            assert served.listener.statistics().open == 2
            for client in [first, *crowd]:
                client.close()
            await until(lambda: served.listener.statistics().open == 0)
            assert served.listener._serving.over_limit == 0

    run(main(), loop)


def test_statistics_tell_who_is_there_and_what_was_refused(loop):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as one, await served.client() as two, await served.client() as bad:
                await one.send(get(b"/hang"))
                await until(lambda: application.called)
                await two.send(SENTINEL)
                await two.receive_until(b"sentinel")
                await bad.send(b"bad\r\n\r\n")
                await bad.receive_all()
                bad.close()
                await until(lambda: served.listener.statistics().open == 2)
                statistics = served.listener.statistics()
                assert statistics.in_progress == 1
                assert statistics.accepted == 3
                assert statistics.requests == 2
                assert statistics.refused == {"bad_request_line": 1}

    run(main(), loop)


# ---- drain


def test_an_announced_end_lets_everybody_in_and_ends_each_connection_with_its_next_answer(loop):
    async def main():
        async with Served() as served:
            with await served.client() as idle:
                await idle.send(SENTINEL)
                await idle.receive_until(b"sentinel")
                served.listener.announce_end()
                with await served.client() as fresh:
                    for client in (idle, fresh):
                        await client.send(SENTINEL)
                        answers = (await client.receive_all()).split(b"HTTP/1.1 200")
                        assert b"connection: close" in answers[-1]
                        assert b"connection: close" not in b"".join(answers[:-1])

    run(main(), loop)


def test_drain_closes_the_port_and_idle_connections_at_once(loop):
    async def main():
        async with Served() as served:
            with await served.client() as fresh, await served.client() as used:
                await used.send(SENTINEL)
                await used.receive_until(b"sentinel")
                await until(lambda: served.listener.statistics().open == 2)
                assert await served.listener.drain(100) == 0
                assert await fresh.receive_all() == b""
                assert (await used.receive_all()).count(b"HTTP/1.1") == 1
                with pytest.raises(ConnectionRefusedError):
                    await served.client()

    run(main(), loop)


@pytest.mark.parametrize("more", [b"", SENTINEL])
@pytest.mark.parametrize("path", [b"/hang", b"/slow-stream"])
def test_drain_lets_requests_end_and_says_that_the_connection_does(loop, path, more):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as client:
                await client.send(get(path) + more)
                await until(lambda: application.called)
                if path == b"/slow-stream":
                    await client.receive_until(b"first")
                drain = asyncio.create_task(served.listener.drain(100))
                await until(lambda: served.listener._serving.draining)
                with pytest.raises(ConnectionRefusedError):
                    await served.client()
                served.pass_time(99)
                application.go.set()
                answers = read_answers(await client.receive_all())
                assert all(answer.complete for answer in answers)
                if path == b"/hang":
                    assert [answer.closes for answer in answers] == [True]
                else:  # its head was out before
                    assert [answer.closes for answer in answers] == [False, True][: 2 if more else 1]
                client.close()
                assert await drain == 0

    run(main(), loop)


@pytest.mark.parametrize("begun", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe"])
def test_drain_waits_for_requests_that_are_still_coming(loop, begun):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                await client.send(begun)
                await until(lambda: served.listener.statistics().in_progress == 1)
                drain = asyncio.create_task(served.listener.drain(100))
                await until(lambda: served.listener._serving.draining)
                await client.send(b"TP/1.1\r\nHost: x\r\n\r\n" if begun.endswith(b"HT") else b"llo")
                (answer,) = read_answers(await client.receive_all())
                assert answer.status == 200
                assert answer.closes
                client.close()
                assert await drain == 0

    run(main(), loop)


def test_drain_serves_a_request_that_the_loop_has_not_read_yet(loop):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                await client.send(SENTINEL)
                await client.receive_until(b"sentinel")
                client.received.clear()
                client.sock.send(SENTINEL)  # in the kernel now, and no turn of the loop since
                assert await served.listener.drain(100) == 0
                (answer,) = read_answers(await client.receive_all())
                assert answer.body == b"sentinel"
                assert answer.closes

    run(main(), loop)


def test_drain_serves_connections_that_the_loop_has_not_accepted_yet(loop):
    async def main():
        async with Served() as served:
            waiting = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(5)]
            for sock in waiting:
                sock.send(SENTINEL)
            silent = socket.create_connection(("127.0.0.1", served.port))
            assert await served.listener.drain(100) == 0
            for sock in waiting:
                sock.setblocking(False)
                (answer,) = read_answers(await Client(sock).receive_all())
                assert answer.body == b"sentinel"
                sock.close()
            silent.close()

    run(main(), loop)


@pytest.mark.parametrize("path", [b"/hang", b"/slow-stream"])
def test_drain_cuts_after_its_deadline_and_says_how_many(loop, path):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            with await served.client() as one, await served.client() as two:
                await one.send(get(path))
                await two.send(get(path))
                await until(lambda: len(application.called) == 2)
                drain = asyncio.create_task(served.listener.drain(10))
                await until(lambda: served.listener._serving.draining)
                served.pass_time(9)
                assert not drain.done()
                served.pass_time(2)
                assert await drain == 2
                assert application.watching.times_gone == 2
                assert not [answer for answer in read_answers(await one.receive_all()) if answer.complete]

    run(main(), loop)


def test_drain_gives_what_was_answered_time_to_go_out(loop):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                await client.send(get(b"/bulk"))
                await until(lambda: served.application.called)
                drain = asyncio.create_task(served.listener.drain(100))
                (answer,) = read_answers(await client.receive_all())
                assert answer.complete
                assert len(answer.body) == 20_000_000
                assert await drain == 0

    run(main(), loop)


def test_a_stream_to_http_1_0_that_is_cut_does_not_look_complete(loop):
    async def main():
        async with Served() as served:
            with await served.client() as client:
                await client.send(b"GET /abort-in-stream HTTP/1.0\r\n\r\n")
                with pytest.raises(ConnectionResetError):
                    await client.receive_all()

    run(main(), loop)


def test_nothing_is_left_of_connections_that_are_gone(loop):
    application = Showcase()

    async def main():
        async with Served(application) as served:
            for path in (b"/", b"/stream", b"/hang", b"/early", b"/pieces-late", b"/defect-in-stream"):
                client = await served.client()
                await client.send(get(path, b"Content-Length: 100", method=b"POST") + b"x" * 50)
                await until(lambda: application.seen)
                client.reset()
                application.go.set()
                await until(lambda: served.listener.statistics().open == 0)
                await until(lambda: not served.listener._serving.tasks)
                for kept in (application.seen, application.called, application.failures):
                    kept.clear()
            assert not served.listener._serving.stalled
            await asyncio.sleep(0)
            gc.collect()
            kinds = (InboundExchange, Inbound)
            assert [thing for thing in gc.get_objects() if type(thing) in kinds] == []

    run(main(), loop)


# ---- other people's clients


def test_http_client_of_the_standard_library(loop):
    async def main():
        async with Served() as served:

            def talk():
                connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
                connection.request("POST", "/a", body=b"hello")
                assert connection.getresponse().read() == b"hello"
                connection.request("GET", "/stream")
                assert connection.getresponse().read() == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
                connection.request("POST", "/b", body=iter([b"hel", b"lo"]), encode_chunked=True)
                assert connection.getresponse().read() == b"hello"
                connection.request("POST", "/read", body=b"x" * 2_000_000)
                assert connection.getresponse().status == 413
                connection.close()

            await asyncio.to_thread(talk)

    run(main(), loop)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_served_as_any_client(loop):
    async def main():
        async with Served() as served:
            base = f"http://127.0.0.1:{served.port}"

            async def curl(*arguments):
                process = await asyncio.create_subprocess_exec(
                    "curl",
                    "-sS",
                    "--max-time",
                    "10",
                    *arguments,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                out, err = await process.communicate()
                assert err == b""
                return out

            assert await curl(f"{base}/x") == b"/x"
            assert await curl("-d", "hello", f"{base}/x") == b"hello"
            assert await curl("-N", f"{base}/stream") == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert await curl("-T", "-", f"{base}/x") == b"/x"  # chunked, with Expect, and empty
            big = "y" * 100_000
            assert len(await curl("-H", "Expect: 100-continue", "-d", big, f"{base}/x")) == 100_000
            assert b"200" in await curl("-I", f"{base}/x")
            assert await curl("--http2", f"{base}/x") == b"/x"  # asks for h2c; gets HTTP/1.1
            assert await curl("-0", f"{base}/stream") == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert await curl(f"{base}/x", f"{base}/y") == b"/x/y"

    run(main(), loop)


def test_several_sockets_serve_one_application(loop):
    async def main():
        served = Served()
        sockets = []
        for _ in range(2):
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            sockets.append(sock)
        ports = [sock.getsockname()[1] for sock in sockets]
        await served.listener.serve(*sockets)
        for port in ports:
            with await Client.connect(port) as client:
                await client.send(SENTINEL)
                await client.receive_until(b"sentinel")
        await served.listener.drain(0)

    run(main(), loop)


def test_a_unix_socket_has_clients_too(loop, tmp_path):
    application = Showcase()

    async def main():
        served = Served(application)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        await served.listener.serve(sock)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(SENTINEL)
        await reader.readuntil(b"sentinel")
        assert application.seen[0].peer == "unix"
        writer.close()
        await until(lambda: served.listener.statistics().open == 0)
        await served.listener.drain(0)

    run(main(), loop)
