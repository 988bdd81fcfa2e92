"""Attempts, and sums of them, as rows of the ledger's file."""

from __future__ import annotations

import functools
from typing import TypeAlias

import msgspec

from penstock.ledger._mended import MAX_INTEGER, MAX_NAME
from penstock.ledger._schema import RESERVED, TOLD
from penstock.messages import Attempt, Outcome

ROWS_PER_STATEMENT = 32
# A row in two parts: what mostly differs from the row before, and what rows of one moment mostly have in common.  The
# second is bound once for all rows of a statement, for to bind a value is the dearest thing that there is in a row.
OWN = (
    "row", "generation", "started", "first_token", "duration", "input_tokens", "output_tokens", "cost", "saved",
)  # fmt: skip
COMMON = (
    "boot", "number", "tenant", "key_name", "tier", "endpoint", "model", "upstream", "upstream_model",
    "reserved_input_tokens", "reserved_output_tokens", "outcome", "status", "error", "cached_input_tokens",
    "cache_write_tokens", "reasoning_tokens", "audio_input_tokens", "audio_output_tokens", "estimated", "answer",
    "label",
)  # fmt: skip
_WHEN_SETTLED = (
    "first_token", "duration", "input_tokens", "output_tokens", "cost", "saved", "outcome", "status", "error",
    "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "audio_input_tokens", "audio_output_tokens",
    "estimated", "answer",
)  # fmt: skip
# Of rows whose prompts were shortened, or found in a provider's cache, the own ones are more.
OF_PROMPT = ("left_out_tokens", "prompt_cache_saved", "prompt_cache_missed")
NOTE = f"UPDATE attempts SET answer = ? WHERE row = ? AND outcome = '{RESERVED}'"  # noqa: S608 - only constants
WRITE_FEW = "UPDATE attempts SET image_input_tokens = ?, units = ? WHERE row = ?"
WRITE_FOLD = f"INSERT OR REPLACE INTO folded VALUES ({','.join('?' * 21)})"  # noqa: S608 - only marks


Values: TypeAlias = tuple[object, ...]


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
    left_out_tokens: int = 0
    prompt_cache_saved: int = 0
    prompt_cache_missed: int = 0
    shortened_to_tokens: int = 0  # the input tokens of those rows of whose prompts something was left out

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
        self.left_out_tokens += attempt.left_out
        self.prompt_cache_saved += attempt.cache_saved
        self.prompt_cache_missed += attempt.cache_missed
        if attempt.left_out:
            self.shortened_to_tokens += usage.input_tokens


@functools.cache
def upsert(rows: int, *, settled: bool, of_prompt: bool = False) -> str:
    """Its parameters are what the rows have in :data:`COMMON`, then the :data:`OWN` of each.

    :param of_prompt: and its :data:`OF_PROMPT`
    """
    more = OF_PROMPT if of_prompt else ()
    names = OWN + more
    own = iter(range(len(COMMON) + 1, len(COMMON) + rows * len(names) + 1))
    values = ", ".join("(" + ", ".join(f"?{next(own)}" for _ in names) + ")" for _ in range(rows))
    columns = ", ".join(COMMON + names)
    taken = [f"?{place + 1}" for place in range(len(COMMON))] + [
        f"column{place + 1}" for place in range(len(names))
    ]
    settle = ", ".join(f"{column} = excluded.{column}" for column in _WHEN_SETTLED + more)
    # What the provider has told stays, whatever is written once more.
    conflict = f"UPDATE SET {settle} WHERE attempts.told != {TOLD}" if settled else "NOTHING"
    return (
        f"INSERT INTO attempts ({columns}) SELECT {', '.join(taken)} FROM (VALUES {values}) WHERE true"  # noqa: S608 - only names and marks
        f" ON CONFLICT (row) DO {conflict}"
    )


def reserved_row(boot: int, row: int, attempt: Attempt) -> tuple[Values, Values]:
    """Only of what does not change while the attempt is under way: another thread works on the rest.

    :returns: the values of :data:`COMMON`, and of :data:`OWN`
    """
    reserved = attempt.reserved
    return (
        boot, attempt.number, attempt.tenant, attempt.key_name, attempt.tier, attempt.endpoint,
        attempt.model[:MAX_NAME], attempt.upstream, attempt.upstream_model[:MAX_NAME],
        reserved.input_tokens, reserved.output_tokens,
        RESERVED, 0, "", 0, 0, 0, 0, 0, False, attempt.answer[:MAX_NAME],
        attempt.label,
    ), (row, attempt.generation, attempt.started, None, None, 0, 0, 0, 0)  # fmt: skip


def settled_row(boot: int, row: int, attempt: Attempt) -> tuple[Values, Values]:
    """:returns: the values of :data:`COMMON`, and of :data:`OWN`"""
    reserved = attempt.reserved
    usage = attempt.usage
    outcome = attempt.outcome
    assert outcome is not None
    return (
        boot, attempt.number, attempt.tenant, attempt.key_name, attempt.tier, attempt.endpoint,
        attempt.model[:MAX_NAME], attempt.upstream, attempt.upstream_model[:MAX_NAME],
        reserved.input_tokens, reserved.output_tokens,
        outcome._value_, attempt.status, attempt.error, usage.cached_input_tokens, usage.cache_write_tokens,
        usage.reasoning_tokens, usage.audio_input_tokens, usage.audio_output_tokens, usage.estimated,
        attempt.answer[:MAX_NAME], attempt.label,
    ), (
        row, attempt.generation, attempt.started, attempt.first_token, attempt.duration, usage.input_tokens,
        usage.output_tokens, attempt.cost, attempt.saved,
    )  # fmt: skip


def settled_row_of_prompt(boot: int, row: int, attempt: Attempt) -> tuple[Values, Values]:
    """The same with the values of :data:`OF_PROMPT` behind the others."""
    common, own = settled_row(boot, row, attempt)
    return common, (*own, attempt.left_out, attempt.cache_saved, attempt.cache_missed)


def of_few(row: int, attempt: Attempt) -> tuple[int, int, int]:
    """For the columns that are nought in nearly every row."""
    usage = attempt.usage
    return min(max(usage.image_input_tokens, 0), MAX_INTEGER), min(max(usage.units, 0), MAX_INTEGER), row


def fold_row(boot: int, row: int, fold: Fold) -> tuple[object, ...]:
    return (
        row, boot, fold.outcome.value, fold.first_started, fold.last_started, fold.attempts, fold.estimated,
        *(min(count, MAX_INTEGER) for count in msgspec.structs.astuple(fold)[5:]),
    )  # fmt: skip
