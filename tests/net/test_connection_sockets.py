"""Connections over real sockets, on both event loops: what a fake transport cannot show."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import threading

import pytest
from upstream_doubles import GET, Collector, RawServer, answer, pool_to, post, read_request, until

from penstock.errors import UpstreamBroken, UpstreamUnreachable
from penstock.net.clock import Clock
from penstock.net.connection import StaleConnection

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BIG = b"b" * 8_000_000


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def reset(writer):
    """Close so that the peer gets an RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_hanging_up_half_closes_and_all_that_still_comes_is_received(run):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + chunk(b"before "))
        assert await reader.read() == b"", "our half-close is an end, and no reset"
        for piece in (b"one ", b"two ", b"three "):
            writer.write(chunk(piece))
            await writer.drain()

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            receiver = Collector()
            connection = await pool.acquire()
            future = connection.send(GET, b"", receiver)
            await receiver.wait_body(b"before ")
            connection.hang_up(10)
            await future
            assert receiver.body == b"before one two three "
            assert pool.statistics().open == 0
            await pool.close()

    run(main)


def test_hanging_up_waits_no_longer_than_its_grace(run):
    clock_now = [100.0]

    async def script(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + chunk(b"a"))
        await reader.read()
        writer.write(chunk(b"b"))
        await asyncio.Event().wait()

    async def main():
        clock = Clock(lambda: clock_now[0])
        async with RawServer(script) as server:
            pool = pool_to(server.port, clock=clock)
            receiver = Collector()
            connection = await pool.acquire()
            future = connection.send(GET, b"", receiver)
            await receiver.wait_body(b"a")
            connection.hang_up(1.0)
            await receiver.wait_body(b"ab")
            clock_now[0] += 0.9
            clock.sweep()
            assert not future.done()
            clock_now[0] += 0.1
            clock.sweep()
            assert future.done()
            assert future.result() is None
            assert pool.statistics().open == 0
            await connection.wait_lost()

    run(main)


@pytest.mark.parametrize("ends", [True, False], ids=["to the end", "not to the end"])
def test_what_came_within_the_grace_is_read_even_if_the_loop_was_busy_until_it_was_over(run, ends):
    clock_now = [100.0]
    left, busy, said, done = (threading.Event() for _ in range(4))

    def upstream(listening):
        with listening, listening.accept()[0] as sock:
            sock.recv(65_536)
            sock.sendall(CHUNKED + chunk(b"before "))
            assert sock.recv(65_536) == b""
            left.set()
            assert busy.wait(60)
            sock.sendall(chunk(b"late"))
            if ends:
                sock.shutdown(socket.SHUT_WR)
            said.set()
            assert done.wait(60)

    async def main():
        clock = Clock(lambda: clock_now[0])
        pool = pool_to(listening.getsockname()[1], clock=clock)
        receiver = Collector()
        connection = await pool.acquire()
        future = connection.send(GET, b"", receiver)
        await receiver.wait_body(b"before ")
        connection.hang_up(1.0)
        await until(left.is_set)
        busy.set()
        assert said.wait(60)  # the loop stands still, as if it had no CPU
        clock_now[0] += 2.0
        clock.sweep()
        assert future.done()
        assert receiver.body == b"before late"
        assert connection.cut == (not ends)
        done.set()
        await connection.wait_lost()

    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=upstream, args=(listening,))
    thread.start()
    try:
        run(main)
    finally:
        done.set()
        thread.join(60)


def test_a_slow_reader_stops_the_upstream(run):
    sent = [0]

    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        while sent[0] < 50_000_000:
            writer.write(b"x" * 100_000)
            sent[0] += 100_000
            await writer.drain()

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            receiver = Collector()
            connection = await pool.acquire()
            receiver.then = connection.pause
            future = connection.send(GET, b"", receiver)
            await until(lambda: receiver.status is not None)
            before, turns = -1, 0
            while turns < 200:  # until the server has not got rid of a byte for 200 turns
                turns = turns + 1 if before == sent[0] else 0
                before = sent[0]
                await asyncio.sleep(0)
            assert sum(map(len, receiver.pieces)) < 1_000_000
            assert sent[0] < 40_000_000
            connection.resume()
            await future
            assert sum(map(len, receiver.pieces)) == 50_000_000
            assert pool.statistics().idle == 1
            await pool.close()

    run(main)


def test_a_large_request_arrives_whole(run):
    async def script(reader, writer):
        request = await read_request(reader)
        writer.write(answer(b"%d" % len(request)))

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            receiver = Collector()
            await (await pool.acquire()).send(post(len(BIG)), BIG, receiver)
            assert int(receiver.body) == len(BIG) + len(post(len(BIG)))
            await pool.close()

    run(main)


