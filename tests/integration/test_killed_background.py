"""Responses that their upstream makes in the background, and gateways that go in the middle of them.

The upstream goes on whoever reads.  Who takes the answer over reads on where its log ends: nothing is asked for
anew, the bill is that of one call, and one row of the ledger has all of it.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from killing import PAIRS, PATIENCE, TOKENS, ResponsesCaller, expected, kill

from penstock.testing import SimulatorProcess
from waiting import until

KEPT = {"kind": "openai", "responses": True, "background": True, "capabilities": {"background": True}}
THINKS = "sim:early-head,ttft=5000"  # says that it has begun, and nothing more for long
WRITES = "sim:tps=3"
ENDED = "sim:stall-after=8"  # has all of it long before its reader does
PROMISED = "sim:ttft=4000"  # has said nothing yet


@pytest.fixture(params=PAIRS)
def pair_of(request, tmp_path):
    return functools.partial(PAIRS[request.param], folder=tmp_path, **KEPT)


def rows_of(folder):
    """Of all ledgers together."""
    return asked([row for path in sorted(folder.rglob("ledger.sqlite")) for row in ledger_rows(path)])


async def killed(here, there):
    kill(here, whole=here is not there)


async def told_to_go(here, there):
    """It ends, and is started anew, or leaves its answers to the other one."""
    if here is there:
        await asyncio.to_thread(here.stop)
        await asyncio.to_thread(here.start)
    else:
        here.terminate()


async def read_over(pair, callers, begun, end):
    """The callers ask; once ``begun()`` holds the gateway goes, and they come back: their streams, as nobody cut them."""
    here, there = pair
    whole = [ResponsesCaller("", "") for _ in callers]
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        tasks = [asyncio.create_task(caller.until_done(client, here.url, there.url)) for caller in callers]
        await until(begun)
        await end(here, there)
        await asyncio.gather(*tasks)
        for caller, reader in zip(callers, whole, strict=True):
            reader.generation = caller.generation
            await reader.come_back(client, there.url)
    return whole


@pytest.mark.slow  # gateways start, and leases run out
@pytest.mark.parametrize("end", [killed, told_to_go])
def test_what_an_upstream_makes_is_read_on_by_who_takes_it_over(pair_of, end, tmp_path):
    with SimulatorProcess() as simulator:
        thinks, writes, ended = callers = [
            ResponsesCaller(f"question to {model}", model) for model in (THINKS, WRITES, ENDED)
        ]

        def begun():
            return (
                len(thinks.frames) == 2
                and writes.text == expected(writes, 2)
                and ended.text == expected(ended, 8)
            )

        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(read_over(pair, callers, begun, end))
            bill = settled_bill(simulator)
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == (end is killed)
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames
    assert bill["requests"] == len(callers)
    assert {one["state"] for one in bill["by_request"]} == {"completed"}
    rows = rows_of(tmp_path)
    assert tokens(rows) == billed(bill)
    assert Counter(row.outcome for row in rows if row.output_tokens) == {"completed": len(callers)}
    assert not any(row.estimated for row in rows if row.output_tokens)


async def promised(client, url, model):
    """A response that is made while nobody reads it: where it is had, and where its log."""
    body = ResponsesCaller("a question", model, stream=False, background=True).body
    answer = await client.post(url + ResponsesCaller.path, json=body)
    assert answer.json()["status"] in {"queued", "in_progress"}, answer.text
    generation = answer.headers["penstock-generation"]
    return f"{ResponsesCaller.path}/{answer.json()['id']}", f"/v1/generations/{generation}"


async def come_to(client, where, *states):
    """The response, once it is in one of these states; its gateway may have to be started first."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                answer = await client.get(where)
                if answer.status_code == 200 and answer.json()["status"] in states:
                    return answer.json()
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.slow  # the same
@pytest.mark.parametrize("end", [killed, told_to_go])
def test_one_that_had_said_nothing_is_asked_for_anew_and_nobody_knows_of_the_first(pair_of, end, tmp_path):
    async def main(pair, simulator):
        here, there = pair
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            where, _ = await promised(client, here.url, PROMISED)
            await until(lambda: simulator.bill()["in_flight"])
            await end(here, there)
            return await come_to(client, there.url + where, "completed", "incomplete")

    with SimulatorProcess() as simulator, pair_of(simulator.base_url) as pair:
        told = asyncio.run(main(pair, simulator))
        bill = settled_bill(simulator)
    assert told["usage"]["output_tokens"] == TOKENS
    assert bill["requests"] == 2
    whole = [row for row in rows_of(tmp_path) if row.output_tokens]
    assert [row.outcome for row in whole] == ["completed"]
    assert 2 * tokens(whole)[1] == billed(bill)[1]


@pytest.mark.slow  # the same
@pytest.mark.parametrize("reads", ["who took it over", "nobody", "who began it"])
def test_a_cancellation_reaches_the_upstream_whoever_was_reading_there(pair_of, reads):
    """Also while nobody is there who has the answer: its process is dead, and not yet taken for that."""

    async def main(pair, simulator):
        here, there = pair
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            where, log = await promised(client, here.url, "sim:early-head,ttft=60000")
            while (await client.get(here.url + log)).json()["events"] < 2:
                await asyncio.sleep(0.02)
            if reads != "who began it":
                await killed(here, there)
            if reads == "who took it over":
                await until(lambda: "taking over" in there.log)
            await come_to(client, there.url + where, "in_progress")
            answer = await client.post(there.url + where + "/cancel")
            assert answer.json()["status"] == "cancelled"

    with SimulatorProcess() as simulator, pair_of(simulator.base_url) as pair:
        asyncio.run(main(pair, simulator))
        wait_until(lambda: not simulator.bill()["in_flight"])
        bill = simulator.bill()
    assert [one["state"] for one in bill["by_request"]] == ["cancelled"]
