"""Queue, deadlines, breakers and a provider's own limits, as a caller meets them."""

import asyncio
import hashlib

import msgspec
import pytest
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
    plain,
    request,
    serving,
    until,
)

from penstock.config.model import BreakerConfig, ConcurrencyConfig, KeyConfig, RetryConfig, TierConfig
from penstock.config.secret import Secret
from penstock.messages import Outcome
from penstock.testing import FakeClock, ScriptedUpstream, Step

ONCE = RetryConfig(attempts=1, first_delay=0.0)
TIERS = {"realtime": TierConfig(priority=10), "standard": TierConfig(), "batch": TierConfig(priority=-10)}


def gated(*urls, breaker=None, api_key=None, **more):
    """A configuration whose upstreams have a gate."""
    settings = {"limit": 1, "adaptive": False, **more.pop("concurrency", {})}
    whole = config(*urls, **{"retry": ONCE, **more})
    upstreams = {
        name: msgspec.structs.replace(
            upstream, concurrency=ConcurrencyConfig(**settings), breaker=breaker, api_key=api_key
        )
        for name, upstream in whole.upstreams.items()
    }
    return msgspec.structs.replace(whole, upstreams=upstreams)


def waiting(gateway, upstream="up0"):
    return len(gateway.pipeline.snapshot.upstreams[upstream].gate.queue)


def idle(gateway):
    gates = [upstream.gate for upstream in gateway.pipeline.snapshot.upstreams.values()]
    return all(gate.in_progress == len(gate.queue) == 0 for gate in gates)


def answering(*answers):
    return [step for answer in answers for step in (Step.REQUEST, answer)]


def run(scripts, test, clock=None, **more):
    """``test(gateway, port, *upstreams)`` on a gateway over one upstream per list of scripts."""

    async def main():
        upstreams = [ScriptedUpstream(script) for script in scripts]
        for upstream in upstreams:
            await upstream.__aenter__()
        try:
            settings = gated(*(upstream.url for upstream in upstreams), **more)
            async with serving(settings, clock) as (gateway, port):
                result = await test(gateway, port, *upstreams)
                await until(lambda: idle(gateway))
                return result
        finally:
            for upstream in upstreams:
                await upstream.__aexit__(None, None, None)

    return asyncio.run(main())


def test_calls_wait_for_their_turn_and_each_is_answered():
    async def test(gateway, port, upstream):
        calls = [asyncio.ensure_future(call(port, PROMPT)) for _ in range(5)]
        answers = await asyncio.gather(*calls)
        counts = {
            sample.labels[2]: sample.value
            for family in gateway.metrics.collect()
            if family.name == "penstock_turns_total"
            for sample in family.samples
        }
        return [answer.status for answer in answers], upstream.connections, counts

    statuses, connections, counts = run([[answering(*[plain(COMPLETION)] * 5)]], test)
    assert (statuses, connections) == ([200] * 5, 1)
    assert counts == {"passed": 1, "waited": 4}


def test_who_leaves_while_waiting_leaves_the_queue_and_costs_nothing():
    async def test(gateway, port, upstream):
        first = asyncio.ensure_future(call(port, PROMPT))
        await upstream.wait_received(b"hello")
        second = asyncio.ensure_future(call(port, PROMPT))
        await until(lambda: waiting(gateway) == 1)
        second.cancel()
        await until(lambda: waiting(gateway) == 0)
        go_on.set()
        answer = await first
        await until(lambda: not gateway.pipeline.productions)
        return answer.status, [
            (row.outcome, row.usage.input_tokens) for row in gateway.recorder.ledger.recent()
        ]

    go_on = asyncio.Event()
    status, rows = run([[[Step.REQUEST, go_on, plain(COMPLETION)]]], test)
    assert status == 200
    assert sorted(rows, key=str) == [(Outcome.CANCELLED, 0), (Outcome.COMPLETED, 3)]


