"""Rows of calls that no upstream was asked for: in the ledger's file, those of one moment that are alike are one.

Such a row is never open, costs nothing, and is corrected by nobody, and there may be many more of them than of any
other kind.  So each batch writes one row for all that have everything in common but what is their own; that is in its
column ``members``, a JSON array of ``[number, generation, started, duration, saved, usage]``.  The view
``attempts_and_savings`` shows them one by one.

They have numbers of their own within their process's part of the ledger, and a group's is that of its last member.
So who writes a number, or finds it in a queue, can tell by the few groups from there on whether the file has it:
however often a row is entered, it is there once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from penstock.ledger._mended import MAX_INTEGER, MAX_NAME
from penstock.ledger._schema import BOOT_SHIFT
from penstock.messages import Attempt, Outcome
from penstock.turns import Turns

# Seconds; groups do not reach over midnight (UTC), so that sums by day need no look into them.
_DAY = 86_400.0
_WRITE = f"INSERT INTO savings VALUES ({','.join('?' * 20)})"  # noqa: S608 - only marks
_MEMBERS = "SELECT members FROM savings WHERE row >= ? AND row < ?"

_OLD = "SELECT row, calls FROM savings WHERE last_started < ? ORDER BY last_started"

_encode = msgspec.json.Encoder().encode
_numbers = msgspec.json.Decoder(list[tuple[int, object, object, object, object, object]]).decode

Names: TypeAlias = tuple[str, str, str, str, str, str, str, Outcome | None, str, int, str, float]


def write_savings(db: sqlite3.Connection, boot: int, saved: Sequence[Attempt], turns: Turns) -> int:
    """Write those that the file does not have; within a transaction.

    :param saved: settled rows, in the order of their numbers, which are ``-row``
    :returns: how many it did not have
    :raises UNWRITABLE: a value that no column holds; some of them may have been written
    """
    base, beyond = boot << BOOT_SHIFT, (boot + 1) << BOOT_SHIFT
    there = {
        number
        for (members,) in db.execute(_MEMBERS, (base - saved[0].row, beyond))
        for number, *_ in _numbers(members)
    }
    missing = [attempt for attempt in saved if -attempt.row not in there] if there else saved
    for names, alike in _alike(turns.over(missing)):
        row = _group_row(boot, names, alike, turns)
        turns.give_way()
        db.execute(_WRITE, row)
    return len(missing)


def _alike(saved: Iterable[Attempt]) -> Iterator[tuple[Names, list[Attempt]]]:
    groups: dict[Names, list[Attempt]] = {}
    for one in saved:
        names = (
            one.tenant, one.key_name, one.tier, one.endpoint, one.model, one.upstream, one.upstream_model,
            one.outcome, one.error, one.number, one.label, one.started // _DAY,
        )  # fmt: skip
        group = groups.get(names)
        if group is None:
            groups[names] = [one]
        else:
            group.append(one)
    return iter(groups.items())


def _group_row(boot: int, names: Names, alike: list[Attempt], turns: Turns) -> tuple[object, ...]:
    tenant, key_name, tier, endpoint, model, upstream, upstream_model, outcome, error, number, label, _ = (
        names
    )
    assert outcome is not None
    members = [
        (-one.row, one.generation, one.started, one.duration, one.saved, one.usage)
        for one in turns.over(alike)
    ]
    usages = [member[5] for member in members]
    started = [member[2] for member in members]
    turns.give_way()
    return (
        (boot << BOOT_SHIFT) + members[-1][0],
        boot, number, tenant, key_name, tier, endpoint, model[:MAX_NAME], upstream, upstream_model[:MAX_NAME],
        outcome.value, error, min(started), max(started), len(members),
        min(sum([usage.input_tokens for usage in usages]), MAX_INTEGER),
        min(sum([usage.output_tokens for usage in usages]), MAX_INTEGER),
        min(sum([one.saved for one in alike]), MAX_INTEGER),
        _encode(members).decode(), label,
    )  # fmt: skip


def forget_savings(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Delete the oldest groups all of whose members began before this moment (Unix time), until there are so many.

    :returns: how many members they had; fewer than ``limit``: no other groups are that old
    """
    old: list[tuple[int]] = []
    members = 0
    for row, calls in db.execute(_OLD, (before,)):
        old.append((row,))
        members += calls
        if members >= limit:
            break
    db.executemany("DELETE FROM savings WHERE row = ?", old)
    return members
