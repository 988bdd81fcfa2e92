"""Answers that their upstream makes in the background, and gateways that go one after the other: who books what."""

import contextlib

import msgspec
from continuing import QUICK, RESPONSES, billed, body_for, booked, simulated
from durably import keeper_of
from serving import call, on_uvloop, serving, until

from penstock.config.model import CapabilitiesConfig, LedgerConfig
from penstock.gateway.stages import call as module

ABLE = CapabilitiesConfig(prefill="none", background=True)
BODY = body_for(RESPONSES, background=True, stream=False)


@contextlib.asynccontextmanager
async def gateways(count, durable, folder, script="tps=20", **more):
    """So many with one store, and a ledger each, before a simulator: ``((gateway, port), ...)``, and the simulator."""
    own = {"responses": True, **more.pop("upstream", {})}
    upstream = {"kinds": ["openai"], "capabilities": [ABLE], "upstream": own}
    generations = durable(1.0)
    more = {"generations": durable(1.0), "retry": QUICK, **more}
    ledgers = [LedgerConfig(path=str(folder / f"{number}.sqlite")) for number in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        gateway, port, (simulator,) = await stack.enter_async_context(
            simulated(script, ledger=ledgers[0], **upstream, **more)
        )
        here = [(gateway, port)]
        for ledger in ledgers[1:]:
            settings = msgspec.structs.replace(gateway.pipeline.snapshot.config, ledger=ledger)
            here.append(await stack.enter_async_context(serving(settings)))
        yield here, simulator


async def begun(gateway, port):
    """The generation of a response that has said something."""
    await call(port, BODY, RESPONSES)
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
            await until(lambda: second.pipeline.productions)
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
