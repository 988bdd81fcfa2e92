"""CPU of the upstream connection pool alone, against a raw server in another process.

    python benchmarks/net_pool.py [--seconds 3] [--tls] [--loop uvloop|asyncio]

One caller or several send 1 KB requests and take 600 B answers; then streams of 1,000 chunks of 60 bytes
that arrive in bursts.  Printed: user and system CPU of this process per request and per chunk, in
microseconds.  The server only counts bytes: what is measured is the client's side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import ssl
import tempfile
import time

import uvloop

from penstock.config.model import PoolConfig
from penstock.net.clock import Clock
from penstock.net.connection import Connection
from penstock.net.origin import Origin
from penstock.net.pool import Pool

BODY = b'{"model":"m","messages":"' + b"x" * 970 + b'"}'
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\ncontent-length: %d\r\n\r\n" % len(BODY)
)
STREAM_HEAD = HEAD.replace(b"completions", b"streaming!!")
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: raw\r\n"
    b"content-type: application/json\r\nx-request-id: 0123456789abcdef\r\ncontent-length: 600\r\n\r\n"
    + b"y"
    * 600
)
CHUNKS = 1_000
CHUNK = b"3c\r\n" + b"z" * 60 + b"\r\n"
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + CHUNK * CHUNKS
    + b"0\r\n\r\n"
)


class RawServer(asyncio.Protocol):
    """Answers whenever as many bytes have come as a request has."""

    def connection_made(self, transport):
        self.transport = transport
        self.missing = len(HEAD) + len(BODY)

    def data_received(self, data):
        self.missing -= len(data)
        if self.missing <= 0:
            self.missing = len(HEAD) + len(BODY)
            self.transport.write(STREAM if b"/streaming" in data[:64] else ANSWER)


def serve(port_pipe, tls_files):
    async def main():
        context = None
        if tls_files:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls_files)
        server = await asyncio.get_running_loop().create_server(RawServer, "127.0.0.1", 0, ssl=context)
        port_pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


class Count:
    """A receiver that does nothing but count."""

    __slots__ = ("size",)

    def __init__(self):
        self.size = 0

    def on_head(self, status, headers):
        pass

    def on_data(self, data):
        self.size += len(data)


async def caller(pool, head, until, size):
    done = 0
    while time.monotonic() < until:
        receiver = Count()
        connection: Connection = pool.acquire_nowait() or await pool.acquire()
        await connection.send(head, BODY, receiver)
        assert receiver.size == size
        done += 1
    return done


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(port, seconds, context):
    clock = Clock()
    clock.start(asyncio.get_running_loop())
    scheme = "https" if context else "http"
    pool = Pool(
        Origin.parse(f"{scheme}://localhost:{port}")[0], PoolConfig(), clock, connect_timeout=5, ssl=context
    )
    figures = {}
    for name, callers, head, size in (
        ("us_per_request_1_caller", 1, HEAD, 600),
        ("us_per_request_32_callers", 32, HEAD, 600),
        ("us_per_chunk_in_bursts", 8, STREAM_HEAD, CHUNKS * 60),
    ):
        await asyncio.gather(*(caller(pool, head, time.monotonic() + 0.2, size) for _ in range(callers)))
        before, until = cpu(), time.monotonic() + seconds
        done = sum(await asyncio.gather(*(caller(pool, head, until, size) for _ in range(callers))))
        spent = cpu() - before
        figures[name] = round(spent / done / (CHUNKS if head is STREAM_HEAD else 1) * 1e6, 2)
    figures["pool"] = repr(pool)
    await pool.close()
    clock.stop()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tls_files, context = None, None
        if options.tls:
            tls_files, context = self_signed(folder)
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, tls_files))
        server.start()
        try:
            port = here.recv()
            run = uvloop.run if options.loop == "uvloop" else asyncio.run
            print(json.dumps(run(measure(port, options.seconds, context)), indent=1))
        finally:
            server.terminate()
            server.join()


def self_signed(folder):
    import datetime as dt
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    from penstock.net.client_tls import client_context

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = Path(folder, "certificate.pem"), Path(folder, "key.pem")
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return (str(certificate_file), str(key_file)), client_context(None, verify=False)


if __name__ == "__main__":
    main()
