"""Upstreams that say themselves that they go away: with their answers, or where they are asked how they are."""

import asyncio

import msgspec
import pytest
from asked_server import Server
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    error,
    on_uvloop,
    plain,
    serving,
    until,
)

from penstock.config.model import (
    BreakerConfig,
    CandidateConfig,
    DepartureConfig,
    ModelConfig,
    RetryConfig,
)
from penstock.testing import FakeClock


def with_two(departure, test, *, spot=None, breaker=None, retry=None):
    """``test(gateway, port, clock, spot, own)``, where spot is asked first."""

    async def main():
        clock = FakeClock()
        async with Server("spot", spot).running() as one, Server("own").running() as two:
            settings = config(
                upstreams={
                    "spot": one.upstream(departure=departure, breaker=breaker),
                    "own": two.upstream(),
                },
                models={
                    "m": ModelConfig(
                        candidates=[
                            CandidateConfig(upstream="spot"),
                            CandidateConfig(upstream="own", weight=0),
                        ]
                    )
                },
                retry=retry or RetryConfig(),
            )
            async with serving(settings, clock) as (gateway, port), asyncio.timeout(60):
                return await test(gateway, port, clock, one, two)

    return on_uvloop(main)


def under_way(gateway):
    """Questions that are."""
    return len(gateway.leaving._probes._asking)


async def asks(gateway, clock, times=1):
    """Let the time for that many questions pass, and wait for their answers."""
    for _ in range(times):
        clock.advance(5.1)
        assert under_way(gateway) == 1
        await until(lambda: not under_way(gateway))


MARKED = plain(COMPLETION, headers=["Penstock-Departing: 30"])
REFUSED = error("503 Service Unavailable", headers=["Penstock-Departing: 0"])


def test_an_answer_may_say_so_and_no_further_call_goes_there():
    async def test(gateway, port, clock, spot, own):
        heard = []
        gateway.leaving.on_heard = lambda *said: heard.append(said)
        first = await call(port, PROMPT)
        second = await call(port, PROMPT)
        clock.advance(20.0)
        assert (
            gateway.pipeline.snapshot.upstreams["spot"].departure.told(clock.now())
            == "it goes away in 10.0 s"
        )
        return first.status, second.json()["id"], spot.calls, own.calls, heard

    found = with_two(DepartureConfig(), test, spot=MARKED)
    assert found == (200, "own", 1, 1, [("spot", 30.0, 300.0)])


def test_a_refusal_that_says_so_is_asked_of_others_at_once_without_a_retry_and_blames_nobody():
    async def test(gateway, port, clock, spot, own):
        answer = await call(port, PROMPT)
        gate = gateway.pipeline.snapshot.upstreams["spot"].gate
        rows = [row.error for row in gateway.recorder.ledger.recent()]
        return answer.json()["id"], spot.calls, own.calls, gate.breakers_open, rows

    poor = RetryConfig(first_delay=0.0, budget_floor=0, budget_ratio=0.0)
    breaker = BreakerConfig(least_calls=1, error_ratio=0.01)
    found = with_two(DepartureConfig(), test, spot=REFUSED, breaker=breaker, retry=poor)
    assert found == ("own", 1, 1, 0, ["", "upstream_leaving"])


def test_where_nobody_listens_for_it_it_says_nothing():
    async def test(gateway, port, clock, spot, own):
        await call(port, PROMPT)
        await call(port, PROMPT)
        return spot.calls, own.calls

    assert with_two(None, test, spot=MARKED) == (2, 0)


def test_a_stream_is_delivered_whole_though_its_head_says_so():
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nx-going: true\r\n\r\n")

    async def test(gateway, port, clock, spot, own):
        answer = await call(port, {**PROMPT, "stream": True})
        return answer.body.count(b"hi"), gateway.pipeline.snapshot.upstreams["spot"].departure is not None

    stream = head + delta("hi") + delta("", "stop") + DONE + STREAM_END
    assert with_two(DepartureConfig(header="X-Going"), test, spot=stream) == (1, True)


