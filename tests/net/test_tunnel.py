"""Connections through an HTTP proxy: everything is as without it, and what it does wrong is said to be its fault."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest
from upstream_doubles import (
    GET,
    Authority,
    Collector,
    RawServer,
    answer,
    ask,
    check_cancelled_at_any_point,
    keep_answering,
    post,
    read_request,
    until,
)

from penstock.config.model import PoolConfig
from penstock.config.proxy import parse
from penstock.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable, UpstreamUntrusted
from penstock.net.client_tls import client_context
from penstock.net.clock import Clock
from penstock.net.http2 import Streams
from penstock.net.origin import Origin
from penstock.net.pool import Pool
from penstock.net.tunnel import MAX_HEAD, Tunnel
from proxying import ForwardProxy

NAME = "api.example.com"  # nobody looks it up but the proxy
BIG = b"b" * 3_000_000
GRANTED = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority):
    return client_context(authority.file, verify=True)


def way(port, login="", context=None):
    host = "localhost" if context else "127.0.0.1"
    scheme = "https" if context else "http"
    return Tunnel(parse(f"{scheme}://{login}{host}:{port}"), context)


def pool_by(way, *, ssl=None, connect_timeout=10.0, kind=Pool, **config):
    origin = Origin("https" if ssl else "http", NAME, 443)
    return kind(origin, PoolConfig(**config), Clock(), connect_timeout=connect_timeout, ssl=ssl, way=way)


async def assert_fails(pool, *, error=UpstreamUnreachable):
    with pytest.raises(error) as caught:
        await pool.acquire()
    assert pool.statistics().open == 0
    assert pool.statistics().connect_errors_total == 1
    return str(caught.value)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("over_tls", [False, True], ids=["proxy", "proxy over TLS"])
def test_calls_go_through_the_proxy_and_connections_are_reused(run, authority, context, secure, over_tls):
    async def main():
        upstream = RawServer(keep_answering, context=authority.server_context(NAME) if secure else None)
        theirs = authority.server_context("localhost") if over_tls else None
        async with upstream, ForwardProxy(upstream.port, context=theirs) as proxy:
            way_there = way(proxy.port, context=context if over_tls else None)
            pool = pool_by(way_there, ssl=context if secure else None)
            assert (await ask(pool)).body == b"1"
            assert (await ask(pool, post(len(BIG)), BIG)).body == b"2"
            assert proxy.asked == [f"CONNECT {NAME}:443 HTTP/1.1\r\nhost: {NAME}:443\r\n\r\n".encode()]
            await pool.close()
            assert pool.statistics().open == 0

    run(main)


@pytest.mark.parametrize("over_tls", [False, True], ids=["proxy", "proxy over TLS"])
def test_large_answers_come_whole_to_a_reader_who_pauses(run, authority, context, over_tls):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(answer(BIG))
        await writer.drain()
        await reader.read()

    async def main():
        theirs = authority.server_context("localhost") if over_tls else None
        async with (
            RawServer(script, context=authority.server_context(NAME)) as upstream,
            ForwardProxy(upstream.port, context=theirs) as proxy,
        ):
            pool = pool_by(way(proxy.port, context=context if over_tls else None), ssl=context)
            connection = await pool.acquire()
            receiver = Collector(then=connection.pause)
            future = connection.send(GET, b"", receiver)
            await receiver.came.wait()
            connection.resume()
            await future
            assert receiver.body == BIG
            await pool.close()

    run(main)


@pytest.mark.parametrize("over_tls", [False, True], ids=["proxy", "proxy over TLS"])
def test_hanging_up_reaches_the_upstream(run, authority, context, over_tls):
    gone = []

    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        try:
            await reader.read()
        finally:
            gone.append(True)

    async def main():
        theirs = authority.server_context("localhost") if over_tls else None
        async with (
            RawServer(script, context=authority.server_context(NAME)) as upstream,
            ForwardProxy(upstream.port, context=theirs) as proxy,
        ):
            pool = pool_by(way(proxy.port, context=context if over_tls else None), ssl=context)
            receiver = Collector()
            connection = await pool.acquire()
            connection.send(GET, b"", receiver)
            await receiver.wait_body(b"a")
            connection.abort()
            await until(lambda: gone)
            assert pool.statistics().open == 0

    run(main)


def test_a_proxy_that_dies_in_the_middle_breaks_the_answer(run, authority, context):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()

    async def main():
        async with RawServer(script, context=authority.server_context(NAME)) as upstream:
            proxy = ForwardProxy(upstream.port)
            async with proxy:
                pool = pool_by(way(proxy.port), ssl=context)
                receiver = Collector()
                connection = await pool.acquire()
                future = connection.send(GET, b"", receiver)
                await receiver.wait_body(b"a")
            with pytest.raises(UpstreamBroken):
                await future
            assert pool.statistics().open == 0

    run(main)


def test_http2_goes_through_it_with_its_own_name_for_the_protocol(run, authority):
    """A server of HTTP/2 speaks first, maybe before the handshake is known to be over here."""
    h2_connection = pytest.importorskip("h2.connection")
    h2_config = pytest.importorskip("h2.config")
    h2_events = pytest.importorskip("h2.events")

    async def script(reader, writer):
        protocol = h2_connection.H2Connection(h2_config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        writer.write(protocol.data_to_send())
        while data := await reader.read(65_536):
            for event in protocol.receive_data(data):
                if isinstance(event, h2_events.StreamEnded):
                    protocol.send_headers(event.stream_id, [(b":status", b"200")])
                    protocol.send_data(event.stream_id, b"through", end_stream=True)
            writer.write(protocol.data_to_send())

    async def main():
        offered = authority.server_context(NAME)
        offered.set_alpn_protocols(["h2"])
        ours = client_context(authority.file, True, "h2")
        async with RawServer(script, context=offered) as upstream, ForwardProxy(upstream.port) as proxy:
            pool = pool_by(way(proxy.port), ssl=ours, kind=Streams)
            head = b"POST /x HTTP/1.1\r\nhost: elsewhere\r\ncontent-length: 0\r\n\r\n"
            answers = await asyncio.gather(*(ask(pool, head) for _ in range(3)))
            assert [each.body for each in answers] == [b"through"] * 3
            assert proxy.targets == [f"{NAME}:443"]
            await pool.close()

    run(main)


def test_what_comes_with_the_proxys_answer_is_the_upstreams(run):
    """HTTP/2 without TLS: the server's first frame may come in one piece with the answer of the proxy."""

    class Late(asyncio.Protocol):
        def __init__(self):
            self.calls = []

        def connection_made(self, transport):
            self.calls.append("made")
            self.transport = transport

        def data_received(self, data):
            self.calls.append(data)

    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + GRANTED + b"first")
        await reader.read()

    async def main():
        async with RawServer(script) as proxy:
            protocol = Late()
            await way(proxy.port).connect(Origin("http", NAME, 80), protocol, None)
            assert protocol.calls == ["made", b"first"]
            protocol.transport.abort()

    run(main)


