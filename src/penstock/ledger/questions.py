"""What attempts really cost, where only an estimate is in the ledger and their provider can be asked.

A **question** is a row of the ledger's file that is over, whose usage is an estimate, and whose answer's id is known
(``answer``).  So it is there after a restart, too, and nobody has to remember it.  ``asked`` says how often it was
asked, ``ask_at`` (Unix time) when it may be asked again, and ``told`` what became of it: 0 it is open, 1 the figures
are the provider's own, 2 it was given up.

Of the processes that share a file each asks for its own rows, because it has to put right its budgets and sums as
well; the rows of those who are no more are anybody's.  A row is taken in a transaction that also says when it may be
asked next, so that no two ask at once, and one who dies over it is no loss.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.ledger._schema import MARK, TOLD
from penstock.messages import Outcome, Usage

PATIENCE = 86_400.0  # seconds after its beginning for which an attempt is asked for
FIRST_PAUSE = 1.0  # seconds until a question is asked once more, doubling
LONGEST_PAUSE = 1_800.0
GIVEN_UP = 2
_BUSY = 2.0  # seconds that other processes' transactions may take

_OPEN = "told = 0 AND estimated = 1 AND answer != ''"
OF_A_QUESTION = (
    "row, mine.token = ?1, generation, endpoint, upstream, upstream_model, tenant, key_name, tier, model, answer,"
    " outcome, attempts.started, asked, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,"
    " reasoning_tokens, audio_input_tokens, audio_output_tokens, cost, estimated, prompt_cache_saved"
)
_DUE = f"""
SELECT {OF_A_QUESTION}
FROM attempts JOIN boots AS mine USING (boot)
WHERE {_OPEN} AND ask_at <= ?2 AND outcome != 'reserved' AND (mine.token = ?1 OR mine.ended IS NOT NULL)
ORDER BY ask_at LIMIT ?3"""  # noqa: S608 - only constants
# Without what another ledger has of the same attempt.
_DEDUCTED = "ifnull((SELECT {0} FROM deducted WHERE deducted.row = attempts.row), 0)"
_INPUT = f"max(?1 - {_DEDUCTED.format('input_tokens')}, 0)"
_OUTPUT = f"max(?2 - {_DEDUCTED.format('output_tokens')}, 0)"
_ANSWER = f"""
UPDATE attempts SET input_tokens = {_INPUT}, output_tokens = {_OUTPUT},
  cached_input_tokens = min(?3, {_INPUT}), reasoning_tokens = min(?4, {_OUTPUT}),
  cache_write_tokens = 0, audio_input_tokens = 0, audio_output_tokens = 0,
  cost = max(?5 - {_DEDUCTED.format("cost")}, 0),
  prompt_cache_saved = CASE WHEN ?3 > {_INPUT} THEN ?6 * {_INPUT} / ?3 ELSE ?6 END, estimated = 0, told = {TOLD}
WHERE row = ?7 AND {_OPEN} AND answer = ?8
RETURNING input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost, prompt_cache_saved"""  # noqa: S608 - only constants
_GIVE_UP = f"UPDATE attempts SET told = {GIVEN_UP} WHERE row = ? AND {_OPEN}"  # noqa: S608 - only constants


class Question(msgspec.Struct, frozen=True):
    """An attempt whose provider is to be asked.  ``mine``: its process is the one that asks."""

    row: int
    mine: bool
    generation: str
    endpoint: str
    upstream: str
    upstream_model: str
    tenant: str
    key_name: str
    tier: str
    model: str
    answer: str
    outcome: Outcome
    started: float
    asked: int  # how often before
    usage: Usage
    cost: int
    cache_saved: int  # by the provider's prompt cache, as the row has it


class Questions:
    """The open questions of a ledger's file.  Every method opens it anew, so they belong to no thread.

    :param token: names the process in the file
    """

    def __init__(self, path: Path, token: str) -> None:
        self._path = path
        self._token = token

    def __repr__(self) -> str:
        return f"<Questions of {self._path}>"

    def take(self, limit: int, now: float | None = None) -> list[Question]:
        """What may be asked now, and is asked by nobody else before long.  What is too old is given up.

        :raises sqlite3.Error: the file cannot be read or written now
        """
        now = time.time() if now is None else now
        with self._opened() as db:
            if db is None:
                return []
            # Most looks find nothing, and need not hold up those who write.
            if db.execute(_DUE, (self._token, now, 1)).fetchone() is None:
                return []
            db.execute("BEGIN IMMEDIATE")
            taken = [question(row) for row in db.execute(_DUE, (self._token, now, limit)).fetchall()]
            for one in taken:
                pause = min(FIRST_PAUSE * 2.0 ** min(one.asked, 30), LONGEST_PAUSE)
                told = GIVEN_UP if now - one.started > PATIENCE else 0
                db.execute(
                    "UPDATE attempts SET asked = asked + 1, ask_at = ?, told = ? WHERE row = ?",
                    (now + pause, told, one.row),
                )
            db.execute("COMMIT")
            return taken

    def answer(
        self, question: Question, usage: Usage, cost: int, cache_saved: int
    ) -> tuple[Usage, int, int] | None:
        """Put down what the provider has told.

        :param cache_saved: by its prompt cache, in 1e-12 US dollars, as ``cost``
        :returns: what the row has now, in the order of the parameters, which is less where another ledger has a part
            of it; None: it was not open any more
        :raises sqlite3.Error: the file cannot be written now
        """
        with self._opened() as db:
            if db is None:
                return None
            told = (
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_input_tokens,
                usage.reasoning_tokens,
            )
            row = db.execute(_ANSWER, (*told, cost, cache_saved, question.row, question.answer)).fetchone()
            if row is None:
                return None
            names = "input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"
            left = msgspec.structs.replace(usage, **dict(zip(names, row, strict=False)))
            return left, row[4], row[5]

    def give_up(self, question: Question) -> None:
        """Ask no more: nobody can tell.

        :raises sqlite3.Error: the file cannot be written now
        """
        with self._opened() as db:
            if db is not None:
                db.execute(_GIVE_UP, (question.row,))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        """None: nobody has written the file yet, or it is none that this version may write."""
        if not self._path.is_file():
            yield None
            return
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None)) as db:
            yield db if MARK.is_on(db) else None


def question(row: tuple[Any, ...]) -> Question:
    """:param row: :data:`OF_A_QUESTION` of one that is over"""
    number, mine, *names, outcome, started, asked = row[:14]
    usage = msgspec.structs.replace(Usage(*row[14:21]), estimated=bool(row[22]))
    return Question(*(number, bool(mine), *names, Outcome(outcome), started, asked, usage, row[21], row[23]))
