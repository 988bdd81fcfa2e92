"""Reading the ledger's file: sums by tenant, model, upstream and so on.

The file is opened read-only: a gateway may write it at the same time, and neither waits for the other.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from penstock.errors import ConfigError
from penstock.ledger._schema import MARK, ONE_BY_ONE, RESERVED, TOLD
from penstock.messages import SAVING, Endpoint

_SAVING = ", ".join(sorted(f"'{outcome.value}'" for outcome in SAVING))
_UNITS = ("images", "milliseconds", "characters", "searches")  # in the order of Line's fields

GROUPS = {
    "tenant": "tenant",
    "key": "key_name",
    "model": "model",
    "upstream": "upstream",
    "outcome": "outcome",
    "status": f"CASE WHEN outcome IN ({_SAVING}) THEN 'not asked' WHEN status = 0 THEN 'none' ELSE CAST(status AS TEXT) END",
    "label": "CASE label WHEN '' THEN 'none' ELSE label END",
    "day": "date(started, 'unixepoch')",
}
"""What a report can be grouped by, and how SQL says it."""

FOLDED = "(sums only)"
"""The group of what is known only as a sum: rows that found no room while the file could not be written."""

_FOLDED_GROUPS = {"outcome": "outcome", "day": "date(first_started, 'unixepoch')"}

# Costs are added in two parts, since SQLite's sum() fails past 2**63, which is nine million dollars.
_SUMS = """
  sum(n * asked), sum(open), sum(completed), sum(estimated * asked), sum(told), sum(input_tokens * asked),
  sum(output_tokens * asked), sum(cached_input_tokens * asked), sum(cache_write_tokens * asked),
  sum(reasoning_tokens * asked), sum(audio_input_tokens * asked), sum(audio_output_tokens * asked),
  sum(image_input_tokens * asked), sum(images * asked), sum(milliseconds * asked), sum(characters * asked),
  sum(searches * asked),
  sum(n * (1 - asked)), sum(input_tokens * (1 - asked)), sum(output_tokens * (1 - asked)),
  sum(left_out_tokens), sum(shortened_to_tokens),
  sum(cost / 1000000), sum(cost % 1000000), sum(saved / 1000000), sum(saved % 1000000),
  sum(prompt_cache_saved / 1000000), sum(prompt_cache_saved % 1000000),
  sum(prompt_cache_missed / 1000000), sum(prompt_cache_missed % 1000000)"""
_TOKENS = """input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens,
    audio_input_tokens, audio_output_tokens, cost, saved"""
_OF_PROMPTS = "left_out_tokens, prompt_cache_saved, prompt_cache_missed"


def _units_as_columns() -> str:
    """A column of SQL for each unit: what ``units`` counts, the row's endpoint tells."""
    columns = []
    for unit in _UNITS:
        endpoints = ", ".join(f"'{endpoint.label}'" for endpoint in Endpoint if endpoint.unit == unit)
        columns.append(f"units * (endpoint IN ({endpoints})) AS {unit}")
    return ", ".join(columns)


class Line(msgspec.Struct, frozen=True):
    """One group of rows.

    ``group`` has a word for each of what the report is grouped by.  ``attempts`` are calls of an upstream, ``open`` those still under way, ``told`` those whose provider has told
    afterwards what they cost; ``saved_calls`` are those for which none was asked, because the answer was there or on
    its way.  ``sound_milliseconds`` were transcribed or translated, ``characters`` spoken; ``searches`` are those of
    rerank.  ``shortened_to_tokens`` are the input tokens of prompts that something was left out of, and ``left_out_tokens``
    those that these would have had more, about.  ``cost`` and ``saved_cost`` in 1e-12 US dollars, and so is what
    providers' prompt caches have saved, less what these took to write, and could have saved besides.
    """

    group: tuple[str, ...]
    attempts: int = 0
    open: int = 0
    completed: int = 0
    estimated: int = 0
    told: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    images: int = 0
    sound_milliseconds: int = 0
    characters: int = 0
    searches: int = 0
    saved_calls: int = 0
    saved_input_tokens: int = 0
    saved_output_tokens: int = 0
    left_out_tokens: int = 0
    shortened_to_tokens: int = 0
    cost: int = 0
    saved_cost: int = 0
    prompt_cache_saved: int = 0
    prompt_cache_missed: int = 0

    @property
    def shortened_from_tokens(self) -> int:
        """What the shortened prompts would have had."""
        return self.shortened_to_tokens + self.left_out_tokens

    @property
    def cached_share(self) -> float:
        """Of the input tokens, those that providers have read from their prompt caches, to six places."""
        return round(self.cached_input_tokens / self.input_tokens, 6) if self.input_tokens else 0.0


AMOUNTS = ("cost", "saved_cost", "prompt_cache_saved", "prompt_cache_missed")
"""Those of a line's fields that are money; they are its last."""


