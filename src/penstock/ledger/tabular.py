"""What a report says, as records for programs and as CSV for spreadsheets."""

from __future__ import annotations

import csv
import enum
import io
from collections.abc import Sequence

import msgspec

from penstock.ledger.prices import UNITS_PER_DOLLAR
from penstock.ledger.report import AMOUNTS, Line

_AMOUNTS = {name: "saved" if name == "saved_cost" else name for name in AMOUNTS}  # as they are told
_DERIVED = ("shortened_from_tokens", "cached_share")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how spreadsheets know something to compute


class Grouping(enum.StrEnum):
    """What a report can be grouped by, as ``report.GROUPS`` has it."""

    tenant = "tenant"
    key = "key"
    model = "model"
    upstream = "upstream"
    outcome = "outcome"
    status = "status"
    label = "label"
    day = "day"


def record(line: Line, by: Sequence[str]) -> dict[str, object]:
    """A line with a member for each word of its group; amounts in 1e-12 US dollars."""
    fields: dict[str, object] = msgspec.structs.asdict(line)
    del fields["group"]
    amounts = {f"{_AMOUNTS[name]}_picousd": fields.pop(name) for name in AMOUNTS}
    derived = {name: getattr(line, name) for name in _DERIVED}
    return {**dict(zip(by, line.group, strict=True)), **fields, **derived, **amounts}


def as_csv(lines: Sequence[Line], by: Sequence[str]) -> str:
    """The same with a heading, for spreadsheets: amounts in US dollars, to the last of twelve places.

    A caller may have chosen a model's name: one that a spreadsheet would compute gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    counts = [name for name in Line.__struct_fields__ if name != "group" and name not in AMOUNTS]
    writer.writerow([*by, *counts, *_DERIVED, *(f"{_AMOUNTS[name]}_usd" for name in AMOUNTS)])
    for line in lines:
        words = [f"'{word}" if word.startswith(_FORMULA) else word for word in line.group]
        figures = [getattr(line, name) for name in (*counts, *_DERIVED)]
        amounts = [_exactly(getattr(line, name)) for name in AMOUNTS]
        writer.writerow([*words, *figures, *amounts])
    return out.getvalue()


def _exactly(amount: int) -> str:
    whole, rest = divmod(abs(amount), UNITS_PER_DOLLAR)
    return f"{'-' * (amount < 0)}{whole}.{rest:012}"
