"""A replica that stands still for longer than its lease, and goes on as if nothing had been: SIGSTOP, then SIGCONT.

Another has taken its answers over meanwhile.  What it still has on its way to the store is refused there, and its readers
are shown none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal

import httpx2
import pytest
from gateway_books import wait_until
from killing import Caller, expected, replicas

from needing import needs_redis
from penstock.testing import SimulatorProcess
from waiting import until

pytestmark = needs_redis
MANY = 20
TOKENS = 150  # a dozen seconds at the simulator's pace: longer than a lease and what comes before it


def metric(gateway, name):
    found = re.search(rf'^{name}{{.*durability="shared".*}} (\S+)$', gateway.metrics(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def asking(prompt):
    caller = Caller(prompt, f"sim:tps=12,tokens={TOKENS}")
    caller.body["max_tokens"] = TOKENS
    return caller


@contextlib.contextmanager
def stopped(gateway):
    """All of its processes stand still."""
    pids = [gateway.pid, *(pid for pid in gateway.worker_pids() if pid is not None)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow  # a lease has to run out
def test_who_was_taken_for_dead_adds_nothing_and_each_reader_gets_each_byte_once(tmp_path):
    async def main(here, there):
        callers = [asking(f"question {n}") for n in range(MANY)]
        moved, whole = [Caller("", "") for _ in callers], [Caller("", "") for _ in callers]
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
            tasks = [asyncio.create_task(one.until_done(client, here.url, there.url)) for one in callers]
            await until(lambda: all(one.last >= 5 for one in callers))
            with stopped(here):
                taken = "penstock_generations_taken_over_total"
                await asyncio.to_thread(wait_until, lambda: metric(there, taken) == MANY)
                for one, other in zip(callers, moved, strict=True):  # who leaves while it stands still
                    other.generation, other.frames = one.generation, dict(one.frames)
                following = [asyncio.create_task(one.come_back(client, there.url)) for one in moved]
                await until(
                    lambda: all(other.last > one.last + 3 for one, other in zip(callers, moved, strict=True))
                )
            fenced = "penstock_generations_fenced_total"
            await asyncio.to_thread(wait_until, lambda: metric(here, fenced) == MANY)
            await asyncio.gather(*tasks, *following)
            for caller, reader in zip(callers, whole, strict=True):
                reader.generation = caller.generation
                await reader.come_back(client, there.url)
        return callers, moved, whole

    with SimulatorProcess() as simulator, replicas(simulator.base_url, tmp_path) as pair:
        callers, moved, whole = asyncio.run(main(*pair))
    for stayed, left, uncut in zip(callers, moved, whole, strict=True):
        assert stayed.text == expected(stayed, TOKENS)
        assert stayed.frames == left.frames == uncut.frames
