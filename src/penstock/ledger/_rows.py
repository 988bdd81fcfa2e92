"""Attempts, and sums of them, as rows of the ledger's file."""

from __future__ import annotations

import functools

import msgspec

from penstock.ledger._mended import MAX_INTEGER, MAX_NAME
from penstock.ledger._schema import RESERVED, TOLD
from penstock.messages import Attempt, Outcome

ROWS_PER_STATEMENT = 32  # 30 columns each: within the 999 parameters that every SQLite allows
COLUMNS = 30  # that every attempt fills; then come its question's, and those of few
_SETTLED_COLUMNS = (
    *("outcome", "status", "error", "first_token", "duration", "input_tokens", "output_tokens"),
    *("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "audio_input_tokens"),
    *("audio_output_tokens", "estimated", "cost", "saved", "answer"),
)
_OPENED_COLUMNS = (
    *("row", "boot", "generation", "number", "tenant", "key_name", "tier", "endpoint", "model", "upstream"),
    *("upstream_model", "started", "reserved_input_tokens", "reserved_output_tokens"),
)
NOTE = f"UPDATE attempts SET answer = ? WHERE row = ? AND outcome = '{RESERVED}'"  # noqa: S608 - only constants
WRITE_FEW = "UPDATE attempts SET image_input_tokens = ?, units = ? WHERE row = ?"
WRITE_FOLD = f"INSERT OR REPLACE INTO folded VALUES ({','.join('?' * 17)})"  # noqa: S608 - only marks


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


@functools.cache
def upsert(rows: int, *, settled: bool) -> str:
    marks = ",".join(["(" + ",".join("?" * COLUMNS) + ")"] * rows)
    filled = ", ".join(_OPENED_COLUMNS + _SETTLED_COLUMNS)
    settle = ", ".join(f"{column} = excluded.{column}" for column in _SETTLED_COLUMNS)
    # What the provider has told stays, whatever is written once more.
    conflict = f"UPDATE SET {settle} WHERE attempts.told != {TOLD}" if settled else "NOTHING"
    return f"INSERT INTO attempts ({filled}) VALUES {marks} ON CONFLICT (row) DO {conflict}"  # noqa: S608 - only marks


def reserved_row(boot: int, row: int, attempt: Attempt) -> tuple[object, ...]:
    """Only of what does not change while the attempt is under way: another thread works on the rest."""
    reserved = attempt.reserved
    return (
        row, boot, attempt.generation, attempt.number, attempt.tenant, attempt.key_name, attempt.tier,
        attempt.endpoint, attempt.model[:MAX_NAME], attempt.upstream, attempt.upstream_model[:MAX_NAME],
        attempt.started,
        reserved.input_tokens, reserved.output_tokens,
        RESERVED, 0, "", None, None, 0, 0, 0, 0, 0, 0, 0, False, 0, 0, attempt.answer[:MAX_NAME],
    )  # fmt: skip


def settled_row(boot: int, row: int, attempt: Attempt) -> tuple[object, ...]:
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


def of_few(row: int, attempt: Attempt) -> tuple[int, int, int]:
    """For the columns that are nought in nearly every row."""
    usage = attempt.usage
    return min(max(usage.image_input_tokens, 0), MAX_INTEGER), min(max(usage.units, 0), MAX_INTEGER), row


def fold_row(boot: int, row: int, fold: Fold) -> tuple[object, ...]:
    return (
        row, boot, fold.outcome.value, fold.first_started, fold.last_started, fold.attempts, fold.estimated,
        *(min(count, MAX_INTEGER) for count in msgspec.structs.astuple(fold)[5:]),
    )  # fmt: skip
