"""A gateway whose upstream is a gateway: what breaks between the two is read on, and made and paid for once."""

import asyncio
import contextlib

import pytest
from continuing import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    QUICK,
    RESPONSES,
    TOKENS,
    billed,
    body_for,
    booked,
    check_form,
    error_of,
    events_of,
    simulated,
    text_of,
    whole_text,
)
from durably import keeper_of
from serving import call, config, on_uvloop, request, serving, until

from penstock.config.model import CapabilitiesConfig, TimeoutConfig, UpstreamConfig
from penstock.lab.faults import Break, Conditions, FaultProxy, Kind
from penstock.messages import Outcome
from penstock.net.clock import Clock
from penstock.testing import FakeClock

KEEPS = CapabilitiesConfig(prefill="none", generations=True)
CLOCKS = TimeoutConfig(connect=5, first_token=20, between_tokens=20, total=100)


@contextlib.asynccontextmanager
async def behind(script, breaks, kind="openai", conditions=None, clock=None, **more):
    """``(outer, port, inner, simulator)``; the connections between the two gateways break as is said."""
    async with simulated(script, clock=FakeClock()) as (inner, behind_port, (simulator,)):
        with FaultProxy("127.0.0.1", behind_port, conditions, breaks=breaks) as link:
            url = link.url + ("/v1" if kind == "openai" else "")
            settings = config(link.url, **{"retry": QUICK, "timeouts": CLOCKS, **more})
            settings.upstreams["up0"] = UpstreamConfig(
                kind=kind, base_url=url, capabilities=KEEPS, responses=kind == "openai", running_usage=False
            )
            async with serving(settings, clock or FakeClock()) as (outer, port):
                yield outer, port, inner, simulator


def read(path, script, breaks, kind="openai", **more):
    """A call's answer; the outer gateway's rows and figures, how many answers the inner one made, and the bill."""

    async def main():
        async with asyncio.timeout(60):
            async with behind(script, breaks, kind, **more) as (outer, port, inner, simulator):
                answer = await call(port, body_for(path), path)
                again = await call(
                    port, b"", f"/v1/generations/{answer.headers['penstock-generation']}/events", "GET"
                )
                await outer.pipeline.wait_idle()
                await inner.pipeline.wait_idle()
                rows = outer.recorder.ledger.recent(), inner.recorder.ledger.recent()
                books = booked(outer), booked(inner), billed([simulator])
                return answer, again, rows, books, simulator.bill.report()["requests"]

    return on_uvloop(main)


CUTS = [Break(kind, after, "down") for kind, after in [(Kind.RESET, 1_500), (Kind.CLOSE, 1_200)]]
PATHS = [
    (CHAT, "openai"),
    (MESSAGES, "anthropic"),
    (RESPONSES, "openai"),
    (COMPLETIONS, "openai"),
    (CHAT, "anthropic"),
    (MESSAGES, "openai"),
]


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize(("path", "kind"), PATHS)
def test_what_breaks_between_two_gateways_is_read_on_and_paid_for_once(path, kind, cuts):
    answer, again, (outer, inner), books, requests = read(path, "tps=100", CUTS[:cuts], kind)
    events = events_of(answer)
    assert (error_of(events), text_of(path, events)) == (None, whole_text(path))
    check_form(path, events)
    assert again.headers["penstock-continued"] == str(cuts)
    assert again.body == answer.body
    assert [row.outcome for row in outer] == [Outcome.COMPLETED]
    assert [row.outcome for row in inner] == [Outcome.COMPLETED]
    assert requests == 1
    assert books[0] == books[1] == books[2]
    assert books[2][1] == TOKENS


def test_what_takes_its_time_between_two_gateways_is_no_silence():
    """The clocks are looked at while the rest is on its way."""
    answer, again, (outer, _), books, requests = read(
        CHAT, "tps=100", CUTS[:1], conditions=Conditions(delay=0.2), clock=Clock()
    )
    assert error_of(events_of(answer)) is None
    assert again.headers["penstock-continued"] == "1"
    assert ([row.outcome for row in outer], requests) == ([Outcome.COMPLETED], 1)
    assert books[0] == books[2]


@pytest.mark.parametrize(("path", "kind"), PATHS[:3])
def test_when_nobody_wants_the_rest_the_other_gateway_is_told(path, kind):
    """It would wait for us, and be paid for that: its own clock stands still."""

    async def main():
        async with asyncio.timeout(60):
            async with behind("tps=50", [], kind) as (outer, port, inner, simulator):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(body_for(path), path))
                await reader.readuntil(b"id: 3\n")
                (there,) = inner.pipeline.in_flight()
                writer.close()
                await writer.wait_closed()
                await until(lambda: there.ending is not None)
                await outer.pipeline.wait_idle()
                await inner.pipeline.wait_idle()
                return inner.recorder.ledger.recent(), booked(inner), billed([simulator])

    (row,), books, bill = on_uvloop(main)
    assert row.outcome is Outcome.CANCELLED
    assert books == bill
    assert bill[1] < TOKENS


def test_a_rest_that_cannot_be_had_is_told_as_a_break_and_the_other_gateway_is_told():
    async def main():
        async with asyncio.timeout(60):
            breaks = [CUTS[0], *[Break(Kind.RESET, 1, "up")] * 2]  # tries that bring nothing; then it is told
            async with behind("tps=50", breaks) as (outer, port, inner, simulator):
                answer = await call(port, body_for(CHAT), CHAT)
                await outer.pipeline.wait_idle()
                await inner.pipeline.wait_idle()
                return answer, inner.recorder.ledger.recent(), simulator.bill.report()["requests"]

    answer, rows, requests = on_uvloop(main)
    events = events_of(answer)
    assert error_of(events)["code"] == "upstream_broken"
    assert whole_text(CHAT).startswith(text_of(CHAT, events))
    assert [row.outcome for row in rows] == [Outcome.CANCELLED]
    assert requests == 1


@pytest.mark.parametrize(("path", "kind"), PATHS)
def test_who_takes_over_what_the_other_gateway_has_not_begun_to_answer_finds_it_there(durable, path, kind):
    async def main():
        async with (
            asyncio.timeout(60),
            behind("ttft=2000", [], kind, generations=durable(60.0)) as (first, port, inner, simulator),
            serving(first.pipeline.snapshot.config, FakeClock()) as (second, there),
        ):
            asking = asyncio.create_task(call(port, body_for(path), path))
            await until(lambda: simulator.bill.report()["in_flight"])
            (generation,) = first.pipeline.registry
            await until(lambda: generation.journal.entry.begun)
            keeper = keeper_of(first)
            keeper.leaving = True
            await keeper.store.release(keeper.lease.owner, [generation.id])  # as when its lease has run out
            await until(lambda: keeper_of(second).taken_over)
            answer = await call(there, b"", f"/v1/generations/{generation.id}/events", "GET")
            await asking
            await inner.pipeline.wait_idle()
            return answer, simulator.bill.report()["requests"]

    answer, asked = on_uvloop(main)
    assert text_of(path, events_of(answer)) == whole_text(path)
    assert asked == 1
