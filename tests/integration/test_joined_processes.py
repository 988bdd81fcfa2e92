"""Callers ask the same of several processes at once: one upstream call, one bill, the same answer for all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from collections import Counter

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from joining import FORMS, forms_of_callers, told_by
from killing import LEASE, PATIENCE, configured

from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess, expected_text

CALLERS = 100
LENGTH = 30  # tokens
FEW = 12  # the same, of an answer whose process is killed
STOPS = 5  # tokens after which that stands still, the first time


@contextlib.contextmanager
def workers(url, folder):
    """One gateway, whose workers share a file."""
    store = {"durability": "disk", "path": str(folder / "generations.sqlite")}
    with GatewayProcess({**configured(url, folder, **store), "workers": 3}, folder) as gateway:
        yield [gateway]


@contextlib.contextmanager
def machines(url, folder):
    """Two gateways, which share a Redis."""
    with RedisServer() as redis, contextlib.ExitStack() as stack:
        started = []
        for name in ("here", "there"):
            (folder / name).mkdir()
            config = configured(url, folder / name, durability="shared", redis=redis.url)
            started.append(GatewayProcess(config, folder / name))
            started[-1].start()
            stack.callback(started[-1].stop)  # one may have been killed
        yield started


KINDS = {"workers": workers, "machines": machines}


@pytest.fixture(params=KINDS)
def processes(request):
    return KINDS[request.param]


def readers(gateways):
    """How many callers read which generation, in all processes."""
    found = Counter()
    for gateway in gateways:
        for one in gateway.generations():
            found[one["id"]] += one["readers"]
    return found


def rows_of(gateways):
    return [row for gateway in gateways for row in ledger_rows(gateway.config_path.parent / "ledger.sqlite")]


def question(model, length):
    return {
        "model": model,
        "max_tokens": length,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is a penstock?"}],
    }


@pytest.mark.slow  # several processes start
def test_a_hundred_identical_calls_at_several_processes_are_one_call_one_bill_and_one_answer(
    processes, tmp_path
):
    ask = question(f"sim:tokens={LENGTH}", LENGTH)
    forms = forms_of_callers("stream", random.Random(1))

    async def main(simulator, gateways):
        async def called(form, gateway):
            async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
                return await http.post(gateway.base_url + "/chat/completions", json=ask | FORMS[form])

        os.kill(simulator.pid, signal.SIGSTOP)  # nothing ends before all have asked
        try:
            calls = [
                asyncio.ensure_future(called(form, gateways[number % len(gateways)]))
                for number, form in enumerate(forms)
            ]
            async with asyncio.timeout(60):
                while (await asyncio.to_thread(readers, gateways)).total() < CALLERS:
                    await asyncio.sleep(0.05)
        finally:
            os.kill(simulator.pid, signal.SIGCONT)
        return await asyncio.gather(*calls)

    with SimulatorProcess() as simulator:
        with processes(simulator.base_url, tmp_path) as gateways:
            answers = asyncio.run(main(simulator, gateways))
            bill = settled_bill(simulator)
    assert Counter(answer.status_code for answer in answers) == {200: CALLERS}
    status = Counter(answer.headers["penstock-status"] for answer in answers)
    assert status == {"created": 1, "joined": CALLERS - 1}
    assert len({answer.headers["penstock-generation"] for answer in answers}) == 1

    assert (bill["requests"], bill["output_tokens"]) == (1, LENGTH)
    rows = rows_of(gateways)
    assert tokens(asked(rows)) == billed(bill)
    assert Counter((row.outcome, row.input_tokens, row.output_tokens) for row in rows) == {
        ("completed", *billed(bill)): 1,
        ("joined", *billed(bill)): CALLERS - 1,
    }

    bodies = {form: set() for form in FORMS}
    told = set()
    for form, answer in zip(forms, answers, strict=True):
        bodies[form].add(answer.content)
        told.add(told_by(form, answer)[:2])
    assert {form: len(seen) for form, seen in bodies.items()} == dict.fromkeys(FORMS, 1)
    assert {text for text, _ in told} == {expected_text(ask, "/v1/chat/completions", LENGTH)}
    assert len(told) == 1


def producers(gateways, folder):
    """The processes that produce something."""
    path = folder / "generations.sqlite"
    if not path.exists():
        return [pid for pid in gateways[0].worker_pids() if pid is not None]
    with contextlib.closing(sqlite3.connect(path)) as database:
        owners = database.execute("SELECT owner FROM generations WHERE state = 'running'").fetchall()
    return [int(owner.split("/")[1]) for (owner,) in owners]


@pytest.mark.slow  # the same, and a lease has to run out
def test_who_joined_what_a_killed_process_produced_gets_all_of_it(processes, tmp_path):
    """And who was connected to that process asks once more, and joins what another goes on with."""
    ask = question(f"sim:stall-after={STOPS},once", FEW)
    forms = ["stream", *["plain", "stream", "stream with usage"] * 8]
    broken = []

    async def main(gateways):
        async def called(form, gateway):
            async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
                for url in [gateway.base_url, *[gateways[-1].base_url] * 600]:
                    try:
                        return await http.post(url + "/chat/completions", json=ask | FORMS[form])
                    except httpx2.HTTPError:  # it was killed, or is not there again yet
                        broken.append(form)
                        await asyncio.sleep(0.1)
            raise AssertionError("nobody answers")

        first = asyncio.ensure_future(called(forms[0], gateways[0]))
        await asyncio.to_thread(wait_until, lambda: readers(gateways).total() == 1)
        others = [
            asyncio.ensure_future(called(form, gateways[number % len(gateways)]))
            for number, form in enumerate(forms[1:])
        ]
        await asyncio.to_thread(wait_until, lambda: readers(gateways).total() == len(forms))
        assert len(readers(gateways)) == 1
        whole = len(gateways) > 1
        killed = await asyncio.to_thread(producers, gateways, tmp_path)
        assert len(killed) == 1
        if whole:
            os.kill(gateways[0].pid, signal.SIGKILL)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE + LEASE):
            return await asyncio.gather(first, *others)

    with SimulatorProcess() as simulator:
        with processes(simulator.base_url, tmp_path) as gateways:
            answers = asyncio.run(main(gateways))
            bill = settled_bill(simulator)
    assert Counter(answer.status_code for answer in answers) == {200: len(forms)}
    assert {told_by(form, answer)[:2] for form, answer in zip(forms, answers, strict=True)} == {
        (expected_text(ask, "/v1/chat/completions", FEW), "length")
    }
    assert broken, "somebody was connected to the process that was killed"
    assert sum(answer.headers["penstock-status"] == "joined" for answer in answers) > len(forms) / 2
    assert bill["requests"] == 2, "what was broken was gone on with, and nobody else asked"
    survivors = rows_of(gateways[-1:])
    assert tokens(asked(survivors)) == billed(bill)
