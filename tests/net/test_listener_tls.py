"""TLS on the listening side, with a certificate made here."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import socket
import ssl
import subprocess
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from listener_doubles import SENTINEL, Served, Showcase, read_answers, run, until

from penstock.config.model import TLSConfig
from penstock.config.secret import Secret
from penstock.errors import ConfigError
from penstock.net.tls import server_context

PASSWORD = b"open sesame"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths by name: certificate, key, locked (the same key behind a password), other (another key)."""
    folder = tmp_path_factory.mktemp("tls")
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )

    def written(file, private, encryption):
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (folder / file).write_bytes(private.private_bytes(pem, form, encryption))
        return str(folder / file)

    (folder / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return {
        "certificate": str(folder / "certificate"),
        "key": written("key", key, serialization.NoEncryption()),
        "other": written("other", other, serialization.NoEncryption()),
        "locked": written("locked", key, serialization.BestAvailableEncryption(PASSWORD)),
    }


@pytest.fixture
def tls(files):
    return server_context(TLSConfig(certificate=files["certificate"], key=files["key"]))


def trusting(files, **more):
    context = ssl.create_default_context(cafile=files["certificate"])
    for name, value in more.items():
        setattr(context, name, value)
    return context


async def connect(served, context):
    return await asyncio.open_connection("127.0.0.1", served.port, ssl=context, server_hostname="localhost")


async def closed(writer):
    writer.close()
    try:
        await writer.wait_closed()
    except (ConnectionError, ssl.SSLError):
        pass


def test_requests_and_streams(files, tls, loop):
    async def main():
        async with Served(ssl=tls) as served:
            context = trusting(files)
            context.set_alpn_protocols(["h2", "http/1.1"])
            reader, writer = await connect(served, context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"b" * 100_000)
            writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answers = read_answers(await reader.read())
            assert [len(answer.body) for answer in answers] == [100_000, 27, 1_000_000]
            assert all(answer.complete for answer in answers)
            await closed(writer)

    run(main(), loop)


def test_a_refused_request_is_answered_and_the_connection_ends(files, tls, loop):
    async def main():
        async with Served(ssl=tls) as served:
            reader, writer = await connect(served, trusting(files))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert b"connection: close" in head
            # TLS has no half-close: the client sees the announced length, or the end after a while
            await until(lambda: "lingering" in repr(served.listener._serving.connections))
            served.pass_time(2.5)
            await reader.read()
            await closed(writer)

    run(main(), loop)


def test_a_client_that_leaves_is_noticed(files, tls, loop):
    application = Showcase()

    async def main():
        async with Served(application, ssl=tls) as served:
            _, writer = await connect(served, trusting(files))
            writer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: application.called)
            writer.transport.abort()
            await application.watching.gone.wait()
            application.go.set()

    run(main(), loop)


def test_a_slow_reader_gets_everything(files, tls, loop):
    application = Showcase()

    async def main():
        async with Served(application, ssl=tls) as served:
            reader, writer = await connect(served, trusting(files))
            writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await application.paused.wait()
            (answer,) = read_answers(await reader.read())
            assert answer.complete
            assert len(answer.body) == 320 * 65_536
            await closed(writer)

    run(main(), loop)


def test_drain_lets_a_request_end(files, tls, loop):
    application = Showcase()

    async def main():
        async with Served(application, ssl=tls) as served:
            reader, writer = await connect(served, trusting(files))
            idle_reader, idle_writer = await connect(served, trusting(files))
            writer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: application.called and served.listener.statistics().open == 2)
            drain = asyncio.create_task(served.listener.drain(100))
            assert await idle_reader.read() == b""
            await closed(idle_writer)
            application.go.set()
            (answer,) = read_answers(await reader.read())
            assert answer.closes
            await closed(writer)
            assert await drain == 0

    run(main(), loop)


def test_old_versions_are_refused(files, tls, loop):
    async def main():
        async with Served(ssl=tls) as served:
            context = trusting(files)
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that these versions are old is the point
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await connect(served, context)
            assert served.listener.statistics().accepted == 0

    run(main(), loop)


def test_plain_http_to_the_tls_port_harms_nobody(files, tls, loop):
    async def main():
        async with Served(ssl=tls) as served:
            with await served.client() as client:
                await client.send(SENTINEL)
                try:
                    await client.receive_all()
                except ConnectionResetError:
                    pass
                assert b"sentinel" not in client.received
            reader, writer = await connect(served, trusting(files))
            writer.write(SENTINEL)
            await reader.readuntil(b"sentinel")
            await closed(writer)

    run(main(), loop)


def test_a_key_with_a_password(files, loop):
    locked = TLSConfig(
        certificate=files["certificate"], key=files["locked"], key_password=Secret(PASSWORD.decode())
    )

    async def main():
        async with Served(ssl=server_context(locked)) as served:
            reader, writer = await connect(served, trusting(files))
            writer.write(SENTINEL)
            await reader.readuntil(b"sentinel")
            await closed(writer)

    run(main(), loop)


@pytest.mark.parametrize(
    ("certificate", "key", "password"),
    [
        ("missing", "key", None),
        ("certificate", "missing", None),
        ("certificate", "other", None),
        ("key", "key", None),
        ("certificate", "locked", None),
        ("certificate", "locked", "wrong"),
    ],
)
def test_files_that_cannot_be_used_are_named(files, certificate, key, password):
    config = TLSConfig(
        certificate=files.get(certificate, "/nowhere/certificate.pem"),
        key=files.get(key, "/nowhere/key.pem"),
        key_password=Secret(password) if password else None,
    )
    with pytest.raises(ConfigError, match="tls: ") as raised:
        server_context(config)
    assert config.key in str(raised.value)
    assert "wrong" not in str(raised.value)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_served_over_tls_and_told_that_there_is_no_http2(files, tls, loop):
    async def main():
        async with Served(ssl=tls) as served:
            process = await asyncio.create_subprocess_exec(
                *("curl", "-sS", "--max-time", "10", "--cacert", files["certificate"]),
                *("--resolve", f"localhost:{served.port}:127.0.0.1", "--http2"),
                *(f"https://localhost:{served.port}/a", f"https://localhost:{served.port}/stream"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert (out, err) == (b"/adata: 0\n\ndata: 1\n\ndata: 2\n\n", b"")

    run(main(), loop)


def test_a_handshake_that_does_not_come_is_given_up(files, tls):
    """The handshake is the event loop's: here it is only seen that its limit is the header's."""

    async def main():
        async with Served(ssl=tls, header_timeout=0.05) as served:
            with socket.create_connection(("127.0.0.1", served.port)) as sock:
                sock.setblocking(False)
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 10), 60) == b""

    run(main())
