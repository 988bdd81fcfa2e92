"""What dead processes have left in the ledger: rows that are open, and queues that nobody has entered.

Who is alive is known by a lock: each process holds ``flock`` on a file of its own beside the ledger, and
the kernel lets go of it when the process ends, in whatever way.  Unlike a process number it is not used
twice, and it means the same in another container.  What a dead process had not written yet is in its queue
(:mod:`penstock.ledger._queue`): that is entered first, and its open rows are settled then.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.ledger._mended import MAX_NAME, UNWRITABLE, mended
from penstock.ledger._queue import DeadQueue, NotAQueue, inherit, queue_path, queues_beside
from penstock.ledger._rows import (
    NOTE,
    WRITE_FEW,
    Values,
    of_few,
    reserved_row,
    settled_row_of_prompt,
    upsert,
)
from penstock.ledger._savings import write_savings
from penstock.ledger._schema import BOOT_SHIFT, RESERVED, TOLD
from penstock.messages import PROCESS_DIED, SAVING, Attempt, Outcome, Usage
from penstock.turns import Turns

_SAVING = frozenset(outcome.value for outcome in SAVING)

# A settled row of a dead process: new, or in the place of one that was open.  One that is there is left alone.
_RECOVER = (
    upsert(1, settled=True, of_prompt=True)
    + f" AND (attempts.outcome = '{RESERVED}' OR attempts.outcome = 'partial' AND attempts.error = '{PROCESS_DIED}')"
)
# What another ledger has of it was taken off when there was nothing in it yet (penstock.ledger.deductions).
_TAKE_OFF = """
UPDATE attempts SET input_tokens = max(attempts.input_tokens - theirs.input_tokens, 0),
  output_tokens = max(attempts.output_tokens - theirs.output_tokens, 0),
  cached_input_tokens = min(cached_input_tokens, max(attempts.input_tokens - theirs.input_tokens, 0)),
  reasoning_tokens = min(reasoning_tokens, max(attempts.output_tokens - theirs.output_tokens, 0)),
  cost = max(attempts.cost - theirs.cost, 0)
