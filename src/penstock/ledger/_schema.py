"""The tables of the ledger's file, and how those of an earlier version are brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from penstock.messages import PROCESS_DIED
from penstock.sqlite_files import Foreign, Kind, Mark, OtherVersion

BOOT_SHIFT = 40  # rows of one boot: a million millions
RESERVED = "reserved"  # the outcome of a row that is still open
TOLD = 1  # the value of "told" where the figures are the provider's own, told afterwards

# ``*_tokens`` are counts; ``cost`` and ``saved`` are in 1e-12 US dollars; times are seconds, ``started`` since 1970.
# Where the outcome is one that saves (messages.SAVING), the tokens are those that no upstream was asked for.
# ``answer`` is the answer's id at an upstream that tells afterwards what it has cost; what becomes of the question is
# told in :mod:`penstock.ledger.questions`.  ``units`` are images, milliseconds, characters or searches, as the endpoint
# has it; few rows have any, so they are written by themselves.  ``label`` is what the caller says that the call is for.
# ``left_out_tokens`` are those that a prompt would have had more; the next two are what the provider's prompt cache has
# saved and could have saved, in 1e-12 US dollars.
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
  units INTEGER NOT NULL DEFAULT 0,
  label TEXT NOT NULL DEFAULT '',
  left_out_tokens INTEGER NOT NULL DEFAULT 0,
  prompt_cache_saved INTEGER NOT NULL DEFAULT 0,
  prompt_cache_missed INTEGER NOT NULL DEFAULT 0
)"""
_DIED_INDEX = f"CREATE INDEX attempts_died ON attempts (generation) WHERE error = '{PROCESS_DIED}'"
OF_QUESTIONS = (
    "told INTEGER NOT NULL DEFAULT 0",
    "asked INTEGER NOT NULL DEFAULT 0",
    "ask_at REAL NOT NULL DEFAULT 0",
)
OF_FEW = ("image_input_tokens INTEGER NOT NULL DEFAULT 0", "units INTEGER NOT NULL DEFAULT 0")
OF_PROMPTS = (
    "left_out_tokens INTEGER NOT NULL DEFAULT 0",
    "prompt_cache_saved INTEGER NOT NULL DEFAULT 0",
    "prompt_cache_missed INTEGER NOT NULL DEFAULT 0",
)
_QUESTIONS_INDEX = (
    "CREATE INDEX attempts_questions ON attempts (ask_at) WHERE told = 0 AND estimated = 1 AND answer != ''"
)
_OF_ONE_BY_ONE = (
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
  queued INTEGER NOT NULL DEFAULT 0,
  left_out_tokens INTEGER NOT NULL DEFAULT 0,
  prompt_cache_saved INTEGER NOT NULL DEFAULT 0,
  prompt_cache_missed INTEGER NOT NULL DEFAULT 0,
  shortened_to_tokens INTEGER NOT NULL DEFAULT 0
)""",
)


# Each member of each group, in the form of a row of attempts.  Their numbers are others: so they are below nought.
ONE_BY_ONE = f"""
SELECT -((boot << {BOOT_SHIFT}) + json_extract(member.value, '$[0]')) AS row, boot,
  json_extract(member.value, '$[1]') AS generation, number, tenant, key_name, tier, endpoint, model, upstream,
  upstream_model, json_extract(member.value, '$[2]') AS started, 0 AS reserved_input_tokens,
  0 AS reserved_output_tokens, outcome, 0 AS status, error, NULL AS first_token,
  json_extract(member.value, '$[3]') AS duration,
  coalesce(json_extract(member.value, '$[5].input_tokens'), 0) AS input_tokens,
  coalesce(json_extract(member.value, '$[5].output_tokens'), 0) AS output_tokens,
  coalesce(json_extract(member.value, '$[5].cached_input_tokens'), 0) AS cached_input_tokens,
  coalesce(json_extract(member.value, '$[5].cache_write_tokens'), 0) AS cache_write_tokens,
  coalesce(json_extract(member.value, '$[5].reasoning_tokens'), 0) AS reasoning_tokens,
  coalesce(json_extract(member.value, '$[5].audio_input_tokens'), 0) AS audio_input_tokens,
  coalesce(json_extract(member.value, '$[5].audio_output_tokens'), 0) AS audio_output_tokens,
  coalesce(json_extract(member.value, '$[5].estimated'), 0) AS estimated, 0 AS cost,
  json_extract(member.value, '$[4]') AS saved, '' AS answer, 0 AS told, 0 AS asked, 0.0 AS ask_at,
  coalesce(json_extract(member.value, '$[5].image_input_tokens'), 0) AS image_input_tokens,
  coalesce(json_extract(member.value, '$[5].units'), 0) AS units, label, 0 AS left_out_tokens,
  0 AS prompt_cache_saved, 0 AS prompt_cache_missed
