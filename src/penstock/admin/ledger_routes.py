"""The control API's ledger: what the present workers settled, and sums of what is on disk."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel

from penstock.errors import ConfigError
from penstock.ledger.moment import moment
from penstock.ledger.report import Line, summarize
from penstock.ledger.tabular import Grouping, as_csv, record

if TYPE_CHECKING:
    from penstock.admin.controlled import Controlled

MOST_LINES = 100_000


class LedgerSummary(BaseModel):
    """Attempts, tokens and cost (1e-12 US dollars) by outcome, since the present workers started."""

    outcomes: dict[str, dict[str, Any]]
    silent: list[int]


class LedgerReport(BaseModel):
    """``lines`` as ``penstock ledger --json`` has them, of at most ``limit`` groups; ``groups``: how many there are."""

    lines: list[dict[str, Any]]
    groups: int


def routes(gateway: Controlled) -> APIRouter:
    """What calls have cost."""
    router = APIRouter(tags=["ledger"])

    @router.get("/v1/ledger/summary")
    async def ledger_summary() -> LedgerSummary:
        """What was settled since the present workers started."""
        states = await gateway.states()
        outcomes: dict[str, dict[str, Any]] = {}
        for _, state in states:
            for outcome, totals in (state or {}).get("ledger", {}).items():
                outcomes[outcome] = _sum(outcomes.get(outcome, {}), totals)
        return LedgerSummary(
            outcomes=outcomes, silent=[slot.index for slot, state in states if state is None]
        )

    @router.get("/v1/ledger", response_model=LedgerReport)
    async def ledger(
        by: Annotated[list[Grouping], Query()] = [Grouping.model],  # noqa: B006 - never changed
        since: str = "",
        until: str = "",
        form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
        limit: Annotated[int, Query(ge=1, le=MOST_LINES)] = MOST_LINES,
        containing: str = "",
    ) -> Any:
        """Sums of what is on disk, as ``penstock ledger`` shows them.

        ``by`` may be repeated; ``since`` and ``until`` are an age (``7d``) or a date; ``containing`` leaves the groups of
        which a word holds this text.  Before the first call is settled there is no file, and no line.  409 where the
        configuration has no ``ledger.path``, 503 where the file cannot be read.
        """
        path = gateway.config.ledger.path
        if not path:
            raise HTTPException(
                409, "without a ledger.path nothing is on disk; /v1/ledger/summary has what is known"
            )
        now = time.time()
        try:
            start = moment(since, now) if since else 0.0
            end = moment(until, now) if until else math.inf
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        groups = list(dict.fromkeys(str(each) for each in by))
        try:
            lines = await asyncio.to_thread(_summed, Path(path), groups, start, end)
        except ConfigError as error:
            raise HTTPException(503, error.message) from error
        if containing:
            lines = [line for line in lines if any(containing in word for word in line.group)]
        if form == "csv":
            return Response(as_csv(lines[:limit], groups), media_type="text/csv; charset=utf-8")
        return LedgerReport(lines=[record(line, groups) for line in lines[:limit]], groups=len(lines))

    return router


def _summed(path: Path, by: list[str], since: float, until: float) -> list[Line]:
    """No lines as long as there is no file: the name is the configuration's, so nobody has mistyped it just now."""
    return summarize(path, by=by, since=since, until=until) if path.exists() else []


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Member by member; a flag is set where one of the two is."""
    total = dict(one)
    for key, value in other.items():
        if isinstance(value, dict):
            total[key] = _sum(total.get(key, {}), value)
        elif isinstance(value, bool):
            total[key] = value or total.get(key, False)
        else:
            total[key] = total.get(key, 0) + value
    return total