FROM deducted AS theirs WHERE theirs.row = attempts.row AND attempts.row = ?"""
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
_INHERIT_ANSWER = "UPDATE attempts SET answer = ?, asked = 0, ask_at = 0 WHERE row = ? AND answer = ''"
_KEEP_THE_REST = """
UPDATE attempts SET input_tokens = ?, output_tokens = ?, cost = ?, cached_input_tokens = 0, cache_write_tokens = 0,
  reasoning_tokens = 0, audio_input_tokens = 0, audio_output_tokens = 0, prompt_cache_saved = 0,
  prompt_cache_missed = 0, estimated = 1 WHERE row = ?"""


class Recovery:
    """One process's dealings with the rows of others.  All of it happens within transactions of the file's.

    :param db: the ledger
    :param path: where it is
    :param token: names this process, which is alive
    :param turns: the thread's
    """

    def __init__(self, db: sqlite3.Connection, path: Path, token: str, turns: Turns) -> None:
        self.orphans = 0  # rows of dead processes that were settled
        self.recovered = 0  # settled rows of dead processes that only their queues had
        self.strange: list[str] = []  # why files that are named like queues were not read
        self._db = db
        self._path = path
        self._token = token
        self._turns = turns
        self._dead: dict[str, DeadQueue] = {}  # by token, while their rows are entered
        self._unread: set[str] = set()  # queues that were left alone: nobody looks twice

    def lives(self, token: str) -> bool:
        """Whether it holds a lock.  Who has trouble with the file has let go of its lock, but not of its queue's."""
        return token not in self._dead and (
            _is_held(lock_path(self._path, token)) or _is_held(queue_path(self._path, token))
        )

    def has_dead(self) -> bool:
        """Whether there is a queue that nobody holds any more, and that may be read."""
        return any(
            not self.lives(token)
            for token, path in queues_beside(self._path)
            if token != self._token and str(path) not in self._unread
        )

    def enter_queues(self, add_boot: Callable[[str, str, int], int]) -> None:
        """Enter what dead processes have put into their queues and not into the file.

        The queues stay locked until the transaction holds; then they are removed.  What is in the file already
        is not changed by being entered again.

        :param add_boot: gives a process a place that had not come so far: token, host, process number
        """
        for token, path in queues_beside(self._path):
            if token == self._token or _is_held(lock_path(self._path, token)):
                continue
            try:
                queue = inherit(path, token)
            except (NotAQueue, OSError) as error:
                self.strange.append(str(error))
                self._unread.add(str(path))
                continue
            if queue is None:
                continue
            self._dead[token] = queue
            known = self._db.execute("SELECT boot FROM boots WHERE token = ?", (token,)).fetchone()
            boot = int(known[0]) if known else add_boot(token, "", 0)  # it had not come so far
            self._enter(boot, queue.records)

    def settle_orphans(self, own: int) -> None:
        """Close the rows of processes that ended without doing so; what they had reserved stays to be read."""
        others = self._db.execute("SELECT boot, token FROM boots WHERE ended IS NULL AND boot != ?", (own,))
        for boot, token in others.fetchall():
            if self.lives(token):
                continue
            for orphan, taken in self._db.execute(_TAKEN_OVER_ORPHANS, (boot,)).fetchall():
                (answer,) = self._db.execute(
                    "SELECT answer FROM attempts WHERE row = ?", (orphan,)
                ).fetchone()
                self._db.execute("DELETE FROM attempts WHERE row = ?", (orphan,))
                self._db.execute(_INHERIT_ANSWER, (answer, taken))
                self.orphans += 1
            self.orphans += self._db.execute(
                "UPDATE attempts SET outcome = ?, error = ?, estimated = 1 WHERE boot = ? AND outcome = 'reserved'",
                (Outcome.PARTIAL.value, PROCESS_DIED, boot),
            ).rowcount
            self._db.execute("UPDATE boots SET ended = ? WHERE boot = ?", (time.time(), boot))
            lock_path(self._path, token).unlink(missing_ok=True)

    def take_found(self) -> tuple[int, int, list[str]]:
        """``orphans``, ``recovered`` and ``strange`` since this was asked last."""
        found = self.orphans, self.recovered, self.strange
        self.orphans, self.recovered, self.strange = 0, 0, []
        return found

    def let_go(self, *, remove: bool) -> None:
        """:param remove: the transaction holds: everything of the queues is in the file."""
        while self._dead:
            _, queue = self._dead.popitem()
            with contextlib.suppress(OSError):
                queue.close(remove=remove)

    def write_taken_over(self, boot: int, row: int, attempt: Attempt) -> None:
        """The row that who takes an answer over writes for the dead process."""
        rest = self._not_booked(boot, row, attempt)
        if rest is None:
            self._db.execute("DELETE FROM attempts WHERE row = ?", (row,))
        else:
            common, own = settled_row_of_prompt(boot, row, rest)
            self._db.execute(upsert(1, settled=True, of_prompt=True), common + own)
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
            elif self.lives(token):
                return None
        usage = attempt.usage
        if not booked:
            return attempt
        left = usage.output_tokens - booked
        if left <= 0:
            return None
        share = left / usage.output_tokens
        rest = Usage(usage.input_tokens + booked, left, estimated=True)
        cost = int(attempt.cost * share)
        return msgspec.structs.replace(attempt, usage=rest, cost=cost, cache_saved=0, cache_missed=0)

    def _enter(self, boot: int, records: list[tuple[int, Attempt]]) -> None:
        (summed,) = self._db.execute(
            "SELECT coalesce(max(queued), 0) FROM folded WHERE boot = ?", (boot,)
        ).fetchone()
        opened: dict[int, Attempt] = {}
        settled: dict[int, Attempt] = {}
        saved: list[Attempt] = []
        for position, attempt in records:
            if attempt.row < 0:
                if position > summed:
                    saved.append(attempt)
            elif attempt.outcome is None:
                opened[attempt.row] = attempt
            else:
                opened.pop(attempt.row, None)
                if position > summed:
                    settled[attempt.row] = attempt
        base = boot << BOOT_SHIFT
        for row, attempt in opened.items():
            self._enter_row(upsert(1, settled=False), reserved_row, boot, base + row, attempt)
            if attempt.answer:
                self._db.execute(NOTE, (attempt.answer[:MAX_NAME], base + row))
        for row, attempt in settled.items():
            if attempt.error == PROCESS_DIED:
                self.write_taken_over(boot, base + row, attempt)
            elif self._enter_row(_RECOVER, settled_row_of_prompt, boot, base + row, attempt):
                self._db.execute(WRITE_FEW, of_few(base + row, attempt))
                self._db.execute(_TAKE_OFF, (base + row,))
                self.recovered += 1
                self._count_once(boot, attempt)
        if saved:
            try:
                self.recovered += write_savings(self._db, boot, saved, self._turns)
            except UNWRITABLE:
                saved = [mended(attempt) for attempt in saved]
                self.recovered += write_savings(self._db, boot, saved, self._turns)

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
        row_of: Callable[[int, int, Attempt], tuple[Values, Values]],
        boot: int,
        row: int,
        attempt: Attempt,
    ) -> int:
        common, own = row_of(boot, row, attempt)
        try:
            return self._db.execute(statement, common + own).rowcount
        except UNWRITABLE:
            common, own = row_of(boot, row, mended(attempt))
            return self._db.execute(statement, common + own).rowcount

    def __repr__(self) -> str:
        return f"<Recovery of {self._path}, {self.orphans} orphans, {self.recovered} recovered>"


def lock_path(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}-{token}.lock")


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
