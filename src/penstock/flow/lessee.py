"""Who leases this process's part of shared limits, behind the calls: they wait for what is leased to none but one.

Ten times a second what has changed is reported, and at once where that matters: an account that is new here,
and one that is nearly or wholly used up.  While calls wait for something, it is asked for every :data:`AGAIN`.  One
exchange is under way at a time.  One that fails, or takes longer than :data:`PATIENCE`, changes nothing but that
everybody keeps to the part that he has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from penstock.flow.leased import AccountLease
from penstock.flow.sharing import FRESH, Leases, Report

HEARTBEAT = 1.0  # seconds after which a member is heard of even if it has nothing to say
PATIENCE = 2.0  # seconds for one exchange
PAUSE = 0.01  # seconds between two exchanges, however urgent
AGAIN = 0.02  # seconds after which something is asked for once more
KEPT = 10.0  # seconds after an account was used last for which it is reported
MAX_REPORTS = 200  # of one exchange

log = logging.getLogger("penstock.gateway")


class Board(Protocol):
    """Where a pool is: in the supervisor, or in a Redis; ``name`` is what the log calls it."""

    @property
    def name(self) -> str: ...

    def exchange(self, reports: list[Report], *, rejoins: bool) -> asyncio.Future[Leases]:
        """Report, and be leased anew; fails with :class:`OSError` if there is nobody to report to.

        :param rejoins: this member has been leased before
        """

    def reset(self) -> None:
        """There was no answer in time, and there shall be none any more."""

    async def open(self) -> None:
        """Until it can be reported to."""

    async def close(self) -> None:
        """Nothing will be reported any more."""


class Lessee:
    """Keeps the leases of one process's accounts.

    :param workers: processes of this machine: how many share a limit, as long as nobody says more
    :param now: monotonic seconds
    :param counted: told how each exchange went: ``done``, ``failed`` or ``late``
    :param book: names the ledger that this process writes, for budgets
    """

    def __init__(
        self, workers: int, now: Callable[[], float], counted: Callable[[str], None], book: str = ""
    ) -> None:
        self.members = workers
        self.book = book
        self.trouble = ""
        self.on_time: Callable[[], None] | None = None  # told once :meth:`unix_time` is what the others have
        self.joins = False  # there are others, of whom :meth:`use` is about to tell
        self._now = now
        self._counted = counted
        self._board: Board | None = None
        self._dirty: dict[AccountLease, None] = {}
        self._warm: dict[AccountLease, None] = {}
        self._under_way: asyncio.Future[Leases] | None = None
        self._reported: list[AccountLease] = []
        self._began = self._answered_at = float("-inf")
        self._hurry: asyncio.TimerHandle | None = None
        self._is_urgent = False
        self._joined: asyncio.Future[None] | None = None
        self._ahead: float | None = None  # of our clock, the time of day that all go by
        self._opening = False  # the way to the board is being made: nobody there can be asked yet

    def __repr__(self) -> str:
        return f"<Lessee, one of {self.members}, {len(self._warm)} accounts, {self.trouble or 'well'}>"

    @property
    def even(self) -> float:
        """An even part of a limit."""
        return 1.0 / self.members

    @property
    def is_alone(self) -> bool:
        """Whether there is no word from the others."""
        return self._now() - self._answered_at > FRESH

    def unix_time(self) -> float:
        """What all who share take the time for, so that a day begins for all at once.

        As long as nobody has told, it is what this machine takes it for.
        """
        return time.time() if self._ahead is None else self._now() + self._ahead

    async def use(self, board: Board | None) -> None:
        """Report there from now on; None: to nobody."""
        self.joins = False
        if board is self._board:
            return
        old, self._board = self._board, board
        self._end_hurry()
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.cancel()
        if old is not None:
            await old.close()

    async def join(self, seconds: float) -> None:
        """Hear of the others before there are calls; no longer than so."""
        board = self._board
        if board is None or self._answered_at > float("-inf"):
            return
        joined = self._joined = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                self._opening = True
                try:
                    await board.open()
                finally:
                    self._opening = False
                if self._under_way is None:
                    self._exchange(self._now())
                await joined
        except TimeoutError:
            if not self.trouble:
                log.warning("limits are not shared yet: no word from %s within %g s", board.name, seconds)
        finally:
            self._joined = None

    def account(self, name: str) -> AccountLease:
        """A lease for an account; its limits are the caller's to add."""
        return AccountLease(name, self._touched, self._has_trouble, self._now)

    def _has_trouble(self) -> bool:
        return bool(self.trouble) or (self._board is None and not self.joins)

    def drop(self, lease: AccountLease) -> None:
        """Limits on this account are no more."""
        self._dirty.pop(lease, None)
        self._warm.pop(lease, None)

    def sweep(self, now: float) -> None:
        if self._under_way is not None:
            if now - self._began > PATIENCE:
                self._give_up()
            return
        for lease in list(self._warm):
            if lease.is_stale(now):
                lease.take_part(self.even)
            if now - lease.touched_at > KEPT and not lease.is_used:
                del self._warm[lease]
                lease.let_go(self.even)
            elif lease.is_short:  # a place that is free elsewhere should not be missing here for long
                self._dirty[lease] = None
        if now - self._began >= HEARTBEAT:
            self._dirty.update(self._warm)
            self._exchange(now)
        elif self._dirty:
            self._exchange(now)

    def _touched(self, lease: AccountLease, urgent: bool) -> None:
        self._dirty[lease] = self._warm[lease] = None
        if urgent and not self.trouble and self._board is not None:
            self._is_urgent = True
            self._hasten()

    def _hasten(self, after: float = PAUSE) -> None:
        if self._hurry is None and self._under_way is None:
            pause = max(0.0, self._began + after - self._now())
            self._hurry = asyncio.get_running_loop().call_later(pause, self._hurried)

    def _hurried(self) -> None:
        self._hurry = None
        if self._under_way is None and self._dirty:
            self._exchange(self._now())

    def _end_hurry(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _exchange(self, now: float) -> None:
        if self._board is None or self._opening:
            return
        self._end_hurry()
        self._is_urgent = False
        self._began = now
        self._reported = list(islice(self._dirty, MAX_REPORTS))
        for lease in self._reported:
            del self._dirty[lease]
        reports = [lease.report(now) for lease in self._reported]
        self._under_way = self._board.exchange(reports, rejoins=self._answered_at > float("-inf"))
        self._under_way.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[Leases]) -> None:
        if future is not self._under_way:
            return  # given up; its error has been looked at
        self._under_way = None
        reported, self._reported = self._reported, []
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._failed("failed", str(error or "it was cancelled"), reported)
            return
        self._counted("done")
        if self.trouble:
            log.info("limits are shared again")
            self.trouble = ""
        answer = future.result()
        self.members = max(1, answer.members)
        self._answered_at = now = self._now()
        if answer.now is not None:
            first, self._ahead = self._ahead is None, answer.now - now
            if first and self.on_time is not None:
                self.on_time()
        if self._joined is not None and not self._joined.done():
            self._joined.set_result(None)
        waited_for = False
        for lease, leased in zip(reported, answer.leases, strict=True):
            if lease.leased(leased, self.even, self._began, now):
                self._dirty[lease] = None
                self._is_urgent = True
            elif lease.is_waited_for(now):
                self._dirty[lease] = None
                waited_for = True
        if self._is_urgent:  # since the report was made
            self._hasten()
        elif waited_for:
            self._hasten(AGAIN)

    def _give_up(self) -> None:
        future, self._under_way = self._under_way, None
        reported, self._reported = self._reported, []
        if future is not None:
            future.cancel()
        if self._board is not None:
            self._board.reset()
        self._failed("late", f"no answer within {PATIENCE:g} s", reported)

    def _failed(self, how: str, why: str, reported: list[AccountLease]) -> None:
        self._counted(how)
        self._dirty.update(dict.fromkeys(reported))
        if not self.trouble:
            place = "those who share them" if self._board is None else self._board.name
            log.warning("limits are not shared for now, each process keeps to its part: %s: %s", place, why)
        self.trouble = why
        for lease in self._warm:
            lease.wake_all()
