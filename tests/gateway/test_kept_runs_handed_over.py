"""Answers that their upstream makes in the background, and gateways that go one after the other: who books what."""

import asyncio
import contextlib
import sqlite3

import msgspec
import pytest
from continuing import (
    QUICK,
    RESPONSES,
    TOKENS,
    billed,
    body_for,
    booked,
    events_of,
    simulated,
    text_of,
    whole_text,
)
from durably import keeper_of
from serving import call, on_uvloop, serving, until

from penstock.config.model import (
    CapabilitiesConfig,
    ConcurrencyConfig,
    LedgerConfig,
    LimitConfig,
    LimitsConfig,
)
from penstock.errors import Overloaded, RateLimited
from penstock.gateway.stages import call as module
from penstock.gateway.stages.allot import Allotment
from penstock.generation.pace import Pace
from penstock.wire.usage import output_tokens_in

ABLE = CapabilitiesConfig(prefill="none", background=True)
BODY = body_for(RESPONSES, background=True, stream=False, temperature=0)


@contextlib.asynccontextmanager
async def gateways(count, durable, folder, *, one_ledger=False, **more):
    """So many with one store, before a simulator: ``((gateway, port), ...)``, and the simulator.

    :param one_ledger: for all; else each has its own
    """
    upstream = {"kinds": ["openai"], "capabilities": [ABLE], "upstream": {"responses": True}}
    more = {"generations": durable(1.0), "retry": QUICK, **more}
    names = ["ledger"] * count if one_ledger else range(count)
    ledgers = [LedgerConfig(path=str(folder / f"{name}.sqlite")) for name in names]
    async with contextlib.AsyncExitStack() as stack:
        gateway, port, (simulator,) = await stack.enter_async_context(
            simulated("tps=20", ledger=ledgers[0], **upstream, **more)
        )
        here = [(gateway, port)]
        for ledger in ledgers[1:]:
            settings = msgspec.structs.replace(gateway.pipeline.snapshot.config, ledger=ledger)
            here.append(await stack.enter_async_context(serving(settings)))
        yield here, simulator


async def begun(gateway, port, **more):
    """The generation of a response that has said something."""
    await call(port, {**BODY, **more}, RESPONSES)
    await until(lambda: any(one.readable > 8 for one in gateway.pipeline.registry))
    (generation,) = gateway.pipeline.registry
    return generation


async def taken(gateway):
    await until(lambda: keeper_of(gateway).taken_over == 1)


def test_who_hands_it_over_before_it_has_reached_the_upstream_again_leaves_its_row_empty(
    durable, tmp_path, monkeypatch
):
    async def main():
        async with gateways(3, durable, tmp_path) as (here, simulator):
            (first, port), (second, _), (third, _) = here
            keeper_of(third).leaving = True
            await begun(first, port)
            monkeypatch.setattr(module, "wait_after_break", lambda *_: 3_600.0)
            await first.drain(0.0)
            await taken(second)
            await until(second.recorder.ledger.open_attempts)
            monkeypatch.undo()
            keeper_of(third).leaving = False
            await second.drain(0.0)
            await taken(third)
            await until(lambda: not third.pipeline.productions)
            rows = [one.recorder.ledger.recent() for one, _ in here]
            return rows, [booked(one) for one, _ in here], billed([simulator])

    rows, books, bills = on_uvloop(main)
    assert [len(each) for each in rows] == [1, 1, 1]
    assert books[:2] == [(0, 0), (0, 0)]
    assert books[2] == bills


def full(monkeypatch):
    """The upstream's gate, for the first who comes: its row is open."""
    ask = module.ask_turn

    def refuse(*_):
        monkeypatch.setattr(module, "ask_turn", ask)
        raise Overloaded("no room")

    monkeypatch.setattr(module, "ask_turn", refuse)


def limited(monkeypatch):
    """The upstream's limit, for the first who comes: nothing is entered of what was not asked."""
    take = Allotment.take

    async def refuse(*_):
        monkeypatch.setattr(Allotment, "take", take)
        raise RateLimited("not now")

    monkeypatch.setattr(Allotment, "take", refuse)


@pytest.mark.parametrize("refuse", [full, limited])
def test_where_there_is_no_room_to_read_it_on_it_is_gone_on_with_in_another_way(
    durable, tmp_path, monkeypatch, refuse
):
    limits = {
        "limits": LimitsConfig(upstreams={"*": LimitConfig(concurrent=9)}),
        "concurrency": ConcurrencyConfig(limit=9, adaptive=False),
    }

    async def main():
        async with gateways(2, durable, tmp_path, **limits) as (here, simulator):
            (first, port), (second, there) = here
            generation = await begun(first, port)
            refuse(monkeypatch)
            await first.drain(0.0)
            await taken(second)
            await until(lambda: not second.pipeline.productions)
            answer = await call(there, b"", f"/v1/generations/{generation.id}/events", "GET")
            await until(lambda: not simulator.bill.report()["in_flight"])
            rows = [row for one, _ in here for row in one.recorder.ledger.recent()]
            return events_of(answer), rows, simulator.bill.report()["by_request"]

    events, rows, runs = on_uvloop(main)
    assert text_of(RESPONSES, events) == whole_text(RESPONSES, temperature=0)
    assert [run["state"] for run in runs] == ["cancelled", "completed"]
    none, before, whole = sorted(row.usage.output_tokens for row in rows)
    assert none == 0 < before <= runs[0]["output_tokens"]
    assert whole == TOKENS


