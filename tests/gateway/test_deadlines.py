"""Deadlines where nothing waits for a turn: in the past, in a retry's pause, in the line for a connection, in a stream."""

import asyncio
import hashlib

import msgspec
import pytest
from continuing import CHAT, TOKENS, body_for, events_of, simulated, text_of, whole_text
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    asked,
    call,
    config,
    delta,
    error,
    plain,
    request,
    rows,
    serving,
    until,
)

from penstock.config.model import (
    BreakerConfig,
    ConcurrencyConfig,
    KeyConfig,
    LimitConfig,
    LimitsConfig,
    PoolConfig,
    RetryConfig,
    TierConfig,
)
from penstock.messages import Outcome, Usage
from penstock.testing import FakeClock, ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}


def run(scripts, test, clock=None, upstream=(), **more):
    """``test(gateway, port, *upstreams)`` on a gateway over one upstream per list of scripts, without ``concurrency``.

    :param upstream: more of the upstreams' settings
    """

    async def main():
        upstreams = [ScriptedUpstream(script) for script in scripts]
        for one in upstreams:
            await one.__aenter__()
        try:
            whole = config(*(one.url for one in upstreams), **more)
            made = {
                name: msgspec.structs.replace(each, **dict(upstream))
                for name, each in whole.upstreams.items()
            }
            async with serving(msgspec.structs.replace(whole, upstreams=made), clock) as (gateway, port):
                return await test(gateway, port, *upstreams)
        finally:
            for one in upstreams:
                await one.__aexit__(None, None, None)

    return asyncio.run(main())


def answering(*answers):
    return [[step for answer in answers for step in (Step.REQUEST, answer)]]


def within(seconds):
    return [f"penstock-deadline: {seconds}"]


@pytest.mark.parametrize("breaker", [None, BreakerConfig()])
@pytest.mark.parametrize("body", [PROMPT, STREAM])
@pytest.mark.parametrize("deadline", ["-1", "0", "-inf", "1000000001"])
def test_one_in_the_past_is_refused_and_nothing_is_sent_or_billed(deadline, body, breaker):
    async def test(gateway, port, *upstreams):
        answer = await call(port, body, headers=within(deadline))
        return answer, [one.connections for one in upstreams], rows(gateway)

    scripts = [answering(plain(COMPLETION)), answering(plain(COMPLETION))]
    answer, connections, booked = run(scripts, test, upstream={"breaker": breaker})
    assert (answer.status, answer.json()["error"]["code"]) == (503, "deadline_unreachable")
    assert "before that" not in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after-ms"]) > 0
    assert connections == [0, 0]
    assert [(row.outcome, row.usage, row.cost) for row in booked] == [(Outcome.FAILED, Usage(), 0)]


def test_an_idle_connection_makes_no_difference():
    async def test(gateway, port, upstream):
        await call(port, PROMPT)
        return (await call(port, PROMPT, headers=within(-1))).status, asked(upstream)

    assert run([answering(plain(COMPLETION), plain(COMPLETION))], test) == (503, 1)


@pytest.mark.parametrize("deadline", ["soon", "nan", ""])
def test_one_that_makes_no_sense_is_the_callers_mistake(deadline):
    async def test(gateway, port, upstream):
        return await call(port, PROMPT, headers=within(deadline)), upstream.connections

    answer, connections = run([answering(plain(COMPLETION))], test)
    assert (answer.status, answer.json()["error"]["param"], connections) == (400, "Penstock-Deadline", 0)


def test_a_retry_that_would_come_too_late_is_not_waited_for():
    async def test(gateway, port, upstream):
        return await call(port, PROMPT, headers=within(4)), asked(upstream)

    slow = error("503 Busy", "busy", ["retry-after: 5"])
    answer, requests = run([answering(slow, plain(COMPLETION))], test)
    assert (answer.status, answer.json()["error"]["code"], requests) == (503, "upstream_failed", 1)


def test_the_next_candidate_is_asked_instead_at_once():
    async def test(gateway, port, first, second):
        return (await call(port, PROMPT, headers=within(4))).status, asked(first), asked(second)

    slow = error("503 Busy", "busy", ["retry-after: 5"])
    scripts = [answering(slow, plain(COMPLETION)), answering(plain(COMPLETION))]
    assert run(scripts, test) == (200, 1, 1)


def test_when_it_passes_nobody_else_is_asked_and_what_has_failed_is_told():
    async def test(gateway, port, first, second):
        calling = asyncio.ensure_future(call(port, PROMPT, headers=within(4)))
        await first.wait_received(b"hello")
        clock.advance(4.1)
        go_on.set()
        return await calling, second.connections

    clock, go_on = FakeClock(), asyncio.Event()
    scripts = [[[Step.REQUEST, go_on, error("500 no", "out of order")]], answering(plain(COMPLETION))]
    answer, connections = run(scripts, test, clock, retry=RetryConfig(attempts=1))
    assert (answer.status, connections) == (502, 0)
    assert "out of order" in answer.json()["error"]["message"]


