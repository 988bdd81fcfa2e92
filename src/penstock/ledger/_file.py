"""The ledger's file: its schema, one process's place in it, and what becomes of the dead's open rows.

Several worker processes write the same file.  Each registers itself in ``boots`` and numbers its rows
within its boot, so that nobody has to look for a free number, a new row goes to the end of the tree,
and writing the same row again (after a commit of which nobody knows whether it held) changes nothing.

Who is alive is known by a lock: each process holds ``flock`` on a file of its own beside the ledger, and
the kernel lets go of it when the process ends, in whatever way.  Unlike a process number it is not used
twice, and it means the same in another container.  What a dead process had not written yet is in its queue
(:mod:`penstock.ledger._queue`): that is entered first, and its open rows are settled then.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from penstock.ledger._mended import MAX_INTEGER, MAX_NAME, UNWRITABLE, mended
from penstock.ledger._queue import DeadQueue, NotAQueue, inherit, queue_path, queues_beside
from penstock.messages import PROCESS_DIED, SAVING, Attempt, Outcome, Usage
from penstock.sqlite_files import (
    Foreign,
    Mark,
    OtherVersion,
    create_private,
    identity,
    log_ahead,
    transaction,
)

# Who asked what of whom when is not for everybody; those who draw up reports may share the group.
_MODE = 0o640
MARK = Mark(
    0x50454E53, 5
)  # "PENS"; version 1 had no column "saved", 2 no column "queued", 3 none from "answer" on, 4 none of what few have
RESERVED = "reserved"  # the outcome of a row that is still open
TOLD = 1  # the value of "told" where the figures are the provider's own, told afterwards

_SAVING = frozenset(outcome.value for outcome in SAVING)
_ROWS_PER_STATEMENT = 32  # 30 columns each: within the 999 parameters that every SQLite allows
_BOOT_SHIFT = 40  # rows of one boot: a million millions

# ``*_tokens`` are counts; ``cost`` and ``saved`` are in 1e-12 US dollars; times are seconds, ``started`` since 1970.
# Where the outcome is one that saves (messages.SAVING), the tokens are those that no upstream was asked for.
# ``answer`` is the answer's id at an upstream that tells afterwards what it has cost; what becomes of the question is
# told in :mod:`penstock.ledger.questions`.  ``units`` are images, milliseconds, characters or searches, as the endpoint
# has it; few rows have any, so they are written by themselves.
_ATTEMPTS = """
CREATE TABLE attempts (
  row INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL,
  generation TEXT NOT NULL,
  number INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  key_name TEXT NOT NULL,
  tier TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  started REAL NOT NULL,
  reserved_input_tokens INTEGER NOT NULL,
  reserved_output_tokens INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  status INTEGER NOT NULL,
  error TEXT NOT NULL,
  first_token REAL,
  duration REAL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cached_input_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  audio_input_tokens INTEGER NOT NULL,
  audio_output_tokens INTEGER NOT NULL,
  estimated INTEGER NOT NULL,
  cost INTEGER NOT NULL,
  saved INTEGER NOT NULL DEFAULT 0,
  answer TEXT NOT NULL DEFAULT '',
  told INTEGER NOT NULL DEFAULT 0,
  asked INTEGER NOT NULL DEFAULT 0,
  ask_at REAL NOT NULL DEFAULT 0,
  image_input_tokens INTEGER NOT NULL DEFAULT 0,
  units INTEGER NOT NULL DEFAULT 0
)"""
_DIED_INDEX = f"CREATE INDEX attempts_died ON attempts (generation) WHERE error = '{PROCESS_DIED}'"
_OF_QUESTIONS = (
    "told INTEGER NOT NULL DEFAULT 0",
    "asked INTEGER NOT NULL DEFAULT 0",
    "ask_at REAL NOT NULL DEFAULT 0",
)
_OF_FEW = ("image_input_tokens INTEGER NOT NULL DEFAULT 0", "units INTEGER NOT NULL DEFAULT 0")
_QUESTIONS_INDEX = (
    "CREATE INDEX attempts_questions ON attempts (ask_at) WHERE told = 0 AND estimated = 1 AND answer != ''"
)
_COLUMNS = 30  # that every attempt fills; then come its question's, and those of few
_SETTLED_COLUMNS = (
    *("outcome", "status", "error", "first_token", "duration", "input_tokens", "output_tokens"),
    *("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "audio_input_tokens"),
    *("audio_output_tokens", "estimated", "cost", "saved", "answer"),
)
_FILLED = ", ".join(
    (
        *(
            "row",
            "boot",
            "generation",
            "number",
            "tenant",
            "key_name",
            "tier",
            "endpoint",
            "model",
            "upstream",
        ),
        *("upstream_model", "started", "reserved_input_tokens", "reserved_output_tokens", *_SETTLED_COLUMNS),
    )
)
_SCHEMA = (
    _ATTEMPTS,
    "CREATE INDEX attempts_started ON attempts (started)",
    _DIED_INDEX,
    _QUESTIONS_INDEX,
    f"CREATE INDEX attempts_open ON attempts (boot) WHERE outcome = '{RESERVED}'",
    """
