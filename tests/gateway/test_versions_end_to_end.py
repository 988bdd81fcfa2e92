"""Versions behind one name, with real simulators: who answers whom, and what callers notice of a trial."""

from __future__ import annotations

import asyncio
import collections

import msgspec
import pytest
from serving import call, config, serving

from penstock.config.keys import hash_key, new_key
from penstock.config.model import (
    CanaryConfig,
    CandidateConfig,
    KeyConfig,
    ModelConfig,
    RetryConfig,
    VersionsConfig,
)
from penstock.testing import SimulatorProcess


@pytest.fixture(scope="module")
def old():
    with SimulatorProcess() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def new():
    with SimulatorProcess() as simulator:
        yield simulator


def settings(old, new, *, scenario="", canary=True, **more):
    """``m`` of two versions; the new one does what its name at the simulator says."""
    # What a busy machine does to the times of few calls is none of the versions' fault.
    canary_config = CanaryConfig(version="2", steps=[0.5], least_calls=20, most_calls=60, slower=None)
    model = ModelConfig(
        candidates=[
            CandidateConfig(upstream="up0", model="sim", version="1"),
            CandidateConfig(upstream="up1", model=f"sim:{scenario}" if scenario else "sim", version="2"),
        ],
        canary=canary_config if canary else None,
    )
    whole = config(old.url, new.url, kind="sim", retry=RetryConfig(attempts=1), **more)
    return msgspec.structs.replace(whole, models={"m": model}, versions=VersionsConfig(path=""))


def asked(number, model="m", *, stream=True, **more):
    return {
        "model": model,
        "stream": stream,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": f"question {number}"}],
        **more,
    }


def run(configured, talk):
    """What ``talk(port, gateway)`` comes to, and who was asked, with how it ended."""

    async def main():
        async with serving(configured) as (gateway, port):
            found = await talk(port, gateway)
            rows = gateway.recorder.ledger.recent(10_000)
            return found, collections.Counter((row.upstream, row.outcome.value) for row in rows)

    return asyncio.run(main())


def trial_of(gateway):
    (told,) = gateway.state()["versions"]
    return told


@pytest.mark.parametrize("scenario", ["500", "404", "reset-before-headers"])
def test_callers_do_not_notice_a_version_that_fails_and_it_is_soon_gone(old, new, scenario):
    async def talk(port, gateway):
        answers = [await call(port, asked(number)) for number in range(120)]
        assert {answer.status for answer in answers} == {200}
        while trial_of(gateway)["phase"] == "trial":  # the file is gone to at the next sweep
            await asyncio.sleep(0.01)
        return trial_of(gateway)

    told, went = run(settings(old, new, scenario=scenario), talk)
    assert told["phase"] == "rolled_back"
    assert sum(calls for (upstream, _), calls in went.items() if upstream == "up1") == 10
    assert went["up0", "completed"] == 120


def test_where_both_fail_the_new_version_stays_on_trial(old, new):
    configured = settings(old, new, scenario="500")
    models = {"m": configured.models["m"]}
    models["m"] = msgspec.structs.replace(
        models["m"],
        candidates=[msgspec.structs.replace(each, model="sim:500") for each in models["m"].candidates],
    )

    async def talk(port, gateway):
        answers = [await call(port, asked(number)) for number in range(60)]
        assert {answer.status for answer in answers} == {502}
        return trial_of(gateway)["phase"]

    phase, went = run(msgspec.structs.replace(configured, models=models), talk)
    assert phase == "trial"
    assert went["up1", "failed"] > 10


def test_a_version_that_is_as_good_is_promoted_and_gets_all_calls(old, new):
    async def talk(port, gateway):
        number = 0
        while trial_of(gateway)["phase"] == "trial" and number < 2_000:
            answers = await asyncio.gather(*(call(port, asked(number + more)) for more in range(8)))
            assert {answer.status for answer in answers} == {200}
            number += 8
        told = trial_of(gateway)
        before = new.bill()["requests"]
        for more in range(10):
            await call(port, asked(number + more))
        return told, new.bill()["requests"] - before

    (told, after), _ = run(settings(old, new), talk)
    assert told["phase"] == "promoted"
    assert after == 10


def test_a_stream_that_breaks_is_ended_by_the_version_that_began_it(old, new):
    """The new version breaks every stream after three tokens, and cannot go on; the other one could."""

    async def talk(port, gateway):
        answers = [await call(port, asked(number, "m@2")) for number in range(3)]
        drawn = [await call(port, asked(number)) for number in range(8)]
        return [b"error" in answer.body for answer in answers], [b"[DONE]" in answer.body for answer in drawn]

    (named, drawn), went = run(settings(old, new, scenario="cut-after=3,no-prefill"), talk)
    assert named == [True] * 3
    assert drawn.count(True) == went["up0", "completed"]
    assert not went["up0", "continued"]


