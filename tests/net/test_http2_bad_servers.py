"""Servers of HTTP/2 that hang, flood, or never read: what they can take is bounded, and the others go on."""

import asyncio
import struct
import tracemalloc

import pytest
import uvloop
from test_http2 import MB, OK, ask, head, run, run_against, scripted, streams
from upstream_doubles import Collector, FakeTime, FakeTransport, RawServer, until

from penstock.errors import UpstreamBroken, UpstreamUnreachable
from penstock.net import _http2_connection
from penstock.net._http2_connection import ANSWER, MOST_UNREAD, SILENCE, STREAM_WINDOW, Http2Connection
from penstock.net._http2_frames import PREFACE
from penstock.net.origin import Origin
from penstock.testing import FakeClock


def frame(kind, flags, number, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", number) + payload


DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
GREETING = frame(SETTINGS, 0, 0)
STATUS = b"\x88"  # :status 200
PINGS = frame(PING, 0, 0, bytes(8)) * 1_000


def setting(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


class Home:
    """A pool of one connection, as the connection sees it."""

    def __init__(self):
        self.now = FakeTime()
        self.let_go_of = self.stales = 0

    def let_go(self):
        self.let_go_of += 1

    def idle(self, connection):
        pass

    def forget(self, connection):
        pass

    def stale(self):
        self.stales += 1


class Bench:
    """A connection between a fake pool and a fake transport."""

    def __init__(self):
        self.home = Home()
        self.transport = FakeTransport()
        self.connection = Http2Connection(
            self.home, asyncio.get_running_loop(), Origin("http", "upstream", 80)
        )
        self.connection.connection_made(self.transport)
        self.connection.data_received(GREETING)

    def ask(self):
        receiver = Collector()
        stream = self.connection.stream()
        return stream, receiver, stream.send(head(b"x"), b"", receiver)

    def begin(self, number):
        self.connection.data_received(frame(HEADERS, 4, number, STATUS))


def on_bench(test):
    async def main():
        await test(Bench())

    uvloop.run(main())


def test_who_reads_nothing_and_asks_for_answers_is_left_with_a_bounded_heap_of_them():
    async def test(bench):
        _, receiver, answer = bench.ask()
        bench.begin(1)
        bench.connection.pause_writing()
        written = len(bench.transport.written)
        for _ in range(10_000):
            # Data, so that it is no idle flood.
            bench.connection.data_received(PINGS + frame(DATA, 0, 1, b"x"))
            if answer.done():
                break
        with pytest.raises(UpstreamBroken, match="reads nothing"):
            answer.result()
        assert receiver.body.count(b"x") > 1
        assert len(bench.transport.written) - written < MOST_UNREAD + 2 * len(PINGS)
        assert bench.transport.ended

    on_bench(test)


def test_who_reads_now_and_then_is_answered_on_and_on():
    async def test(bench):
        _, _, answer = bench.ask()
        bench.begin(1)
        for _ in range(2 * MOST_UNREAD // len(PINGS)):
            bench.connection.pause_writing()
            bench.connection.data_received(PINGS + frame(DATA, 0, 1, b"x"))
            bench.connection.resume_writing()
        assert not answer.done()

    on_bench(test)


def test_an_answer_in_tiny_pieces_takes_no_more_than_its_window_while_nobody_reads_it():
    async def test(bench):
        stream, receiver, answer = bench.ask()
        receiver.then = stream.pause
        bench.begin(1)
        piece = frame(DATA, 0, 1, b"xy") + PINGS[:17]
        tracemalloc.start()
        try:
            for _ in range(20_000):
                bench.connection.data_received(piece)
                bench.transport.calls.clear()
                bench.transport.written.clear()
            assert tracemalloc.get_traced_memory()[0] < STREAM_WINDOW // 4
        finally:
            tracemalloc.stop()
        stream.resume()
        assert receiver.body == b"xy" * 20_000
        assert not answer.done()

    on_bench(test)


def test_one_frame_that_sets_a_window_a_thousand_times_moves_each_stream_once():
    class Counting(dict):
        looks = 0

        def values(self):
            self.looks += 1
            return super().values()

    async def test(bench):
        bench.ask()
        frames = bench.connection._frames
        frames._streams = Counting(frames._streams)
        bench.connection.data_received(setting(*[(4, size) for size in range(2_000)]))
        assert frames._streams.looks == 1
        assert frames._streams[1].to_send == 1_999

    on_bench(test)


# ---- silence ---------------------------------------------------------------------------------------


def read_frames(data):
    data = data.removeprefix(PREFACE)
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        yield data[3], data[4]
        data = data[9 + size :]


def test_a_server_that_hangs_gets_no_new_calls_and_may_still_answer_the_old_ones():
    clock = FakeClock()
    here = []
    hangs = asyncio.Event()

    async def script(reader, writer):
        here.append(writer)
        if len(here) > 1:
            await scripted(answer_at_once)(reader, writer)
            return
        writer.write(GREETING)
        await hangs.wait()
        seen = list(read_frames(await reader.read(1 << 20)))
        assert seen.count((PING, 0)) == 1
        writer.write(frame(HEADERS, 5, 1, STATUS))
        await reader.read()

    def answer_at_once(protocol, number):
        protocol.send_headers(number, OK, end_stream=True)

    async def test(raw, pool):
        hung = (await pool.acquire()).send(head(b"x"), b"", Collector())
        await until(lambda: here)
        for second in range(int(SILENCE + ANSWER) + 2):
            assert raw.accepted == 1, second
            clock.advance(1.0)
            await asyncio.sleep(0)
        assert (await ask(pool, b"y")).status == 200
        assert raw.accepted == 2
        hangs.set()
        await hung

    run_against(script, test, clock=clock)


def test_a_server_that_thinks_for_long_keeps_its_connection():
    clock = FakeClock()
    waiting = []

    def on_request(protocol, number):
        waiting.append(number)
        if len(waiting) == 2:
            for each in waiting:
                protocol.send_headers(each, OK, end_stream=True)

    async def test(raw, pool):
        thinks = (await pool.acquire()).send(head(b"x"), b"", Collector())
        connection = next(iter(pool._connections))
        asked = 0
        for _ in range(20):
            clock.advance(SILENCE)
            asked += connection._asked > 0
            await until(lambda: connection._heard or not connection._asked)
        assert asked > 5
        assert (await ask(pool, b"y")).status == 200
        await thinks
        assert raw.accepted == 1

    run_against(scripted(on_request), test, clock=clock)


def test_a_connection_without_calls_is_asked_nothing():
    clock = FakeClock()

    def on_request(protocol, number):
        protocol.send_headers(number, OK, end_stream=True)

    async def test(raw, pool):
        await ask(pool, b"x")
        connection = next(iter(pool._connections))
        connection._heard = False
        for _ in range(50):
            clock.advance(1.0)
            await asyncio.sleep(0)
        assert not connection._heard
        assert (await ask(pool, b"y")).status == 200
        assert raw.accepted == 1

    run_against(scripted(on_request), test, clock=clock)


# ---- ends ------------------------------------------------------------------------------------------


def test_a_connection_whose_server_reads_nothing_is_closed_all_the_same(monkeypatch):
    monkeypatch.setattr(_http2_connection, "CLOSING", 0.01)
    ended = asyncio.Event()

    async def script(reader, writer):
        writer.transport.pause_reading()
        writer.write(setting((4, (1 << 31) - 1)) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
        await ended.wait()

    async def main():
        async with RawServer(script) as raw:
            async with streams(raw.port) as pool:
                stream = await pool.acquire()
                answer = stream.send(head(b"x", 50 * MB), bytes(50 * MB), Collector())
                connection = next(iter(pool._connections))
                await until(lambda: connection._transport.get_write_buffer_size() > 0)
                stream.hang_up(0.0)
                await answer
            await until(lambda: connection._transport is None)
            ended.set()

    run(main)


def test_connections_that_allow_no_stream_do_not_pile_up():
    def on_request(protocol, number):
        protocol.update_settings({3: 0})  # no stream from now on
        protocol.send_headers(number, OK, end_stream=True)

    async def test(raw, pool):
        for _ in range(5):
            assert (await ask(pool, b"x")).status == 200
        await until(lambda: len(pool._connections) <= 1)
        assert raw.accepted == 5

    run_against(scripted(on_request), test)


def test_a_server_that_refuses_every_stream_is_no_endless_loop():
    asked = []

    def on_request(protocol, number):
        asked.append(number)
        protocol.reset_stream(number, 7)

    async def test(raw, pool):
        with pytest.raises(UpstreamUnreachable):
            await ask(pool, b"x")
        assert len(asked) == 1

    run_against(scripted(on_request), test)