def test_a_stream_that_waits_is_kept_alive():
    async def test(gateway, port, upstream):
        first = asyncio.ensure_future(call(port, PROMPT))
        await upstream.wait_received(b"hello")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request({**PROMPT, "stream": True}))
        await until(lambda: waiting(gateway) == 1)
        clock.advance(16)
        await reader.readuntil(b": hb\n")
        go_on.set()
        await first
        rest = await reader.readuntil(b"[DONE]")
        writer.close()
        await writer.wait_closed()
        return rest

    clock = FakeClock()
    go_on = asyncio.Event()
    stream = STREAM_HEAD + delta("a", "stop") + DONE + STREAM_END
    script = [Step.REQUEST, go_on, plain(COMPLETION), Step.REQUEST, stream]
    assert b'"a"' in run([[script]], test, clock)


@pytest.mark.parametrize("deadline", ["-1", "0", "-inf", "1000000001"])
def test_a_deadline_in_the_past_is_refused_and_no_upstream_is_asked(deadline):
    async def test(gateway, port, upstream):
        return await call(port, PROMPT, headers=[f"penstock-deadline: {deadline}"]), upstream.connections

    clock = FakeClock()

    async def later(gateway, port, upstream):
        clock.advance(0.0)
        answer, connections = await test(gateway, port, upstream)
        return answer, connections

    answer, connections = run([[answering(plain(COMPLETION))]], later, clock if deadline != "0" else None)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "deadline_unreachable")
    assert int(answer.headers["retry-after-ms"]) > 0
    assert connections == 0


@pytest.mark.parametrize("deadline", ["soon", "nan", "", "1e", "٣".encode().decode("latin-1")])
def test_a_deadline_that_is_none_is_the_callers_mistake(deadline):
    async def test(gateway, port, upstream):
        return await call(port, PROMPT, headers=[f"penstock-deadline: {deadline}"])

    answer = run([[answering(plain(COMPLETION))]], test)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "Penstock-Deadline")


@pytest.mark.parametrize("patience", ["not given", "-3", "nan", "0", "1e400"])
def test_an_sdks_header_that_makes_no_sense_means_nothing(patience):
    async def test(gateway, port, upstream):
        return await call(port, PROMPT, headers=[f"x-stainless-read-timeout: {patience}"])

    assert run([[answering(plain(COMPLETION))]], test).status == 200


def test_one_that_the_sdk_would_give_up_is_told_before():
    async def test(gateway, port, upstream):
        first = asyncio.ensure_future(call(port, PROMPT))
        await upstream.wait_received(b"hello")
        second = asyncio.ensure_future(call(port, PROMPT, headers=["x-stainless-read-timeout: 5.0"]))
        await until(lambda: waiting(gateway) == 1)
        clock.advance(5.1)
        answer = await second
        go_on.set()
        await first
        return answer

    clock = FakeClock()
    go_on = asyncio.Event()
    answer = run([[[Step.REQUEST, go_on, plain(COMPLETION)]]], test, clock)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "deadline_unreachable")


def test_a_higher_tier_goes_first_and_a_full_queue_evicts_the_lowest():
    async def test(gateway, port, upstream):
        def as_tier(tier):
            headers = [f"authorization: Bearer {tier}"]
            return asyncio.ensure_future(call(port, {**PROMPT, "user": tier}, headers=headers))

        first = as_tier("standard")
        await upstream.wait_received(b"hello")
        batch = as_tier("batch")
        await until(lambda: waiting(gateway) == 1)
        standard = as_tier("standard")
        await until(lambda: waiting(gateway) == 2)
        realtime = as_tier("realtime")
        evicted = await batch
        refused = await as_tier("batch")
        go_on.set()
        answers = await asyncio.gather(first, standard, realtime)
        return evicted, refused, [answer.status for answer in answers], upstream.received[0]

    go_on = asyncio.Event()
    script = [Step.REQUEST, go_on, plain(COMPLETION), *answering(plain(COMPLETION), plain(COMPLETION))]
    keys = [
        KeyConfig(name=tier, hash="sha256:" + hashlib.sha256(tier.encode()).hexdigest(), tier=tier)
        for tier in TIERS
    ]
    evicted, refused, statuses, sent = run(
        [[script]], test, concurrency={"max_waiting": 2}, keys=keys, tiers=TIERS
    )
    assert (evicted.status, evicted.json()["error"]["code"]) == (503, "evicted")
    assert (refused.status, refused.json()["error"]["code"]) == (503, "overloaded")
    assert statuses == [200, 200, 200]
    assert sent.index(b"realtime") < sent.rindex(b"standard")
    assert b"batch" not in sent


