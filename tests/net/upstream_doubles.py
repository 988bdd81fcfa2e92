"""The other side of a connection, scripted: for the tests of the pool and its connections."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from penstock.config.model import PoolConfig
from penstock.net.clock import Clock
from penstock.net.connection import Connection
from penstock.net.origin import Origin
from penstock.net.pool import Pool

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n"
RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % size


class Collector:
    """A receiver that keeps what it got, and lets a test wait for it."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.then = then
        self.came = asyncio.Event()

    def on_head(self, status, headers):
        assert self.status is None, "a second head"
        self.status, self.headers = status, headers
        self.came.set()
        if self.then:
            self.then()

    def on_data(self, data):
        assert self.status is not None, "data before the head"
        assert type(data) is bytes
        assert data
        self.pieces.append(data)
        self.came.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    async def wait_body(self, body: bytes) -> None:
        while not self.body.startswith(body):
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 60)


class FakeTime:
    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeTransport(asyncio.Transport):
    """Keeps what is written; is closed only when the test says so."""

    def __init__(self, *, half_closes: bool = True) -> None:
        super().__init__()
        self.written = bytearray()
        self.calls: list[str] = []
        self.half_closes = half_closes
        self.unsent = 0

    def get_extra_info(self, name, default=None):
        return default

    def write(self, data):
        self.calls.append("write")
        self.written += data

    def writelines(self, list_of_data):
        self.calls.append("writelines")
        self.written += b"".join(list_of_data)

    def get_write_buffer_size(self):
        return self.unsent

    def can_write_eof(self):
        return self.half_closes

    def write_eof(self):
        self.calls.append("write_eof")

    def pause_reading(self):
        self.calls.append("pause_reading")

    def resume_reading(self):
        self.calls.append("resume_reading")

    def close(self):
        self.calls.append("close")

    def abort(self):
        self.calls.append("abort")

    def is_closing(self):
        return self.ended

    @property
    def ended(self) -> bool:
        return "close" in self.calls or "abort" in self.calls


class FakeHome:
    """A pool of one connection, as the connection sees it."""

    def __init__(self) -> None:
        self.now = FakeTime()
        self.taken_back = 0
        self.forgotten = 0
        self.stales = 0
        self.watched: list[Connection] = []

    def take_back(self, connection):
        self.taken_back += 1

    def forget(self, connection):
        self.forgotten += 1
        assert self.forgotten == 1, "a slot is given back once"

    def stale(self):
        self.stales += 1

    def watch(self, connection):
        self.watched.append(connection)


class Bench:
    """A connection between a fake pool and a fake transport; only inside a running loop."""

    def __init__(self, *, half_closes: bool = True) -> None:
        self.home = FakeHome()
        self.transport = FakeTransport(half_closes=half_closes)
        self.connection = Connection(self.home, asyncio.get_running_loop(), "upstream:80")
        self.connection.connection_made(self.transport)

    def ask(self, head: bytes = GET, body: bytes = b"", receiver: Collector | None = None):
        receiver = receiver or Collector()
        return receiver, self.connection.send(head, body, receiver)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    def eof(self) -> None:
        self.connection.eof_received()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """Runs ``script`` for each connection; what it raises fails the test."""

    def __init__(self, script: Script, *, context: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._context = context
        self._tasks: set[asyncio.Task] = set()
        self._faults: list[BaseException] = []
        self.accepted = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._context, limit=1 << 24
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        self.accepted += 1
        self._tasks.add(asyncio.current_task())
        try:
            await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client left
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._faults.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()
            self._tasks.discard(asyncio.current_task())

    async def __aexit__(self, *exc_info):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=60)
        await self._server.wait_closed()
        if self._faults and exc_info[0] is None:
            raise self._faults[0]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request; its body by content-length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + (await reader.readexactly(length) if length else b"")


def answer(body: bytes, *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def keep_answering(reader, writer):
    """A server that answers each request with its number on this connection, and keeps alive."""
    number = 0
    while True:
        await read_request(reader)
        number += 1
        writer.write(answer(b"%d" % number))


def pool_to(
    port: int,
    *,
    host: str = "127.0.0.1",
    clock: Clock | None = None,
    ssl=None,
    connect_timeout=10.0,
    **config,
):
    scheme = "https" if ssl else "http"
    origin, _ = Origin.parse(f"{scheme}://{host}:{port}")
    return Pool(origin, PoolConfig(**config), clock or Clock(), connect_timeout=connect_timeout, ssl=ssl)


async def ask(pool, head=GET, body=b""):
    receiver = Collector()
    connection = pool.acquire_nowait() or await pool.acquire()
    await connection.send(head, body, receiver)
    return receiver


async def check_cancelled_at_any_point(pool, slower):
    """Who asks for a connection is cancelled one turn of the loop later each time, in steps that grow by one after so many
    turns, until one has got it; nothing is left open.
    """
    turns, finished = 0, False
    while not finished:
        task = asyncio.create_task(pool.acquire())
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        if finished:
            (await task).abort()
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert pool.statistics().open == 0, turns
        turns += 1 + turns // slower
    assert turns > 3


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds; the pytest timeout ends a condition that never does."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


class Authority:
    """A certificate authority of our own."""

    def __init__(self, folder) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = str(folder / f"authority-{id(self)}.pem")
        with open(self.file, "wb") as file:
            file.write(certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(self, name: str) -> ssl.SSLContext:
        """A server's context with a certificate for a host name or an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            subject = x509.DNSName(name)
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
            .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / f"server-{name}-{id(self)}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _builder(self, subject, public_key):
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
