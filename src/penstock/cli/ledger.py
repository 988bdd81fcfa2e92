"""``penstock ledger``: what was asked, how it ended, and what it cost."""

from __future__ import annotations

import datetime as dt
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from penstock.cli._terminal import one_line
from penstock.config.load import load
from penstock.errors import ConfigError
from penstock.ledger.moment import moment
from penstock.ledger.prices import UNITS_PER_DOLLAR
from penstock.ledger.report import Line, RecordedAttempt, attempts_of, summarize, total
from penstock.ledger.tabular import Grouping, as_csv, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

_CONFIG = Path("penstock.yaml")
_AMOUNTS = {
    "cost, USD": "cost",
    "saved, USD": "saved_cost",
    "by prompt caches": "prompt_cache_saved",
    "left on the table": "prompt_cache_missed",
}


def ledger(
    path: Annotated[
        Path | None,
        typer.Option(help=f"The ledger's file. Without it: ledger.path of ./{_CONFIG}."),
    ] = None,
    *,
    by: Annotated[
        list[Grouping],
        typer.Option(
            help="What to add up by; repeat it for each tenant by day, say. status is the upstream's, days are UTC."
        ),
    ] = [Grouping.model],  # noqa: B006 - never changed
    since: Annotated[
        str | None,
        typer.Option(
            help="Only attempts that started since: 90s, 30m, 1h, 7d, 2w ago, or a date or time in UTC "
            "(2026-11-01, 2026-11-01T12:00)."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Only attempts that started before: an age, a date or a time, as above."),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            help="Instead of sums, each attempt of one answer, by its id (Penstock-Generation, or generation_id "
            "of an error)."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="JSON lines instead of a table; amounts of picousd are 1e-12 US dollars."
        ),
    ] = False,
    in_csv: Annotated[
        bool, typer.Option("--csv", help="CSV instead of a table, with a heading; amounts are US dollars.")
    ] = False,
) -> None:
    """Show attempts, tokens and cost, also while a gateway is writing them."""
    now = time.time()
    start = 0.0 if since is None else parse_since(since, now)
    end = math.inf if until is None else parse_since(until, now)
    if in_csv and (as_json or generation is not None):
        raise typer.BadParameter("is for sums, and in place of --json", param_hint="--csv")
    file = path or _configured_path()
    if generation is not None:
        attempts = attempts_of(file, generation)
        _show([_attempt_to_json(each) for each in attempts], lambda: _attempts(attempts), as_json=as_json)
        return
    groups = list(dict.fromkeys(each.value for each in by))
    lines = summarize(file, by=groups, since=start, until=end)
    if in_csv:
        sys.stdout.write(as_csv(lines, groups))
    else:
        _show([record(line, groups) for line in lines], lambda: _table(lines, groups), as_json=as_json)


def _show(lines: list[dict[str, object]], table: Callable[[], Table], *, as_json: bool) -> None:
    if as_json:
        for line in lines:
            print(msgspec.json.encode(line).decode())
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed for JSON

    console = Console(width=None if sys.stdout.isatty() else 160)  # nothing is cut in a pipe
    console.print(table() if lines else "No attempts.")


def parse_since(text: str, now: float) -> float:
    """The Unix time that the user means.

    :raises typer.BadParameter: it is neither an age nor a date
    """
    try:
        return moment(text, now)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _configured_path() -> Path:
    if not _CONFIG.is_file():
        raise ConfigError(f"say which ledger: --path FILE (there is no {_CONFIG} here that names one)")
    configured = load(_CONFIG).ledger.path
    if not configured:
        raise ConfigError(f"{_CONFIG} keeps the ledger in memory only; set ledger.path, or say --path FILE")
    return Path(configured)


def _attempt_to_json(attempt: RecordedAttempt) -> dict[str, object]:
    fields: dict[str, object] = msgspec.structs.asdict(attempt)
    for amount in ("cost", "saved", "prompt_cache_saved", "prompt_cache_missed"):
        fields[f"{amount}_picousd"] = fields.pop(amount)
    return fields


def _attempts(attempts: list[RecordedAttempt]) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(header_style="bold")
    for title in ("started, UTC", "upstream", "model", "outcome"):
        table.add_column(title, overflow="fold")
    for title in ("first token, s", "took, s", "input", "output", "cost, USD"):
        table.add_column(title, justify="right")
    for each in attempts:
        started = dt.datetime.fromtimestamp(each.started, dt.UTC)
        why = " ".join(str(word) for word in (each.outcome, each.status, each.error) if word)
        words = [
            started.isoformat(" ", "milliseconds")[:23],
            each.upstream or "none",
            each.upstream_model or each.model,
            why,
        ]
        times = ["" if one is None else f"{one:.3f}" for one in (each.first_token, each.duration)]
        tokens = [f"{each.input_tokens:,}", f"{each.output_tokens:,}"]
        table.add_row(*(Text(one_line(word)) for word in words), *times, *tokens, dollars(each.cost))
    return table


def _table(lines: list[Line], by: list[str]) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(show_footer=True, header_style="bold", footer_style="bold")
    everything = total(lines)
    for name in by:
        table.add_column(name, "total" if name == by[0] else "", overflow="fold")
    columns = {
        "attempts": "attempts",
        "open": "open",
        "completed": "completed",
        "input": "input_tokens",
        "cached": "cached_input_tokens",
        "of input": "cached_share",
        "output": "output_tokens",
        "reasoning": "reasoning_tokens",
        "images": "images",
        "sound, s": "sound_milliseconds",
        "characters": "characters",
        "searches": "searches",
        "estimated": "estimated",
        "told after": "told",
        "saved calls": "saved_calls",
        "saved input": "saved_input_tokens",
        "saved output": "saved_output_tokens",
        "shortened from": "shortened_from_tokens",
        "to": "shortened_to_tokens",
    }
    # Columns that are nought throughout say nothing.
    shown = {
        title: field
        for title, field in columns.items()
        if field in {"attempts", "completed", "input_tokens", "output_tokens"} or getattr(everything, field)
    }
    for title, field in shown.items():
        table.add_column(title, _figure(everything, field), justify="right", no_wrap=True)
    amounts = {
        title: field
        for title, field in _AMOUNTS.items()
        if field == "cost" or any(getattr(line, field) for line in lines)
    }
    for title, field in amounts.items():
        table.add_column(title, dollars(getattr(everything, field)), justify="right", no_wrap=True)
    for line in lines:
        figures = [_figure(line, field) for field in shown.values()]
        figures += [dollars(getattr(line, field)) for field in amounts.values()]
        table.add_row(*(Text(one_line(word)) for word in line.group), *figures)
    return table


def _figure(line: Line, field: str) -> str:
    count = getattr(line, field)
    if field == "cached_share":
        return f"{count:.1%}"
    return f"{count / 1_000:,.1f}" if field == "sound_milliseconds" else f"{count:,}"


def dollars(cost: int) -> str:
    """Exact to six decimals, cut off rather than rounded: no sum looks greater than it is."""
    whole, rest = divmod(abs(cost), UNITS_PER_DOLLAR)
    return f"{'-' * (cost < 0)}{whole:,}.{rest // 10**6:06}"
