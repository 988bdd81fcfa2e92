"""Answers whose process was killed, and that are cancelled or deleted before anybody has taken them over.

Nobody goes on with them, so nobody would enter what they have cost: who ends them does, in whichever ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from killing import PAIRS, PATIENCE, Caller, ResponsesCaller, expected, is_stored, kill

from penstock.testing import SimulatorProcess
from waiting import until

pytestmark = pytest.mark.slow  # gateways start, and leases run out

SAID = 8  # tokens before it stands still
STANDS_STILL = f"sim:stall-after={SAID}"
LONG = 12.0  # seconds: the lease has not run out when the answer is ended, though a gateway has to be started first
CANCELLED, DELETED = ("POST", "/cancel"), ("DELETE", "")


@pytest.fixture(params=PAIRS)
def pair_of(request, tmp_path):
    return functools.partial(PAIRS[request.param], folder=tmp_path, responses=True, lease=LONG)


def rows_of(folder):
    """Of all ledgers together."""
    return asked([row for path in sorted(folder.rglob("ledger.sqlite")) for row in ledger_rows(path)])


def is_booked(folder, bill):
    rows = rows_of(folder)
    return not any(row.outcome == "reserved" for row in rows) and tokens(rows) == billed(bill)


@pytest.mark.parametrize(
    ("kind", "how"),
    [(Caller, CANCELLED), (ResponsesCaller, CANCELLED), (ResponsesCaller, DELETED)],
    ids=["a stream cancelled", "a response cancelled", "a response deleted"],
)
def test_what_is_ended_before_anybody_has_taken_it_over_is_in_the_books(pair_of, tmp_path, kind, how):
    async def main(here, there):
        caller = kind("a question", STANDS_STILL)
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            reading = asyncio.create_task(caller.ask(client, here.url))
            await until(lambda: caller.text == expected(caller, SAID))
            await asyncio.to_thread(wait_until, lambda: is_stored(here))
            kill(here, whole=here is not there)
            with contextlib.suppress(httpx2.HTTPError):
                await reading
            method, more = how
            path = f"/v1/generations/{caller.generation}"
            if kind is ResponsesCaller:
                path = f"/v1/responses/{caller.events()[0]['response']['id']}"
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(httpx2.HTTPError):  # nobody is there yet
                        answer = await client.request(method, there.url + path + more)
                        assert answer.status_code == 200, answer.text
                        return

    with SimulatorProcess() as simulator, pair_of(simulator.base_url) as (here, there):
        asyncio.run(main(here, there))
        bill = settled_bill(simulator)
        assert bill["output_tokens"] == SAID
        with contextlib.suppress(AssertionError):
            wait_until(lambda: is_booked(tmp_path, bill), seconds=3 * LONG)
        if here is not there:  # the machine is back
            here.stop()
            here.start()
            with contextlib.suppress(AssertionError):
                wait_until(lambda: is_booked(tmp_path, bill), seconds=10)
        rows = rows_of(tmp_path)
        assert "taking over" not in there.log
    assert (tokens(rows), [row for row in rows if row.outcome == "reserved"]) == (billed(bill), [])