def summarize(
    path: str | Path, *, by: Sequence[str] = ("model",), since: float = 0.0, until: float = math.inf
) -> list[Line]:
    """Sums over the attempts that started at ``since`` (Unix time) or later, and before ``until``.

    The dearest group comes first; where days are among what ``by`` names, the earliest day.

    :raises ConfigError: there is no ledger at ``path``, or it cannot be read
    """
    group = _label(GROUPS[each] for each in by)
    folded = _label(_FOLDED_GROUPS.get(each, f"'{FOLDED}'") for each in by)
    query = f"""
WITH grouped AS (
  SELECT tenant, key_name, model, upstream, outcome, 0 AS status, first_started AS started, label, calls, input_tokens,
    output_tokens, saved
  FROM savings WHERE last_started >= ?1 AND first_started >= ?1 AND last_started < ?2
  UNION ALL
  SELECT tenant, key_name, model, upstream, outcome, 0, json_extract(member.value, '$[2]'), label, 1,
    coalesce(json_extract(member.value, '$[5].input_tokens'), 0),
    coalesce(json_extract(member.value, '$[5].output_tokens'), 0), json_extract(member.value, '$[4]')
  FROM savings, json_each(members) AS member
  WHERE last_started >= ?1 AND first_started < ?2 AND NOT (first_started >= ?1 AND last_started < ?2)
    AND json_extract(member.value, '$[2]') >= ?1 AND json_extract(member.value, '$[2]') < ?2
)
SELECT words, {_SUMS} FROM (
  SELECT {group} AS words, 1 AS n, outcome NOT IN ({_SAVING}) AS asked, outcome = '{RESERVED}' AS open,
    outcome = 'completed' AS completed, estimated, told = {TOLD} AS told, {_TOKENS}, {_OF_PROMPTS},
    input_tokens * (left_out_tokens > 0) AS shortened_to_tokens, image_input_tokens, {_units_as_columns()}
  FROM attempts WHERE started >= ?1 AND started < ?2
  UNION ALL
  SELECT {folded}, attempts, outcome NOT IN ({_SAVING}), 0, attempts * (outcome = 'completed'), estimated, 0, {_TOKENS}, {_OF_PROMPTS},
    shortened_to_tokens, 0, 0, 0, 0, 0
  FROM folded WHERE last_started >= ?1 AND first_started < ?2
  UNION ALL
  SELECT {group}, calls, 0, 0, 0, 0, 0, input_tokens, output_tokens, 0, 0, 0, 0, 0, 0, saved, 0, 0, 0, 0, 0, 0, 0, 0, 0
  FROM grouped
) GROUP BY words"""  # noqa: S608 - made of the constants above
    lines = [
        Line(
            tuple(msgspec.json.decode(words)),
            *figures[: -2 * len(AMOUNTS)],
            *_amounts(figures[-2 * len(AMOUNTS) :]),
        )
        for words, *figures in _rows(path, query, since, until)
    ]
    dearest = sorted(lines, key=lambda line: (-line.cost, -line.attempts, -line.saved_calls, line.group))
    if "day" not in by:
        return dearest
    day = by.index("day")
    return sorted(dearest, key=lambda line: line.group[day])


def _amounts(halves: Sequence[int]) -> Iterable[int]:
    """Each from its two sums."""
    return (high * 1_000_000 + low for high, low in zip(halves[::2], halves[1::2], strict=True))


def _label(groups: Iterable[str]) -> str:
    """SQL for the words of a group as one value; JSON, because a model's name may hold any character."""
    return f"json_array({', '.join(groups)})"


class RecordedAttempt(msgspec.Struct, frozen=True):
    """One row: a call of an upstream, or an answer for which none was asked.

    ``started`` is Unix time, ``first_token`` and ``duration`` are seconds after it; ``cost``, ``saved`` and
    what the prompt cache saved or could have in 1e-12 US dollars.
    """

    generation: str
    number: int
    tenant: str
    key: str
    tier: str
    endpoint: str
    model: str
    upstream: str
    upstream_model: str
    started: float
    outcome: str
    status: int
    error: str
    first_token: float | None
    duration: float | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    estimated: int
    cost: int
    saved: int
    label: str
    left_out_tokens: int
    prompt_cache_saved: int
    prompt_cache_missed: int


def attempts_of(path: str | Path, generation: str) -> list[RecordedAttempt]:
    """What was asked for one answer, in the order in which it began.

    :raises ConfigError: there is no ledger at ``path``, or it cannot be read
    """
    columns = ", ".join("key_name" if name == "key" else name for name in RecordedAttempt.__struct_fields__)
    # Most groups have nothing of it, and to look for its letters is cheaper than to take a group apart.
    query = f"""
SELECT {columns} FROM attempts WHERE generation = ?1
UNION ALL
SELECT {columns} FROM ({ONE_BY_ONE} WHERE instr(members, ?1)) WHERE generation = ?1
ORDER BY started, number"""  # noqa: S608 - as above
    return [RecordedAttempt(*row) for row in _rows(path, query, generation)]


def total(lines: list[Line]) -> Line:
    """The sum of all groups."""
    columns = zip(*(msgspec.structs.astuple(line)[1:] for line in lines), strict=True)
    return Line(("total",), *(sum(column) for column in columns))


def _rows(path: str | Path, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    try:
        with contextlib.closing(open_ledger(Path(path))) as database:
            return database.execute(query, parameters).fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger {path} cannot be read: {error}") from error


def open_ledger(path: Path) -> sqlite3.Connection:
    """The file, for reading only.

    :raises ConfigError: there is none, or it is no ledger
    :raises sqlite3.Error: it cannot be read
    """
    if not path.is_file():
        raise ConfigError(f"there is no ledger at {path}")
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        return _checked(sqlite3.connect(uri, uri=True, timeout=5), path)
    except sqlite3.OperationalError:
        # Nobody has it open, and we may not make the -shm file that a reader needs: nobody will write it
        # under us either.
        return _checked(sqlite3.connect(uri + "&immutable=1", uri=True), path)


def _checked(database: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    try:
        is_ours = MARK.is_on(database)
    except sqlite3.Error:
        database.close()
        raise
    if not is_ours:
        database.close()
        raise ConfigError(f"{path} is not a ledger, or not one of version {MARK.version}")
    return database
