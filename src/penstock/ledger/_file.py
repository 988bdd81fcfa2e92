"""The ledger's file, and one process's place in it.

Several worker processes write the same file.  Each registers itself in ``boots`` and numbers its rows
within its boot, so that nobody has to look for a free number, a new row goes to the end of the tree,
and writing the same row again (after a commit of which nobody knows whether it held) changes nothing.
What becomes of the rows of processes that died is in :mod:`penstock.ledger._recovery`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from penstock.ledger._mended import MAX_NAME
from penstock.ledger._recovery import Recovery, lock_path
from penstock.ledger._rows import (
    NOTE,
    ROWS_PER_STATEMENT,
    WRITE_FEW,
    WRITE_FOLD,
    Fold,
    Values,
    fold_row,
    of_few,
    reserved_row,
    settled_row,
    settled_row_of_prompt,
    upsert,
)
from penstock.ledger._savings import forget_savings, write_savings
from penstock.ledger._schema import BOOT_SHIFT, RESERVED, adopt
from penstock.messages import PROCESS_DIED, Attempt
from penstock.sqlite_files import create_private, identity, log_ahead, transaction
from penstock.turns import Turns

# Who asked what of whom when is not for everybody; those who draw up reports may share the group.
_MODE = 0o640


class LedgerFile:
    """An open ledger file, and one process's place in it.  Belongs to one thread.

    :param token: names this process; the same one finds its place again after the file was reopened
    :param turns: the thread's
    :raises sqlite3.Error: the file cannot be opened, is locked, or is not a ledger
    :raises OSError: the same, from the file system
    """

    def __init__(self, path: Path, token: str, turns: Turns, *, busy_timeout: float) -> None:
        self.path = path
        self.registered = False  # a place was made for us: nothing that was written before is in this file
        self._lock: int | None = None
        self._token = token
        self._turns = turns
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the directory {path.parent} does not exist")
        create_private(path, _MODE)
        self._db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
        self.recovery = Recovery(self._db, path, token, turns)
        try:
            log_ahead(self._db, patience=busy_timeout)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA journal_size_limit = 67108864")
            with transaction(self._db):
                adopt(self._db, path)
                self.boot = self._register()
                self.recovery.enter_queues(self._add_boot)
                self.recovery.settle_orphans(self.boot)
            self._identity = identity(path)
        except BaseException:
            self.recovery.let_go(remove=False)
            self.close(ended=False)
            raise
        self.recovery.let_go(remove=True)

    def recover(self) -> None:
        """Enter what processes have left that have died since the file was opened."""
        if not self.recovery.has_dead():
            return
        try:
            with transaction(self._db):
                self.recovery.enter_queues(self._add_boot)
                self.recovery.settle_orphans(self.boot)
        except BaseException:
            self.recovery.let_go(remove=False)
            raise
        self.recovery.let_go(remove=True)

    def is_current(self) -> bool:
        """Whether the path still names the file that is open: nobody moved or removed it."""
        return identity(self.path) == self._identity

    def write(
        self,
        reserved: Iterable[tuple[int, Attempt]],
        settled: Iterable[Attempt],
        withdrawn: Sequence[int] = (),
        folds: Iterable[tuple[int, Fold]] = (),
        noted: Iterable[tuple[int, Attempt]] = (),
    ) -> None:
        """All of it or none.

        :param reserved: rows that are open, by their number within this boot
        :param settled: rows that are over, also savings
        :param withdrawn: rows that were written as reserved and have since gone into a fold
        :param folds: sums, numbered like rows, on their own
        :param noted: rows that are open and have come by their answer's id
        """
        base = self.boot << BOOT_SHIFT
        with transaction(self._db):
            self._write_rows((reserved_row(self.boot, base + row, a) for row, a in reserved), settled=False)
            self._db.executemany(
                NOTE,
                [(attempt.answer[:MAX_NAME], base + row) for row, attempt in noted],
            )
            rows: list[tuple[Values, Values]] = []
            of_prompt: list[tuple[Values, Values]] = []
            few: list[tuple[int, int, int]] = []
            saved: list[Attempt] = []
            for attempt in self._turns.over(settled):
                row = attempt.row
                if row < 0:
                    saved.append(attempt)
                    continue
                if attempt.usage.units or attempt.usage.image_input_tokens:
                    few.append(of_few(base + row, attempt))
                if attempt.error == PROCESS_DIED:
                    self._write_settled(rows, of_prompt)  # one may be of the same answer
                    self.recovery.write_taken_over(self.boot, base + row, attempt)
                elif attempt.cache_saved or attempt.left_out or attempt.cache_missed:
                    of_prompt.append(settled_row_of_prompt(self.boot, base + row, attempt))
                else:
                    rows.append(settled_row(self.boot, base + row, attempt))
            self._write_settled(rows, of_prompt)
            if few:
                self._db.executemany(WRITE_FEW, few)
            if saved:
                write_savings(self._db, self.boot, saved, self._turns)
            self._turns.give_way()
            self._db.executemany("DELETE FROM attempts WHERE row = ?", [(base + row,) for row in withdrawn])
            self._db.executemany(
                WRITE_FOLD,
                [fold_row(self.boot, base + row, fold) for row, fold in folds],
            )

    def forget(self, before: float, limit: int) -> int:
        """Delete rows that are over and began before this moment (Unix time), about so many at most.

        :returns: how many were deleted; fewer than ``limit``: no others are that old
        """
        with transaction(self._db):
            self._db.execute("DELETE FROM folded WHERE last_started < ?", (before,))
            deleted = self._db.execute(
                "DELETE FROM attempts WHERE row IN"
                " (SELECT row FROM attempts WHERE started < ? AND outcome != ? LIMIT ?)",
                (before, RESERVED, limit),
            ).rowcount
            self._db.execute("DELETE FROM deducted WHERE row NOT IN (SELECT row FROM attempts)")
            return deleted + forget_savings(self._db, before, limit)

    def close(self, *, ended: bool) -> None:
        """:param ended: no row of ours is open, nobody need look for us."""
        if ended:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("UPDATE boots SET ended = ? WHERE boot = ?", (time.time(), self.boot))
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._lock is not None:
            if ended:
                lock_path(self.path, self._token).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def abandon(self) -> None:
        """In a forked child: the lock and the connection are its parent's, and SQLite must not be touched here."""
        if self._lock is not None:
            # The parent's descriptor holds it; ours would go on holding it after its death.
            os.close(self._lock)
            self._lock = None

    # ---- details ----

    def _register(self) -> int:
        # The lock is taken before the row can be seen: whoever sees us in the table finds us alive.
        self._lock = os.open(lock_path(self.path, self._token), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        known = self._db.execute("SELECT boot FROM boots WHERE token = ?", (self._token,)).fetchone()
        if known:
            self._db.execute("UPDATE boots SET ended = NULL WHERE boot = ?", known)
            return int(known[0])
        self.registered = True
        return self._add_boot(self._token, socket.gethostname(), os.getpid())

    def _add_boot(self, token: str, host: str, pid: int) -> int:
        cursor = self._db.execute(
            "INSERT INTO boots (token, host, pid, started) VALUES (?, ?, ?, ?)",
            (token, host, pid, time.time()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _write_settled(
        self, rows: list[tuple[Values, Values]], of_prompt: list[tuple[Values, Values]]
    ) -> None:
        """And forget them."""
        self._write_rows(rows, settled=True)
        self._write_rows(of_prompt, settled=True, of_prompt=True)
        rows.clear()
        of_prompt.clear()

    def _write_rows(
        self, rows: Iterable[tuple[Values, Values]], *, settled: bool, of_prompt: bool = False
    ) -> None:
        """Those that are alike by the statement: each is one stretch without the interpreter's lock, and between two of
        them the event loop waits for us but shortly.
        """
        alike: dict[Values, list[Values]] = {}
        for common, own in rows:
            alike.setdefault(common, []).append(own)
        for common, owns in alike.items():
            for start in range(0, len(owns), ROWS_PER_STATEMENT):
                self._turns.give_way()
                some = owns[start : start + ROWS_PER_STATEMENT]
                statement = upsert(len(some), settled=settled, of_prompt=of_prompt)
                self._db.execute(statement, (*common, *chain.from_iterable(some)))

    def __repr__(self) -> str:
        return f"<LedgerFile {self.path}, boot {self.boot}>"
