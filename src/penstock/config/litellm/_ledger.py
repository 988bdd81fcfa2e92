"""From a LiteLLM proxy's database, where it writes down what calls cost, to ``ledger``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

from penstock.config.litellm._draft import Draft
from penstock.config.litellm._reasons import REASONS
from penstock.config.litellm._values import Plain

PATH = "ledger.sqlite"

_DATABASE = "DATABASE_URL"  # LiteLLM's variable, where its file does not say it
_RETENTION = "maximum_spend_logs_retention_period"
_LONGEST_MONTH = 31  # days
_DURATION = re.compile(r"(\d{1,9})(s|m|h|d|w|mo)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}

_NO_DURATION = "is no duration such as 30d"
_BUDGET_NEEDS = "rows are kept for a month, because a budget of a month is made of them"


def take_ledger(draft: Draft, general: Plain, environ: Mapping[str, str]) -> None:
    """What was spent is on disk where LiteLLM has it in a database, and where there are budgets, which are made of it."""
    in_database = bool(general.get("database_url") or general.get("store_model_in_db"))
    if not in_database and environ.get(_DATABASE):
        in_database = True
        draft.leave(_DATABASE, REASONS["database_url"])
    if in_database and general.get("disable_spend_logs") is not True:
        general.pop("disable_spend_logs", None)
    elif not _budgets(draft):
        return
    draft.ledger["path"] = PATH
    days = _days(draft, general.pop(_RETENTION, None))
    if days:
        draft.ledger["keep_days"] = days


def _days(draft: Draft, period: Any) -> int:
    """For how many days rows are kept; 0: for ever."""
    if period is None:
        return 0
    found = _DURATION.fullmatch(str(period)) if isinstance(period, str) else None
    if found is None or not int(found[1]):
        draft.leave(f"general_settings.{_RETENTION}", _NO_DURATION)
        return 0
    days = ceil(int(found[1]) * _SECONDS[found[2]] / _SECONDS["d"])
    if days < _LONGEST_MONTH and "usd_per_month" in _budgets(draft):
        draft.leave(f"general_settings.{_RETENTION}", _BUDGET_NEEDS)
        return _LONGEST_MONTH
    return days


def _budgets(draft: Draft) -> set[str]:
    """The kinds of budgets that were converted."""
    tables = draft.limits.values()
    return {
        limit for table in tables for limits in table.values() for limit in limits if limit.startswith("usd_")
    }
