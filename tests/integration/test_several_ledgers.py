"""Gateways on several machines, each with a ledger of its own: together they have what the upstream has charged.

Whatever becomes of the machine that made an answer, and whenever it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from killing import LEASE, PATIENCE, TOKENS, Caller, configured, expected, killed_and_read

from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess
from waiting import until

pytestmark = [
    pytest.mark.slow,  # leases have to run out, and gateways to start
    pytest.mark.skipif(not RedisServer.available(), reason="there is no redis-server on this machine"),
]


@pytest.fixture
def machines(tmp_path):
    """Makes two gateways that have nothing in common but a Redis server, of which the first will be ended."""

    @contextlib.contextmanager
    def make(url, **more):
        with RedisServer() as redis, contextlib.ExitStack() as stack:
            both = []
            for name in ("here", "there"):
                folder = tmp_path / name
                folder.mkdir()
                config = configured(url, folder, durability="shared", redis=redis.url)
                both.append(GatewayProcess({**config, **more}, folder))
            here, there = both
            stack.enter_context(there)
            stack.callback(here.stop)
            yield here.start(), there

    return make


def books(tmp_path):
    return [ledger_rows(tmp_path / name / "ledger.sqlite") for name in ("here", "there")]


def together(tmp_path):
    here, there = (tokens(asked(rows)) for rows in books(tmp_path))
    return here[0] + there[0], here[1] + there[1]


def settled(tmp_path):
    return not any(row.outcome == "reserved" for rows in books(tmp_path) for row in rows)


def wait_together(tmp_path, bill):
    """Until both ledgers together have what is on the bill: each hears of the other within a second."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: settled(tmp_path) and together(tmp_path) == billed(bill), seconds=20)
    assert (settled(tmp_path), together(tmp_path)) == (True, billed(bill))


def killed(gateway, *, whole):
    """The machine is gone; it comes back later."""
    del whole
    pids = [pid for pid in gateway.worker_pids() if pid is not None]
    for pid in [gateway.pid, *pids]:
        os.kill(pid, signal.SIGKILL)


def told_to_go(gateway, *, whole):
    del whole
    gateway.terminate()


class CutOff:
    """The machine stands still for longer than its lease, and goes on then."""

    def __init__(self):
        self.pids = []

    def __call__(self, gateway, *, whole):
        del whole
        self.pids = [pid for pid in gateway.worker_pids() if pid is not None]
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("more", [{"temperature": 0}, {}], ids=["deterministic", "prefilled"])
@pytest.mark.parametrize("end", ["killed", "told_to_go", "cut_off"])
def test_no_token_is_in_two_ledgers(machines, tmp_path, end, more):
    """At whichever token it ends."""
    ends = {"killed": killed, "told_to_go": told_to_go, "cut_off": CutOff()}[end]
    with SimulatorProcess() as simulator:
        callers = [Caller(f"question {n}", f"sim:stall-after={n},once", **more) for n in range(1, TOKENS)]
        with machines(simulator.base_url) as (here, there):
            whole = asyncio.run(
                killed_and_read(
                    (here, there),
                    callers,
                    lambda: all(caller.text == expected(caller, n) for n, caller in enumerate(callers, 1)),
                    ends,
                    patience=3 * LEASE,
                )
            )
            if isinstance(ends, CutOff):
                ends.go_on()
                wait_until(lambda: not here.generations(), what="what another has taken over")
            else:
                here.stop()
                here.start()  # the machine is back
            bill = settled_bill(simulator)
            wait_together(tmp_path, bill)
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames
    _, there_rows = books(tmp_path)
    assert Counter(row.outcome for row in there_rows)["continued"] == len(callers)


def test_what_broke_before_the_kill_is_where_it_was_entered(machines, tmp_path):
    """Of two attempts at an answer one had ended, and one was under way."""
    broken, stalled = 3, 4
    models = {
        "twice": {
            "candidates": [
                {"upstream": "ends", "model": f"sim:cut-after={broken}"},
                {"upstream": "goes-on", "model": f"sim:stall-after={stalled},once", "weight": 0},
            ],
            "grace": 60,
        }
    }
    with SimulatorProcess() as simulator:
        caller = Caller("question", "twice")
        upstream = {"kind": "sim", "base_url": simulator.base_url, "running_usage": True}
        upstreams = {"ends": {**upstream, "capabilities": {"prefill": "none"}}, "goes-on": upstream}
        with machines(simulator.base_url, models=models, upstreams=upstreams) as (here, there):
            asyncio.run(
                killed_and_read(
                    (here, there), [caller], lambda: len(caller.frames) == 1 + broken + stalled, killed
                )
            )
            here.stop()
            here.start()
            bill = settled_bill(simulator)
            wait_until(lambda: settled(tmp_path))
    assert caller.text == expected(caller, TOKENS)
    here_rows, there_rows = books(tmp_path)
    assert together(tmp_path)[1] == bill["output_tokens"]  # how long its prompt was, is an estimate
    assert [(row.outcome, row.output_tokens) for row in here_rows] == [("partial", broken), ("partial", 0)]
    assert (there_rows[0].outcome, there_rows[0].error) == ("partial", "died_elsewhere")
    assert there_rows[0].output_tokens == stalled


def test_what_had_brought_nothing_yet_is_in_one_ledger(machines, tmp_path):
    """The upstream was asked, and is silent; the caller comes back by its key."""
    body = Caller("question", "sim:stall-after=0,early-head,once").body
    headers = {"idempotency-key": "one"}

    async def main(here, there):
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:

            def ask(gateway):
                return client.post(gateway.url + "/v1/chat/completions", json=body, headers=headers)

            first = asyncio.create_task(ask(here))
            await until(lambda: simulator.bill()["in_flight"] == 1)
            (running,) = here.generations()

            async def known():
                return (await client.get(f"{there.url}/v1/generations/{running['id']}")).status_code == 200

            while not await known():
                await asyncio.sleep(0.05)
            killed(here, whole=True)
            with pytest.raises(httpx2.HTTPError):
                await first
            answer = await ask(there)
            assert answer.headers["penstock-status"] == "attached"
            assert answer.text.endswith("data: [DONE]\n\n")

    with SimulatorProcess() as simulator, machines(simulator.base_url) as (here, there):
        asyncio.run(main(here, there))
        here.stop()
        here.start()
        wait_together(tmp_path, settled_bill(simulator))
