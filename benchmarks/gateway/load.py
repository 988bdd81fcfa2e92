"""The load generator: raw HTTP over asyncio protocols, as cheap as Python allows, every answer checked.

``closed`` keeps a number of connections busy for some seconds, ``streams`` runs one stream on each of
many connections, ``ticked`` sends at a given rate whatever comes back, ``held`` opens streams and leaves
them open while something is measured.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import cast

from benchmarks.gateway.upstream import MODEL, TEXT, WORD

KEY = "sk-bench-0123456789abcdef0123456789abcdef"
# What the official SDK sends.
_HEAD = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1:{port}\r\n"
    "Accept-Encoding: identity\r\n"
    "Connection: keep-alive\r\n"
    "authorization: Bearer {key}\r\n"
    "accept: application/json\r\n"
    "content-type: application/json\r\n"
    "user-agent: OpenAI/Python 3.52.0\r\n"
    "x-stainless-lang: python\r\n"
    "x-stainless-package-version: 3.52.0\r\n"
    "x-stainless-os: Linux\r\n"
    "x-stainless-arch: x64\r\n"
    "x-stainless-runtime: CPython\r\n"
    "x-stainless-runtime-version: 3.13.0\r\n"
    "x-stainless-async: false\r\n"
    "x-stainless-retry-count: 0\r\n"
    "x-stainless-read-timeout: 600\r\n"
    "{more}"
    "Content-Length: {length}\r\n\r\n"
)
_TEXT = TEXT.encode()
_WORD = WORD.encode()
_END = b"\r\n0\r\n\r\n"
_CONNECT = 20.0  # seconds


class LoadFailed(Exception):
    """The system did not take the load at all."""


@dataclass
class Target:
    """Where to call, and what its requests have in addition."""

    port: int
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """What became of the calls."""

    sent: int = 0
    good: int = 0
    chunks: int = 0
    errors: list[str] = field(default_factory=list)  # the first few
    failed: int = 0
    left: int = 0  # that were due, and for which no connection had become free
    seconds: float = 0.0
    first_bytes: list[float] = field(default_factory=list)  # seconds to the first byte of each stream's text

    def fail(self, why: str) -> None:
        self.failed += 1
        if len(self.errors) < 3:
            self.errors.append(why[:300])


class Requests:
    """Makes requests that differ in their prompts.

    :param size: bytes of the body
    :param ask: what the upstream shall do, such as ``burst:100``
    """

    numbers = count()

    def __init__(self, target: Target, ask: str, size: int) -> None:
        before = f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"'
        stream = "" if ask == "plain" else ',"stream":true'
        after = f'"}}]{stream}}}'
        filling = size - len(before) - len(after) - len(f"mock:{ask};") - 16
        text = ("Lorem ipsum dolor sit amet. " * (filling // 28 + 1))[: max(filling, 0)]
        body = f"{before}mock:{ask};%s{text}{after}"
        more = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
        length = len(body) - 2 + 16
        head = _HEAD.format(path=target.path, port=target.port, key=KEY, more=more, length=length)
        self._before, self._after = (half.encode() for half in (head + body).split("%s"))
        self.chunks = int(ask.split(":")[1]) if ":" in ask else 0

    def make(self) -> bytes:
        return b"%b%016x%b" % (self._before, next(self.numbers), self._after)


class Caller(asyncio.Protocol):
    """One connection; ``done`` is called after each answer and may send the next request."""

    def __init__(self, requests: Requests, tally: Tally, done: Callable[[Caller], None]) -> None:
        self.requests = requests
        self.tally = tally
        self.done = done
        self.busy = False
        self.first = 0.0  # when the first byte of the text came
        self.sent_at = 0.0
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def send(self) -> None:
        if self.transport is None:
            return
        self.busy = True
        self.first = 0.0
        self.tally.sent += 1
        self._buffer = b""
        self._need = 0
        self.sent_at = time.perf_counter()
        self.transport.write(self.requests.make())

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        self._buffer = data
        if not self.first and b"data:" in data:
            self.first = time.perf_counter()
        if self.requests.chunks:
            if data.endswith(_END):
                self._finish(self._check_stream(data))
            elif not self.first and b"\r\n\r\n" in data and b" 200 " not in data[:16]:
                self._finish(data[:300].decode(errors="replace"))
            return
        if not self._need:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = data[: end + 2].lower()
            start = head.find(b"\r\ncontent-length:")
            if start >= 0:
                self._need = end + 4 + int(head[start + 17 : head.find(b"\r\n", start + 17)])
            else:
                self._need = -1
        if self._need < 0:
            if data.endswith(_END):
                self._finish(self._check_plain(data))
        elif len(data) >= self._need:
            self._finish(self._check_plain(data) if len(data) == self._need else "more than its length")

    def _check_plain(self, data: bytes) -> str:
        # Who decodes and encodes anew may change the length, but not the text.
        if not data.startswith(b"HTTP/1.1 200 ") or _TEXT not in data or b"}" not in data[-8:]:
            return data[:600].decode(errors="replace")
        return ""

    def _check_stream(self, data: bytes) -> str:
        if not data.startswith(b"HTTP/1.1 200 "):
            return data[:600].decode(errors="replace")
        words = data.count(_WORD)
        self.tally.chunks += words
        if words != self.requests.chunks or b"data: [DONE]" not in data[-200:]:
            return f"{words} chunks of {self.requests.chunks}, ending {data[-100:]!r}"
        return ""

    def _finish(self, problem: str) -> None:
        self.busy = False
        if problem:
            self.tally.fail(problem)
        else:
            self.tally.good += 1
        self._buffer = b""
        self._need = 0
        self.done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.busy:
            self.busy = False
            self.tally.fail(f"connection lost: {exc!r}")
            self.done(self)

    def close(self) -> None:
        self.busy = False
        if self.transport is not None:
            self.transport.abort()


@asynccontextmanager
async def callers(
    target: Target, requests: Requests, tally: Tally, number: int, done: Callable[[Caller], None]
) -> AsyncIterator[list[Caller]]:
    """Connections that stand, and are closed at the end."""
    loop = asyncio.get_running_loop()
    made = [Caller(requests, tally, done) for _ in range(number)]
    try:
        for start in range(0, number, 50):  # fewer at once than the shortest accept queue holds
            async with asyncio.timeout(_CONNECT):
                await asyncio.gather(
                    *(
                        loop.create_connection(lambda caller=caller: caller, "127.0.0.1", target.port)
                        for caller in made[start : start + 50]
                    )
                )
        yield made
    except OSError as error:
        raise LoadFailed(str(error)) from error
    finally:
        for caller in made:
            caller.close()


class _Countdown:
    """Set when so many callers are through."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.event = asyncio.Event()

    def down(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.event.set()

    async def wait(self, seconds: float, tally: Tally) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.event.wait()
        except TimeoutError:
            for _ in range(self.left):
                tally.fail(f"no end of the answer after {seconds:.0f} s")


async def closed(
    target: Target,
    ask: str,
    size: int,
    *,
    connections: int,
    seconds: float,
    begin: Callable[[], None],
    patience: float,
) -> Tally:
    """Each connection sends its next request as soon as it has its answer.

    :param begin: called when the connections stand and nothing has been sent
    :param patience: seconds that answers may take after the load has ended; then they count as lost
    """
    tally = Tally()
    countdown = _Countdown(connections)
    deadline = 0.0

    def done(caller: Caller) -> None:
        if time.perf_counter() < deadline and caller.transport is not None:
            caller.send()
        else:
            countdown.down()

    async with callers(target, Requests(target, ask, size), tally, connections, done) as made:
        begin()
        started = time.perf_counter()
        deadline = started + seconds
        for caller in made:
            caller.send()
        await countdown.wait(seconds + patience, tally)
        tally.seconds = time.perf_counter() - started
    return tally


async def streams(
    target: Target, ask: str, size: int, *, number: int, begin: Callable[[], None], patience: float
) -> Tally:
    """One stream on each of ``number`` connections, all at once."""
    tally = Tally()
    countdown = _Countdown(number)
    async with callers(
        target, Requests(target, ask, size), tally, number, lambda caller: countdown.down()
    ) as made:
        begin()
        started = time.perf_counter()
        for caller in made:
            caller.send()
        await countdown.wait(patience, tally)
        tally.seconds = time.perf_counter() - started
    return tally


async def ticked(
    target: Target, ask: str, size: int, *, rate: float, seconds: float, seed: int, patience: float
) -> Tally:
    """Arrivals at random, ``rate`` per second, in ticks of a millisecond (the clock of the event loop).

    ``first_bytes`` counts from the tick in which a request was due, also if no connection was free then.
    """
    tally = Tally()
    draw = random.Random(seed)
    waiting: list[float] = []
    due: dict[Caller, float] = {}
    free: list[Caller] = []
    finished = asyncio.Event()
    ended = False

    def done(caller: Caller) -> None:
        since = due.pop(caller, 0.0)
        if caller.first and since:
            tally.first_bytes.append(caller.first - since)
        if waiting and caller.transport is not None:
            start(caller, waiting.pop(0))
            return
        free.append(caller)
        if ended and not due:
            finished.set()

    def start(caller: Caller, since: float) -> None:
        due[caller] = since
        caller.send()

    number = 64
    async with callers(target, Requests(target, ask, size), tally, number, done) as made:
        free.extend(made)
        started = at = time.perf_counter()
        arrival = started + draw.expovariate(rate)
        while at < started + seconds:
            await asyncio.sleep(0.001)
            at = time.perf_counter()
            while arrival <= at:
                if free:
                    start(free.pop(), at)
                else:
                    waiting.append(at)
                arrival += draw.expovariate(rate)
        ended = True
        tally.left = len(waiting)
        waiting.clear()
        if due:
            try:
                async with asyncio.timeout(patience):
                    await finished.wait()
            except TimeoutError:
                tally.fail(f"no answer after {patience:.0f} s")
        tally.seconds = time.perf_counter() - started
    return tally


@asynccontextmanager
async def held(target: Target, ask: str, size: int, *, number: int, patience: float) -> AsyncIterator[Tally]:
    """``number`` streams of which each has begun; they are cut at the end."""
    tally = Tally()
    async with callers(target, Requests(target, ask, size), tally, number, lambda caller: None) as made:
        deadline = time.perf_counter() + patience
        for caller in made:
            caller.send()
        while any(caller.busy and not caller.first for caller in made) and time.perf_counter() < deadline:  # noqa: ASYNC110 - no event per chunk, they would cost more than they say
            await asyncio.sleep(0.05)
        tally.good = sum(bool(caller.busy and caller.first) for caller in made)
        for _ in range(number - tally.good - tally.failed):
            tally.fail(f"had not begun after {patience:.0f} s")
        yield tally
        lost = tally.good - sum(caller.busy for caller in made)
        for _ in range(lost):
            tally.fail("ended while it should have been open")


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
