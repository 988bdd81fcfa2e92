"""A first token that is late is asked for again: what callers, upstreams and the ledger see of it."""

import asyncio
import dataclasses

import msgspec
import pytest
from serving import (
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    error,
    plain,
    request,
    serving,
    until,
)

from penstock.config.model import (
    BreakerConfig,
    CandidateConfig,
    ConcurrencyConfig,
    ContinuationConfig,
    HedgeConfig,
    ModelConfig,
    RetryConfig,
)
from penstock.flow.hedge import LEAST
from penstock.gateway.stages.hedge import Hedge
from penstock.messages import Outcome
from penstock.testing import FakeClock, ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}
ONCE = RetryConfig(attempts=1, first_delay=0.0)


def told(text):
    return STREAM_HEAD + delta(text) + delta("", "stop", usage=(3, 2)) + DONE + STREAM_END


def outcomes(gateway):
    rows = gateway.recorder.ledger.recent()
    return sorted(((row.upstream, row.outcome) for row in rows), key=str)


@dataclasses.dataclass
class Seen:
    answer: object
    rows: list
    upstreams: list
    hedges: dict


def hedging_of(gateway, name="up0"):
    return gateway.pipeline.snapshot.upstreams[name].hedging


def ready(gateway, name="up0"):
    """All first tokens came at once so far, and ten second calls have been earned."""
    for _ in range(LEAST):
        hedging_of(gateway, name).observe("m", 0.0, 10)
    for _ in range(400):
        hedging_of(gateway, name).earn()


def run(scripts, test=None, *, body=STREAM, weights=(1.0, 1.0), upstream=None, clock=None, **more):
    """One call, hedged at once if its first token does not come; ``test`` sees it while it runs."""

    async def main():
        upstreams = [ScriptedUpstream(script) for script in scripts]
        for each in upstreams:
            await each.__aenter__()
        try:
            whole = config(
                *(each.url for each in upstreams),
                **{"retry": ONCE, "continuation": ContinuationConfig(attempts=0), **more},
            )
            settings = {
                name: msgspec.structs.replace(each, hedge=HedgeConfig(), **(upstream or {}))
                for name, each in whole.upstreams.items()
            }
            candidates = [
                CandidateConfig(upstream=name, weight=weight)
                for name, weight in zip(settings, weights, strict=False)
            ]
            models = {"m": ModelConfig(candidates=candidates)}
            whole = msgspec.structs.replace(whole, upstreams=settings, models=models)
            async with serving(whole, clock or FakeClock()) as (gateway, port):
                gateway.pipeline.snapshot.router._choosing._rand = lambda: 0.0  # the first candidate first
                ready(gateway)
                calling = asyncio.ensure_future(call(port, body)) if body else None
                if test is not None:
                    await test(gateway, port, *upstreams)
                answer = await calling if calling else None
                await until(lambda: not gateway.pipeline.productions)
                hedges = {
                    sample.labels[1]: sample.value
                    for family in gateway.metrics.collect()
                    if family.name == "penstock_hedges_total"
                    for sample in family.samples
                }
                return Seen(answer, outcomes(gateway), upstreams, hedges)
        finally:
            for each in upstreams:
                await each.__aexit__(None, None, None)

    return asyncio.run(main())


def times_late(monkeypatch):
    """A list that grows each time when a first token is late, and it is looked whether it can be asked for again."""
    late, times = Hedge._late, []

    def noted(hedge):
        times.append(hedge)
        late(hedge)

    monkeypatch.setattr(Hedge, "_late", noted)
    return times


SILENT = [[Step.REQUEST, Step.GONE]]


def test_the_second_answers_and_the_first_is_hung_up_on():
    seen = run([SILENT, [[Step.REQUEST, told("second")]]])
    assert b"second" in seen.answer.body
    assert seen.answer.body.count(b"[DONE]") == 1
    assert seen.rows == [("up0", Outcome.HEDGED_AWAY), ("up1", Outcome.COMPLETED)]
    assert seen.hedges == {"won": 1}


