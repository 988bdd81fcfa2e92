"""Asks ahead: what lies beside a question is probably the next one, and then kept here already.

In a thread of its own, one question after the other, through a client of its own that shares what is kept; also for an
asynchronous client, as no task could outlive the call that begins it under every library.  Nobody waits for it: what
it cannot do at once, or not any more within its allowance, is left undone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from penstock.cache.neighbours import Neighbours
from penstock.client.options import CacheOptions

WAITING = 8  # questions
_CLOSING = 10.0  # seconds for the one that is under way
_OF_ONE_REQUEST = frozenset(
    {
        *("host", "content-length", "content-encoding", "transfer-encoding", "idempotency-key"),
        *("penstock-deadline", "x-stainless-retry-count"),
    }
)

log = logging.getLogger("penstock.client")


class Question(msgspec.Struct, frozen=True):
    """As it is sent."""

    url: str
    headers: dict[str, str]
    body: bytes


class Ahead:
    """What one client asks ahead; for any thread.

    :param ask: sends a question, and reads the answer to its end
    :param asked: is told of each that was answered
    :param close: ends what ``ask`` uses, also while it does
    """

    def __init__(
        self,
        options: CacheOptions,
        ask: Callable[[Question], None],
        asked: Callable[[], None],
        close: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        own = {f"own:{number}": each for number, each in enumerate(options.neighbours) if callable(each)}
        self._names = [*own, *("numbers" for each in options.neighbours if each == "numbers")]
        self._neighbours = Neighbours()
        self._neighbours.use(own)
        self._most = options.neighbours_per_minute
        self._ask = ask
        self._asked = asked
        self._close = close
        self._now = now
        self._lock = threading.Lock()
        self._recent: deque[float] = deque()  # when the last ones were asked
        self._waiting: queue.Queue[Question | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Ahead by {self._names}, {self._waiting.qsize()} waiting>"

    def saw(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """The application has asked this."""
        caller = f"{url} {headers.get('authorization') or headers.get('x-api-key')}"
        with self._lock:
            if self._closed:
                return
            found = self._neighbours.of(caller, body, self._names)
            if not found:
                return
            kept = {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_REQUEST}
            for neighbour in found:
                if not self._may() or self._waiting.full():
                    break
                self._waiting.put_nowait(Question(url, kept, neighbour))  # nobody else puts
                self._recent.append(self._now())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="penstock-ahead", daemon=True)
                self._thread.start()

    def _may(self) -> bool:
        now = self._now()
        while self._recent and self._recent[0] <= now - 60.0:
            self._recent.popleft()
        return len(self._recent) < self._most

    def _run(self) -> None:
        while (question := self._waiting.get()) is not None and not self._closed:
            try:
                self._ask(question)
            except Exception as error:  # noqa: BLE001 - whatever it is, the application will meet it by itself
                log.debug("a question ahead failed: %s", error)
            else:
                self._asked()

    def forked(self) -> None:
        """In a child process: the thread, and what it was to do, stay its parent's."""
        self._lock = threading.Lock()
        self._waiting = queue.Queue(WAITING)
        self._thread = None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            while not self._waiting.empty():  # what waits is left undone
                with contextlib.suppress(queue.Empty):
                    self._waiting.get_nowait()
            self._waiting.put_nowait(None)
        self._close()
        if thread is not None:
            thread.join(_CLOSING)
