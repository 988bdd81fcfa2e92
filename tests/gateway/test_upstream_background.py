"""Responses that the upstream makes in the background: read on after breaks, cancelled there, and paid for once."""

import asyncio
import json

import pytest
from continuing import (
    RESPONSES,
    TOKENS,
    billed,
    body_for,
    booked,
    check_form,
    events_of,
    simulated,
    text_of,
    whole_text,
)
from serving import call, on_uvloop, until

from penstock.config.model import CapabilitiesConfig, ContinuationConfig
from penstock.messages import Outcome

ABLE = CapabilitiesConfig(prefill="none", background=True)
UNABLE = CapabilitiesConfig(prefill="none")


def asked(simulator):
    """The bodies of the calls that came to a simulator."""
    return [json.loads(seen[3]) for seen in simulator._seen]


def in_background(*scripts, test, capabilities=ABLE, **more):
    async def main():
        kinds = ["openai"] * len(scripts)
        able = [capabilities, *[CapabilitiesConfig()] * (len(scripts) - 1)]
        own = {"responses": True, **more.pop("upstream", {})}
        async with asyncio.timeout(60):
            async with simulated(*scripts, kinds=kinds, capabilities=able, upstream=own, **more) as (
                gateway,
                port,
                simulators,
            ):
                return await test(gateway, port, simulators)

    return on_uvloop(main)


def streamed(*scripts, body, **more):
    """What a caller gets: the events; and the ledger's rows, the bill, and what was asked."""

    async def test(gateway, port, simulators):
        answer = await call(port, body, RESPONSES)
        await gateway.pipeline.wait_idle()
        rows = gateway.recorder.ledger.recent()
        bill = [one.bill.report() for one in simulators]
        return events_of(answer), rows, bill, (booked(gateway), billed(simulators)), asked(simulators[0])

    return in_background(*scripts, test=test, **more)


@pytest.mark.parametrize("how", ["cut-after", "close-after", "malformed-event"])
@pytest.mark.parametrize("tokens", [7, 9, 19, TOKENS])
def test_a_response_that_breaks_is_read_on_and_paid_for_once(how, tokens):
    body = body_for(RESPONSES, background=True)
    events, rows, bill, (books, bills), (sent,) = streamed(f"tps=500,{how}={tokens}", body=body)
    check_form(RESPONSES, events)
    assert text_of(RESPONSES, events) == whole_text(RESPONSES)
    assert (sent["background"], sent["store"], sent["stream"]) == (True, True, True)
    assert [row.outcome for row in rows] == [Outcome.COMPLETED]
    assert bill[0]["requests"] == 1
    assert books == bills


@pytest.mark.parametrize("store", [None, True])
def test_every_streamed_response_is_one_where_the_configuration_says_so(store):
    body = body_for(RESPONSES, **({} if store is None else {"store": store}))
    events, *_, (sent,) = streamed("tps=500,cut-after=9", body=body, upstream={"background": True})
    check_form(RESPONSES, events)
    assert sent["background"] is True


@pytest.mark.parametrize(
    ("asking", "capabilities", "upstream"),
    [
        ({"background": True, "store": False}, ABLE, {}),
        ({"store": False}, ABLE, {"background": True}),
        ({"background": True}, UNABLE, {"background": True}),
        ({}, ABLE, {}),
    ],
)
def test_nothing_is_kept_at_an_upstream_that_may_not_or_cannot_or_need_not(asking, capabilities, upstream):
    body = body_for(RESPONSES, **asking)
    events, *_, (sent,) = streamed("", body=body, capabilities=capabilities, upstream=upstream)
    check_form(RESPONSES, events)
    assert "background" not in sent
    assert sent.get("store") == asking.get("store")


def test_nor_where_the_upstream_is_not_told_that_it_may_not():
    unsaid = {"background": True, "leave_out": ["store"]}
    *_, (sent,) = streamed("", body=body_for(RESPONSES, store=False), upstream=unsaid)
    assert sent.keys().isdisjoint({"background", "store"})


def test_an_upstream_that_fails_in_the_background_is_not_asked_for_the_rest():
    events, rows, bill, (books, bills), _ = streamed(
        "tps=500,error-event=9", body=body_for(RESPONSES, background=True)
    )
    assert events[-1]["type"] in {"error", "response.failed"}
    assert [row.outcome for row in rows] == [Outcome.PARTIAL]
    assert bill[0]["requests"] == 1
    assert books[1] == bills[1]


