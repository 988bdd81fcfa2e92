"""Writes transcripts down in a thread of its own: who gives it a conversation goes on at once.

What waits is bounded: past that, conversations are dropped and counted.  Nobody's answer waits for a disk, and
none is lost because its transcript cannot be written.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from penstock.transcripts.files import Files
from penstock.transcripts.transcript import Transcript, line_of

WAITING_BYTES = 16 << 20  # what may wait to be written
TIDY_EVERY = 60.0  # seconds between two looks for what was kept for long enough
COMPLAIN_EVERY = 60.0  # seconds between two log lines about a disk

Fate: TypeAlias = Literal["written", "unusable", "dropped", "failed"]
Make: TypeAlias = Callable[[], Transcript | None]
"""What was said, made readable; None: it is nothing to learn from."""

log = logging.getLogger("penstock.transcripts")


class Writer:
    """:param count: told what became of each conversation; ``dropped`` in the caller's thread, the others in the
    writer's own
    """

    def __init__(
        self, files: Files, count: Callable[[Fate], None], *, now: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._count = count
        self._now = now
        self._waiting: queue.SimpleQueue[tuple[Make | Files | None, int] | None] = queue.SimpleQueue()
        self._put = 0  # bytes that were ever given, by the callers' thread
        self._taken = 0  # and that were seen to, by the writer's
        self._due = 0.0
        self._complained = -COMPLAIN_EVERY
        self._thread = threading.Thread(target=self._run, name="penstock-transcripts", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer to {self._files}, {self._put - self._taken} bytes waiting>"

    def put(self, make: Make, size: int) -> None:
        """Have one written; never waits, never raises.

        :param make: called in the writer's thread
        :param size: bytes that it holds until then, about
        """
        if self._put - self._taken + size > WAITING_BYTES:
            self._count("dropped")
            return
        self._put += size
        self._waiting.put((make, size))

    def sweep(self, now: float) -> None:
        if now >= self._due:
            self._due = now + TIDY_EVERY
            self._waiting.put((None, 0))

    def use(self, files: Files) -> None:
        """Write what is given from now on to other files."""
        self._waiting.put((files, 0))

    def close(self) -> None:
        """Write what waits, and end; takes as long as the disk does."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            given, size = work
            try:
                if given is None:
                    self._files.remove_old(self._now())
                elif isinstance(given, Files):
                    self._files.close()
                    self._files = given
                    self._complained = -COMPLAIN_EVERY  # what was said was said of another place
                else:
                    self._count(self._write(given))
            except Exception as error:  # noqa: BLE001 - the next one may fare better
                if callable(given):
                    self._count("failed")
                self._complain(error)
            self._taken += size
        self._files.close()

    def _write(self, make: Make) -> Fate:
        transcript = make()
        if transcript is None:
            return "unusable"
        self._files.append(transcript.tenant, line_of(transcript), self._now())
        return "written"

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._complained + COMPLAIN_EVERY:
            self._complained = now
            log.warning("transcripts cannot be written to %s: %s", self._files.directory, error)