CREATE TABLE boots (
  boot INTEGER PRIMARY KEY AUTOINCREMENT,
  token TEXT NOT NULL UNIQUE,
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  started REAL NOT NULL,
  ended REAL
)""",
    # Sums of rows that were given up while the file could not be written for too long.  What stands in the process's
    # queue before the position "queued" is in its rows and sums.
    """
CREATE TABLE folded (
  row INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  first_started REAL NOT NULL,
  last_started REAL NOT NULL,
  attempts INTEGER NOT NULL,
  estimated INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cached_input_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  audio_input_tokens INTEGER NOT NULL,
  audio_output_tokens INTEGER NOT NULL,
  cost INTEGER NOT NULL,
  saved INTEGER NOT NULL DEFAULT 0,
  queued INTEGER NOT NULL DEFAULT 0
)""",
)


class NotALedger(sqlite3.DatabaseError):
    """The file is a database, but not one that this version may write."""


class Fold(msgspec.Struct):
    """The sum of rows of one outcome that could not be kept one by one."""

    outcome: Outcome
    first_started: float
    last_started: float
    attempts: int = 0
    estimated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    cost: int = 0
    saved: int = 0
    queued: int = 0  # once this is in the file, every row is that stands in the queue before this position

    def add(self, attempt: Attempt) -> None:
        usage = attempt.usage
        self.first_started = min(self.first_started, attempt.started)
        self.last_started = max(self.last_started, attempt.started)
        self.attempts += 1
        self.estimated += usage.estimated
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cached_input_tokens += usage.cached_input_tokens
        self.cache_write_tokens += usage.cache_write_tokens
        self.reasoning_tokens += usage.reasoning_tokens
        self.audio_input_tokens += usage.audio_input_tokens
        self.audio_output_tokens += usage.audio_output_tokens
        self.cost += attempt.cost
        self.saved += attempt.saved


class LedgerFile:
    """An open ledger file, and one process's place in it.  Belongs to one thread.

    :param token: names this process; the same one finds its place again after the file was reopened
    :raises sqlite3.Error: the file cannot be opened, is locked, or is not a ledger
    :raises OSError: the same, from the file system
    """

    def __init__(self, path: Path, token: str, *, busy_timeout: float) -> None:
        self.path = path
        self.orphans = 0  # rows of dead processes that were settled on opening
        self.recovered = 0  # settled rows of dead processes that only their queues had
        self.strange: list[str] = []  # why files that are named like queues were not read
        self.registered = False  # a place was made for us: nothing that was written before is in this file
        self._lock: int | None = None
        self._token = token
        self._dead: dict[str, DeadQueue] = {}  # by token, while their rows are entered
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the directory {path.parent} does not exist")
        create_private(path, _MODE)
        self._db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
        try:
            log_ahead(self._db, patience=busy_timeout)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA journal_size_limit = 67108864")
            with transaction(self._db):
                self._check_schema()
                self.boot = self._register()
                self._enter_queues()
                self.orphans = self._settle_orphans()
            self._identity = identity(path)
        except BaseException:
            self._let_go(remove=False)
            self.close(ended=False)
            raise
        self._let_go(remove=True)

    def is_current(self) -> bool:
        """Whether the path still names the file that is open: nobody moved or removed it."""
        return identity(self.path) == self._identity

    def write(
        self,
        reserved: Iterable[tuple[int, Attempt]],
        settled: Iterable[tuple[int, Attempt]],
        withdrawn: Sequence[int] = (),
        folds: Iterable[tuple[int, Fold]] = (),
        noted: Iterable[tuple[int, Attempt]] = (),
    ) -> None:
        """All of it or none.

        :param reserved: rows that are open, by their number within this boot
        :param settled: rows that are over
        :param withdrawn: rows that were written as reserved and have since gone into a fold
        :param folds: sums, numbered like rows, on their own
        :param noted: rows that are open and have come by their answer's id
        """
        base = self.boot << _BOOT_SHIFT
        with transaction(self._db):
            self._write_rows([_reserved_row(self.boot, base + row, a) for row, a in reserved], settled=False)
            self._db.executemany(
                _NOTE,
                [(attempt.answer[:MAX_NAME], base + row) for row, attempt in noted],
            )
            chunk: list[object] = []
            few: list[tuple[int, int, int]] = []
            for row, attempt in settled:
                if attempt.usage.units or attempt.usage.image_input_tokens:
                    few.append(_of_few(base + row, attempt))
                if attempt.error == PROCESS_DIED:
                    if chunk:  # it may be of the same answer
                        self._db.execute(_upsert(len(chunk) // _COLUMNS, settled=True), chunk)
                        chunk.clear()
                    self._write_taken_over(self.boot, base + row, attempt)
                    continue
                # Flattened and written by the chunk: each statement is one stretch without the
                # interpreter's lock, and between two of them the event loop waits for us but shortly.
                chunk += _settled_row(self.boot, base + row, attempt)
                if len(chunk) == _ROWS_PER_STATEMENT * _COLUMNS:
                    self._db.execute(_upsert(_ROWS_PER_STATEMENT, settled=True), chunk)
                    chunk.clear()
            if chunk:
                self._db.execute(_upsert(len(chunk) // _COLUMNS, settled=True), chunk)
            if few:
                self._db.executemany(_WRITE_FEW, few)
            self._db.executemany("DELETE FROM attempts WHERE row = ?", [(base + row,) for row in withdrawn])
            self._db.executemany(
                f"INSERT OR REPLACE INTO folded VALUES ({','.join('?' * 17)})",  # noqa: S608 - only marks
                [_fold_row(self.boot, base + row, fold) for row, fold in folds],
            )

    def _write_taken_over(self, boot: int, row: int, attempt: Attempt) -> None:
        """The row that who takes an answer over writes for the dead process."""
        rest = self._not_booked(boot, row, attempt)
        if rest is None:
            self._db.execute("DELETE FROM attempts WHERE row = ?", (row,))
        else:
            self._db.execute(_upsert(1, settled=True), _settled_row(boot, row, rest))
            until = math.inf if attempt.duration is None else attempt.started + attempt.duration
            orphan = self._db.execute(_ORPHAN, (attempt.generation, until)).fetchone()
            if orphan is not None:
                self._db.execute("DELETE FROM attempts WHERE row = ?", orphan[:1])
                self._db.execute(_INHERIT_ANSWER, (orphan[1], row))

    def _not_booked(self, boot: int, row: int, attempt: Attempt) -> Attempt | None:
        """Of what a process that is taken for dead had received for an answer, what no row says yet.

        The answer's log holds what all its attempts have brought, and those that ended have rows.  An attempt after
        the first was shown what there was, as a part of its prompt.

        :returns: None: nothing; or the process is alive after all, only its lease had run out: it settles its own row
        """
        booked = 0
        rows = self._db.execute(
            "SELECT number, boot, outcome, output_tokens, token FROM attempts JOIN boots USING (boot)"
            " WHERE attempts.started BETWEEN ? AND ? AND generation = ? AND row != ?",
            (
                attempt.started - 1.0,
                # Whatever began later is what became of the answer afterwards.
                math.inf if attempt.duration is None else attempt.started + attempt.duration,
                attempt.generation,
                row,
            ),
        )
        for number, other, outcome, output, token in rows.fetchall():
            if outcome != RESERVED:
                booked += 0 if outcome in _SAVING else output
            elif other == boot:
                if number <= attempt.number:  # our own lease had run out; a later one goes on with the answer
                    return None
            elif self._lives(token):
                return None
        usage = attempt.usage
        if not booked:
            return attempt
        left = usage.output_tokens - booked
        if left <= 0:
            return None
        share = left / usage.output_tokens
        rest = Usage(usage.input_tokens + booked, left, estimated=True)
        return msgspec.structs.replace(attempt, usage=rest, cost=int(attempt.cost * share))

    def forget(self, before: float, limit: int) -> int:
        """Delete rows that are over and began before this moment (Unix time), at most so many.

        :returns: how many were deleted; fewer than ``limit``: no others are that old
        """
        with transaction(self._db):
            self._db.execute("DELETE FROM folded WHERE last_started < ?", (before,))
            return self._db.execute(
                "DELETE FROM attempts WHERE row IN"
                " (SELECT row FROM attempts WHERE started < ? AND outcome != ? LIMIT ?)",
                (before, RESERVED, limit),
            ).rowcount

    def close(self, *, ended: bool) -> None:
        """:param ended: no row of ours is open, nobody need look for us."""
        if ended:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("UPDATE boots SET ended = ? WHERE boot = ?", (time.time(), self.boot))
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._lock is not None:
            if ended:
                self._lock_path(self._token).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def abandon(self) -> None:
        """In a forked child: the lock and the connection are its parent's, and SQLite must not be touched here."""
        if self._lock is not None:
            os.close(
                self._lock
            )  # the parent's descriptor holds it; ours would go on holding it after its death
            self._lock = None

    # ---- within one transaction, on opening ----

    def _check_schema(self) -> None:
        try:
            MARK.adopt(self._db, _SCHEMA)
        except Foreign as error:
            raise NotALedger(f"{self.path} cannot be used: {error}") from error
        except OtherVersion as other:
            if not 1 <= other.found < MARK.version:
                raise NotALedger(f"{self.path} cannot be used: {other}") from other
            self._bring_up_to_date(other.found)

    def _bring_up_to_date(self, version: int) -> None:
        if version == 1:
            for table in ("attempts", "folded"):
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN saved INTEGER NOT NULL DEFAULT 0")
        if version < 3:
            self._db.execute("ALTER TABLE folded ADD COLUMN queued INTEGER NOT NULL DEFAULT 0")
            self._db.execute(_DIED_INDEX)
        if version < 4:
            for column in ("answer TEXT NOT NULL DEFAULT ''", *_OF_QUESTIONS):
                self._db.execute(f"ALTER TABLE attempts ADD COLUMN {column}")
            self._db.execute(_QUESTIONS_INDEX)
        for column in _OF_FEW:
            self._db.execute(f"ALTER TABLE attempts ADD COLUMN {column}")
        MARK.enter(self._db)

    def _register(self) -> int:
        # The lock is taken before the row can be seen: whoever sees us in the table finds us alive.
        self._lock = os.open(self._lock_path(self._token), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def _enter_queues(self) -> None:
        """Enter what dead processes have put into their queues and not into the file.

        The queues stay locked until the transaction holds; then they are removed.  What is in the file already
        is not changed by being entered again.
        """
        for token, path in queues_beside(self.path):
            if token == self._token or _is_held(self._lock_path(token)):
                continue
            try:
                queue = inherit(path, token)
            except (NotAQueue, OSError) as error:
                self.strange.append(str(error))
                continue
            if queue is None:
                continue
            self._dead[token] = queue
            known = self._db.execute("SELECT boot FROM boots WHERE token = ?", (token,)).fetchone()
            boot = int(known[0]) if known else self._add_boot(token, "", 0)  # it had not come so far
            self._enter(boot, queue.records)

    def _enter(self, boot: int, records: list[tuple[int, Attempt]]) -> None:
        (summed,) = self._db.execute(
            "SELECT coalesce(max(queued), 0) FROM folded WHERE boot = ?", (boot,)
        ).fetchone()
        opened: dict[int, Attempt] = {}
        settled: dict[int, Attempt] = {}
        for position, attempt in records:
            if attempt.outcome is None:
                opened[attempt.row] = attempt
            else:
                opened.pop(attempt.row, None)
                if position > summed:
                    settled[attempt.row] = attempt
        base = boot << _BOOT_SHIFT
        for row, attempt in opened.items():
            self._enter_row(_upsert(1, settled=False), _reserved_row, boot, base + row, attempt)
            if attempt.answer:
                self._db.execute(_NOTE, (attempt.answer[:MAX_NAME], base + row))
        for row, attempt in settled.items():
            if attempt.error == PROCESS_DIED:
                self._write_taken_over(boot, base + row, attempt)
            elif self._enter_row(_RECOVER, _settled_row, boot, base + row, attempt):
                self._db.execute(_WRITE_FEW, _of_few(base + row, attempt))
                self.recovered += 1
                self._count_once(boot, attempt)

    def _count_once(self, boot: int, found: Attempt) -> None:
        """Take what this process had settled itself from the row of who took its answer over in the meantime.

        It is what :meth:`_not_booked` would have done, had this row been in the file then.
        """
        booked = found.usage.output_tokens
        if found.outcome in SAVING or not booked:
            return
        rows = self._db.execute(_TAKEN_OVER, (found.generation, boot, found.started)).fetchall()
        for row, input_tokens, output, cost in rows:
            left = output - booked
            if left > 0:
                rest = (input_tokens + booked, left, int(cost * (left / output)), row)
                self._db.execute(_KEEP_THE_REST, rest)
            else:
                self._db.execute("DELETE FROM attempts WHERE row = ?", (row,))

    def _enter_row(
        self,
        statement: str,
        row_of: Callable[[int, int, Attempt], tuple[object, ...]],
        boot: int,
        row: int,
        attempt: Attempt,
    ) -> int:
        try:
            return self._db.execute(statement, row_of(boot, row, attempt)).rowcount
        except UNWRITABLE:
            return self._db.execute(statement, row_of(boot, row, mended(attempt))).rowcount

    def _let_go(self, *, remove: bool) -> None:
        while self._dead:
            _, queue = self._dead.popitem()
            with contextlib.suppress(OSError):
                queue.close(remove=remove)

    def _settle_orphans(self) -> int:
        """Close the rows of processes that ended without doing so; what they had reserved stays to be read."""
        orphans = 0
        others = self._db.execute(
            "SELECT boot, token FROM boots WHERE ended IS NULL AND boot != ?", (self.boot,)
        )
        for boot, token in others.fetchall():
            if self._lives(token):
                continue
            for orphan, taken in self._db.execute(_TAKEN_OVER_ORPHANS, (boot,)).fetchall():
                (answer,) = self._db.execute(
                    "SELECT answer FROM attempts WHERE row = ?", (orphan,)
                ).fetchone()
                self._db.execute("DELETE FROM attempts WHERE row = ?", (orphan,))
                self._db.execute(_INHERIT_ANSWER, (answer, taken))
                orphans += 1
            orphans += self._db.execute(
                "UPDATE attempts SET outcome = ?, error = ?, estimated = 1 WHERE boot = ? AND outcome = 'reserved'",
                (Outcome.PARTIAL.value, PROCESS_DIED, boot),
            ).rowcount
            self._db.execute("UPDATE boots SET ended = ? WHERE boot = ?", (time.time(), boot))
            self._lock_path(token).unlink(missing_ok=True)
        return orphans

    # ---- details ----

    def _lives(self, token: str) -> bool:
        """Whether it holds a lock.  Who has trouble with the file has let go of its lock, but not of its queue's."""
        return token not in self._dead and (
            _is_held(self._lock_path(token)) or _is_held(queue_path(self.path, token))
        )

    def _write_rows(self, rows: list[tuple[object, ...]], *, settled: bool) -> None:
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            chunk = rows[start : start + _ROWS_PER_STATEMENT]
            self._db.execute(_upsert(len(chunk), settled=settled), [value for row in chunk for value in row])

    def _lock_path(self, token: str) -> Path:
        return self.path.with_name(f"{self.path.name}-{token}.lock")

    def __repr__(self) -> str:
        return f"<LedgerFile {self.path}, boot {self.boot}>"


@functools.cache
def _upsert(rows: int, *, settled: bool) -> str:
    marks = ",".join(["(" + ",".join("?" * _COLUMNS) + ")"] * rows)
    settle = ", ".join(f"{column} = excluded.{column}" for column in _SETTLED_COLUMNS)
    # What the provider has told stays, whatever is written once more.
    conflict = f"UPDATE SET {settle} WHERE attempts.told != {TOLD}" if settled else "NOTHING"
    return f"INSERT INTO attempts ({_FILLED}) VALUES {marks} ON CONFLICT (row) DO {conflict}"  # noqa: S608 - only marks


# A settled row of a dead process: new, or in the place of one that was open.  One that is there is left alone.
_RECOVER = (
    _upsert(1, settled=True)
    + f" AND (attempts.outcome = '{RESERVED}' OR attempts.outcome = 'partial' AND attempts.error = '{PROCESS_DIED}')"
)


# Rows about an answer of a dead process, by who took it over; their duration is the time until then.
_TAKEN_OVER = f"""
SELECT row, input_tokens, output_tokens, cost FROM attempts
WHERE generation = ? AND error = '{PROCESS_DIED}' AND outcome = 'partial' AND boot != ?
  AND output_tokens > 0 AND started + coalesce(duration, 0) >= ? AND told != {TOLD}"""  # noqa: S608 - only constants
# Two rows would stand for one attempt: the one that a process left open as it died, which nobody can tell the tokens
# of, and that of who took its answer over.  The second stays, whichever comes first.
_ORPHAN = f"""
SELECT row, answer FROM attempts WHERE generation = ? AND error = '{PROCESS_DIED}' AND duration IS NULL
  AND output_tokens = 0 AND started <= ? AND told != {TOLD}
ORDER BY started DESC LIMIT 1"""  # noqa: S608 - only constants
_TAKEN_OVER_ORPHANS = f"""
SELECT max(open.row), max(taken.row) FROM attempts AS open
JOIN attempts AS taken ON taken.generation = open.generation AND taken.error = '{PROCESS_DIED}'
  AND taken.duration IS NOT NULL AND taken.started + taken.duration >= open.started
WHERE open.boot = ? AND open.outcome = '{RESERVED}'
GROUP BY open.generation"""  # noqa: S608 - only constants
_WRITE_FEW = "UPDATE attempts SET image_input_tokens = ?, units = ? WHERE row = ?"
_NOTE = f"UPDATE attempts SET answer = ? WHERE row = ? AND outcome = '{RESERVED}'"  # noqa: S608 - only constants
_INHERIT_ANSWER = "UPDATE attempts SET answer = ?, asked = 0, ask_at = 0 WHERE row = ? AND answer = ''"
_KEEP_THE_REST = """
UPDATE attempts SET input_tokens = ?, output_tokens = ?, cost = ?, cached_input_tokens = 0, cache_write_tokens = 0,
  reasoning_tokens = 0, audio_input_tokens = 0, audio_output_tokens = 0, estimated = 1 WHERE row = ?"""


def _reserved_row(boot: int, row: int, attempt: Attempt) -> tuple[object, ...]:
    """Only of what does not change while the attempt is under way: another thread works on the rest."""
    reserved = attempt.reserved
    return (
        row, boot, attempt.generation, attempt.number, attempt.tenant, attempt.key_name, attempt.tier,
        attempt.endpoint, attempt.model[:MAX_NAME], attempt.upstream, attempt.upstream_model[:MAX_NAME],
        attempt.started,
        reserved.input_tokens, reserved.output_tokens,
        RESERVED, 0, "", None, None, 0, 0, 0, 0, 0, 0, 0, False, 0, 0, attempt.answer[:MAX_NAME],
    )  # fmt: skip


def _settled_row(boot: int, row: int, attempt: Attempt) -> tuple[object, ...]:
    reserved = attempt.reserved
    usage = attempt.usage
    outcome = attempt.outcome
    assert outcome is not None
    return (
        row, boot, attempt.generation, attempt.number, attempt.tenant, attempt.key_name, attempt.tier,
        attempt.endpoint, attempt.model[:MAX_NAME], attempt.upstream, attempt.upstream_model[:MAX_NAME],
        attempt.started,
        reserved.input_tokens, reserved.output_tokens,
        outcome._value_, attempt.status, attempt.error, attempt.first_token, attempt.duration,
        usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_tokens,
        usage.reasoning_tokens, usage.audio_input_tokens, usage.audio_output_tokens, usage.estimated,
        attempt.cost, attempt.saved, attempt.answer[:MAX_NAME],
    )  # fmt: skip


def _of_few(row: int, attempt: Attempt) -> tuple[int, int, int]:
    """For the columns that are nought in nearly every row."""
    usage = attempt.usage
    return min(max(usage.image_input_tokens, 0), MAX_INTEGER), min(max(usage.units, 0), MAX_INTEGER), row


def _fold_row(boot: int, row: int, fold: Fold) -> tuple[object, ...]:
    return (
        row, boot, fold.outcome.value, fold.first_started, fold.last_started, fold.attempts, fold.estimated,
        *(min(count, MAX_INTEGER) for count in msgspec.structs.astuple(fold)[5:]),
    )  # fmt: skip


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
