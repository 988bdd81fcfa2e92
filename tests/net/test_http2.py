"""Streams of HTTP/2 against hypercorn, in the test's own loop: what a pool of connections promises, they promise too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hypercorn.asyncio
import hypercorn.config
import hyperframe.frame
import pytest
import uvloop
from upstream_doubles import Authority, Collector, RawServer, until

from penstock.config.model import PoolConfig
from penstock.errors import (
    Overloaded,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from penstock.net._http2_connection import STREAM_WINDOW
from penstock.net.client_tls import client_context
from penstock.net.clock import Clock
from penstock.net.connection import StaleConnection
from penstock.net.http2 import Streams
from penstock.net.origin import Origin
from penstock.testing import FakeClock

MB = 1_000_000
PATIENCE = 5.0  # seconds


class App:
    """An ASGI application that does what the path says, and remembers what it was asked."""

    def __init__(self):
        self.scopes = []
        self.bodies = []
        self.gone = asyncio.Event()
        self.next = asyncio.Event()
        self.sent = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError  # so that hypercorn does without lifespan
        self.scopes.append(scope)
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(bytes(body))
        await getattr(self, scope["path"].strip("/"))(receive, send)

    async def _start(self, send, *fields):
        headers = [(b"content-type", b"text/plain"), *fields]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def echo(self, receive, send):
        await self._start(send, (b"x-twice", b"a"), (b"x-twice", b"b"))
        await send({"type": "http.response.body", "body": self.bodies[-1]})

    async def stream(self, receive, send):
        await self._start(send)
        for number in range(5):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            await self.next.wait()
            self.next.clear()
        await send({"type": "http.response.body"})

    async def hang(self, receive, send):
        await self._start(send)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    async def silent(self, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    async def large(self, receive, send):
        await self._start(send)
        for _ in range(200):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            self.sent += 100_000
        await send({"type": "http.response.body"})

    async def breaks(self, receive, send):
        await self._start(send)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await self.next.wait()
        raise RuntimeError("on purpose")


@contextlib.asynccontextmanager
async def server(app, *, certificate=None, protocols=("h2", "http/1.1")):
    """Its port."""
    config = hypercorn.config.Config()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config.bind = [f"fd://{sock.fileno()}"]
        config.certfile = config.keyfile = certificate
        config.alpn_protocols = list(protocols)
        config.errorlog = None
        config.graceful_timeout = 0.1
        end = asyncio.Event()
        running = asyncio.ensure_future(hypercorn.asyncio.serve(app, config, shutdown_trigger=end.wait))
        try:
            yield sock.getsockname()[1]
        finally:
            end.set()
            for _ in range(20):  # who still waits for the test waits no more
                app.next.set()
                await asyncio.sleep(0)
            done, _ = await asyncio.wait([running], timeout=10)
            assert done, "the server does not end"
            sock.detach()  # hypercorn has closed it


@contextlib.asynccontextmanager
async def streams(
    port, *, scheme="http", host="127.0.0.1", clock=None, connect_timeout=5.0, ssl=None, **pool
):
    made = Streams(
        Origin(scheme, host, port),
        PoolConfig(**pool),
        clock or Clock(),
        connect_timeout=connect_timeout,
        ssl=ssl,
    )
    try:
        yield made
    finally:
        await made.close()
        assert made.statistics().busy == made.statistics().waiting == 0


def head(path, size=0):
    return b"POST /%b HTTP/1.1\r\nhost: elsewhere\r\nx-a: 1\r\ncontent-length: %d\r\n\r\n" % (path, size)


async def ask(pool, path, body=b""):
    receiver = Collector()
    stream = await pool.acquire()
    await stream.send(head(path, len(body)), body, receiver)
    return receiver


def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


def with_streams(**settings):
    def runs(test):
        async def main():
            app = App()
            async with server(app) as port, streams(port, **settings) as pool:
                await test(app, pool)

        run(main)

    return runs


def test_calls_at_once_share_one_connection():
    @with_streams()
    async def test(app, pool):
        found = await asyncio.gather(*(ask(pool, b"echo", b"%d" % number) for number in range(20)))
        assert [each.body for each in found] == [b"%d" % number for number in range(20)]
        assert {each.status for each in found} == {200}
        assert found[0].headers[b"x-twice"] == b"a, b"
        assert {scope["http_version"] for scope in app.scopes} == {"2"}
        assert len({scope["client"] for scope in app.scopes}) == 1
        fields = dict(app.scopes[0]["headers"])
        assert fields[b"x-a"] == b"1"
        assert fields[b"host"] == b"elsewhere"  # :authority
        assert b"accept-encoding" not in fields
        assert pool.statistics().opened_total == 1


def test_large_bodies_go_both_ways():
    @with_streams()
    async def test(app, pool):
        body = bytes(range(256)) * 20_000
        assert (await ask(pool, b"echo", body)).body == body


def test_events_come_one_by_one():
    @with_streams()
    async def test(app, pool):
        receiver = Collector()
        answer = (await pool.acquire()).send(head(b"stream"), b"", receiver)
        for number in range(5):
            await receiver.wait_body(b"01234"[: number + 1])
            assert not answer.done()
            app.next.set()
        await answer


@pytest.mark.parametrize("path", [b"hang", b"silent"])
def test_who_hangs_up_resets_the_stream_and_the_others_go_on(path):
    @with_streams()
    async def test(app, pool):
        receiver, other = Collector(), Collector()
        stays = (await pool.acquire()).send(head(b"stream"), b"", other)
        await other.wait_body(b"0")
        stream = await pool.acquire()
        answer = stream.send(head(path), b"", receiver)
        await until(lambda: len(app.bodies) == 2 and (path == b"silent" or receiver.body))
        stream.hang_up(60.0)
        await answer
        assert stream.cut
        async with asyncio.timeout(PATIENCE):
            await app.gone.wait()
        for _ in range(5):
            app.next.set()
            await until(lambda: not app.next.is_set() or stays.done())
        await stays
        assert other.body == b"01234"


@pytest.mark.parametrize("path", [b"hang", b"silent"])
def test_a_cancel_reaches_the_server_within_a_tenth_of_a_second(path):
    @with_streams()
    async def test(app, pool):
        least = PATIENCE
        for number in range(1, 21):  # on a busy machine one may be late
            app.gone.clear()
            receiver = Collector()
            stream = await pool.acquire()
            answer = stream.send(head(path), b"", receiver)
            await until(lambda: len(app.bodies) == number and (path == b"silent" or receiver.body))  # noqa: B023
            began = time.monotonic()
            stream.hang_up(60.0)
            async with asyncio.timeout(PATIENCE):
                await app.gone.wait()
            least = min(least, time.monotonic() - began)
            await answer
        assert least < 0.1


def test_what_is_cut_off_is_never_a_whole_answer():
    @with_streams()
    async def test(app, pool):
        receiver = Collector()
        stream = await pool.acquire()
        answer = stream.send(head(b"hang"), b"", receiver)
        await receiver.wait_body(b"first")
        stream.abort()
        with pytest.raises(UpstreamBroken, match="this side"):
            await answer
        await app.gone.wait()


def test_an_answer_may_be_cut_off_from_within_its_receiver():
    @with_streams()
    async def test(app, pool):
        stream = await pool.acquire()
        receiver = Collector(then=stream.abort)
        with pytest.raises(UpstreamBroken, match="this side"):
            await stream.send(head(b"hang"), b"", receiver)
        await app.gone.wait()
        assert receiver.pieces == []


def test_a_call_that_was_cancelled_without_a_word_is_swept_up():
    clock = FakeClock()

    @with_streams(clock=clock)
    async def test(app, pool):
        receiver = Collector()
        answer = (await pool.acquire()).send(head(b"hang"), b"", receiver)
        await receiver.wait_body(b"first")
        answer.cancel()
        clock.advance(1.0)
        await app.gone.wait()
        assert pool.statistics().busy == 0


def test_a_paused_answer_fills_its_window_and_holds_nobody_else_up():
    @with_streams()
    async def test(app, pool):
        receiver = Collector()
        stream = await pool.acquire()
        receiver.then = stream.pause
        answer = stream.send(head(b"large"), b"", receiver)
        await until(lambda: held_by(stream) == STREAM_WINDOW)
        assert (await ask(pool, b"echo", bytes(3 * MB))).body == bytes(3 * MB)
        assert held_by(stream) == STREAM_WINDOW
        assert receiver.pieces == []
        stream.resume()
        await answer
        assert len(receiver.body) == 20 * MB


def held_by(stream):
    return len(stream._held)


def test_an_answer_that_breaks_off_is_broken():
    @with_streams()
    async def test(app, pool):
        receiver = Collector()
        answer = (await pool.acquire()).send(head(b"breaks"), b"", receiver)
        await receiver.wait_body(b"half")
        app.next.set()
        with pytest.raises(UpstreamBroken):
            await answer
        assert (await ask(pool, b"echo", b"next")).body == b"next"


# ---- what a server may say -------------------------------------------------------------------------


def scripted(on_request, serves=None):
    """A server that is h2 and what ``on_request(h2, number of the stream)`` does; for ``RawServer``."""

    async def script(reader, writer):
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        if serves is not None:
            limit = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: serves}
            protocol.local_settings = h2.settings.Settings(client=False, initial_values=limit)
        protocol.initiate_connection()
        writer.write(protocol.data_to_send())
        while data := await reader.read(65_536):
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    on_request(protocol, event.stream_id)
            writer.write(protocol.data_to_send())

    return script


OK = [(b":status", b"200")]


def goaway(protocol, last):
    """Written by hand: h2 says nothing any more once it has said that."""
    frame = hyperframe.frame.GoAwayFrame(0, last_stream_id=last)
    protocol._data_to_send += frame.serialize()


def run_against(script, test, **settings):
    async def main():
        async with RawServer(script) as raw, streams(raw.port, **settings) as pool:
            await test(raw, pool)

    run(main)


def test_a_server_that_goes_away_finishes_what_it_has_begun():
    numbers = []

    def on_request(protocol, number):
        numbers.append(number)
        if len(numbers) == 2:  # on the first connection: the second is left for another one
            protocol.send_headers(numbers[0], OK)
            goaway(protocol, numbers[0])
            protocol.send_data(numbers[0], b"whole", end_stream=True)
        elif len(numbers) == 3:
            protocol.send_headers(number, OK)
            protocol.send_data(number, b"elsewhere", end_stream=True)

    async def test(raw, pool):
        first, second = Collector(), Collector()
        stays = (await pool.acquire()).send(head(b"a"), b"", first)
        await until(lambda: numbers)
        turned_away = (await pool.acquire()).send(head(b"b"), b"", second)
        await stays
        assert first.body == b"whole"
        with pytest.raises(StaleConnection):
            await turned_away
        assert (await ask(pool, b"c")).body == b"elsewhere"
        assert raw.accepted == 2
        assert pool.statistics().stale_total == 1

    run_against(scripted(on_request), test)


def test_a_stream_that_was_refused_was_not_looked_at():
    def on_request(protocol, number):
        protocol.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)

    async def test(raw, pool):
        with pytest.raises(StaleConnection):
            await ask(pool, b"x")

    run_against(scripted(on_request), test)


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_is_reset_is_unreached_or_broken(begun):
    def on_request(protocol, number):
        if begun:
            protocol.send_headers(number, OK)
        protocol.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)

    async def test(raw, pool):
        with pytest.raises(UpstreamBroken if begun else UpstreamUnreachable, match="INTERNAL_ERROR"):
            await ask(pool, b"x")

    run_against(scripted(on_request), test)


def test_an_answer_without_a_status_is_broken():
    def on_request(protocol, number):
        protocol.send_headers(number, [(b":status", b"2OO")], end_stream=True)

    async def test(raw, pool):
        with pytest.raises(UpstreamBroken, match="without a status"):
            await ask(pool, b"x")

    run_against(scripted(on_request), test)


def test_a_server_that_answers_before_it_has_the_question_wants_no_more_of_it():
    def on_request(protocol, number):
        protocol.send_headers(number, [(b":status", b"413")], end_stream=True)

    async def test(raw, pool):
        assert (await ask(pool, b"x", bytes(5 * MB))).status == 413
        assert (await ask(pool, b"x")).status == 413
        assert raw.accepted == 1

    run_against(scripted(on_request), test)


def test_who_finds_a_connection_full_opens_another():
    waiting = []

    def on_request(protocol, number):
        protocol.send_headers(number, OK)
        protocol.send_data(number, b"x")
        waiting.append((protocol, number))

    async def test(raw, pool):
        receivers = [Collector() for _ in range(3)]
        opened = []
        for each in receivers:
            stream = await pool.acquire()
            opened.append((stream, stream.send(head(b"x"), b"", each)))
            await each.wait_body(b"x")  # by then the settings have come
        assert raw.accepted == 3
        for stream, answer in opened:
            stream.hang_up(1.0)
            await answer

    run_against(scripted(on_request, serves=1), test)


def test_what_came_before_a_break_came_also_to_who_had_paused():
    def on_request(protocol, number):
        protocol.send_headers(number, OK)
        protocol.send_data(number, b"half")
        protocol.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)

    async def test(raw, pool):
        for cuts in (False, True):
            stream = await pool.acquire()
            receiver = Collector(then=stream.pause)
            if cuts:
                receiver.on_data = lambda _data, stream=stream: stream.abort()
            with pytest.raises(UpstreamBroken, match="this side" if cuts else "INTERNAL_ERROR"):
                await stream.send(head(b"x"), b"", receiver)
            assert pool.statistics().busy == 0
            assert receiver.body == (b"" if cuts else b"half")

    run_against(scripted(on_request), test)


def test_what_is_idle_or_old_is_closed():
    clock = FakeClock()

    def on_request(protocol, number):
        protocol.send_headers(number, OK, end_stream=True)

    async def test(raw, pool):
        for rest in (0.0, 5.0, 61.0):
            clock.advance(rest)
            await ask(pool, b"x")
        assert raw.accepted == 2
        for _ in range(3):
            clock.advance(40.0)
            await ask(pool, b"x")
        assert raw.accepted == 3

    run_against(scripted(on_request), test, clock=clock, idle_timeout=60.0, max_life=100.0)


# ---- connecting ------------------------------------------------------------------------------------


def test_where_nobody_listens_the_upstream_is_unreachable():
    async def main():
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            async with streams(sock.getsockname()[1]) as pool:
                with pytest.raises(UpstreamUnreachable, match="refused"):
                    await ask(pool, b"echo")
                assert pool.statistics().connect_errors_total == 1

    run(main)


def test_a_server_that_does_not_speak_http_2_did_not_answer():
    async def script(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async def main():
        async with RawServer(script) as raw, streams(raw.port) as pool:
            with pytest.raises(UpstreamUnreachable):
                await ask(pool, b"echo")

    run(main)


def test_the_clock_for_connecting_runs_out():
    async def script(reader, writer):
        await reader.read()  # no TLS ever

    async def main():
        context = client_context(None, True, "h2")
        async with (
            RawServer(script) as raw,
            streams(raw.port, scheme="https", connect_timeout=0.2, ssl=context) as pool,
        ):
            with pytest.raises(UpstreamTimeout, match=r"within 0\.2 s") as caught:
                await ask(pool, b"echo")
            assert caught.value.clock == "connect"

    run(main)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def certificate(authority):
    authority.server_context("localhost")
    return next(str(each) for each in authority._folder.glob("server-localhost-*.pem"))


@pytest.mark.parametrize(("protocols", "version"), [(("h2", "http/1.1"), "2"), (("http/1.1",), "1.1")])
def trusting(authority, *, verify=True):
    return client_context(authority.file, verify, "h2")


def test_over_tls_streams_share_a_connection_too(authority):
    async def main():
        app = App()
        async with (
            server(app, certificate=certificate(authority)) as port,
            streams(port, scheme="https", host="localhost", ssl=trusting(authority)) as pool,
        ):
            body = bytes(range(256)) * 10_000
            first = await pool.acquire()
            first.abort()
            found = await asyncio.gather(*(ask(pool, b"echo", body) for _ in range(5)))
            assert {each.body for each in found} == {body}
            assert {scope["http_version"] for scope in app.scopes} == {"2"}
            assert pool.statistics().opened_total == 1

    run(main)


def test_a_server_without_http_2_is_named(authority):
    async def main():
        async with (
            server(App(), certificate=certificate(authority), protocols=("http/1.1",)) as port,
            streams(port, scheme="https", host="localhost", ssl=trusting(authority)) as pool,
        ):
            with pytest.raises(UpstreamUnreachable, match="does not speak HTTP/2"):
                await pool.acquire()

    run(main)


def test_whom_nobody_vouches_for_is_not_trusted_unless_anybody_is(authority, tmp_path):
    async def main():
        stranger = Authority(tmp_path)
        async with server(App(), certificate=certificate(authority)) as port:
            async with streams(port, scheme="https", host="localhost", ssl=trusting(stranger)) as pool:
                with pytest.raises(UpstreamUntrusted):
                    await pool.acquire()
            anybody = trusting(stranger, verify=False)
            async with streams(port, scheme="https", host="localhost", ssl=anybody) as pool:
                assert (await ask(pool, b"echo", b"x")).body == b"x"

    run(main)


# ---- slots -----------------------------------------------------------------------------------------


def test_who_comes_when_all_streams_are_taken_waits_for_one():
    @with_streams(max_open=1, max_waiting=1)
    async def test(app, pool):
        first = await pool.acquire()
        assert pool.acquire_nowait() is None
        waiting = asyncio.ensure_future(pool.acquire())
        await until(lambda: pool.statistics().waiting == 1)
        with pytest.raises(Overloaded):
            await pool.acquire()
        assert repr(pool).endswith("1 of 1 on 1 connections, 1 waiting>")
        first.abort()
        second = await waiting
        assert pool.statistics().busy == 1
        given_up = asyncio.ensure_future(pool.acquire())
        await until(lambda: pool.statistics().waiting == 1)
        given_up.cancel()
        second.abort()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert (await ask(pool, b"echo", b"x")).body == b"x"


def test_a_closed_pool_still_serves_who_knows_it():
    @with_streams()
    async def test(app, pool):
        receiver = Collector()
        answer = (await pool.acquire()).send(head(b"stream"), b"", receiver)
        await receiver.wait_body(b"0")
        await pool.close()
        for number in range(5):
            await receiver.wait_body(b"01234"[: number + 1])
            app.next.set()
        await answer
        assert (await ask(pool, b"echo", b"late")).body == b"late"
