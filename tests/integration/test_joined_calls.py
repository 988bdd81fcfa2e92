"""A hundred callers ask the same at random moments: one upstream call, one bill, the same answer for all."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens
from joining import FORMS, forms_of_callers, told_by

from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

CALLERS = 100
LENGTH = 400  # tokens
SECONDS = 3.0  # that the answer takes
ARRIVALS = 2.0  # seconds in which the callers arrive
PAUSE = 1.5  # seconds after which the answer stands still until they have: machines may be busy
ASK = {
    "model": f"sim:tokens={LENGTH},tps={LENGTH / SECONDS:g}",
    "messages": [{"role": "user", "content": "What is a penstock?"}],
    "temperature": 0,
}


def configured(simulator, ledger):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(ledger)},
    }


async def asked_by_all(gateway, simulator, forms, chance):
    """The answers, in the order of ``forms``; the others come while the first one's call is under way."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(
        base_url=gateway.base_url, trust_env=False, timeout=60, limits=limits
    ) as http:

        async def ask(form, delay):
            await asyncio.sleep(delay)  # the load's own pace, no wait for anything
            return await http.post("/chat/completions", json=ASK | FORMS[form])

        os.kill(simulator.pid, signal.SIGSTOP)  # else the first call may be over before anybody has looked
        try:
            first = asyncio.ensure_future(ask(forms[0], 0))
            async with asyncio.timeout(60):
                while not await asyncio.to_thread(gateway.generations):
                    await asyncio.sleep(0.01)
        finally:
            os.kill(simulator.pid, signal.SIGCONT)
        others = [ask(form, chance.uniform(0, ARRIVALS)) for form in forms[1:]]
        answers = asyncio.gather(first, *others)
        await asyncio.sleep(PAUSE)
        os.kill(simulator.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                while await asyncio.to_thread(readers_in, gateway) < CALLERS:
                    await asyncio.sleep(0.01)
        finally:
            os.kill(simulator.pid, signal.SIGCONT)
        return await answers


def readers_in(gateway):
    (generation,) = gateway.generations()
    return generation["readers"]


@pytest.mark.parametrize("first", FORMS)
def test_a_hundred_identical_calls_are_one_call_one_bill_and_one_answer(tmp_path, first):
    chance = random.Random(first)
    ledger = tmp_path / "ledger.sqlite"
    forms = forms_of_callers(first, chance)
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, ledger), tmp_path) as gateway:
            answers = asyncio.run(asked_by_all(gateway, simulator, forms, chance))
            bill = settled_bill(simulator)
    assert Counter(answer.status_code for answer in answers) == {200: CALLERS}
    status = Counter(answer.headers["penstock-status"] for answer in answers)
    assert status == {"created": 1, "joined": CALLERS - 1}
    assert len({answer.headers["penstock-generation"] for answer in answers}) == 1

    # One upstream call, one bill, and the ledger says the same.
    assert (bill["requests"], bill["output_tokens"]) == (1, LENGTH)
    rows = ledger_rows(ledger)
    assert [row.outcome for row in asked(rows)] == ["completed"]
    assert tokens(asked(rows)) == billed(bill)
    assert Counter((row.outcome, row.input_tokens, row.output_tokens) for row in rows) == {
        ("completed", *billed(bill)): 1,
        ("joined", *billed(bill)): CALLERS - 1,  # what each of them saved
    }

    # One answer: the same bytes for all who asked in the same form, the same meaning for all.
    bodies = {form: set() for form in FORMS}
    told = []
    for form, answer in zip(forms, answers, strict=True):
        bodies[form].add(answer.content)
        told.append(told_by(form, answer))
    assert {form: len(seen) for form, seen in bodies.items()} == dict.fromkeys(FORMS, 1)
    assert {(text, reason) for text, reason, _ in told} == {
        (expected_text(ASK, "/v1/chat/completions", LENGTH), "stop")
    }
    usages = [usage for form, (_, _, usage) in zip(forms, told, strict=True) if form != "stream"]
    assert {(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages} == {billed(bill)}
    assert not any(usage for form, (_, _, usage) in zip(forms, told, strict=True) if form == "stream")
