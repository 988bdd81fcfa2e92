"""What a gateway's own ledger says, asked on its control port: for comparison, and for the cost."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

import msgspec

from penstock.messages import SAVING

SETTLING = 5.0  # seconds that calls which were cut may take to be settled
_SAVING = frozenset(outcome.value for outcome in SAVING)
_STILL = 0.3  # seconds without a change


class LedgerUnreadableError(Exception):
    """The control port does not tell; the message says why."""


class LedgerSum(msgspec.Struct, frozen=True):
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def since(self, earlier: LedgerSum) -> LedgerSum:
        return LedgerSum(
            self.attempts - earlier.attempts,
            self.input_tokens - earlier.input_tokens,
            self.output_tokens - earlier.output_tokens,
            self.cost_usd - earlier.cost_usd,
        )


def ledger_sum(control: str, key: str = "") -> LedgerSum:
    """The sums over everything that was settled.

    :param control: URL of the control port
    :raises LedgerUnreadableError: it cannot be reached, refuses, or answers something else
    """
    outcomes = _fetch(control, "/v1/ledger/summary", key, "outcomes")
    attempts = received = sent = cost = 0
    for outcome, totals in outcomes.items():
        if outcome in _SAVING:  # what no upstream was asked for
            continue
        usage = totals.get("usage") or {}
        attempts += totals.get("attempts", 0)
        received += usage.get("input_tokens", 0)
        sent += usage.get("output_tokens", 0)
        cost += totals.get("cost", 0)
    return LedgerSum(attempts, received, sent, cost / 1e12)


def settled_sum(control: str, key: str = "") -> LedgerSum:
    """:func:`ledger_sum`, once nothing is in flight and the sum stands still, or after :data:`SETTLING` seconds.

    A call whose caller has left is no longer in flight, but its last tokens may still be read and settled.
    """
    deadline = time.monotonic() + SETTLING
    seen = ledger_sum(control, key)
    while time.monotonic() < deadline:
        time.sleep(_STILL)
        busy = _fetch(control, "/v1/generations", key, "generations")
        now = ledger_sum(control, key)
        if not busy and now == seen:
            break
        seen = now
    return seen


def _fetch(control: str, path: str, key: str, member: str) -> Any:
    url = control.rstrip("/") + path
    try:
        request = urllib.request.Request(url)  # noqa: S310 - the user's own URL
        if key:
            request.add_header("authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            value = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise LedgerUnreadableError(f"{url}: {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise LedgerUnreadableError(f"{url}: {getattr(error, 'reason', error)}") from error
    if not isinstance(value, dict) or member not in value:
        raise LedgerUnreadableError(f"{url}: this is not a gateway's control port")
    return value[member]