FROM savings, json_each(savings.members) AS member"""  # noqa: S608 - only constants
_SAVINGS = (
    """
CREATE TABLE savings (
  row INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL,
  number INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  key_name TEXT NOT NULL,
  tier TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  outcome TEXT NOT NULL,
  error TEXT NOT NULL,
  first_started REAL NOT NULL,
  last_started REAL NOT NULL,
  calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  saved INTEGER NOT NULL,
  members TEXT NOT NULL
)""",
    "CREATE INDEX savings_started ON savings (last_started)",
)
_LABELLED_SAVINGS = "ALTER TABLE savings ADD COLUMN label TEXT NOT NULL DEFAULT ''"
_VIEW = f"""
CREATE VIEW attempts_and_savings AS
SELECT row, boot, generation, number, tenant, key_name, tier, endpoint, model, upstream, upstream_model, started,
  reserved_input_tokens, reserved_output_tokens, outcome, status, error, first_token, duration, input_tokens,
  output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
  estimated, cost, saved, answer, told, asked, ask_at, image_input_tokens, units, label,
  left_out_tokens, prompt_cache_saved, prompt_cache_missed
FROM attempts
UNION ALL {ONE_BY_ONE}"""  # noqa: S608 - as above
_SCHEMA = (*_OF_ONE_BY_ONE, *_SAVINGS, _LABELLED_SAVINGS, _VIEW)
_STEPS = (
    tuple(
        f"ALTER TABLE {table} ADD COLUMN saved INTEGER NOT NULL DEFAULT 0" for table in ("attempts", "folded")
    ),
    ("ALTER TABLE folded ADD COLUMN queued INTEGER NOT NULL DEFAULT 0", _DIED_INDEX),
    (
        *(
            f"ALTER TABLE attempts ADD COLUMN {column}"
            for column in ("answer TEXT NOT NULL DEFAULT ''", *OF_QUESTIONS)
        ),
        _QUESTIONS_INDEX,
    ),
    tuple(f"ALTER TABLE attempts ADD COLUMN {column}" for column in OF_FEW),
    _SAVINGS,
    (
        "ALTER TABLE attempts ADD COLUMN label TEXT NOT NULL DEFAULT ''",
        _LABELLED_SAVINGS,
    ),
    (
        *(
            f"ALTER TABLE {table} ADD COLUMN {column}"
            for table in ("attempts", "folded")
            for column in OF_PROMPTS
        ),
        "ALTER TABLE folded ADD COLUMN shortened_to_tokens INTEGER NOT NULL DEFAULT 0",
        "DROP VIEW IF EXISTS attempts_and_savings",
        _VIEW,
    ),
)
# Of rows of ours, what other ledgers have of the same attempts (penstock.ledger.deductions).  An earlier release does
# not know it, and is not hindered by it.
_DEDUCTED = """
CREATE TABLE IF NOT EXISTS deducted (
  row INTEGER PRIMARY KEY,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cost INTEGER NOT NULL
)"""
MARK = Mark(Kind.LEDGER, 1 + len(_STEPS))


class NotALedger(sqlite3.DatabaseError):
    """The file is a database, but not one that this version may write."""


def adopt(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, or bring an older one's up to date; within a transaction.

    :raises NotALedger: it is something else, or of a later version
    """
    try:
        MARK.adopt(db, _SCHEMA, _STEPS)
        db.execute(_DEDUCTED)
    except (Foreign, OtherVersion) as error:
        raise NotALedger(f"{path} cannot be used: {error}") from error
