"""Calls that are asked again of another version: what callers notice of it (nothing), and what is compared."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from serving import COMPLETION, call, config, on_uvloop, plain, serving, until

from penstock.config.model import CandidateConfig, ConcurrencyConfig, ModelConfig, ShadowConfig
from penstock.gateway.beside import shadow
from penstock.gateway.beside.shadow import SHADOW, similarity
from penstock.testing import ScriptedUpstream, SimulatorProcess, Step

ALWAYS = ShadowConfig(version="2", share=1.0, calls_per_minute=6_000.0, usd_per_day=1_000.0)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """What else the machine has to do is no reason to ask nothing."""
    monkeypatch.setattr(shadow, "LATE", float("inf"))


@pytest.fixture(scope="module")
def one():
    with SimulatorProcess() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def other():
    with SimulatorProcess() as simulator:
        yield simulator


def settings(*urls, wanted=ALWAYS, kind="sim", second="sim", **more):
    candidates = [
        CandidateConfig(upstream="up0", model="sim", version="1"),
        CandidateConfig(upstream="up1", model=second, version="2", weight=0),
    ]
    whole = config(*urls, kind=kind, **more)
    return msgspec.structs.replace(whole, models={"m": ModelConfig(candidates=candidates, shadow=wanted)})


def asked(number=0, *, stream=True, **more):
    messages = [{"role": "user", "content": f"question {number}"}]
    return {"model": "m", "stream": stream, "max_tokens": 8, "messages": messages, **more}


def figures(gateway):
    """Of the metrics about shadows: name and labels but model and version, and the value."""
    found = {}
    for family in gateway.metrics.collect():
        if family.name.startswith("penstock_shadow_"):
            for sample in family.samples:
                labels = tuple(sample.labels[2:])
                found[(family.name.removeprefix("penstock_shadow_"), *labels)] = sample
    return found


def outcomes(gateway):
    return {key[1]: sample.value for key, sample in figures(gateway).items() if key[0] == "calls_total"}


def run(configured, talk):
    async def main():
        async with serving(configured) as (gateway, port):
            gateway._shadows._allowances and [
                setattr(each, "_calls", 100.0) for each in gateway._shadows._allowances.values()
            ]
            return await talk(gateway, port)

    return asyncio.run(main())


async def idle(gateway):
    await until(lambda: not gateway._shadows._running)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_compared_with_that_of_the_other_version(one, other, stream):
    async def talk(gateway, port):
        answers = []
        for number in range(4):
            answers.append(await call(port, asked(number, stream=stream)))
            await idle(gateway)
        rows = gateway.recorder.ledger.recent()
        return [answer.status for answer in answers], figures(gateway), outcomes(gateway), rows

    statuses, found, became, rows = run(settings(one.url, other.url), talk)
    assert statuses == [200] * 4
    assert became == {"answered": 4}
    assert found["equal_total",].value == 4  # simulators say the same to the same prompt
    for side in ("caller", "shadow"):
        assert found["figures_total", side, "answers"].value == 4
        assert found["figures_total", side, "output_tokens"].value == 32
        assert found["figures_total", side, "usd"].value > 0
        assert (found["figures_total", side, "first_token_seconds"].value > 0) == stream
    billed = [row for row in rows if row.tenant == SHADOW.name]
    assert {(row.key_name, row.tier, row.upstream) for row in billed} == {("(shadow)", "batch", "up1")}
    assert len(billed) == 4
    assert all(row.cost for row in billed)


def test_a_version_that_fails_or_hangs_is_nothing_to_the_caller(one, other):
    async def talk(gateway, port):
        failing = []
        for number in range(3):
            failing.append((await call(port, asked(number))).status)
            await idle(gateway)
        return failing, outcomes(gateway), gateway.recorder.measures.retries_refused.labels().value

    assert run(settings(one.url, other.url, second="sim:500"), talk) == ([200] * 3, {"failed": 3}, 0)

    async def hanging(gateway, port):
        statuses = [(await call(port, asked(number))).status for number in range(5)]
        return statuses, outcomes(gateway), len(gateway._shadows._running)

    # At the end they are given up, and everything they held has been given back.
    found = run(settings(one.url, other.url, second="sim:no-answer"), hanging)
    assert found == ([200] * 5, {"busy": 3}, ALWAYS.concurrent)


def test_bounds_in_number_and_money(one, other):
    async def talk(gateway, port):
        for each in gateway._shadows._allowances.values():
            each._calls = 2.0
        for number in range(5):
            await call(port, asked(number))
            await idle(gateway)
        return outcomes(gateway)

    few = msgspec.structs.replace(ALWAYS, calls_per_minute=0.001)
    assert run(settings(one.url, other.url, wanted=few), talk)["budget"] >= 4
    poor = msgspec.structs.replace(ALWAYS, usd_per_day=1e-9)
    assert run(settings(one.url, other.url, wanted=poor), talk) == {"answered": 1, "budget": 4}


def test_nothing_is_asked_under_load(one, other, monkeypatch):
    async def talk(gateway, port):
        monkeypatch.setattr(shadow, "LATE", -1.0)
        await call(port, asked())
        late = outcomes(gateway)
        monkeypatch.setattr(shadow, "LATE", float("inf"))
        gate = gateway.pipeline.snapshot.upstreams["up0"].gate
        gate.in_progress += 9
        await call(port, asked(1))
        gate.in_progress -= 9
        return late, outcomes(gateway)

    configured = settings(one.url, other.url)
    upstreams = dict(configured.upstreams)
    upstreams["up0"] = msgspec.structs.replace(
        upstreams["up0"], concurrency=ConcurrencyConfig(limit=10, adaptive=False)
    )
    found = run(msgspec.structs.replace(configured, upstreams=upstreams), talk)
    assert found == ({"busy": 1}, {"busy": 2})


def test_calls_with_effects_for_a_version_or_by_chance_are_not_asked_again(one, other):
    async def talk(gateway, port):
        await call(port, asked(0, store=True))
        await call(port, asked(0) | {"model": "m@1"})
        await call(port, {"model": "m", "input": "text"}, path="/v1/embeddings")
        return outcomes(gateway)

    assert run(settings(one.url, other.url), talk) == {}
    never = msgspec.structs.replace(ALWAYS, share=0.0)

    async def plainly(gateway, port):
        await call(port, asked())
        return outcomes(gateway)

    assert run(settings(one.url, other.url, wanted=never), plainly) == {}


def test_what_is_the_callers_own_does_not_go_along():
    """Neither its key, which would pay for it, nor what would make it a repetition."""

    async def main():
        script = [[Step.REQUEST, plain(COMPLETION)]]
        async with ScriptedUpstream(script) as first, ScriptedUpstream(script) as second:
            async with serving(settings(first.url, second.url, kind="openai")) as (gateway, port):
                headers = ("authorization: Bearer sk-callers", "idempotency-key: k", "openai-beta: b=v1")
                answer = await call(port, asked(stream=False), headers=headers)
                await idle(gateway)
                again = await call(port, asked(stream=False), headers=headers)
                assert (answer.status, again.headers["penstock-status"]) == (200, "replayed")
            assert b"sk-callers" in first.received[0]
            assert b"sk-callers" not in second.received[0]
            assert b"openai-beta: b=v1" in second.received[0].lower()

    on_uvloop(main)


def test_texts_are_alike_by_their_pairs_of_words():
    assert similarity("the same words", "the same words") == 1.0
    assert similarity("nothing of this", "is in that one") == 0.0
    assert 0.5 < similarity("a b c d e f", "a b c d e x") < 1.0
    assert similarity("", "") == 1.0
    assert similarity("some", "") == 0.0