def test_the_first_answers_after_all_and_the_second_is_hung_up_on():
    async def test(gateway, port, first, second):
        await second.wait_received(b"hello")
        go_on.set()

    go_on = asyncio.Event()
    seen = run([[[Step.REQUEST, go_on, told("first")]], SILENT], test)
    assert b"first" in seen.answer.body
    assert seen.rows == [("up0", Outcome.COMPLETED), ("up1", Outcome.HEDGED_AWAY)]
    assert seen.hedges == {"lost": 1}


def test_what_the_loser_sends_all_the_same_is_counted_and_not_delivered():
    async def test(gateway, port, first, second):
        await second.wait_received(b"hello")
        go_on.set()
        await second.wait_gone()
        too_late.set()

    go_on, too_late = asyncio.Event(), asyncio.Event()
    booked = []

    async def watched(gateway, port, first, second):
        await test(gateway, port, first, second)
        await until(lambda: not gateway.pipeline.productions)
        booked.extend(gateway.recorder.ledger.recent())

    slow_end = [[Step.REQUEST, go_on, STREAM_HEAD + delta("first"), too_late, told("")[len(STREAM_HEAD) :]]]
    late = [[Step.REQUEST, Step.GONE, STREAM_HEAD + delta("much") + delta("too") + delta("late"), Step.CLOSE]]
    seen = run([slow_end, late], watched)
    assert b"first" in seen.answer.body
    assert b"late" not in seen.answer.body
    loser = next(row for row in booked if row.outcome is Outcome.HEDGED_AWAY)
    assert loser.usage.estimated
    assert loser.usage.output_tokens > 0


def test_one_upstream_alone_is_asked_twice_itself():
    seen = run([[[Step.REQUEST, Step.GONE], [Step.REQUEST, told("again")]]])
    assert b"again" in seen.answer.body
    assert seen.rows == [("up0", Outcome.COMPLETED), ("up0", Outcome.HEDGED_AWAY)]


def test_a_candidate_that_is_only_there_for_failures_gets_no_second_calls():
    seen = run(
        [[[Step.REQUEST, Step.GONE], [Step.REQUEST, told("again")]], [[Step.REQUEST, told("reserve")]]],
        weights=(1.0, 0.0),
    )
    assert b"again" in seen.answer.body
    assert seen.upstreams[1].connections == 0


def test_plain_calls_are_not_asked_twice(monkeypatch):
    run_, hedged = Hedge.run, []

    async def noted(hedge):
        hedged.append(hedge)
        await run_(hedge)

    monkeypatch.setattr(Hedge, "run", noted)

    async def test(gateway, port, first, second):
        await first.wait_received(b"hello")
        go_on.set()

    go_on = asyncio.Event()
    body = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    seen = run([[[Step.REQUEST, go_on, plain(body)]], SILENT], test, body=PROMPT)
    assert seen.rows == [("up0", Outcome.COMPLETED)]
    assert not hedged, "so there is no timer"


def test_without_anything_earned_there_is_no_second_call_until_there_is(monkeypatch):
    times = times_late(monkeypatch)

    async def test(gateway, port, first, second):
        hedging = hedging_of(gateway)
        while hedging.withdraw():
            pass
        await first.wait_received(b"hello")
        await until(lambda: len(times) > 3)
        assert second.connections == 0
        for _ in range(40):
            hedging.earn()

    async def spent(gateway, port, first, second):
        # The call may have been hedged before the test could spend what was earned.
        if second.connections == 0:
            await test(gateway, port, first, second)

    seen = run([SILENT, [[Step.REQUEST, told("second")]]], spent)
    assert b"second" in seen.answer.body


def test_a_first_attempt_that_fails_while_the_second_runs_makes_it_the_answer():
    async def test(gateway, port, first, second):
        await second.wait_received(b"hello")
        fail.set()
        await until(lambda: outcomes(gateway))
        go_on.set()

    fail, go_on = asyncio.Event(), asyncio.Event()
    first = [[Step.REQUEST, fail, error("500 Oops")]]
    seen = run([first, [[Step.REQUEST, go_on, told("second")]]], test)
    assert b"second" in seen.answer.body
    assert seen.rows == [("up0", Outcome.FAILED), ("up1", Outcome.COMPLETED)]