def refuse_large_bodies(listener):
    """Answer from the head alone and close: unread bytes make the kernel send a reset behind the answer."""
    sock, _ = listener.accept()
    with sock:
        sock.recv(100)
        sock.sendall(
            b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 30000\r\n\r\n"
            + b"n" * 30_000
        )
        while fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0") != b"\0\0\0\0":
            pass  # closing drops what the peer has not acknowledged


@pytest.mark.parametrize("busy", [False, True], ids=["", "and our loop was busy meanwhile"])
def test_an_early_answer_to_a_large_request_is_not_lost_to_the_broken_pipe_behind_it(run, busy):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=refuse_large_bodies, args=(listener,))
            thread.start()
            pool = pool_to(listener.getsockname()[1])
            receiver = Collector()
            connection = await pool.acquire()
            if hasattr(connection._transport, "max_size"):
                connection._transport.max_size = 1_000  # one read of asyncio's own loop, which then writes
            future = connection.send(post(len(BIG)), BIG, receiver)
            if busy:
                await asyncio.sleep(0)
                thread.join()  # answer and reset are here before we look
            await future
            thread.join()
            assert receiver.status == 413
            assert receiver.body == b"n" * 30_000
            assert pool.statistics().open == 0
            await connection.wait_lost()

    run(main)


def test_a_reset_in_mid_answer_is_broken(run):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")  # close-delimited
        await reader.readexactly(1)
        reset(writer)

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            receiver = Collector()
            connection = await pool.acquire()
            future = connection.send(GET, b"", receiver)
            await receiver.wait_body(b"hello")
            connection._transport.write(b"!")
            with pytest.raises(UpstreamBroken, match="in the middle of its answer"):
                await future
            assert pool.statistics().open == 0

    run(main)


def test_a_fresh_connection_that_is_closed_without_an_answer_is_unreachable(run):
    async def closes(reader, _writer):
        await read_request(reader)

    async def resets(reader, writer):
        await read_request(reader)
        reset(writer)

    async def main():
        for script in (closes, resets):
            async with RawServer(script) as server:
                pool = pool_to(server.port)
                with pytest.raises(UpstreamUnreachable, match="before it answered") as caught:
                    await (await pool.acquire()).send(GET, b"", Collector())
                assert type(caught.value) is UpstreamUnreachable
                assert pool.statistics().open == 0

    run(main)


def test_a_connection_that_closes_while_idle_leaves_the_pool(run):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(answer(b"one"))

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            await (await pool.acquire()).send(GET, b"", Collector())
            await until(lambda: pool.statistics().idle == 0)
            statistics = pool.statistics()
            assert statistics.open == 0
            assert statistics.stale_total == 0
            assert pool.acquire_nowait() is None

    run(main)


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_connection_that_closes_just_as_it_is_reused_is_stale_and_a_fresh_one_works(run, how):
    close_now = []

    async def script(reader, writer):
        await read_request(reader)
        writer.write(answer(b"one"))
        if not close_now:
            go = asyncio.Event()
            close_now.append(go)
            await go.wait()
            if how == "reset":
                reset(writer)
            return
        await read_request(reader)

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            await (await pool.acquire()).send(GET, b"", Collector())
            connection = pool.acquire_nowait()
            assert connection.reused
            close_now[0].set()
            receiver = Collector()
            with pytest.raises(StaleConnection):
                await connection.send(GET, b"", receiver)
            assert receiver.status is None
            assert pool.statistics().stale_total == 1
            await (await pool.acquire(fresh=True)).send(GET, b"", receiver)
            assert receiver.body == b"one"
            await pool.close()

    run(main)


def test_an_upstream_that_speaks_unasked_loses_the_connection(run):
    async def main():
        spoke = asyncio.Event()

        async def script(reader, writer):
            await read_request(reader)
            writer.write(answer(b"one"))
            await spoke.wait()
            writer.write(answer(b"poison"))
            await reader.read()

        async with RawServer(script) as server:
            pool = pool_to(server.port)
            await (await pool.acquire()).send(GET, b"", Collector())
            assert pool.statistics().idle == 1
            spoke.set()
            await until(lambda: pool.statistics().open == 0)
            assert pool.statistics().stale_total == 1

    run(main)


def test_small_writes_are_not_held_back_and_dead_peers_are_probed(run):
    async def script(reader, _writer):
        await reader.read()

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port)
            connection = await pool.acquire()
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            connection.abort()
            await connection.wait_lost()

    run(main)
