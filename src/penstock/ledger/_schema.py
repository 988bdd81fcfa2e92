"""The tables of the ledger's file, and how those of an earlier version are brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from penstock.messages import PROCESS_DIED
from penstock.sqlite_files import Foreign, Mark, OtherVersion

MARK = Mark(
    0x50454E53, 5
)  # "PENS"; version 1 had no column "saved", 2 no column "queued", 3 none from "answer" on, 4 none of what few have
RESERVED = "reserved"  # the outcome of a row that is still open
TOLD = 1  # the value of "told" where the figures are the provider's own, told afterwards

# ``*_tokens`` are counts; ``cost`` and ``saved`` are in 1e-12 US dollars; times are seconds, ``started`` since 1970.
# Where the outcome is one that saves (messages.SAVING), the tokens are those that no upstream was asked for.
# ``answer`` is the answer's id at an upstream that tells afterwards what it has cost; what becomes of the question is
# told in :mod:`penstock.ledger.questions`.  ``units`` are images, milliseconds, characters or searches, as the endpoint
# has it; few rows have any, so they are written by themselves.
ATTEMPTS = """
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
OF_QUESTIONS = (
    "told INTEGER NOT NULL DEFAULT 0",
    "asked INTEGER NOT NULL DEFAULT 0",
    "ask_at REAL NOT NULL DEFAULT 0",
)
OF_FEW = ("image_input_tokens INTEGER NOT NULL DEFAULT 0", "units INTEGER NOT NULL DEFAULT 0")
_QUESTIONS_INDEX = (
    "CREATE INDEX attempts_questions ON attempts (ask_at) WHERE told = 0 AND estimated = 1 AND answer != ''"
)
_SCHEMA = (
    ATTEMPTS,
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


def adopt(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, or bring an older one's up to date; within a transaction.

    :raises NotALedger: it is something else, or of a later version
    """
    try:
        MARK.adopt(db, _SCHEMA)
    except Foreign as error:
        raise NotALedger(f"{path} cannot be used: {error}") from error
    except OtherVersion as other:
        if not 1 <= other.found < MARK.version:
            raise NotALedger(f"{path} cannot be used: {other}") from other
        _bring_up_to_date(db, other.found)


def _bring_up_to_date(db: sqlite3.Connection, version: int) -> None:
    if version == 1:
        for table in ("attempts", "folded"):
            db.execute(f"ALTER TABLE {table} ADD COLUMN saved INTEGER NOT NULL DEFAULT 0")
    if version < 3:
        db.execute("ALTER TABLE folded ADD COLUMN queued INTEGER NOT NULL DEFAULT 0")
        db.execute(_DIED_INDEX)
    if version < 4:
        for column in ("answer TEXT NOT NULL DEFAULT ''", *OF_QUESTIONS):
            db.execute(f"ALTER TABLE attempts ADD COLUMN {column}")
        db.execute(_QUESTIONS_INDEX)
    for column in OF_FEW:
        db.execute(f"ALTER TABLE attempts ADD COLUMN {column}")
    MARK.enter(db)
