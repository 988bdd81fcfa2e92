"""A process that stands still for longer than its lease, and finds its answers taken over: SIGSTOP, then SIGCONT.

Whatever it had received, and whoever goes on, with one ledger for all or one for each: what stands in them is the bill.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from killing import PATIENCE, TOKENS, Caller, ResponsesCaller, configured, expected

from needing import needs_redis
from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess
from waiting import until

pytestmark = pytest.mark.slow  # leases have to run out, and gateways to start

KEPT = {"kind": "openai", "responses": True, "background": True, "capabilities": {"background": True}}
MANY = 4


@contextlib.contextmanager
def workers(url, folder, upstream):
    """One gateway, whose workers share a file and a ledger."""
    store = {"durability": "disk", "path": str(folder / "generations.sqlite")}
    with GatewayProcess({**configured(url, folder, upstream, **store), "workers": 2}, folder) as gateway:
        yield [gateway]


@contextlib.contextmanager
def machines(url, folder, upstream):
    """Two gateways, which share a Redis, with a ledger each."""
    with RedisServer() as redis, contextlib.ExitStack() as stack:
        started = []
        for name in ("here", "there"):
            (folder / name).mkdir()
            config = configured(url, folder / name, upstream, durability="shared", redis=redis.url)
            started.append(stack.enter_context(GatewayProcess(config, folder / name)))
        yield started


def producers(gateways, folder):
    """The processes that produce something, by what is stored, if they are of one machine."""
    if len(gateways) > 1:
        return {pid for pid in gateways[0].worker_pids() if pid is not None}
    with contextlib.closing(sqlite3.connect(folder / "generations.sqlite")) as database:
        owners = database.execute("SELECT owner FROM generations WHERE state = 'running'").fetchall()
    return {int(owner.split("/")[1]) for (owner,) in owners}


def taken_over(gateways):
    return gateways[-1].log.count("taking over")


def fenced(gateways):
    return gateways[0].log.count("another process has taken it over")


def books(folder):
    return [row for path in folder.rglob("ledger.sqlite") for row in asked(ledger_rows(path))]


def is_settled(rows):
    return all(row.outcome != "reserved" for row in rows)


@pytest.mark.parametrize("kind", [ResponsesCaller, Caller], ids=["kept by its upstream", "continued"])
@pytest.mark.parametrize("several", [workers, pytest.param(machines, marks=needs_redis)])
def test_ledgers_have_the_bill_when_who_was_taken_for_dead_goes_on(several, kind, tmp_path):
    upstream = KEPT if kind is ResponsesCaller else {}

    async def main(gateways):
        callers = [kind(f"question {n}", "sim:tps=4", temperature=0) for n in range(MANY)]
        readers = [kind("", "") for _ in callers]
        first = gateways[0].url
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            tasks = [asyncio.create_task(one.until_done(client, first, gateways[-1].url)) for one in callers]
            await until(lambda: all(one.last >= 4 for one in callers))
            # One of them: the other goes on with what that one has.
            stopped = min(producers(gateways, tmp_path))
            os.kill(stopped, signal.SIGSTOP)
            try:
                await asyncio.to_thread(wait_until, lambda: taken_over(gateways))
            finally:
                os.kill(stopped, signal.SIGCONT)
            await asyncio.gather(*tasks)
            assert fenced(gateways)
            for caller, reader in zip(callers, readers, strict=True):
                reader.generation = caller.generation
                await reader.come_back(client, gateways[-1].url)
        return callers, readers

    with SimulatorProcess() as simulator, several(simulator.base_url, tmp_path, upstream) as gateways:
        callers, readers = asyncio.run(main(gateways))
        bill = settled_bill(simulator)
        with contextlib.suppress(AssertionError):
            # One of them may have all of it while the other's row is still open: the callers have their answers before.
            wait_until(
                lambda: is_settled(books(tmp_path)) and tokens(books(tmp_path)) == billed(bill), seconds=20
            )
        rows = books(tmp_path)
    assert is_settled(rows)
    assert tokens(rows) == billed(bill)
    for caller, reader in zip(callers, readers, strict=True):
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == reader.frames
