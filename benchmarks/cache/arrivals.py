"""Calls that arrive at random, whether or not those before them are answered: one thread over epoll, no event loop.

A generator that keeps up with a quick gateway needs a core of its own, and must not be what is late: each call has
its moment beforehand (a Poisson process), its latency counts from that moment, not from when it was sent, and no
collector of cycles runs meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import random
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

_PATIENCE = 30.0  # seconds without any answer


class _Connection:
    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.due = 0.0
        self.received = b""

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        rest = request[self.sock.send(request) :]
        while rest:  # what the socket did not take at once
            select.select([], [self.sock], [])
            rest = rest[self.sock.send(rest) :]


def _whole(received: bytes) -> bool:
    """Whether an answer is there: one with a length, or one in chunks."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    _, named, after = head.lower().partition(b"content-length: ")
    return len(body) >= int(after.partition(b"\r\n")[0]) if named else body.endswith(b"0\r\n\r\n")


def latencies(
    port: int, requests: Sequence[bytes], *, rate: float, count: int, wanted: bytes, connections: int
) -> list[float]:
    """Seconds from each call's moment to the end of its answer; see :func:`calls`."""
    found = calls(port, requests, rate=rate, count=count, wanted=wanted, connections=connections)
    return [end - moment for moment, end in found]


def calls(
    port: int, requests: Sequence[bytes], *, rate: float, count: int, wanted: bytes, connections: int
) -> list[tuple[float, float]]:
    """Each call's moment and the end of its answer, by ``time.perf_counter``, in the order of the ends.

    :param rate: calls per second
    :param wanted: what the head of each answer must hold, in lower case
    :raises RuntimeError: an answer was another one than wanted, or a call's connection was closed, or no answer came
        for half a minute
    """
    poller = select.epoll()
    by_number: dict[int, _Connection] = {}

    def connected() -> _Connection:
        connection = _Connection(port)
        number = connection.sock.fileno()
        by_number[number] = connection
        poller.register(number, select.EPOLLIN)
        return connection

    idle = [connected() for _ in range(connections)]
    waiting: deque[float] = deque()  # moments of calls for which no connection is free
    found: list[tuple[float, float]] = []
    arrived, clock = 0, time.perf_counter
    gc.collect()
    gc.disable()
    due = heard = clock()
    try:
        while len(found) < count:
            now = clock()
            while arrived < count and due <= now:
                waiting.append(due)
                arrived += 1
                due += random.expovariate(rate)
            while waiting and (idle or len(by_number) < connections):
                connection = idle.pop() if idle else connected()  # in place of one that the server has closed
                connection.send(random.choice(requests), waiting.popleft())
            # epoll's own timeout counts milliseconds; the one of select() is exact.
            pause = max(due - clock(), 0.0) if arrived < count else _PATIENCE
            select.select([poller], [], [], pause)
            for number, _ in poller.poll(0):
                connection = by_number[number]
                data = connection.sock.recv(262_144)
                if not data:  # a server does not keep idle connections for ever
                    poller.unregister(number)
                    by_number.pop(number).sock.close()
                    if connection not in idle:
                        raise RuntimeError("the connection was closed in the middle of a call")
                    idle.remove(connection)
                    continue
                connection.received += data
                if _whole(connection.received):
                    heard = clock()
                    found.append((connection.due, heard))
                    _check(connection.received, wanted)
                    connection.received = b""
                    idle.append(connection)
            if now - heard > _PATIENCE and len(idle) < len(by_number):
                raise RuntimeError("no answer for half a minute")
    finally:
        gc.enable()
        poller.close()
        for connection in by_number.values():
            with contextlib.suppress(OSError):
                connection.sock.close()
    return found


def _check(answer: bytes, wanted: bytes) -> None:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    if not head.startswith(b"http/1.1 200") or wanted not in head:
        raise RuntimeError(f"not what was expected: {answer[:600]!r}")