# ---- breakers ----

BREAKER = BreakerConfig(least_calls=4, probes=1, slow_first_token=1.0)


def test_a_call_that_the_provider_forbids_takes_its_upstream_from_nobody_else():
    """Anybody can write what a provider's moderation or firewall stops; a key that is not accepted is everybody's."""
    flagged = error("403 Forbidden", "Your input was flagged")
    unknown = error("401 Unauthorized", "Incorrect API key provided")
    well = plain(COMPLETION)

    async def test(gateway, port, first, second):
        return [(await call(port, PROMPT)).status for _ in range(4)], [
            row.upstream for row in reversed(gateway.recorder.ledger.recent())
        ]

    scripts = [[answering(flagged, well, unknown, well)], [answering(*[well] * 9)]]
    statuses, asked = run(scripts, test, FakeClock(), breaker=BREAKER, api_key=Secret("k"))
    assert statuses == [200] * 4
    assert asked == ["up0", "up1", "up0", "up0", "up1", "up1"]


def test_an_upstream_that_fails_is_left_in_peace_and_asked_again_later():
    async def test(gateway, port, bad, good):
        statuses = [(await call(port, PROMPT)).status for _ in range(10)]
        asked = bad.received[0].count(b"POST")
        clock.advance(5.0)
        statuses += [(await call(port, PROMPT)).status for _ in range(3)]
        return statuses, asked, bad.received[0].count(b"POST")

    clock = FakeClock()
    bad = answering(*[error("500 no")] * 4, *[plain(COMPLETION)] * 9)
    statuses, asked, later = run(
        [[bad], [answering(*[plain(COMPLETION)] * 10)]], test, clock, breaker=BREAKER
    )
    assert statuses == [200] * 13
    assert (asked, later) == (4, 7)


def test_the_last_one_standing_is_tried_and_what_is_too_much_is_told_to_wait():
    async def test(gateway, port, upstream):
        failures = [(await call(port, PROMPT)).status for _ in range(6)]
        probe = asyncio.ensure_future(call(port, PROMPT))
        await until(lambda: upstream.received[0].count(b"POST") == 7)
        refused = await call(port, PROMPT)
        go_on.set()
        well = await probe
        return failures, refused, well.status, (await call(port, PROMPT)).status

    go_on = asyncio.Event()
    script = [
        *answering(*[error("500 no")] * 6),
        Step.REQUEST,
        go_on,
        plain(COMPLETION),
        *answering(plain(COMPLETION)),
    ]
    failures, refused, well, after = run(
        [[script]], test, FakeClock(), breaker=BREAKER, concurrency={"limit": 9}
    )
    assert failures == [502] * 6
    assert (refused.status, refused.json()["error"]["code"]) == (503, "breaker_open")
    assert refused.headers["retry-after"] == "5"
    assert (well, after) == (200, 200)


def test_a_retry_at_the_only_candidate_is_a_probe_and_what_it_says_is_what_the_caller_gets():
    async def test(gateway, port, upstream):
        return [(await call(port, PROMPT)).status for _ in range(3)]

    twice = RetryConfig(attempts=2, first_delay=0.0)
    script = [*answering(*[error("500 no")] * 5), *answering(plain(COMPLETION))]
    assert run([[script]], test, FakeClock(), breaker=BREAKER, retry=twice) == [502, 502, 200]


def test_slow_first_tokens_open_it_as_the_rule_says():
    """90 % of the calls slower than a second, 5 s open, then half-open: on the gateway's own clock."""

    async def test(gateway, port, upstream):
        for _ in range(4):
            calling = asyncio.ensure_future(call(port, {**PROMPT, "stream": True}))
            await until(lambda: gateway.pipeline.snapshot.upstreams["up0"].gate.in_progress == 1)
            await asyncio.sleep(0)
            await until(lambda: upstream.received and upstream.received[0].count(b"POST") == asked[0] + 1)
            asked[0] += 1
            clock.advance(1.5)
            events[asked[0] - 1].set()
            await calling
        gate = gateway.pipeline.snapshot.upstreams["up0"].gate
        return gate.open_for("m", clock.now())

    clock = FakeClock()
    asked = [0]
    events = [asyncio.Event() for _ in range(4)]
    stream = STREAM_HEAD + delta("a", "stop") + DONE + STREAM_END
    script = [step for event in events for step in (Step.REQUEST, event, stream)]
    assert run([[script]], test, clock, breaker=BREAKER) == 5.0


