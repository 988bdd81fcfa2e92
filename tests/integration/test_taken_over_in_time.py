"""How soon another goes on with what a killed gateway was answering, also before there was anything to be read of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import time

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from killing import LEASE, PAIRS, PATIENCE, TOKENS, Caller, expected, kill

from penstock.testing import SimulatorProcess
from waiting import until


@pytest.fixture(params=PAIRS)
def pair_of(request, tmp_path):
    """Makes the gateway that will be killed, and the one that callers find then: itself restarted, or a replica."""
    return functools.partial(PAIRS[request.param], folder=tmp_path)


def ready(gateway):
    """Whether all its workers take calls."""
    return gateway.readiness()["ready"]


@pytest.mark.slow  # a lease has to run out, and a worker to start
def test_what_a_killed_gateway_was_answering_goes_on_within_its_lease(pair_of):
    """Measured in leases: a busy machine makes all of it later, but not by as much."""

    async def main(here, there):
        callers = [Caller(f"question {n}", f"sim:stall-after={n},once") for n in range(1, 30)]
        for caller in callers:
            caller.body["max_tokens"] = 40
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(trust_env=False, timeout=30, limits=limits) as client:
            tasks = [asyncio.create_task(one.until_done(client, here.url, there.url)) for one in callers]
            await until(lambda: all(one.text == expected(one, n) for n, one in enumerate(callers, 1)))
            killed = time.monotonic()
            kill(here, whole=here is not there)
            await asyncio.to_thread(wait_until, lambda: ready(there))
            may = max(time.monotonic() - killed, LEASE)  # who is not there yet takes nothing over
            await asyncio.gather(*tasks)
            return may, time.monotonic() - killed, callers

    with SimulatorProcess() as simulator, pair_of(simulator.base_url) as pair:
        may, took, callers = asyncio.run(main(*pair))
    assert all(one.text == expected(one, 40) for one in callers)
    assert took > LEASE / 2, "it was not dead before"
    assert took < may + LEASE


def records(pair, folder, ids):
    """How many of these the store knows."""
    here, there = pair
    if here is there:
        with contextlib.closing(sqlite3.connect(folder / "generations.sqlite")) as database:
            return database.execute("SELECT count(*) FROM generations").fetchone()[0]
    answers = [httpx2.get(f"{there.url}/v1/generations/{one}", trust_env=False) for one in ids]
    return [answer.status_code for answer in answers].count(200)


@pytest.mark.slow  # the same
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_what_was_killed_before_its_first_event_is_answered_whole_and_paid_for(pair_of, tmp_path, stream):
    many = 3

    async def main(simulator, pair):
        here, there = pair
        callers = [Caller(f"question {n}", f"sim:no-answer,once,key={n}") for n in range(many)]
        bodies = [{**one.body, "stream": stream} for one in callers]
        for body in bodies:
            if not stream:
                del body["stream_options"]
        keys = [{"idempotency-key": f"k{n}"} for n in range(many)]
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:

            async def ask(body, key, url):
                return await client.post(url + "/v1/chat/completions", json=body, headers=key)

            asking = [
                asyncio.create_task(ask(body, key, here.url)) for body, key in zip(bodies, keys, strict=True)
            ]
            begun = functools.partial(wait_until, lambda: len(simulator.requests()) == many)
            await asyncio.to_thread(begun)
            running = await asyncio.to_thread(here.generations)
            assert [one["events"] for one in running] == [0] * many
            ids = [one["id"] for one in running]
            await asyncio.to_thread(wait_until, lambda: records(pair, tmp_path, ids) == many)
            kill(here, whole=here is not there)
            for broken in await asyncio.gather(*asking, return_exceptions=True):
                assert isinstance(broken, httpx2.HTTPError)
            answers = []
            for body, key in zip(bodies, keys, strict=True):
                async with asyncio.timeout(PATIENCE):
                    while True:
                        with contextlib.suppress(httpx2.HTTPError):  # nobody is there yet
                            answers.append(await ask(body, key, there.url))
                            break
                        await asyncio.sleep(0.05)
            return callers, answers

    with SimulatorProcess() as simulator, pair_of(simulator.base_url) as pair:
        callers, answers = asyncio.run(main(simulator, pair))
        bill = settled_bill(simulator)
        there = tmp_path / "there" if (tmp_path / "there").exists() else tmp_path
        path = there / "ledger.sqlite"
        paid = lambda: tokens(asked(ledger_rows(path))) == billed(bill)  # noqa: E731
        wait_until(paid, seconds=20, what=str(bill))
        rows = asked(ledger_rows(path))
    for caller, answer in zip(callers, answers, strict=True):
        assert answer.status_code == 200, answer.text
        if stream:
            read(caller, answer.content)
            assert caller.done
            text = caller.text
        else:
            text = answer.json()["choices"][0]["message"]["content"]
        assert text == expected(caller, TOKENS)
    assert bill["requests"] == 2 * many
    assert len(rows) == 2 * many, "each attempt is accounted for"
    assert [row.outcome for row in rows].count("completed") == many


def read(caller, body):
    for frame in body.split(b"\n\n"):
        if frame.startswith(b"id: "):
            caller.frames[int(frame.split(b"\n")[0][4:])] = frame
            caller.done = b"[DONE]" in frame
