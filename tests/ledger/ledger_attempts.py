"""Attempts for the ledger's tests."""

import itertools

from penstock.ledger.prices import Price, PriceTable
from penstock.messages import Attempt, Outcome, Usage

_numbers = itertools.count(1)

RESERVED = Usage(input_tokens=100, output_tokens=500)


def attempt(**changes) -> Attempt:
    """An attempt that is not opened yet, with an id of its own."""
    generation = f"gen_{next(_numbers):032x}"
    fields = {
        "id": f"{generation}/1",
        "generation": generation,
        "number": 1,
        "tenant": "acme",
        "key_name": "prod",
        "tier": "standard",
        "endpoint": "chat",
        "model": "fast",
        "upstream": "sim",
        "upstream_model": "sim-1",
        "started": 1_750_000_000.0,
        "reserved": RESERVED,
    }
    return Attempt(**{**fields, **changes})


def ended(attempt: Attempt, outcome=Outcome.COMPLETED, usage=None, **changes) -> Attempt:
    """The same attempt, as its caller hands it to ``settle``."""
    attempt.outcome = outcome
    attempt.usage = usage or Usage(input_tokens=90, output_tokens=10)
    for name, value in changes.items():
        setattr(attempt, name, value)
    return attempt


def one_and_two() -> PriceTable:
    """A table in which every token of a prompt costs a microdollar, and every one of an answer two."""
    return PriceTable([Price(models=("*",), input=1, output=2)])