def test_that_it_has_passed_is_told_also_where_another_candidate_was_over_its_limit():
    """With more time, the call would have been made."""

    async def test(gateway, port, *upstreams):
        return await call(port, PROMPT, headers=within(-1)), [one.connections for one in upstreams]

    limits = LimitsConfig(upstreams={"up0": LimitConfig(requests_per_minute=0)})
    answer, connections = run([answering(), answering()], test, limits=limits)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "deadline_unreachable")
    assert "up0" in answer.json()["error"]["message"]
    assert connections == [0, 0]


def test_nobody_waits_for_a_connection_beyond_it():
    async def test(gateway, port, upstream):
        first = asyncio.ensure_future(call(port, PROMPT))
        await upstream.wait_received(b"hello")
        late = await call(port, PROMPT, headers=within(0.05))
        waiting = gateway.pipeline.snapshot.upstreams["up0"].pool.statistics().waiting
        go_on.set()
        return late, waiting, (await first).status, asked(upstream)

    go_on = asyncio.Event()
    script = [[Step.REQUEST, go_on, plain(COMPLETION)]]
    late, waiting, status, requests = run([script], test, upstream={"pool": PoolConfig(max_open=1)})
    assert (late.status, late.json()["error"]["code"]) == (503, "deadline_unreachable")
    assert (waiting, status, requests) == (0, 200, 1)


def test_a_tier_has_one_also_where_nothing_waits():
    async def test(gateway, port, first, second):
        calling = asyncio.ensure_future(call(port, PROMPT, headers=["authorization: Bearer hurried"]))
        await first.wait_received(b"hello")
        clock.advance(3.1)
        go_on.set()
        return (await calling).status, second.connections

    clock, go_on = FakeClock(), asyncio.Event()
    scripts = [[[Step.REQUEST, go_on, error("500 no")]], answering(plain(COMPLETION))]
    hashed = "sha256:" + hashlib.sha256(b"hurried").hexdigest()
    settings = {
        "retry": RetryConfig(attempts=1),
        "tiers": {"hurried": TierConfig(deadline=3.0)},
        "keys": [KeyConfig(name="hurried", hash=hashed, tier="hurried")],
    }
    assert run(scripts, test, clock, **settings) == (502, 0)


def test_what_has_begun_to_answer_in_time_is_not_cut_off():
    async def test(gateway, port, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(STREAM, headers=within(5)))
        await reader.readuntil(b'"a"')
        clock.advance(60.0)
        go_on.set()
        rest = await reader.readuntil(b"[DONE]")
        writer.close()
        await writer.wait_closed()
        return rest

    clock, go_on = FakeClock(), asyncio.Event()
    script = [Step.REQUEST, STREAM_HEAD + delta("a"), go_on, delta("b", "stop") + DONE + STREAM_END]
    assert b'"b"' in run([[script]], test, clock)


@pytest.mark.parametrize("concurrency", [None, ConcurrencyConfig()], ids=["", "with a queue"])
def test_an_answer_that_has_begun_is_gone_on_with_beyond_it(concurrency):
    async def main():
        clock = FakeClock()
        scripts = ("stall-after=8", "")
        async with simulated(*scripts, clock=clock, concurrency=concurrency) as (gateway, port, simulators):
            calling = asyncio.ensure_future(call(port, body_for(CHAT), CHAT, headers=within(5)))
            await until(lambda: any(len(one.events) > 8 for one in gateway.pipeline.registry))
            clock.advance(60.0)  # longer than any upstream may be silent
            answer = await calling
            return text_of(CHAT, events_of(answer)), simulators[1].bill.report()["requests"]

    text, more = asyncio.run(main())
    assert text == whole_text(CHAT, TOKENS)
    assert more == 1


def test_who_would_not_wait_any_more_is_asked_nobody_else_for():
    async def test(gateway, port, first, second):
        calling = asyncio.ensure_future(call(port, PROMPT, headers=["x-stainless-read-timeout: 4"]))
        await first.wait_received(b"hello")
        clock.advance(4.1)
        go_on.set()
        return (await calling).status, second.connections

    clock, go_on = FakeClock(), asyncio.Event()
    scripts = [[[Step.REQUEST, go_on, error("500 no")]], answering(plain(COMPLETION))]
    assert run(scripts, test, clock, retry=RetryConfig(attempts=1)) == (502, 0)
