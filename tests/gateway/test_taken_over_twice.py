"""Who has taken an answer over is taken for dead in his turn, before he has written anything: who asks, and who books."""

import asyncio
import contextlib
import sqlite3

import msgspec
from continuing import QUICK, RESPONSES, TOKENS, body_for, simulated
from durably import keeper_of
from serving import call, on_uvloop, serving, until

from penstock.config.model import LedgerConfig
from penstock.ledger._recovery import Recovery
from penstock.wire.usage import output_tokens_in

SAID = 9  # tokens before it stands still
BODY = body_for(RESPONSES, background=True, stream=False, temperature=0)


def died_in(folder):
    """Output tokens of the rows of who is no more, in all ledgers' files."""
    found = []
    for path in folder.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            found += database.execute(
                "SELECT output_tokens FROM attempts WHERE error IN ('process_died', 'died_elsewhere') AND output_tokens"
            ).fetchall()
    return [tokens for (tokens,) in found]


def test_who_stands_still_as_he_takes_over_asks_nothing_and_books_nothing(durable, tmp_path, monkeypatch):
    """He has one ledger with the dead, and who goes on in his stead has another."""
    shared, other = (LedgerConfig(path=str(tmp_path / f"{name}.sqlite")) for name in ("shared", "other"))

    async def main():
        more = {"generations": durable(60.0), "retry": QUICK, "ledger": shared}
        upstream = {"kinds": ["openai"], "upstream": {"responses": True}}
        async with contextlib.AsyncExitStack() as stack:
            first, port, (simulator,) = await stack.enter_async_context(
                simulated(f"tps=50,stall-after={SAID},once", **upstream, **more)
            )
            settings = first.pipeline.snapshot.config
            second, _ = await stack.enter_async_context(serving(settings))
            apart = msgspec.structs.replace(settings, ledger=other)
            third, _ = await stack.enter_async_context(serving(apart))
            dead, asleep, awake = keepers = [keeper_of(one) for one in (first, second, third)]
            for keeper in keepers:
                keeper.leaving = True
            await call(port, BODY, RESPONSES)
            await until(lambda: len(first.pipeline.registry))
            (generation,) = first.pipeline.registry
            await until(lambda: output_tokens_in(generation.endpoint, generation.events) == SAID)
            await until(lambda: generation.readable == len(generation.events))

            lives, token = Recovery.lives, first._store.token
            monkeypatch.setattr(Recovery, "lives", lambda self, one: one != token and lives(self, one))
            read, reads, wakes = asleep.store.events, asyncio.Event(), asyncio.Event()

            async def sleep(*what):
                reads.set()
                await wakes.wait()
                return await read(*what)

            asleep.store.events = sleep
            await asleep.store.release(dead.lease.owner, [generation.id])  # as when its lease has run out
            asleep.leaving = False
            await reads.wait()
            await awake.store.release(asleep.lease.owner, [generation.id])  # the same
            awake.leaving = False
            await until(lambda: awake.taken_over)
            asleep.leaving = True  # it is busy with that one
            await third.pipeline.wait_idle()
            asleep.leaving = False
            wakes.set()
            await until(lambda: asleep.taken_over)
            await second.pipeline.wait_idle()
            for one in (second, third):
                await one._store.wait_flushed()
            return (
                died_in(tmp_path),
                simulator.bill.report()["by_request"],
                second.recorder.ledger.recent(),
            )

    died, requests, rows = on_uvloop(main)
    assert died == [SAID]
    assert rows == []
    assert sorted(one["output_tokens"] for one in requests) == [SAID, TOKENS]