def test_user_and_password_are_sent_as_they_are_meant(run):
    async def main():
        async with RawServer(keep_answering) as upstream:
            async with ForwardProxy(upstream.port, login="Zoë:p@ss/wörd") as proxy:
                pool = pool_by(way(proxy.port, "Zo%C3%AB:p%40ss%2Fw%C3%B6rd@"))
                assert (await ask(pool)).body == b"1"
                await pool.close()

    run(main)


@pytest.mark.parametrize(
    ("login", "words"),
    [("", "wants a user and password"), ("me:secret@", "does not accept this login")],
)
def test_a_proxy_that_wants_another_login_is_named_without_the_password(run, login, words):
    async def main():
        async with ForwardProxy(1, login="you:other") as proxy:
            told = await assert_fails(pool_by(way(proxy.port, login)))
            assert told == (
                f"cannot connect to {NAME}:443 through the proxy http://127.0.0.1:{proxy.port}: "
                f"it answers 407: it {words}"
            )
        made = way(proxy.port, login)
        assert "secret" not in repr(made) + repr(parse("http://me:secret@p:1"))

    run(main)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 403 Forb\x07\xffidden\r\n\r\n<html>", "it refuses with 403 Forbidden"),
        (b"HTTP/1.0 503\r\n\r\n", "it refuses with 503"),
        (b"", "it hung up without an answer"),
        (b"HTTP/1.1 200 O", "it hung up without an answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", "what it answers is not HTTP"),
        (b"\x16\x03\x01", "what it answers is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "what it answers is not HTTP"),
        (b"HTTP/1.1\r\n\r\n", "what it answers is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD, "has no end within"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD + b"\r\n\r\n", "has no end within"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad Gateway\r\n\r\n", "it refuses with 502 Bad Gateway"),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "byte by byte"])