def rows_in(folder):
    """Outcome, input and output tokens of all rows in all ledgers' files."""
    rows = []
    for path in folder.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows += database.execute("SELECT outcome, input_tokens, output_tokens FROM attempts").fetchall()
    return rows


def in_books(folder):
    """Input and output tokens of all of these rows; None: some are still open."""
    rows = rows_in(folder)
    if any(outcome == "reserved" for outcome, *_ in rows):
        return None
    return sum(row[1] for row in rows), sum(row[2] for row in rows)


@pytest.mark.parametrize("one_ledger", [True, False], ids=["one ledger", "a ledger each"])
def test_who_was_taken_for_dead_and_lives_has_no_part_of_what_the_next_one_reads_on(
    durable, tmp_path, one_ledger
):
    async def main():
        async with gateways(2, durable, tmp_path, one_ledger=one_ledger) as (here, simulator):
            (first, port), (second, _) = here
            generation = await begun(first, port)
            keeper = keeper_of(first)
            keeper.leaving = True
            await keeper.store.release(keeper.lease.owner, [generation.id])  # as when its lease has run out
            await taken(second)
            await until(lambda: len(first.recorder.ledger.recent()) == 1)
            assert first.recorder.ledger.recent()[0].usage.output_tokens
            await until(lambda: not second.pipeline.productions)
            bill = billed([simulator])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await until(lambda: in_books(tmp_path) == bill)
            return in_books(tmp_path), bill

    books, bill = on_uvloop(main)
    assert books == bill


async def ended(port, generation, *, deletes):
    path = f"{RESPONSES}/{generation.id.replace('gen_', 'resp_')}"
    return await call(port, b"", *((path, "DELETE") if deletes else (path + "/cancel", "POST")))


@pytest.mark.parametrize("deletes", [True, False], ids=["deleted", "cancelled"])
def test_what_another_process_ends_is_ended_at_the_upstream_and_not_asked_anew(durable, tmp_path, deletes):
    """Though its producer may see it end there before the store has told him."""

    async def main():
        async with gateways(2, durable, tmp_path) as (here, simulator):
            (first, port), (_, there) = here
            generation = await begun(first, port, max_output_tokens=1_000)
            keeper_of(first).journal._pace = Pace(0.3, 0.3)
            answer = await ended(there, generation, deletes=deletes)
            await first.pipeline.wait_idle()
            await until(lambda: not simulator.bill.report()["in_flight"])
            again = await call(there, b"", f"/v1/generations/{generation.id}", "GET")
            rows = first.recorder.ledger.recent()
            return answer, again, simulator.bill.report()["by_request"], rows

    answer, again, runs, rows = on_uvloop(main)
    assert (answer.status, again.status) == (200, 410 if deletes else 200)
    assert [run["state"] for run in runs] == ["cancelled"], runs
    assert len(rows) == 1, rows


@pytest.mark.parametrize("one_ledger", [True, False], ids=["one ledger", "a ledger each"])
@pytest.mark.parametrize("deletes", [True, False], ids=["deleted", "cancelled"])
def test_what_is_ended_while_nobody_has_it_is_cancelled_at_the_upstream_and_in_the_books(
    durable, tmp_path, deletes, one_ledger
):
    async def main():
        async with gateways(2, durable, tmp_path, one_ledger=one_ledger) as (here, simulator):
            (first, port), (second, there) = here
            keeper_of(second).leaving = True  # it takes nothing over
            generation = await begun(first, port)
            await first.drain(0.0)
            brought = output_tokens_in(generation.endpoint, generation.events)
            await until(lambda: rows_in(tmp_path) and in_books(tmp_path) == (0, 0))
            answer = await ended(there, generation, deletes=deletes)
            await until(lambda: not simulator.bill.report()["in_flight"])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await until(lambda: (in_books(tmp_path) or (0, 0))[1] == brought)
            return answer, simulator.bill.report()["by_request"], in_books(tmp_path), brought

    answer, runs, books, brought = on_uvloop(main)
    assert answer.status == 200
    assert [run["state"] for run in runs] == ["cancelled"], runs
    assert books[1] == brought > 0
