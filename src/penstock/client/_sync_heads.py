# Made from _async_heads.py by scripts/make_twins.py; change that one.

"""The clock of an answer's head, which the libraries below do not have: theirs begins anew with every byte."""

from __future__ import annotations

import math
import time
from typing import Any, Self, TypeVar

_Transport = TypeVar("_Transport")
LEAST = 0.001  # seconds for a read; what has come by then is still taken


class HeadClock(float):
    """Seconds from when a request went out until the head of its answer must have come.

    For who knows it as a number it is that: seconds of silence, which begin anew with each byte.

    :param until: when it is of no use any more, in monotonic seconds
    """

    __slots__ = ("until",)

    until: float

    def __new__(cls, seconds: float, until: float = math.inf) -> Self:
        made = super().__new__(cls, seconds)
        made.until = until
        return made


def head_clock(seconds: float, left: float | None) -> HeadClock:
    """:param left: seconds until it is of no use any more; None: it always is"""
    return HeadClock(seconds) if left is None else HeadClock(seconds, time.monotonic() + left)


def with_clocks(transport: _Transport, timed_out: type[Exception]) -> _Transport:
    """A library's transport, of whose connections these clocks are.

    It has no way to be given what makes its connections.  Where it keeps that elsewhere than it used to, it is left as
    it is: then only silence runs its clocks out.

    :param timed_out: the exception of what it rests on for a clock that has run out
    """
    pool = getattr(transport, "_pool", None)
    inner = getattr(pool, "_network_backend", None)
    if pool is not None and inner is not None:
        pool._network_backend = Connections(inner, timed_out)  # noqa: SLF001 - see above
    return transport


class Connections:
    """What makes connections, around what a library makes them with."""

    def __init__(self, inner: Any, timed_out: type[Exception]) -> None:
        self._inner = inner
        self._timed_out = timed_out

    def connect_tcp(self, *args: Any, **named: Any) -> Connection:
        return Connection(self._inner.connect_tcp(*args, **named), self._timed_out)

    def connect_unix_socket(self, *args: Any, **named: Any) -> Connection:
        return Connection(self._inner.connect_unix_socket(*args, **named), self._timed_out)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class Connection:
    """One connection, around a library's."""

    __slots__ = ("_asked", "_inner", "_timed_out")

    def __init__(self, inner: Any, timed_out: type[Exception]) -> None:
        self._inner = inner
        self._timed_out = timed_out
        self._asked = time.monotonic()  # when something went out last

    def __repr__(self) -> str:
        return f"<Connection {self._inner!r}>"

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if isinstance(timeout, HeadClock):
            now = time.monotonic()
            left = min(self._asked + timeout, timeout.until) - now
            if left <= 0:
                raise self._timed_out("something comes, and no answer")
            timeout = max(left, LEAST)
        data: bytes = self._inner.read(max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)
        self._asked = time.monotonic()

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **named: Any) -> Connection:
        return Connection(self._inner.start_tls(*args, **named), self._timed_out)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