def test_a_generation_that_is_cancelled_is_cancelled_at_the_upstream():
    async def test(gateway, port, simulators):
        (simulator,) = simulators
        promised = (await call(port, body_for(RESPONSES, background=True, stream=False), RESPONSES)).json()
        await until(lambda: any(one.readable > 8 for one in gateway.pipeline.registry))
        await call(port, b"", f"{RESPONSES}/{promised['id']}/cancel", "POST")
        await gateway.pipeline.wait_idle()
        await until(lambda: not simulator.bill.report()["in_flight"])
        report = simulator.bill.report()
        assert report["by_request"][0]["state"] == "cancelled"
        assert report["requests"] == 1
        (row,) = gateway.recorder.ledger.recent()
        assert row.outcome is Outcome.CANCELLED
        assert 0 < row.usage.output_tokens <= report["output_tokens"] < 2_000

    in_background("tokens=2000,tps=100", test=test, upstream={"cancel_grace": 0.05})


def test_what_can_be_read_on_is_not_held_back():
    """Its first event tells where: whoever takes it over must find that."""

    async def test(gateway, port, simulators):
        (simulator,) = simulators
        await call(port, body_for(RESPONSES, background=True, stream=False), RESPONSES)
        await until(lambda: any(run["output_tokens"] > 8 for run in simulator.bill.report()["by_request"]))
        async with asyncio.timeout(5):
            await until(lambda: any(one.readable > 8 for one in gateway.pipeline.registry))
        await gateway.drain(0.0)

    in_background("tokens=2000,tps=100", test=test, continuation=ContinuationConfig(hold_back=600))


def test_what_this_process_leaves_to_nobody_is_cancelled_at_the_upstream():
    async def test(gateway, port, simulators):
        (simulator,) = simulators
        await call(port, body_for(RESPONSES, background=True, stream=False), RESPONSES)
        await until(lambda: any(one.readable > 8 for one in gateway.pipeline.registry))
        assert await gateway.drain(0.0) == 1
        await gateway.pipeline.wait_idle()
        await until(lambda: not simulator.bill.report()["in_flight"])
        assert simulator.bill.report()["by_request"][0]["state"] == "cancelled"

    in_background("tokens=2000,tps=100", test=test)


def test_where_it_cannot_be_read_on_another_upstream_is_asked_and_this_one_told():
    async def test(gateway, port, simulators):
        first = simulators[0]
        forget(first)
        answer = await call(port, body_for(RESPONSES, background=True, temperature=0), RESPONSES)
        await gateway.pipeline.wait_idle()
        events = events_of(answer)
        check_form(RESPONSES, events)
        assert text_of(RESPONSES, events) == whole_text(RESPONSES, temperature=0)
        outcomes = [row.outcome for row in gateway.recorder.ledger.recent()]
        assert (outcomes[0], outcomes[-1]) == (Outcome.CONTINUED, Outcome.PARTIAL)

    in_background("tps=500,cut-after=9", "", test=test)


def test_a_response_that_nobody_can_go_on_with_ends_in_an_error():
    async def test(gateway, port, simulators):
        forget(simulators[0])
        answer = await call(port, body_for(RESPONSES, background=True), RESPONSES)
        await gateway.pipeline.wait_idle()
        events = events_of(answer)
        assert events[-1]["type"] in {"error", "response.failed"}
        assert not gateway.pipeline.productions

    in_background("tps=500,cut-after=9", test=test)


def test_where_it_cannot_be_reached_another_way_is_left_some_tries_and_the_run_is_cancelled():
    async def test(gateway, port, simulators):
        first = simulators[0]
        tell = first._told_of_run
        first._told_of_run = lambda exchange, name, cancel: (
            tell(exchange, name, cancel=True) if cancel else exchange.abort()
        )
        answer = await call(port, body_for(RESPONSES, background=True, temperature=0), RESPONSES)
        await gateway.pipeline.wait_idle()
        events = events_of(answer)
        check_form(RESPONSES, events)
        assert text_of(RESPONSES, events) == whole_text(RESPONSES, temperature=0)
        await until(lambda: not first.bill.report()["in_flight"])
        assert first.bill.report()["by_request"][0]["state"] == "cancelled"

    in_background("tps=5,cut-after=2", "", test=test)


def forget(simulator):
    """Make a simulator forget each response as it begins it."""
    simulator._runs.keep = lambda name, run: None
