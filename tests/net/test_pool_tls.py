"""TLS towards upstreams, with an authority of our own."""

from __future__ import annotations

import ssl

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
    pool_to,
    post,
    read_request,
    until,
)

from penstock.errors import (
    ConfigError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from penstock.net.client_tls import client_context

BIG = b"b" * 5_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority):
    return client_context(authority.file, verify=True)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_calls_go_over_tls_and_connections_are_reused(run, authority, context, name):
    async def main():
        async with RawServer(keep_answering, context=authority.server_context(name)) as server:
            pool = pool_to(server.port, host=name, ssl=context)
            assert (await ask(pool)).body == b"1"
            assert (await ask(pool, post(len(BIG)), BIG)).body == b"2"
            assert server.accepted == 1
            await pool.close()

    run(main)


def test_the_server_is_told_the_name_and_the_protocol(run, authority, context):
    seen = []
    server_context = authority.server_context("localhost")
    server_context.sni_callback = lambda _ssl, name, _context: seen.append(name)
    server_context.set_alpn_protocols(["h2", "http/1.1"])

    async def script(reader, writer):
        await read_request(reader)
        tls = writer.get_extra_info("ssl_object")
        seen.extend((tls.selected_alpn_protocol(), tls.version()))
        writer.write(answer(b""))

    async def main():
        async with RawServer(script, context=server_context) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            await ask(pool)
            await pool.close()
        assert seen == ["localhost", "http/1.1", "TLSv1.3"]

    run(main)


def test_a_certificate_of_another_host_is_refused(run, authority, context):
    async def main():
        async with RawServer(keep_answering, context=authority.server_context("other.example")) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            with pytest.raises(
                UpstreamUntrusted, match=r"certificate of localhost:\d+ is not trusted: Hostname mismatch"
            ):
                await pool.acquire()
            assert pool.statistics().open == 0
            assert pool.statistics().connect_errors_total == 1

    run(main)


def test_a_certificate_of_an_unknown_authority_is_refused(run, authority, context, tmp_path):
    async def main():
        stranger = Authority(tmp_path)
        async with RawServer(keep_answering, context=stranger.server_context("localhost")) as server:
            for ours in (context, client_context(None, verify=True)):
                pool = pool_to(server.port, host="localhost", ssl=ours)
                with pytest.raises(UpstreamUntrusted, match=r"localhost:\d+ is not trusted: .*issuer"):
                    await pool.acquire()
                assert pool.statistics().open == 0
            pool = pool_to(server.port, host="localhost", ssl=client_context(None, verify=False))
            assert (await ask(pool)).body == b"1"
            await pool.close()

    run(main)


def test_tls_1_1_is_refused(run, authority, context):
    old = authority.server_context("localhost")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1

    async def main():
        async with RawServer(keep_answering, context=old) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            with pytest.raises(UpstreamUnreachable, match=r"localhost:\d+"):
                await pool.acquire()

    run(main)


def test_a_server_without_tls_is_refused_with_a_reason(run, context):
    async def script(reader, writer):
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            with pytest.raises(UpstreamUnreachable, match=r"^no TLS with localhost:\d+: .+"):
                await pool.acquire()
            assert pool.statistics().open == 0

    run(main)


def test_a_handshake_that_stalls_runs_into_the_connect_clock(run, context):
    async def script(reader, _writer):
        await reader.read(10)
        await reader.read()

    async def main():
        async with RawServer(script) as server:
            pool = pool_to(server.port, host="localhost", ssl=context, connect_timeout=0.05)
            with pytest.raises(UpstreamTimeout):
                await pool.acquire()
            assert pool.statistics().open == 0

    run(main)


def test_a_caller_cancelled_at_any_point_of_the_handshake_leaks_nothing(run, authority, context):
    async def main():
        async with RawServer(keep_answering, context=authority.server_context("localhost")) as server:
            pool = pool_to(server.port, host="localhost", ssl=context, max_open=1)
            await check_cancelled_at_any_point(pool, 8)
            await ask(pool)
            await pool.close()
            assert pool.statistics().open == 0

    run(main)


def test_hanging_up_closes_at_once(run, authority, context):
    gone = []

    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        try:
            await reader.read()
        finally:
            gone.append(True)

    async def main():
        async with RawServer(script, context=authority.server_context("localhost")) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            receiver = Collector()
            connection = await pool.acquire()
            future = connection.send(GET, b"", receiver)
            await receiver.wait_body(b"a")
            connection.hang_up(10)
            assert future.done()
            assert pool.statistics().open == 0
            await until(lambda: gone)

    run(main)


def test_a_body_without_length_ends_with_a_clean_end_of_tls(run, authority, context):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")

    async def main():
        async with RawServer(script, context=authority.server_context("localhost")) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            assert (await ask(pool)).body == b"hello"
            assert pool.statistics().open == 0

    run(main)


def test_a_body_without_length_that_anybody_on_the_way_may_have_cut_is_broken(run, authority, context):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()
        # A FIN without close_notify: what an attacker who cuts a connection can do.
        writer.transport.abort()

    async def main():
        async with RawServer(script, context=authority.server_context("localhost")) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            with pytest.raises(UpstreamBroken):
                await ask(pool)
            assert pool.statistics().open == 0

    run(main)


def test_a_connection_that_the_server_closes_while_idle_leaves_the_pool(run, authority, context):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(answer(b"one"))

    async def main():
        async with RawServer(script, context=authority.server_context("localhost")) as server:
            pool = pool_to(server.port, host="localhost", ssl=context)
            await ask(pool)
            await until(lambda: pool.statistics().open == 0)

    run(main)


@pytest.mark.parametrize("what", ["missing", "empty", "nonsense"])
def test_a_ca_file_that_cannot_be_used_is_a_mistake_of_the_configuration(tmp_path, what):
    file = tmp_path / "ca.pem"
    if what != "missing":
        file.write_text(
            "" if what == "empty" else "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
        )
    with pytest.raises(ConfigError, match=r"ca_file '.*ca\.pem' cannot be used"):
        client_context(str(file), verify=True)


def test_without_a_system_store_certifi_is_trusted(monkeypatch, tmp_path):
    nothing = ssl.DefaultVerifyPaths(None, str(tmp_path), "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert client_context(None, verify=True).cert_store_stats()["x509_ca"] > 50


def test_contexts_verify_unless_told_otherwise(authority):
    for context in (client_context(None, verify=True), client_context(authority.file, verify=True)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    context = client_context(authority.file, verify=False)
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname
