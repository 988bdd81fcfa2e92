"""Connections that ask, wait for the answer, and ask again: 200 questions of 1 KB, in turn."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar, cast

import msgspec
import uvloop
from benchmarks.gateway.load import KEY
from benchmarks.gateway.upstream import MODEL

QUESTIONS = 200
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_LENGTH = re.compile(rb"(\r\ncontent-length: )\d+", re.IGNORECASE)

_T = TypeVar("_T")


def request(number: int, port: int, *, stream: bool) -> bytes:
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"mock:plain; question {number} " + "word " * 180}],
            "temperature": 0,
            "max_tokens": 100,
            "stream": stream,
        },
        separators=(",", ":"),
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def differently(asked: bytes, number: int) -> bytes:
    """A request that asks the same as this one, in bytes that no other number has.

    Its body's members stand in another order, and spaces at its end.
    """
    head, _, body = asked.partition(b"\r\n\r\n")
    members = [b'"%b":%b' % (name.encode(), bytes(value)) for name, value in _members(body).items()]
    spaces, turned = divmod(number, len(members))
    written = b"{%b%b}" % (b",".join(members[turned:] + members[:turned]), b" " * spaces)
    return _LENGTH.sub(b"\\g<1>%d" % len(written), head, count=1) + b"\r\n\r\n" + written


class Questions(Sequence[bytes]):
    """Whole requests.

    :param anew: each is written differently each time
    """

    def __init__(self, port: int, *, stream: bool = False, anew: bool = False) -> None:
        self._requests = [request(number, port, stream=stream) for number in range(QUESTIONS)]
        self._written = [0] * QUESTIONS
        self._anew = anew

    def __len__(self) -> int:
        return QUESTIONS

    def __getitem__(self, number: int) -> bytes:
        if self._anew:
            self._written[number] += 1
            return differently(self._requests[number], self._written[number])
        return self._requests[number]


class Asking(asyncio.Protocol):
    """One connection that asks, waits, and asks again; each answer's status and end are checked.

    :param requests: ends with the connection's work
    """

    def __init__(self, requests: Iterator[bytes], wanted: bytes, done: asyncio.Future[None]) -> None:
        self.requests = requests
        self.wanted = wanted
        self.done = done
        self.latencies: list[float] = []
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.ask()

    def ask(self) -> None:
        following = next(self.requests, None)
        if following is None:
            if not self.done.done():
                self.done.set_result(None)
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(following)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        if b"content-length: " in lowered:
            length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
            whole = len(body) >= length
        else:
            whole = body.endswith(b"0\r\n\r\n")
        if not whole:
            return
        if not lowered.startswith(b"http/1.1 200") or self.wanted not in lowered:
            self.done.set_exception(RuntimeError(f"not what was expected: {self.buffer[:600]!r}"))
            self.transport.close()
            return
        self.latencies.append(time.perf_counter() - self.sent)
        self.buffer = b""
        self.ask()


async def load(
    port: int, count: int, wanted: bytes, *, questions: Sequence[bytes], connections: int
) -> list[float]:
    """Seconds that each answer took."""
    loop = asyncio.get_running_loop()
    numbers = iter(range(count))
    source = (questions[number % len(questions)] for number in numbers)
    asking = []
    for _ in range(connections):
        done = loop.create_future()
        _, protocol = await loop.create_connection(
            lambda done=done: Asking(source, wanted, done), "127.0.0.1", port
        )
        asking.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in asking))
    return [latency for protocol in asking for latency in protocol.latencies]


def run(main: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]
