"""What other processes have spent: for budgets, which hold for all of them together, and outlive each.

A process knows its own spending exactly, so its own rows are left out; what it reads here is what its
siblings and its predecessors wrote.  A month may have millions of rows, so it is added up once, and from then on
only what is new is read: rows are numbered in the order in which their calls began, and are in the file some moments
later in nearly that order.  So the rows up to a *base* are in the sums, but for those of them that were still open;
those behind it are added up at each look; and the base moves up to where the file's end was :data:`LAG` seconds ago.

What a row is corrected by afterwards, or how a row that came later than that is counted, is seen when all is added up
again: at each day's beginning, and every :data:`AFRESH` seconds.

Rows of days that have not begun are of a clock that was wrong.  They count on their day: else they would on each until then.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from penstock.errors import ConfigError
from penstock.ledger._schema import BOOT_SHIFT, RESERVED
from penstock.ledger.report import open_ledger
from penstock.messages import SAVING, Spent
from penstock.sqlite_files import identity

LAG = 10.0  # seconds after which every row is in the file that is before one which was there
AFRESH = 1_800.0  # seconds between two looks at everything
AHEAD = 3_600.0  # seconds by which clocks may differ that are taken for right
_DAY = 86_400.0
_ROWS_PER_STATEMENT = 500
_NONE = (0, 0, 0, 0)

Names: TypeAlias = tuple[str, str, str, str, str, str]

# Costs are added in two parts, as in penstock.ledger.report.  Sums of folded rows name nobody: they are left out.
# The index on "started" is of use only where everything is read.
_SUMS = f"""
SELECT key_name, tenant, tier, model, upstream, upstream_model,
  sum((cost / 1000000) * (started >= :day)), sum((cost % 1000000) * (started >= :day)),
  sum(cost / 1000000), sum(cost % 1000000)
FROM attempts
WHERE {{which}} AND outcome NOT IN ({", ".join(f"'{outcome.value}'" for outcome in SAVING)})
GROUP BY key_name, tenant, tier, model, upstream, upstream_model"""  # noqa: S608 - only constants
_ALL = _SUMS.format(which="started >= :month AND started < :until AND boot != :own")
_BETWEEN = _SUMS.format(which="row > :first AND row <= :last AND +started >= :month AND +started < :until")
_OPEN = f"SELECT row FROM attempts WHERE outcome = '{RESERVED}' AND boot != ?"  # noqa: S608 - only constants


class OthersSpending:
    """What others than one process have spent in a day and a month, look by look.

    Reads a file, and at first much of it: for a thread, not for the event loop; one look at a time.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._period: tuple[float, float] | None = None  # of which these are the sums
        self._sums: dict[Names, list[int]] = {}
        self._base: dict[int, int] = {}  # by boot, the last row in the sums
        self._ends: dict[int, int] = {}  # the same, up to which the base moves next
        self._open: set[int] = set()  # rows up to the base that were open
        self._last: dict[int, int] = {}  # the last rows of those that have ended
        self._about: object = None  # the process, and which file this is
        self._moves_at = self._afresh_at = 0.0

    def __repr__(self) -> str:
        return f"<OthersSpending in {self._path}, {len(self._base)} processes, {len(self._open)} rows open>"

    def read(self, token: str, *, day_began: float, month_began: float) -> list[Spent]:
        """What was spent since these moments (Unix time).

        :param token: names the process whose rows are left out
        :raises ConfigError: the ledger cannot be read
        """
        if not self._path.is_file():  # nobody has written yet
            self._period = None
            return []
        try:
            with contextlib.closing(open_ledger(self._path)) as database:
                about = token, identity(self._path)
                if about != self._about:  # another file, or a forked process
                    self._period, self._last, self._about = None, {}, about
                database.execute("BEGIN")
                return self._look(database, token, (day_began, month_began))
        except sqlite3.Error as error:
            self._period = None
            raise ConfigError(f"the ledger {self._path} cannot be read: {error}") from error

    def _look(self, database: sqlite3.Connection, token: str, period: tuple[float, float]) -> list[Spent]:
        found = database.execute("SELECT boot FROM boots WHERE token = ?", (token,)).fetchone()
        own = -1 if found is None else int(found[0])
        now = self._now()
        until = period[0] + _DAY + AHEAD
        values: dict[str, float] = {"day": period[0], "month": period[1], "until": until, "own": own}
        is_open = {row for (row,) in database.execute(_OPEN, (own,))}
        ends = self._read_ends(database, own)
        if period != self._period or now >= self._afresh_at:
            self._sums = {}
            _add(self._sums, database.execute(_ALL, values))
            self._base = self._ends = ends
            self._open = is_open
            self._period, self._moves_at, self._afresh_at = period, now + LAG, now + AFRESH
        ended = self._open - is_open
        rows = sorted(ended)
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            some = ", ".join(map(str, rows[start : start + _ROWS_PER_STATEMENT]))
            which = f"row IN ({some}) AND +started >= :month AND +started < :until"
            _add(self._sums, database.execute(_SUMS.format(which=which), values))
        self._open -= ended
        if now >= self._moves_at:
            for boot, end in self._ends.items():
                base = self._base.get(boot, boot << BOOT_SHIFT)
                if end > base:
                    _add(self._sums, database.execute(_BETWEEN, {**values, "first": base, "last": end}))
                    self._open |= {row for row in is_open if base < row <= end}
            self._base, self._ends, self._moves_at = self._base | self._ends, ends, now + LAG
        sums = dict(self._sums)
        for boot, end in ends.items():
            base = self._base.get(boot, boot << BOOT_SHIFT)
            if end > base:
                _add(sums, database.execute(_BETWEEN, {**values, "first": base, "last": end}))
        return [
            Spent(*names, day=high * 10**6 + low, month=all_high * 10**6 + all_low)
            for names, (high, low, all_high, all_low) in sums.items()
        ]

    def _read_ends(self, database: sqlite3.Connection, own: int) -> dict[int, int]:
        """The last row of each process; to one that has ended none are added."""
        ends: dict[int, int] = {}
        boots = database.execute("SELECT boot, ended FROM boots WHERE boot != ?", (own,)).fetchall()
        for boot, ended in boots:
            if ended is None or boot not in self._last:
                first, beyond = boot << BOOT_SHIFT, (boot + 1) << BOOT_SHIFT
                (last,) = database.execute(
                    "SELECT max(row) FROM attempts WHERE row > ? AND row < ?", (first, beyond)
                ).fetchone()
                ends[boot] = first if last is None else last
            else:
                ends[boot] = self._last[boot]
        self._last = {boot: ends[boot] for boot, ended in boots if ended is not None}
        return ends


def _add(
    sums: dict[Names, list[int]], rows: Iterable[tuple[str, str, str, str, str, str, int, int, int, int]]
) -> None:
    for key_name, tenant, tier, model, upstream, upstream_model, *parts in rows:
        names = key_name, tenant, tier, model, upstream, upstream_model
        sums[names] = [before + part for before, part in zip(sums.get(names, _NONE), parts, strict=True)]