# ---- the provider's own limits ----


def limited(left, **more):
    fields = {"limit": 60, "remaining": left, **more}
    return [f"x-ratelimit-{name}-requests: {value}" for name, value in fields.items()]


def test_calls_wait_here_for_the_providers_bucket():
    async def test(gateway, port, upstream):
        await call(port, PROMPT)
        second = asyncio.ensure_future(call(port, PROMPT))
        await until(lambda: waiting(gateway) == 1)
        clock.advance(0.5)
        still = waiting(gateway)
        clock.advance(2.0)
        return still, (await second).status

    clock = FakeClock()
    answers = [plain(COMPLETION, headers=limited(0)), plain(COMPLETION, headers=limited(50))]
    assert run([[answering(*answers)]], test, clock, concurrency={"limit": 9}) == (1, 200)


def test_a_rate_429_goes_to_the_next_candidate_and_its_upstream_rests():
    async def test(gateway, port, first, second):
        statuses = [(await call(port, PROMPT)).status]
        waits = asyncio.ensure_future(call(port, PROMPT))
        await until(lambda: waiting(gateway) == 1)
        clock.advance(2.1)
        statuses.append((await waits).status)
        return statuses, first.received[0].count(b"POST"), second.received[0].count(b"POST")

    clock = FakeClock()
    script = answering(error("429 no", headers=["retry-after: 2"]), plain(COMPLETION))
    result = run([[script], [answering(plain(COMPLETION))]], test, clock, concurrency={"limit": 9})
    assert result == ([200, 200], 2, 1)


@pytest.mark.parametrize(
    ("answer", "lower"),
    [
        (error("529 Overloaded"), True),
        (error("503 Busy"), True),
        (error("429 no", "the engine is overloaded"), True),
        (error("429 no", "slow down", limited(30)), False),  # of tokens it says nothing
        (error("429 no", "slow down", ["retry-after: 1"]), False),
    ],
)
def test_too_much_at_once_is_told_from_too_much_in_a_minute(answer, lower):
    async def test(gateway, port, upstream):
        await call(port, PROMPT)
        return gateway.pipeline.snapshot.upstreams["up0"].gate.limit.value < 8

    concurrency = {"limit": 8, "adaptive": True}
    assert run([[answering(answer)]], test, FakeClock(), concurrency=concurrency) is lower


# ---- whose key it was ----

AMYS, BOBS = ["authorization: Bearer amys"], ["authorization: Bearer bobs"]


def shared_state(gateway):
    """What all calls to the upstream go by: the concurrency, whether it has told rates, whether it is doubted."""
    gate = gateway.pipeline.snapshot.upstreams["up0"].gate
    return gate.limit.value, gate.provider.has_spoken, gate.is_doubted


@pytest.mark.parametrize(
    ("refused", "status", "words"),
    [
        (error("429 no", "slow down", ["retry-after: 60"]), 429, "slow down"),
        (error("429 no", "slow down", limited(0, reset="60s")), 429, "slow down"),
        (error("401 no", "Incorrect API key"), 401, "Incorrect API key"),
        (error("403 no", "Incorrect API key"), 403, "Incorrect API key"),
        (error("402 no", "Insufficient Balance"), 402, "Insufficient Balance"),
        (error("400 no", "Your credit balance is too low"), 400, "Your credit balance is too low"),
        (error("429 no", "Insufficient balance"), 429, "Insufficient balance"),
    ],
)
def test_what_is_wrong_with_a_callers_own_key_is_the_callers_alone(refused, status, words):
    async def test(gateway, port, upstream):
        answers = [await call(port, PROMPT, headers=AMYS) for _ in range(2)]
        learnt = shared_state(gateway)
        other = await call(port, PROMPT, headers=BOBS)
        assert [answer.status for answer in answers] == [status] * 2
        assert all(words in answer.json()["error"]["message"] for answer in answers)
        assert "gateway" not in answers[0].json()["error"]["message"]
        return learnt, other.status

    scripts = [[answering(refused, refused, plain(COMPLETION))]]
    concurrency = {"limit": 8, "adaptive": True}
    learnt, other = run(scripts, test, FakeClock(), concurrency=concurrency, breaker=BreakerConfig())
    assert (learnt, other) == ((8, False, False), 200)