def test_a_second_that_fails_does_no_harm():
    async def test(gateway, port, first, second):
        await until(lambda: outcomes(gateway))
        go_on.set()

    go_on = asyncio.Event()
    seen = run([[[Step.REQUEST, go_on, told("first")]], [[Step.REQUEST, error("500 Oops")]]], test)
    assert b"first" in seen.answer.body
    assert seen.rows == [("up0", Outcome.COMPLETED), ("up1", Outcome.FAILED)]
    assert seen.hedges == {"failed": 1}


def test_when_both_fail_the_first_failure_is_told():
    async def test(gateway, port, first, second):
        await second.wait_received(b"hello")
        fail.set()

    fail = asyncio.Event()
    first = [[Step.REQUEST, fail, error("500 Oops", "first")]]
    # Once more as an ordinary candidate, when the first has failed.
    second = [[Step.REQUEST, fail, error("503 Busy", "second"), Step.REQUEST, error("503 Busy", "third")]]
    seen = run([first, second], test)
    assert seen.answer.status in {502, 503}
    assert [outcome for _, outcome in seen.rows] == [Outcome.FAILED] * 3


def test_a_winner_that_breaks_is_a_break_whoever_it_is():
    seen = run([SILENT, [[Step.REQUEST, STREAM_HEAD + delta("half"), Step.RESET]]])
    assert b"half" in seen.answer.body
    assert b"error" in seen.answer.body
    assert b"[DONE]" not in seen.answer.body
    assert seen.rows == [("up0", Outcome.HEDGED_AWAY), ("up1", Outcome.PARTIAL)]


def test_a_caller_who_leaves_ends_both():
    async def test(gateway, port, first, second):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(STREAM))
        await first.wait_received(b"hello")
        await second.wait_received(b"hello")
        writer.close()
        await writer.wait_closed()
        await first.wait_gone()
        await second.wait_gone()

    seen = run([SILENT, SILENT], test, body=None)
    assert seen.rows == [("up0", Outcome.CANCELLED), ("up1", Outcome.CANCELLED)]


def test_an_upstream_without_room_gets_no_second_call(monkeypatch):
    times = times_late(monkeypatch)

    async def test(gateway, port, first, second):
        gate = gateway.pipeline.snapshot.upstreams["up1"].gate
        gate.in_progress += 1  # somebody else's call
        await first.wait_received(b"hello")
        await until(lambda: len(times) > 3)
        assert second.connections == 0
        gate.in_progress -= 1

    async def from_the_start(gateway, port, first, second):
        if second.connections == 0:
            await test(gateway, port, first, second)

    seen = run(
        [SILENT, [[Step.REQUEST, told("second")]]],
        from_the_start,
        upstream={"concurrency": ConcurrencyConfig(limit=1, adaptive=False)},
    )
    assert b"second" in seen.answer.body


@pytest.mark.parametrize("held", [0.0, 0.2])
def test_turns_are_given_back_and_blame_nobody(held):
    clock = FakeClock()

    async def test(gateway, port, first, second):
        gates = [each.gate for each in gateway.pipeline.snapshot.upstreams.values()]
        await until(lambda: len(outcomes(gateway)) == 2)
        assert [gate.in_progress for gate in gates] == [0, 0]
        assert [gate.breakers_open for gate in gates] == [0, 0]

    seen = run(
        [SILENT, [[Step.REQUEST, told("second")]]],
        test,
        clock=clock,
        upstream={
            "concurrency": ConcurrencyConfig(limit=1, adaptive=False),
            "breaker": BreakerConfig(least_calls=1, error_ratio=0.0),
        },
        continuation=ContinuationConfig(attempts=0, hold_back=held),
    )
    assert b"second" in seen.answer.body


def test_the_headers_that_callers_see_are_those_of_the_answer():
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nx-request-id: %b\r\n\r\n")
    early = [[Step.REQUEST, head % b"first", Step.GONE]]
    seen = run([early, [[Step.REQUEST, head % b"second" + told("x")[len(STREAM_HEAD) :]]]])
    assert seen.answer.headers["x-request-id"] == "second"
