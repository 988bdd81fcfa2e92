"""What became of a client's calls: figures of all, and a word about each turn of one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

import msgspec

_log = logging.getLogger("penstock.client")


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Sums since the client was made.  Calls are those of the operations that a gateway relays."""

    calls: int = 0
    succeeded: int = 0  # answered with a status below 400, and whole
    failed: int = 0  # the others that have ended; calls that the application gave up are in neither
    abandoned: int = 0  # streams that the application closed before their end
    attempts: int = 0  # requests that went out for calls; resumptions are counted by themselves
    broken: int = 0  # transfers that broke, or fell silent, in whatever direction
    retries: int = 0
    resumed: int = 0  # streams taken up again after a break, from where they were
    reruns: int = 0  # streams made once more because their log was lost
    failovers: int = 0  # calls that went on at another gateway
    cached: int = 0  # calls answered from what was kept here
    asked_ahead: int = 0  # neighbours of questions, asked before the application did; they are no calls
    bytes_sent: int = 0  # of bodies
    bytes_received: int = 0  # of answers, decoded
    bytes_saved: int = 0  # that a client which begins anew would have moved once more

    @property
    def success_rate(self) -> float:
        """The share of the calls that have ended which succeeded; 1.0 before the first."""
        ended = self.succeeded + self.failed
        return self.succeeded / ended if ended else 1.0

    @property
    def transfer_success_rate(self) -> float:
        """The share of transfers (attempts and resumptions) that did not break; 1.0 before the first."""
        transfers = self.attempts + self.resumed
        return 1.0 - min(self.broken / transfers, 1.0) if transfers else 1.0


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to one call."""

    kind: Literal["retry", "resume", "rerun", "failover", "cached", "succeeded", "failed", "abandoned"]
    call: str  # its Idempotency-Key
    origin: str = ""  # of the server
    attempt: int = 0  # how many there have been
    delay: float = 0.0  # seconds until the next one
    reason: str = ""
    seconds: float = 0.0  # since the call began
    bytes_received: int = 0


class Counters:
    """The sums, as they grow; for any number of threads."""

    def __init__(self, on_notice: Callable[[Notice], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(Statistics.__struct_fields__, 0)
        self._on_notice = on_notice

    def __repr__(self) -> str:
        told = ", ".join(f"{value} {name}" for name, value in self._sums.items() if value)
        return f"<Counters {told or 'of nothing yet'}>"

    def forked(self) -> None:
        """As :meth:`penstock.client._calls.Calls.forked`."""
        self._lock = threading.Lock()

    def add(self, **amounts: int) -> None:
        sums = self._sums
        with self._lock:
            for name, amount in amounts.items():
                sums[name] += amount

    def statistics(self) -> Statistics:
        with self._lock:
            return Statistics(**self._sums)

    @property
    def listens(self) -> bool:
        return self._on_notice is not None

    def tell(self, notice: Notice) -> None:
        if self._on_notice is None:
            return
        try:
            self._on_notice(notice)
        except Exception:  # noqa: BLE001 - the application's own; a call must not fail by it
            _log.exception("on_notice failed")
