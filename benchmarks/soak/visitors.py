"""The visitors: who behaves, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.soak.wanted import ENDS, KINDS, PATHS, Answer, body, head

from penstock.config.model import PoolConfig
from penstock.errors import PenstockError
from penstock.net.clock import Clock
from penstock.net.origin import Origin
from penstock.net.pool import Pool

VISITORS = 48
PAUSE = 0.15  # seconds between two wishes of one visitor, on average
_RESET = struct.pack("ii", 1, 0)


class Disappointed(Exception):
    """A visitor who behaved, and did not get what is due."""


class Load:
    """The visitors, all in this process."""

    def __init__(self, url: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.examples: list[str] = []
        self._origin, _ = Origin.parse(url)
        self._clock = Clock()
        limits = PoolConfig(max_open=2_000, max_idle=200, max_life=30.0, idle_timeout=10.0)
        self._pool = Pool(self._origin, limits, self._clock, connect_timeout=30.0)
        self._leaving = asyncio.Event()
        self._marks = 0
        self._wishes: Sequence[tuple[int, str, Callable[[], Awaitable[None]]]] = (
            (24, "plain", self.plain),
            (14, "burst", self.burst),
            (14, "paced", self.paced),
            (6, "free", self.free),
            (8, "retried", self.retried),
            (4, "invented", self.invented),
            (4, "twice", self.twice),
            (6, "broken", self.broken),
            (10, "hang-up", self.hang_up),
            (4, "hang-up at once", self.hang_up_at_once),
            (3, "half a request", self.half_a_request),
            (1, "slow reader", self.slow_reader),
            (3, "idle", self.idle),
            (5, "nonsense", self.nonsense),
        )

    async def run(self, seconds: float) -> None:
        self._clock.start(asyncio.get_running_loop())
        visitors = [asyncio.create_task(self._visitor()) for _ in range(VISITORS)]
        await asyncio.sleep(seconds)
        self._leaving.set()
        await asyncio.wait(visitors)
        for visitor in visitors:
            visitor.result()
        await self._pool.close()
        self._clock.stop()

    async def _visitor(self) -> None:
        weights = [weight for weight, _, _ in self._wishes]
        while not self._leaving.is_set():
            _, name, wish = self.chance.choices(self._wishes, weights)[0]
            try:
                await wish()
                self.done[name] += 1
            except (Disappointed, PenstockError) as error:
                self.faults[name] += 1
                if len(self.examples) < 20:
                    self.examples.append(f"{name}: {type(error).__name__}: {error}")
            await self._rest(self.chance.expovariate(1 / PAUSE))

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    # ---- who behaves ----

    async def _ask(self, path: str, content: bytes) -> Answer:
        answer = Answer(ENDS.get(path, b""))
        for fresh in (False, True):
            connection = await self._pool.acquire(fresh=fresh)
            try:
                await connection.send(head(path, len(content)), content, answer)
                break
            except PenstockError as error:
                if fresh or type(error).__name__ != "StaleConnection":
                    raise
        return answer

    def _model(self, kind: str, script: str, path: str) -> str:
        """By kind of upstream and form of the answer, so that exact and estimated rows do not share a model."""
        form = path.rpartition("/")[2]
        return f"{kind}/sim:{script},key={form}"

    def _wanted(self, path: str, script: str, *, kind: str = "", stream: bool) -> bytes:
        self._marks += 1
        model = self._model(kind or self.chance.choice(KINDS), script, path)
        return body(path, model, stream=stream, mark=self._marks)

    def _translatable(self) -> tuple[str, str]:
        """A path, and an upstream that can serve it."""
        path = self.chance.choice(PATHS)
        kind = self.chance.choice(KINDS)
        if path == "/v1/completions" and kind == "anthropic":
            kind = "sim"
        return path, kind

    async def plain(self) -> None:
        path, kind = self._translatable()
        tokens = self.chance.choice((8, 64, 300))
        answer = await self._ask(path, self._wanted(path, f"tokens={tokens}", kind=kind, stream=False))
        if answer.status != 200 or not answer.tail.rstrip().endswith(b"}"):
            raise Disappointed(f"{path} of {kind}: {answer.status} {answer.tail[-300:]!r}")

    async def _stream(self, script: str) -> None:
        path, kind = self._translatable()
        answer = await self._ask(path, self._wanted(path, script, kind=kind, stream=True))
        if answer.status != 200 or not answer.marked:
            raise Disappointed(f"{path} of {kind}: {answer.status} {answer.tail[-300:]!r}")

    async def burst(self) -> None:
        await self._stream(f"tokens={self.chance.choice((20, 200, 1_000))}")

    async def paced(self) -> None:
        await self._stream(f"tokens=60,ttft={self.chance.choice((5, 50))},tps=200")

    async def free(self) -> None:
        """What costs nothing, or no output."""
        path = self.chance.choice(("/v1/embeddings", "/v1/messages/count_tokens"))
        kind = "anthropic" if path.endswith("count_tokens") else "openai"
        answer = await self._ask(path, self._wanted(path, "tokens=1", kind=kind, stream=False))
        if answer.status != 200:
            raise Disappointed(f"{path}: {answer.status} {answer.tail[-300:]!r}")

    async def retried(self) -> None:
        """Failures of which a caller sees nothing."""
        failure = self.chance.choice(
            ("500-once", "429,once,retry-after=0", "reset-before-headers,once", "garbage,once")
        )
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        stream = self.chance.random() < 0.5
        content = self._wanted(path, f"tokens=20,{failure}", kind="sim", stream=stream)
        answer = await self._ask(path, content)
        if answer.status != 200:
            raise Disappointed(f"{failure}: {answer.status} {answer.tail[-300:]!r}")

    async def invented(self) -> None:
        """A model's name that was never heard before: nothing may be kept for each name."""
        self._marks += 1
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        known = self.chance.random() < 0.5
        model = f"{'alias' if known else 'nobody'}/{self._marks}"
        answer = await self._ask(path, body(path, model, stream=False, mark=self._marks))
        if answer.status != (200 if known else 404):
            raise Disappointed(f"{model}: {answer.status} {answer.tail[-300:]!r}")

    async def twice(self) -> None:
        """The same call again while it is being answered, under one key; one of the two may lose patience."""
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        content = self._wanted(path, "tokens=40,ttft=20,tps=200,key=twice", kind="sim", stream=True)
        more = f"idempotency-key: {self._marks}\r\n"
        request = head(path, len(content), more=more + "connection: close\r\n") + content
        patient = self.chance.random() < 0.5
        _, first = await self._connect()
        first.write(request)
        await asyncio.sleep(self.chance.uniform(0, 0.1))
        reader, second = await self._connect()
        second.write(request)
        if not patient:
            await self._leave(first)
        answer = b""
        with contextlib.suppress(OSError):
            answer = await reader.read(-1)
        await self._leave(second)
        if patient:
            await self._leave(first)
        if ENDS[path] not in answer:
            raise Disappointed(f"the second of two: {answer[-300:]!r}")

    async def broken(self) -> None:
        """Streams that end badly, and again when they are gone on with: the caller must be told.

        One that lacks nothing but its terminator is completed.
        """
        failure = self.chance.choice(
            ("cut-after=5", "close-after=5", "stall-after=5", "malformed-event=5", "error-event=5", "no-done")
        )
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        content = self._wanted(path, f"tokens=30,tps=200,{failure}", kind="sim", stream=True)
        answer = await self._ask(path, content)
        wanted = ENDS[path] if failure == "no-done" else b'"error"'
        if wanted not in answer.tail:
            raise Disappointed(f"{failure} did not end as it must: {answer.status} {answer.tail[-300:]!r}")

    # ---- who does not ----

    async def _connect(self, *, receive_buffer: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await asyncio.get_running_loop().sock_connect(sock, (self._origin.host, self._origin.port))
            return await asyncio.open_connection(sock=sock, limit=receive_buffer or 65_536)
        except OSError:
            sock.close()
            raise Disappointed("no connection") from None

    async def _leave(self, writer: asyncio.StreamWriter) -> None:
        """With a reset or with an orderly end, as it comes."""
        if self.chance.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        else:
            writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def hang_up(self) -> None:
        """At any point of a paced answer."""
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        content = self._wanted(
            path, "tokens=200,ttft=20,tps=200", kind="sim", stream=self.chance.random() < 0.85
        )
        reader, writer = await self._connect()
        writer.write(head(path, len(content)) + content)
        until = time.monotonic() + self.chance.uniform(0, 0.8)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                while await reader.read(65_536):
                    pass
        await self._leave(writer)

    async def hang_up_at_once(self) -> None:
        path, kind = self._translatable()
        content = self._wanted(path, "tokens=100,key=gone", kind=kind, stream=True)
        _, writer = await self._connect()
        writer.write(head(path, len(content)) + content)
        await self._leave(writer)

    async def half_a_request(self) -> None:
        content = self._wanted("/v1/chat/completions", "tokens=10", stream=False)
        request = head("/v1/chat/completions", len(content)) + content
        _, writer = await self._connect()
        writer.write(request[: self.chance.randrange(len(request))])
        await self._rest(self.chance.uniform(0, 1))
        await self._leave(writer)

    async def slow_reader(self) -> None:
        """A long answer, a few kilobytes at a time; half of them lose patience."""
        path = "/v1/chat/completions"
        content = self._wanted(path, "tokens=12000", kind="sim", stream=True)
        reader, writer = await self._connect(receive_buffer=8_192)
        writer.write(head(path, len(content), more="connection: close\r\n") + content)
        slow = time.monotonic() + 3.0
        patient = self.chance.random() < 0.5
        tail = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(8_192):
                tail = (tail + data)[-2_000:]
                if time.monotonic() < slow:
                    await asyncio.sleep(0.05)
                elif not patient:
                    break
        await self._leave(writer)
        if patient and ENDS[path] not in tail:
            raise Disappointed(f"slowly read, and not to the end: {tail[-300:]!r}")

    async def idle(self) -> None:
        """Lies on a connection, asks again, and is welcome, unless the listener's patience has ended."""
        reader, writer = await self._connect()
        for _ in range(2):
            content = self._wanted("/v1/chat/completions", "tokens=8", kind="openai", stream=False)
            writer.write(head("/v1/chat/completions", len(content)) + content)
            try:
                status = await reader.readuntil(b"\r\n\r\n")
                length = int(status.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                await self._leave(writer)
                raise Disappointed(f"idle: {error!r}") from error
            if not status.startswith(b"HTTP/1.1 200"):
                await self._leave(writer)
                raise Disappointed(f"idle: {status!r}")
            await self._rest(self.chance.uniform(0.1, 4))
        await self._leave(writer)

    async def nonsense(self) -> None:
        chat = "/v1/chat/completions"
        unknown = body(chat, "nobody", stream=False, mark=0)
        words = self.chance.choice(
            (
                head(chat, 7) + b"{'no': ",
                head(chat, 2) + b"[]",
                head(chat, len(unknown)) + unknown,
                head("/v1/nowhere", 0, method="GET"),
                head(chat, 0, method="DELETE"),
                head(chat, 10, more="transfer-encoding: chunked\r\n") + b"0\r\n\r\n",
                head(chat, 0, more="x: " + "y" * 70_000 + "\r\n"),
                b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello",
                b"GET / HTTP/1.1\nhost: a\n\n",
                head(chat, 40_000_000),
            )
        )
        reader, writer = await self._connect()
        answer = b""
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(words)
            async with asyncio.timeout(5):
                answer = await reader.read(65_536)
        await self._leave(writer)
        if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise Disappointed(f"{words[:60]!r} was answered with {answer[:60]!r}")
