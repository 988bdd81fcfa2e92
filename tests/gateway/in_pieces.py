"""A gateway of a test that keeps uploads, with a scripted model behind it, and requests to it."""

import asyncio
import base64
import contextlib
import hashlib
import json

from serving import COMPLETION, Answer, config, on_uvloop, plain, read_answer, serving

from penstock.config.model import CodingsConfig, FilesConfig, KeyConfig, UploadsConfig

CHAT = "/v1/chat/completions"
DRAFT = "application/partial-upload"


def body_of(size, fill="x"):
    """A chat request of about so many bytes."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": fill * size}]}).encode()


def digest(data, algorithm="sha-256"):
    value = hashlib.new(algorithm.replace("-", ""), data).digest()
    return f"{algorithm}=:{base64.b64encode(value).decode()}:"


class Scripted:
    """Answers every call alike, and remembers the bodies."""

    def __init__(self):
        self.bodies = []
        self.heads = []
        self.answer = plain(COMPLETION)
        self.serve = None  # answers instead

    async def __call__(self, reader, writer):
        if self.serve is not None:
            await self.serve(reader, writer)
            return
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                self.heads.append(lines)
                self.bodies.append(await reader.readexactly(int(lines["content-length"])))
                writer.write(self.answer)
        writer.close()


@contextlib.asynccontextmanager
async def in_pieces(folder, *, clock=None, keys=(), files=None, codings=None, **uploads):
    """``(ask, model, gateway)``."""
    model = Scripted()
    server = await asyncio.start_server(model, "127.0.0.1", 0)
    settings = config(
        f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        files=FilesConfig(directory=str(folder / "kept"), **(files or {})),
        uploads=UploadsConfig(**uploads),
        keys=list(keys),
        codings=codings or CodingsConfig(),
    )
    try:
        async with serving(settings, clock) as (gateway, port):
            yield Client(port), model, gateway
    finally:
        server.close()
        await server.wait_closed()


class Client:
    def __init__(self, port):
        self.port = port

    async def __call__(self, method, path, body=b"", *, key=None, length=None, **fields):
        """One request on a connection of its own; ``Upload_Offset=3`` becomes a header field."""
        reader, writer = await self.begin(
            method, path, len(body) if length is None else length, key=key, **fields
        )
        try:
            writer.write(body)
            return await self.answer(reader, method)
        finally:
            writer.close()
            await writer.wait_closed()

    async def begin(self, method, path, length, *, key=None, **fields):
        """The head of a request; the test sends the body, or does not."""
        path = path.partition(f"127.0.0.1:{self.port}")[2] or path
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        lines.append("transfer-encoding: chunked" if length < 0 else f"content-length: {length}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if key:
            lines.append(f"authorization: Bearer {key}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        return reader, writer

    async def answer(self, reader, method="GET"):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split()[1])
            if status < 200:
                continue
            if method == "HEAD" or status == 204:
                lines = head.decode("latin-1").split("\r\n")[1:]
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
                }
                return Answer(status, headers, b"")
            rest = asyncio.StreamReader()
            rest.feed_data(head)
            return await read_answer(_Joined(rest, reader))

    # ---- the two dialects ----

    async def create(self, path=CHAT, body=b"", complete=False, **fields):
        fields = {"Upload_Draft_Interop_Version": 9, "content_type": "application/json", **fields}
        return await self("POST", path, body, Upload_Complete=flag(complete), **fields)

    async def append(self, where, offset, body=b"", complete=False, **fields):
        fields = {"content_type": DRAFT, **fields}
        return await self(
            "PATCH", where, body, Upload_Offset=offset, Upload_Complete=flag(complete), **fields
        )

    async def offset(self, where, **fields):
        answer = await self("HEAD", where, **fields)
        return int(answer.headers["upload-offset"]) if "upload-offset" in answer.headers else answer.status

    async def tus(self, method, path, body=b"", **fields):
        if method == "PATCH":
            fields = {"content_type": "application/offset+octet-stream", **fields}
        return await self(method, path, body, Tus_Resumable="1.0.0", **fields)


def flag(value):
    return "?1" if value else "?0"


class _Joined:
    """What was read already, and then the rest."""

    def __init__(self, first, then):
        self.first = first
        self.then = then

    async def readuntil(self, end):
        return await self.first.readuntil(end)

    async def readexactly(self, size):
        return await self.then.readexactly(size)

    async def readline(self):
        return await self.then.readline()


def two_tenants():
    """``(keys of the configuration, one's key, the other's)``."""
    secrets = ["pk-one", "pk-other"]
    keys = [
        KeyConfig(name=secret, tenant=secret, hash="sha256:" + hashlib.sha256(secret.encode()).hexdigest())
        for secret in secrets
    ]
    return keys, *secrets


def with_gateway(folder, **more):
    """Runs a test at once that takes what :func:`in_pieces` gives."""

    def run(test):
        async def main():
            async with in_pieces(folder, **more) as (ask, model, gateway):
                await test(ask, model, gateway)

        on_uvloop(main)

    return run