def test_a_caller_gets_the_version_that_it_names_and_no_other(old, new):
    async def talk(port, gateway):
        found = {}
        for name, headers in (("m@1", ()), ("m@2", ()), ("m", ("penstock-version: 1",)), ("m@3", ())):
            answers = [await call(port, asked(number, name), headers=headers) for number in range(5)]
            found[name, headers] = [answer.status for answer in answers]
        wrong = await call(port, asked(0), headers=("penstock-version: 3",))
        return found, wrong.status, wrong.json()["error"]["code"]

    for canary in (True, False):
        (found, status, code), went = run(settings(old, new, scenario="500", canary=canary), talk)
        assert list(found.values()) == [[200] * 5, [502] * 5, [200] * 5, [404] * 5]
        assert (status, code) == (404, "model_not_found")
        assert went == {("up0", "completed"): 10, ("up1", "failed"): 5}


def test_a_key_for_one_version_sees_that_and_not_the_model(old, new):
    async def talk(port, gateway):
        bearer = ("authorization: Bearer secret",)
        listed = await call(port, b"", "/v1/models", "GET", headers=bearer)
        shown = await call(port, b"", "/v1/models/m@1", "GET", headers=bearer)
        answers = [await call(port, asked(0, name), headers=bearer) for name in ("m", "m@1")]
        return (
            [model["id"] for model in listed.json()["data"]],
            shown.status,
            [each.status for each in answers],
        )

    key = KeyConfig(name="k", hash=hash_key("secret"), models=["m@1", "m@3", "m@?"])
    found, _ = run(settings(old, new, canary=False, keys=[key]), talk)
    assert found == (["m@1"], 200, [403, 200])


def test_calls_that_name_a_version_do_not_count_for_the_trial(old, new):
    async def talk(port, gateway):
        for number in range(30):
            await call(port, asked(number, "m@2"))
        return trial_of(gateway)

    told, _ = run(settings(old, new, scenario="500"), talk)
    assert (told["phase"], told["calls"]["new"]) == ("trial", 0)


def test_the_same_question_to_two_versions_is_two_questions(old, new):
    """Neither a key nor a retry, nor one that is under way, leads to the other version's answer."""

    async def talk(port, gateway):
        body = asked(1, temperature=0)
        both = await asyncio.gather(
            *(call(port, body, headers=(f"penstock-version: {version}",)) for version in "12")
        )
        keyed = [
            await call(port, body, headers=(f"penstock-version: {version}", "idempotency-key: k"))
            for version in "12"
        ]
        return [answer.headers["penstock-status"] for answer in both], [answer.status for answer in keyed]

    (statuses, keyed), _ = run(settings(old, new), talk)
    assert statuses == ["created", "created"]
    assert keyed == [200, 422]


def test_a_key_may_name_the_versions_that_it_is_allowed_to(old, new):
    keys = {name: new_key() for name in ("all", "plain", "one")}
    models = {"all": [], "plain": ["m"], "one": ["m", "m@1"]}
    configured = [KeyConfig(name=name, hash=hash_key(key), models=models[name]) for name, key in keys.items()]

    async def talk(port, gateway):
        found = {}
        for name, key in keys.items():
            headers = (f"authorization: Bearer {key}",)
            asking = [call(port, asked(0, model), headers=headers) for model in ("m", "m@1", "m@2")]
            found[name] = [(await one).status for one in asking]
        return found

    found, _ = run(settings(old, new, keys=configured), talk)
    assert found == {"all": [200, 200, 200], "plain": [200, 403, 403], "one": [200, 200, 403]}


def test_a_conversation_keeps_to_its_version(old, new):
    configured = settings(old, new)
    model = configured.models["m"]
    models = {
        "m": msgspec.structs.replace(model, canary=msgspec.structs.replace(model.canary, sticky="session"))
    }

    async def talk(port, gateway):
        for session in range(12):
            for turn in range(3):
                await call(port, asked(turn), headers=(f"penstock-session: {session}",))
        rows = gateway.recorder.ledger.recent(100)[::-1]
        return [{row.upstream for row in rows[first : first + 3]} for first in range(0, 36, 3)]

    versions, _ = run(msgspec.structs.replace(configured, models=models), talk)
    assert all(len(each) == 1 for each in versions)
    assert len(set.union(*versions)) == 2


def test_a_configuration_without_the_version_ends_the_trial(old, new):
    configured = settings(old, new, scenario="500")

    async def talk(port, gateway):
        await call(port, asked(0))
        model = configured.models["m"]
        without = msgspec.structs.replace(model, candidates=model.candidates[:1], canary=None)
        gateway.reload(msgspec.structs.replace(configured, models={"m": without}))
        answers = [await call(port, asked(number)) for number in range(10)]
        named = await call(port, asked(0, "m@2"))
        return {answer.status for answer in answers}, named.status, gateway.state()["versions"]

    assert run(configured, talk)[0] == ({200}, 404, [])