def test_what_a_provider_tells_of_a_callers_own_rate_holds_nobody_else_up():
    async def test(gateway, port, upstream):
        answers = [await call(port, PROMPT, headers=key) for key in (AMYS, BOBS, AMYS)]
        return [answer.status for answer in answers], shared_state(gateway)[1]

    answers = [plain(COMPLETION, headers=limited(0))] * 3
    assert run([[answering(*answers)]], test, FakeClock(), concurrency={"limit": 9}) == ([200] * 3, False)


@pytest.mark.parametrize("status", ["529 Overloaded", "503 Busy", "429 overloaded"])
def test_an_overload_counts_whoevers_key_it_was(status):
    async def test(gateway, port, upstream):
        await call(port, PROMPT, headers=AMYS)
        return shared_state(gateway)[0] < 8

    concurrency = {"limit": 8, "adaptive": True}
    script = answering(error(status, "overloaded"))
    assert run([[script]], test, FakeClock(), concurrency=concurrency)


def test_a_call_that_came_without_a_key_shuts_the_upstream_for_nobody_else():
    async def test(gateway, port, first, second):
        statuses = [(await call(port, PROMPT, headers=key)).status for key in ([], AMYS)]
        return statuses, first.received[0].count(b"POST")

    scripts = [[answering(error("401 no", "no key"), plain(COMPLETION))], [answering(plain(COMPLETION))]]
    assert run(scripts, test, breaker=BreakerConfig()) == ([200, 200], 2)


def test_an_account_without_credit_is_no_rate_and_is_asked_no_second_time():
    async def test(gateway, port, first, second):
        statuses = [(await call(port, PROMPT)).status for _ in range(2)]
        return statuses, first.received[0].count(b"POST"), shared_state(gateway)

    told = {"error": {"message": "see your plan", "type": "insufficient_quota", "code": "insufficient_quota"}}
    scripts = [[answering(plain(told, "429 no"))], [answering(plain(COMPLETION), plain(COMPLETION))]]
    settings = {
        "api_key": Secret("k"),
        "breaker": BreakerConfig(),
        "concurrency": {"limit": 8, "adaptive": True},
        "retry": RetryConfig(attempts=3, first_delay=0.0),
    }
    assert run(scripts, test, FakeClock(), **settings) == ([200, 200], 1, (8, False, True))


# ---- reload ----


def test_calls_that_wait_outlive_a_reload_that_replaces_their_upstream():
    async def test(gateway, port, upstream):
        await call(port, PROMPT)
        second = asyncio.ensure_future(call(port, PROMPT))
        await until(lambda: waiting(gateway) == 1)
        gateway.reload(gated(upstream.url, concurrency={"limit": 3}))
        for _ in range(30):
            clock.advance(0.1)
            await asyncio.sleep(0)
        answer = await second
        clock.advance(0.1)
        return answer.status, len(gateway.clock._sweepables)

    clock = FakeClock()
    answers = [plain(COMPLETION, headers=limited(0)), plain(COMPLETION)]
    status, swept = run([[answering(*answers)]], test, clock, concurrency={"limit": 9})
    assert status == 200
    assert swept <= 8  # the old upstream and its pool are not looked after any more


def test_new_tiers_hold_for_an_upstream_that_stays():
    async def test(gateway, port, upstream):
        gate = gateway.pipeline.snapshot.upstreams["up0"].gate
        gateway.reload(gated(upstream.url, tiers=TIERS))
        return gate is gateway.pipeline.snapshot.upstreams["up0"].gate, gate.tiers

    assert run([[answering(plain(COMPLETION))]], test) == (True, TIERS)
