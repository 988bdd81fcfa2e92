"""Versions that end, as callers meet them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from serving import call, config, serving

from penstock.config.model import CandidateConfig, ModelCacheConfig, ModelConfig
from penstock.config.sunset import began
from penstock.testing import SimulatorProcess

ENDS = "2030-06-01"


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess() as running:
        yield running


def asked(model="m", *, stream=False):
    return {
        "model": model,
        "stream": stream,
        "temperature": 0,
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "hi"}],
    }


def answers(simulator, bodies, *, today, only=False, **more):
    """What callers get on a day, of a model whose version ``old`` ends."""
    old = CandidateConfig(upstream="up0", model="sim", version="old", deprecated="2030-01-01", sunset=ENDS)
    new = CandidateConfig(upstream="up1", model="sim", version="new", weight=0)
    model = ModelConfig(candidates=[old] if only else [old, new], **more)
    spare = ModelConfig(candidates=[CandidateConfig(upstream="up1", model="sim")])
    whole = msgspec.structs.replace(
        config(simulator.url, simulator.url, kind="sim"), models={"m": model, "spare": spare}
    )

    async def main():
        async with serving(whole) as (gateway, port):
            gateway.pipeline.snapshot.router._now = lambda: began(today)
            found = [await call(port, body) for body in bodies]
            rows = gateway.recorder.ledger.recent()[::-1]
            return found, [row.upstream for row in rows if row.outcome.value == "completed"]

    return asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_until_then_its_callers_are_told(simulator, stream):
    bodies = [asked(stream=stream), asked("m@new", stream=stream)]
    (old, new), went = answers(simulator, bodies, today="2030-05-31")
    assert old.headers["deprecation"] == "@1893456000"
    assert old.headers["sunset"] == "Sat, 01 Jun 2030 00:00:00 GMT"
    assert "sunset" not in new.headers
    assert went == ["up0", "up1"]


def test_a_kept_answer_tells_it_too(simulator):
    (_, again), _ = answers(simulator, [asked()] * 2, today="2030-05-31", cache=ModelCacheConfig())
    assert again.headers["penstock-status"] == "cached"
    assert again.headers["sunset"] == "Sat, 01 Jun 2030 00:00:00 GMT"


def test_from_then_on_the_others_answer(simulator):
    found, went = answers(simulator, [asked(), asked("m@old"), asked("m@new")], today=ENDS)
    assert [answer.status for answer in found] == [200] * 3
    assert went == ["up1"] * 3
    assert all("sunset" not in answer.headers for answer in found)


def test_where_it_is_refused_who_names_it_gets_410(simulator):
    found, went = answers(simulator, [asked(), asked("m@old")], today=ENDS, after_sunset="refuse")
    assert [answer.status for answer in found] == [200, 410]
    assert found[1].json()["error"]["message"] == "the version 'old' of the model 'm' has ended on 2030-06-01"
    assert went == ["up1"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 410),
        ({"fallbacks": ["spare"]}, 200),
        ({"fallbacks": ["spare"], "after_sunset": "refuse"}, 410),
    ],
)
def test_where_nobody_is_left_fallbacks_answer_or_nobody(simulator, more, status):
    (answer, named), _ = answers(simulator, [asked(), asked("m@old")], today=ENDS, only=True, **more)
    assert (answer.status, named.status) == (status, status)


def test_the_day_may_come_while_it_is_asked(simulator):
    """A model with one candidate is looked up once; not this one."""
    model = ModelConfig(candidates=[CandidateConfig(upstream="up0", model="sim", sunset=ENDS)])
    whole = msgspec.structs.replace(config(simulator.url, kind="sim"), models={"m": model})

    async def main():
        async with serving(whole) as (gateway, port):
            router = gateway.pipeline.snapshot.router
            statuses = []
            for today in ("2030-05-31", ENDS, "2030-05-31"):  # the clock may be set back, too
                router._now = lambda today=today: began(today)
                statuses.append((await call(port, asked())).status)
            return statuses

    assert asyncio.run(main()) == [200, 410, 200]