def test_it_is_tried_again_when_what_it_said_has_lapsed():
    async def test(gateway, port, clock, spot, own):
        await call(port, PROMPT)
        spot.answer = plain(COMPLETION)
        clock.advance(89.0)
        await call(port, PROMPT)
        before = spot.calls
        clock.advance(2.0)
        await call(port, PROMPT)
        return before, spot.calls

    assert with_two(DepartureConfig(holds=60.0), test, spot=MARKED) == (1, 2)


def test_who_answers_503_where_it_is_asked_gets_no_calls_until_it_is_there_again():
    async def test(gateway, port, clock, spot, own):
        back = []
        gateway.leaving.on_back = back.append
        await asks(gateway, clock)
        await call(port, PROMPT)
        spot.health = error("503 Service Unavailable")
        await asks(gateway, clock, 2)
        await call(port, PROMPT)
        spot.health = error("500 Broken")  # says nothing
        await asks(gateway, clock)
        await call(port, PROMPT)
        spot.health = plain({})
        await asks(gateway, clock)
        await call(port, PROMPT)
        return spot.calls, own.calls, back

    assert with_two(DepartureConfig(probe="/health"), test) == (2, 2, ["spot"])


def test_a_503_to_a_call_has_it_asked_at_once():
    async def test(gateway, port, clock, spot, own):
        await asks(gateway, clock)
        before = spot.asked
        spot.health = error("503 Service Unavailable")
        calling = asyncio.ensure_future(call(port, PROMPT))
        upstream = gateway.pipeline.snapshot.upstreams["spot"]
        await until(lambda: upstream.herald.is_asked_soon)
        clock.advance(0.3)
        await until(lambda: spot.asked > before)
        await until(lambda: gateway.pipeline.snapshot.upstreams["spot"].departure is not None)
        return (await calling).json()["id"]

    slow = RetryConfig(first_delay=0.0, attempts=2)
    found = with_two(
        DepartureConfig(probe="/health", every=1_000.0),
        test,
        spot=error("503 Service Unavailable"),
        retry=slow,
    )
    assert found == "own"


def test_until_its_moment_has_passed_it_does_not_count_that_it_is_there():
    async def test(gateway, port, clock, spot, own):
        await call(port, PROMPT)  # says: in 30 s
        await asks(gateway, clock, 3)
        before = gateway.pipeline.snapshot.upstreams["spot"].departure is not None
        clock.advance(20.0)
        await asks(gateway, clock)
        return before, gateway.pipeline.snapshot.upstreams["spot"].departure is None

    assert with_two(DepartureConfig(probe="/health"), test, spot=MARKED) == (True, True)


def test_what_was_announced_counts_more_than_what_it_says_of_itself():
    async def test(gateway, port, clock, spot, own):
        gateway.leaving.announce("spot", None)
        await asks(gateway, clock, 2)
        await call(port, PROMPT)
        return spot.calls, own.calls

    assert with_two(DepartureConfig(probe="/health"), test) == (0, 1)


def test_a_server_that_is_gone_or_has_no_such_path_says_nothing(caplog):
    async def test(gateway, port, clock, spot, own):
        spot.health = error("404 Not Found")
        await asks(gateway, clock, 2)
        spot.health = b"HTTP/1.1 nonsense\r\n\r\n"
        await asks(gateway, clock, 2)
        return gateway.pipeline.snapshot.upstreams["spot"].departure

    with caplog.at_level("WARNING", "penstock.gateway"):
        assert with_two(DepartureConfig(probe="/health"), test) is None
    assert [line for line in caplog.messages if "404" in line] == [
        "upstream spot answers its probe, /health, with 404: that says nothing of how it is"
    ]


@pytest.mark.parametrize("drops", [True, False])
def test_a_reload_begins_and_ends_the_questions(drops):
    async def test(gateway, port, clock, spot, own):
        present = gateway.pipeline.snapshot.config
        departure = None if drops else DepartureConfig(probe="/health", every=2.0)
        changed = {**present.upstreams, "spot": spot.upstream(departure=departure)}
        gateway.reload(msgspec.structs.replace(present, upstreams=changed))
        clock.advance(5.1)
        return under_way(gateway)

    first = DepartureConfig(probe="/health") if drops else None
    assert with_two(first, test) == (0 if drops else 1)