def test_whatever_else_a_proxy_says_is_an_error_that_names_it(run, context, said, words, in_pieces):
    async def script(reader, writer):
        await read_request(reader)
        if not in_pieces or len(said) > 1_000:
            writer.write(said)
        else:
            for number in range(len(said)):
                writer.write(said[number : number + 1])
                await asyncio.sleep(0)

    async def main():
        async with RawServer(script) as proxy:
            told = await assert_fails(pool_by(way(proxy.port), ssl=context))
            assert f"through the proxy http://127.0.0.1:{proxy.port}: " in told
            assert words in told

    run(main)


def test_a_proxy_that_goes_on_talking_before_the_handshake_is_no_connection(run, context):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(GRANTED + b"hello")
        await reader.read()

    async def main():
        async with RawServer(script) as proxy:
            told = await assert_fails(pool_by(way(proxy.port), ssl=context))
            assert told.endswith("it speaks where the upstream should")

    run(main)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200", GRANTED], ids=["nothing", "half", "then nothing"])
def test_a_proxy_that_stalls_runs_into_the_connect_clock(run, context, says):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(says)
        await reader.read()

    async def main():
        async with RawServer(script) as proxy:
            pool = pool_by(way(proxy.port), ssl=context, connect_timeout=0.05)
            told = await assert_fails(pool, error=UpstreamTimeout)
            assert told == (
                f"no connection to {NAME}:443 through the proxy http://127.0.0.1:{proxy.port} within 0.05 s"
            )

    run(main)


def test_where_no_proxy_listens_it_is_the_proxy_that_is_blamed(run):
    async def main():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, so that nobody else gets it, and not listening
            told = await assert_fails(pool_by(way(taken.getsockname()[1])))
        assert "through the proxy" in told
        assert told.endswith("Connection refused")

    run(main)


def test_a_proxy_whose_name_has_no_address_is_blamed(run):
    async def main():
        told = await assert_fails(pool_by(Tunnel(parse("http://proxy.invalid:3128"))))
        assert "through the proxy http://proxy.invalid:3128: it has no address" in told

    run(main)


def test_a_proxy_that_lets_through_another_server_is_found_out(run, authority, context):
    async def main():
        async with (
            RawServer(keep_answering, context=authority.server_context("evil.example.com")) as upstream,
            ForwardProxy(upstream.port) as proxy,
        ):
            told = await assert_fails(pool_by(way(proxy.port), ssl=context), error=UpstreamUntrusted)
            assert f"the TLS certificate of {NAME}:443 through the proxy" in told

    run(main)


def test_an_upstream_that_closes_in_its_handshake_is_no_connection(run, context):
    async def script(reader, _writer):
        await read_request(reader)
        _writer.write(GRANTED)
        await reader.read(10)

    async def main():
        async with RawServer(script) as proxy:
            await assert_fails(pool_by(way(proxy.port), ssl=context))

    run(main)


def test_a_proxy_over_tls_is_checked_itself(run, authority, context):
    async def main():
        async with ForwardProxy(1, context=authority.server_context("elsewhere.example")) as proxy:
            told = await assert_fails(pool_by(way(proxy.port, "me:secret@", context)))
            assert "its own TLS certificate is not trusted" in told
            assert proxy.asked == []

    run(main)


def test_a_proxy_that_does_not_speak_tls_is_blamed_and_hears_no_password(run, context):
    heard = []

    async def script(reader, writer):
        heard.append(await reader.read(10_000))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def main():
        async with RawServer(script) as proxy:
            told = await assert_fails(pool_by(way(proxy.port, "me:secret@", context)))
            assert "no TLS with the proxy itself" in told
            assert b"proxy-authorization" not in heard[0]

    run(main)


@pytest.mark.parametrize("over_tls", [False, True], ids=["proxy", "proxy over TLS"])
def test_a_caller_cancelled_at_any_point_leaks_nothing(run, authority, context, over_tls):
    async def main():
        theirs = authority.server_context("localhost") if over_tls else None
        async with (
            RawServer(keep_answering, context=authority.server_context(NAME)) as upstream,
            ForwardProxy(upstream.port, context=theirs) as proxy,
        ):
            pool = pool_by(way(proxy.port, context=context if over_tls else None), ssl=context, max_open=1)
            await check_cancelled_at_any_point(pool, 4)
            await ask(pool)
            await pool.close()

    run(main)
    gc.collect()


def test_a_context_belongs_to_a_proxy_over_tls_alone(context):
    for url, ssl in (("http://p:1", context), ("https://p:1", None)):
        with pytest.raises(ValueError, match="a TLS context belongs to https"):
            Tunnel(parse(url), ssl)
