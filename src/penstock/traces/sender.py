"""Spans on their way to a collector: a bounded queue, and a thread that empties it.

Whoever puts a span in neither waits nor fails.  A collector that hangs, refuses or talks nonsense costs the spans
that find no room, or are not taken within :data:`TIMEOUT`; they are counted, and nothing else comes of it.

Anybody can have requests refused, as many as he likes.  Their spans have a share of their own of each batch, and so
of the queue, whatever becomes of the batches: no flood of them pushes out those of calls.  Who has a key cannot take
the share of who has none, nor the other way round.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from penstock.config.model import TracesConfig
from penstock.traces.spans import Span

MOST_WAITING = 4_096  # spans, of about a kilobyte each
BATCH = 512  # spans in one request
REFUSED = 64  # of them those of requests that were refused, with a key that is known; and as many of others
INTERVAL = 1.0  # seconds for which a span waits for others
TIMEOUT = 10.0  # seconds that one request may take, with what is tried again of it
WORD_INTERVAL = 60.0  # seconds between two lines in the log about spans that cannot be sent
LAST_WORDS = 2.0  # seconds for what waits yet, when it ends

log = logging.getLogger("penstock.traces")


class Ended(Protocol):
    """Something that has ended, and can say so as a span."""

    def span(self) -> Span: ...


class Exporter(Protocol):
    """Brings spans to a collector; belongs to one thread, but for ``stop``."""

    def export(self, spans: Sequence[Span]) -> bool:
        """Whether they were taken; may take its time."""

    def stop(self) -> None:
        """Try nothing again."""


Connect: TypeAlias = Callable[[TracesConfig, float], Exporter]


def _otlp(config: TracesConfig, timeout: float) -> Exporter:
    from penstock.traces.otlp import OTLP  # noqa: PLC0415 - an extra, and half a second of imports

    return OTLP(config, timeout)


class Sender:
    """The spans of one worker.  Its thread starts with the first span.

    :param connect: makes what brings spans to a collector, in the thread
    """

    def __init__(self, config: TracesConfig, connect: Connect = _otlp) -> None:
        self._config = config
        self._connect = connect
        self._waiting: deque[Ended] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._exporter: Exporter | None = None
        self._refused = {True: 0, False: 0}  # since the last batch, by whether the key was known
        self._next_word = 0.0  # when the log may be told of another
        self.dropped = 0  # spans that found no room
        self.limited = 0  # of refused requests, beyond their share
        self.sent = 0
        self.failed = 0  # that the collector did not take

    def __repr__(self) -> str:
        return f"<Sender to {self._config.endpoint}, {len(self._waiting)} spans waiting>"

    def put(self, ended: Ended) -> None:
        """Never waits and never raises."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        waiting.append(ended)
        if self._thread is None:
            # A daemon: what a collector keeps waiting must not keep the process.
            self._thread = threading.Thread(target=self._run, name="penstock-traces", daemon=True)
            self._thread.start()
        elif len(waiting) == BATCH:
            self._wake.set()

    def put_refused(self, ended: Ended, *, known: bool) -> bool:
        """The same, of a request that was refused; False: beyond its share.

        :param known: whose it was is known
        """
        if self._refused[known] >= REFUSED:
            self.limited += 1
            return False
        self._refused[known] += 1
        self.put(ended)
        return True

    def close(self, seconds: float = LAST_WORDS) -> None:
        """Send what waits, for so many seconds; what is left then is dropped.  May block for so long."""
        self._closing = True
        self._wake.set()
        thread = self._thread
        if thread is None:
            return
        thread.join(seconds)
        if thread.is_alive():
            self.dropped += len(self._waiting)
            self._waiting.clear()
            if self._exporter is not None:
                self._exporter.stop()

    # ---- in the thread ----

    def _run(self) -> None:
        try:
            self._exporter = self._connect(self._config, TIMEOUT)
        except Exception:
            log.exception("spans cannot be sent, and are counted as failed")
        while not self._closing or self._waiting:
            if len(self._waiting) < BATCH and not self._closing:
                self._wake.wait(INTERVAL)
                self._wake.clear()
            self._send(self._take())

    def _take(self) -> list[Ended]:
        taken: list[Ended] = []
        try:
            while len(taken) < BATCH:
                taken.append(self._waiting.popleft())
        except IndexError:  # that was all
            pass
        self._refused[True] = self._refused[False] = 0
        return taken

    def _send(self, batch: list[Ended]) -> None:
        """Send what can be said: one that cannot is left out, and costs the others nothing."""
        spans: list[Span] = []
        for ended in batch:
            try:
                spans.append(ended.span())
            except Exception as error:  # noqa: BLE001 - whatever it is, the others can be sent
                self._give_up("defect while making a span", error)
        left = [spans] if spans else []
        while left:
            part = left.pop()
            try:
                taken = self._exporter is not None and self._exporter.export(part)
            except Exception as error:  # noqa: BLE001 - the same
                if len(part) > 1:  # one of them is what cannot be encoded
                    middle = len(part) // 2
                    left += part[middle:], part[:middle]
                else:
                    self._give_up("defect while sending a span", error)
                continue
            if taken:
                self.sent += len(part)
            else:
                self.failed += len(part)

    def _give_up(self, why: str, error: Exception) -> None:
        """Count a span that cannot be sent, and say so once a minute."""
        self.failed += 1
        now = time.monotonic()
        if now >= self._next_word:
            self._next_word = now + WORD_INTERVAL
            log.error(why, exc_info=error)
