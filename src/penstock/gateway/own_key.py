"""What a caller may know of the key that it calls with: whose it is, what it may do, and what is left of that.

Nothing of other keys or tenants.  What the tenant is limited in, all of its keys use up together, so that is told as
it stands; what a tier is limited in, other tenants use up as well, so of that only the limit is told.  Limits of models
and upstreams are everybody's.

Where processes share the limits, one that has no calls of this key's does not hear of those that others have.  So it asks
them first, as a call does that needs what they may have to spare, and waits for that no longer than such a call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from penstock.config.expiry import moment
from penstock.gateway import routes
from penstock.gateway.stages.admit import LEASE_WAIT
from penstock.gateway.stages.read import dollars

if TYPE_CHECKING:
    from penstock.flow.account import Account
    from penstock.flow.budget import Budget
    from penstock.flow.limits import Limiter
    from penstock.gateway.snapshot import Snapshot
    from penstock.messages import Tenant
    from penstock.net.exchange import Exchange

_OF_OTHERS_TOO = "tier"


async def serve(snapshot: Snapshot, tenant: Tenant, limiter: Limiter | None, exchange: Exchange) -> None:
    """Answer ``GET /v1/key``."""
    if limiter is not None:
        told = [account for account in limiter.accounts_of(tenant) if account.scope != _OF_OTHERS_TOO]
        await limiter.wait_told(told, LEASE_WAIT)
    routes.serve_key(exchange, described(snapshot, tenant, limiter))


def described(snapshot: Snapshot, tenant: Tenant, limiter: Limiter | None) -> dict[str, Any]:
    """What is told to who came with a key, as JSON.

    Times until a limit is whole again in seconds; money in US dollars, exactly, as text; moments in UTC.  ``shared`` is
    ``none``, or who uses up the same limits: the ``workers`` of this machine, or all ``machines``.
    """
    ends = snapshot.keyring.end_of(tenant)
    shared = "none"
    if limiter is not None and limiter.lessee is not None:
        shared = "machines" if snapshot.config.limits.redis is not None else "workers"
    # Else others have spent what is in no ledger here.
    is_in_ledger = shared == "none" or (shared == "workers" and bool(snapshot.config.ledger.path))
    limits: list[dict[str, Any]] = []
    budgets: list[dict[str, Any]] = []
    if limiter is not None:
        for account in limiter.accounts_of(tenant):
            limits += _limits(account, limiter.now())
            budgets += _budgets(account, limiter, is_in_ledger=is_in_ledger)
    return {
        "object": "key",
        "name": tenant.key_name,
        "tenant": tenant.name,
        "tier": tenant.tier,
        "models": tenant.models,
        "expires_at": None if math.isinf(ends) else moment(ends),
        "limits": limits,
        "budgets": budgets,
        "shared": shared,
    }


def _limits(account: Account, now: float) -> list[dict[str, Any]]:
    """Those of rates, and of calls at once."""
    found = []
    for kind, bucket in (("requests_per_minute", account.requests), ("tokens_per_minute", account.tokens)):
        if bucket is not None:
            left = math.floor(bucket.known_left(now) + 1e-6)
            found.append(_limit(account, kind, int(bucket.limit), left, round(bucket.full_in(now), 3)))
    if account.concurrent is not None:
        found.append(_limit(account, "concurrent", account.concurrent, account.free_places(now), None))
    return found


def _limit(account: Account, kind: str, limit: int, remaining: int, reset: float | None) -> dict[str, Any]:
    hidden = account.scope == _OF_OTHERS_TOO
    return {
        "scope": account.scope,
        "of": kind,
        "limit": limit,
        "remaining": None if hidden else remaining,
        "reset": None if hidden else reset,
    }


def _budgets(account: Account, limiter: Limiter, *, is_in_ledger: bool) -> list[dict[str, Any]]:
    found = []
    for kind, budget, ends in (
        ("usd_per_day", account.day, limiter.calendar.day_ends),
        ("usd_per_month", account.month, limiter.calendar.month_ends),
    ):
        if budget is not None:
            hidden = account.scope == _OF_OTHERS_TOO
            amounts = _amounts(budget, is_in_ledger=is_in_ledger)
            found.append(
                {
                    "scope": account.scope,
                    "of": kind,
                    "limit": _usd(budget.limit),
                    **{name: None if hidden else _usd(amount) for name, amount in amounts.items()},
                    "resets_at": moment(ends),
                }
            )
    return found


def _amounts(budget: Budget, *, is_in_ledger: bool) -> dict[str, int]:
    """What is neither spent nor left is reserved for calls under way, or others have spent it or hold it."""
    left = max(0, budget.left if is_in_ledger else budget.known_left)
    return {"spent": budget.spent, "reserved": max(0, budget.limit - budget.spent - left), "left": left}


def _usd(amount: int) -> str:
    return dollars(amount).decode()
