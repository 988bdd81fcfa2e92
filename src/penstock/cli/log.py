"""``penstock log``: what the lines of a gateway's log come to, or those of one request."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import typer

from penstock.cli._terminal import one_line
from penstock.cli.ledger import dollars, parse_since
from penstock.lab.histogram import Histogram

if TYPE_CHECKING:
    from rich.table import Table

_NAMES = ("generation", "request_id", "trace")  # of a request, in the fields of its line
_CLIENT_GONE = 499

Line = dict[str, Any]


class Field(StrEnum):
    """What lines can be put together by."""

    tenant = "tenant"
    key = "key"
    peer = "peer"
    endpoint = "endpoint"
    model = "model"
    upstream = "upstream"
    status = "status"
    error = "error"
    read = "read"


class _Reckoned(msgspec.Struct):
    """What is reckoned with of a line; one that has something else there is not of this log."""

    time: dt.datetime
    status: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_picousd: int = 0
    ttft_ms: float | None = None
    duration_ms: float | None = None


class Sums:
    """What the lines of one group come to; times in seconds."""

    def __init__(self) -> None:
        self.requests = 0
        self.refused = 0  # no upstream was asked
        self.failed = 0  # with an error of 500 or more
        self.left = 0  # the caller did, before the end
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_picousd = 0
        self.first_token = Histogram()
        self.took = Histogram()

    def add(self, line: Line) -> None:
        """One more request."""
        status = line.get("status", 0)
        self.requests += 1
        self.refused += line.get("outcome") == "refused"
        self.failed += status >= 500
        self.left += status == _CLIENT_GONE
        self.input_tokens += line.get("input_tokens", 0)
        self.output_tokens += line.get("output_tokens", 0)
        self.cost_picousd += line.get("cost_picousd", 0)
        if line.get("read"):
            return  # how long an answer takes that is kept says nothing of who has made it
        for name, histogram in (("ttft_ms", self.first_token), ("duration_ms", self.took)):
            if (milliseconds := line.get(name)) is not None:
                histogram.add(milliseconds / 1_000)

    def figures(self) -> Line:
        """All of it by name; of the times the median and what 95 in 100 do not exceed."""
        sums: Line = {name: value for name, value in vars(self).items() if not isinstance(value, Histogram)}
        for name, histogram in (("first_token", self.first_token), ("took", self.took)):
            sums |= {f"{name}_p50": histogram.quantile(0.5), f"{name}_p95": histogram.quantile(0.95)}
        return sums


def log(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="The log, in JSON; - reads standard input.")],
    *,
    by: Annotated[
        list[Field], typer.Option(help="What to add up by; repeat it for each error by tenant, say.")
    ] = [Field.tenant],  # noqa: B006 - never changed
    since: Annotated[
        str | None,
        typer.Option(help="Only requests that ended since: 15m, 1h, 7d ago, or a date or time in UTC."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only requests that ended before: an age, a date or a time, as above.")
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            help="Instead of sums, the lines of one request: by the answer's id, X-Request-Id or the trace's id."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Add up the requests in a gateway's log, those that were refused, too; or find one."""
    now = time.time()
    start = parse_since(since, now) if since is not None else 0.0
    end = parse_since(until, now) if until is not None else float("inf")
    found = (line for line in requests(file) if start <= line["time"].timestamp() < end)
    if request is not None:
        _show_lines([line for line in found if request in map(line.get, _NAMES)], as_json=as_json)
        return
    fields = list(dict.fromkeys(by))
    groups = sorted(sums(found, fields).items(), key=lambda group: -group[1].requests)
    if as_json:
        for names, group in groups:
            print(msgspec.json.encode(dict(zip(fields, names, strict=True)) | group.figures()).decode())
        return
    _show([(names, group.figures()) for names, group in groups], fields)


def requests(file: BinaryIO) -> Iterator[Line]:
    """The lines that tell of requests, whatever a journal has put before them; others are passed over."""
    decoder = msgspec.json.Decoder(Line)
    for text in file:
        try:
            line = decoder.decode(text[text.index(b"{") :])
            line["time"] = msgspec.convert(line, _Reckoned).time
            line["time"].timestamp()  # within the years that there are
        except (ValueError, OverflowError, RecursionError):  # not of this log, or cut off
            continue
        if "message" not in line:
            yield line


def sums(lines: Iterable[Line], fields: list[Field]) -> dict[tuple[str, ...], Sums]:
    """What they come to, by what they have in these fields."""
    groups: dict[tuple[str, ...], Sums] = {}
    for line in lines:
        names = tuple(str(line.get(field, "")) for field in fields)
        groups.setdefault(names, Sums()).add(line)
    return groups


def _show_lines(lines: list[Line], *, as_json: bool) -> None:
    for line in lines:
        if as_json:
            print(msgspec.json.encode(line).decode())
            continue
        for name, value in line.items():
            print(one_line(f"{name:>16}  {value}"))
        print()
    if not lines:
        print("No requests.", file=sys.stderr)
        sys.exit(1)


def _show(groups: Iterable[tuple[tuple[str, ...], Line]], fields: list[Field]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed for JSON
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table: Table = Table(header_style="bold")
    for field in fields:
        table.add_column(field, overflow="fold")
    for title in ("requests", "refused", "failed", "left", "input", "output", "cost, USD"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("first token, s", "took, s"):
        table.add_column(f"{title}\n50 / 95 %", justify="right", no_wrap=True)
    for names, group in groups:
        counts = ("requests", "refused", "failed", "left", "input_tokens", "output_tokens")
        table.add_row(
            *(Text(one_line(name)) for name in names),
            *(f"{group[name]:,}" for name in counts),
            dollars(group["cost_picousd"]),
            *(_times(group[f"{name}_p50"], group[f"{name}_p95"]) for name in ("first_token", "took")),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)  # nothing is cut in a pipe
    console.print(table if table.row_count else "No requests.")


def _times(*quantiles: float | None) -> str:
    return " / ".join(f"{one:.2f}" for one in quantiles if one is not None)
