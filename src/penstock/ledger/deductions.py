"""What other ledgers have of attempts whose rows are in this one, taken off these rows, each once.

Who took over the answer of a process of ours, on another machine, has entered what that answer's log had brought,
and left word of it (``generation.bill``).  Of an attempt that died with its process nothing is in our row, and nothing
is taken off; but a process that was only cut off has settled its row, and a provider may tell afterwards what the
attempt has cost.  So what was taken off is remembered, in a table of its own, as long as the row is.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from penstock.ledger._schema import BOOT_SHIFT, MARK, RESERVED
from penstock.ledger.questions import OF_A_QUESTION, Question, question
from penstock.messages import Usage

_BUSY = 2.0  # seconds that other processes' transactions may take

_ROW = f"SELECT {OF_A_QUESTION} FROM attempts JOIN boots AS mine USING (boot) WHERE row = ?2"  # noqa: S608 - only names
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_OUTCOME = 11  # of these columns
_LATER = "SELECT 1 FROM attempts WHERE row > ? AND row < ? AND started < ? LIMIT 1"
_WRITTEN = 60.0  # seconds after which a row that began is in the file, settled or open
_DEDUCT = """
UPDATE attempts SET input_tokens = max(input_tokens - ?1, 0), output_tokens = max(output_tokens - ?2, 0),
  cached_input_tokens = max(cached_input_tokens - ?3, 0), cache_write_tokens = max(cache_write_tokens - ?4, 0),
  reasoning_tokens = max(reasoning_tokens - ?5, 0), cost = max(cost - ?6, 0),
  prompt_cache_saved = prompt_cache_saved * (max(cached_input_tokens - ?3, 0) + max(cache_write_tokens - ?4, 0))
    / max(cached_input_tokens + cache_write_tokens, 1)
WHERE row = ?7 RETURNING input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost,
  prompt_cache_saved"""


class Deduction(msgspec.Struct, frozen=True):
    """What is to be taken off a row: of which process, the number of its row, and how much."""

    process: str
    row: int
    usage: Usage
    cost: int


class Deducted(msgspec.Struct, frozen=True):
    """A row as it was, and what is left of it."""

    row: Question
    usage: Usage
    cost: int
    cache_saved: int  # by its provider's prompt cache


class Deductions:
    """Of a ledger's file.  Every method opens it anew, so they belong to no thread.

    :param token: names the process in the file
    """

    def __init__(self, path: Path, token: str) -> None:
        self._path = path
        self._token = token

    def __repr__(self) -> str:
        return f"<Deductions of {self._path}>"

    def ledger(self) -> str:
        """What the file is called by those who have others; ``""``: nobody has written it yet.

        :raises sqlite3.Error: it cannot be read now
        """
        with self._opened() as db:
            first = db and db.execute("SELECT token FROM boots ORDER BY boot LIMIT 1").fetchone()
            return first[0] if first else ""

    def make(self, wanted: Sequence[Deduction]) -> tuple[list[Deduction], list[Deducted]]:
        """Take off what can be by now: a row that is open, or not in the file yet, has to wait.

        :returns: what nothing is left to do for; and what was changed
        :raises sqlite3.Error: the file cannot be written now
        """
        done: list[Deduction] = []
        changed: list[Deducted] = []
        with self._opened() as db:
            if db is None:
                return [], []
            db.execute("BEGIN IMMEDIATE")
            for one in wanted:
                boot = db.execute("SELECT boot, ended FROM boots WHERE token = ?", (one.process,)).fetchone()
                if boot is None:  # another file was in this one's place
                    done.append(one)
                    continue
                row = (boot[0] << BOOT_SHIFT) + one.row
                found = db.execute(_ROW, (self._token, row)).fetchone()
                if found is None:
                    # It is not kept any more, or only in a sum; else it is on its way to the file.
                    later = (row, boot[0] + 1 << BOOT_SHIFT, time.time() - _WRITTEN)
                    if boot[1] is not None or db.execute(_LATER, later).fetchone():
                        done.append(one)
                    continue
                if found[_OUTCOME] == RESERVED:
                    continue
                before = question(found)
                done.append(one)
                usage = one.usage
                taken = (row, usage.input_tokens, usage.output_tokens, one.cost)
                if db.execute("INSERT OR IGNORE INTO deducted VALUES (?, ?, ?, ?)", taken).rowcount:
                    tokens = (
                        *(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens),
                        *(usage.cache_write_tokens, usage.reasoning_tokens, one.cost, row),
                    )
                    *rest, cost, saved = db.execute(_DEDUCT, tokens).fetchone()
                    changed.append(Deducted(before, _usage(before.usage, rest), cost, saved))
            db.execute("COMMIT")
        return done, changed

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        """None: nobody has written the file yet, or it is none that this version may write."""
        if not self._path.is_file():
            yield None
            return
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None)) as db:
            yield db if MARK.is_on(db) else None


def _usage(before: Usage, rest: Sequence[int]) -> Usage:
    left = dict(zip(_TOKENS, rest, strict=True))
    return msgspec.structs.replace(before, **left)
