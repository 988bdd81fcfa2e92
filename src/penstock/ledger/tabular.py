"""What a report says, as records for programs and as CSV for spreadsheets; and when it begins and ends."""

from __future__ import annotations

import csv
import datetime as dt
import enum
import io
import re
from collections.abc import Sequence

import msgspec

from penstock.ledger.prices import UNITS_PER_DOLLAR
from penstock.ledger.report import Line

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how spreadsheets know something to compute


class Grouping(enum.StrEnum):
    """What a report can be grouped by, as ``report.GROUPS`` has it."""

    tenant = "tenant"
    key = "key"
    model = "model"
    upstream = "upstream"
    outcome = "outcome"
    status = "status"
    day = "day"


def moment(text: str, now: float) -> float:
    """The Unix time that somebody means by an age (``7d``) or by a date or time, in UTC unless it says otherwise.

    :raises ValueError: it is neither; the message says so
    """
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if age:
        return now - float(age[1]) * _SECONDS[age[2]]
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an age such as 1h nor a date such as 2026-11-01") from None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()


def record(line: Line, by: Sequence[str]) -> dict[str, object]:
    """A line with a member for each word of its group; amounts in 1e-12 US dollars."""
    fields: dict[str, object] = msgspec.structs.asdict(line)
    del fields["group"]
    amounts = {"cost_picousd": fields.pop("cost"), "saved_picousd": fields.pop("saved_cost")}
    return {**dict(zip(by, line.group, strict=True)), **fields, **amounts}


def as_csv(lines: Sequence[Line], by: Sequence[str]) -> str:
    """The same with a heading, for spreadsheets: amounts in US dollars, to the last of twelve places.

    A caller may have chosen a model's name: one that a spreadsheet would compute gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    counts = [name for name in Line.__struct_fields__ if name not in {"group", "cost", "saved_cost"}]
    writer.writerow([*by, *counts, "cost_usd", "saved_usd"])
    for line in lines:
        words = [f"'{word}" if word.startswith(_FORMULA) else word for word in line.group]
        figures = [getattr(line, name) for name in counts]
        writer.writerow([*words, *figures, _exactly(line.cost), _exactly(line.saved_cost)])
    return out.getvalue()


def _exactly(amount: int) -> str:
    whole, rest = divmod(amount, UNITS_PER_DOLLAR)
    return f"{whole}.{rest:012}"
