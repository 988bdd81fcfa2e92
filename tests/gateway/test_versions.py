"""A worker's part of a trial: who is drawn, what counts, and what happens while the file cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import pytest

from penstock.config.model import (
    CanaryConfig,
    CandidateConfig,
    Config,
    ModelConfig,
    UpstreamConfig,
    VersionsConfig,
)
from penstock.errors import NotFound
from penstock.gateway import parts
from penstock.gateway.versions import INTERVAL, TROUBLED_INTERVAL, Versions
from penstock.metrics import Registry
from penstock.testing import FakeClock


def config(path="", *, upstream_model="b", **canary):
    wanted = {"version": "new", "steps": [0.1, 0.5], "least_calls": 20, "most_calls": 50, **canary}
    candidates = [
        CandidateConfig(upstream="up", model="a"),
        CandidateConfig(upstream="up", model=upstream_model, version="new"),
    ]
    return Config(
        upstreams={"up": UpstreamConfig(kind="openai", base_url="http://127.0.0.1:9/v1")},
        models={"m": ModelConfig(candidates=candidates, canary=CanaryConfig(**wanted))},
        versions=VersionsConfig(path=str(path)),
    )


@contextlib.asynccontextmanager
async def worker(settings, *, start=True):
    """One worker's versions, and the clock that sweeps them."""
    time = FakeClock()
    versions = Versions(partial(parts.trials, settings), time, Registry())
    versions.use(settings)
    if start:
        await versions.start()
    try:
        yield versions, time
    finally:
        await versions.close()


def canary_of(versions):
    (canary,) = versions
    return canary


def count(canary, *, new=0, others=0, failed=False):
    for is_new, calls in ((False, others), (True, new)):
        for _ in range(calls):
            sample = canary.sample(is_new=is_new)
            if sample is None:
                return
            sample.fail() if failed and is_new else sample.answer(0.1, None, None, None)


async def swept(versions, time, seconds=0.0):
    """After a sweep, and what it began."""
    time.advance(seconds)
    versions.sweep(time.now())
    await asyncio.gather(*versions._syncing)


def test_until_it_is_known_the_new_version_gets_nothing():
    async def main():
        async with worker(config(), start=False) as (versions, time):
            canary = canary_of(versions)
            assert not canary.gets(0.0)
            assert canary.sample(is_new=False) is None
            await swept(versions, time)
            return canary.gets(0.05), canary.gets(0.1)

    assert asyncio.run(main()) == (True, False)


def test_a_version_that_fails_every_call_gets_no_eleventh():
    """Without a turn of the loop, and before the file has been gone to."""

    async def main():
        async with worker(config()) as (versions, time):
            canary = canary_of(versions)
            count(canary, others=90)
            asked = 0
            while canary.gets(0.0):
                count(canary, new=1, failed=True)
                asked += 1
            assert canary.halted
            await swept(versions, time)
            return asked, canary.described()["phase"], canary.halted

    assert asyncio.run(main()) == (10, "rolled_back", False)


def test_workers_that_share_a_file_decide_together(tmp_path):
    async def main():
        settings = config(tmp_path / "versions.sqlite")
        async with worker(settings) as (one, time), worker(settings) as (other, other_time):
            for versions in (one, other):
                count(canary_of(versions), others=60)
                count(canary_of(versions), new=6, failed=True)
                assert not canary_of(versions).halted
            await swept(one, time, INTERVAL)
            await swept(other, other_time, INTERVAL)
            assert canary_of(other).described()["phase"] == "rolled_back"
            await swept(one, time, INTERVAL)
            return canary_of(one).described()["phase"]

    assert asyncio.run(main()) == "rolled_back"


def test_a_decision_by_hand_reaches_the_others_and_the_next_start(tmp_path):
    async def main():
        settings = config(tmp_path / "versions.sqlite")
        async with worker(settings) as (one, _), worker(settings) as (other, time):
            found = await one.decide("m", "promote", "tried elsewhere", wholly=True)
            assert (found["phase"], found["reason"]) == ("promoted", "tried elsewhere")
            await swept(other, time, INTERVAL)
            assert canary_of(other).share == 1.0
        async with worker(settings) as (again, _):
            return canary_of(again).share

    assert asyncio.run(main()) == 1.0


def test_a_model_without_a_canary_cannot_be_decided():
    async def main():
        async with worker(config()) as (versions, _):
            with pytest.raises(NotFound):
                await versions.decide("n", "rollback", "", wholly=False)

    asyncio.run(main())


def test_calls_that_were_drawn_before_a_decision_do_not_count_after_it():
    async def main():
        async with worker(config()) as (versions, time):
            canary = canary_of(versions)
            samples = [canary.sample(is_new=True) for _ in range(30)]
            await versions.decide("m", "restart", "", wholly=False)
            for sample in samples:
                sample.fail()
            await swept(versions, time, INTERVAL)
            return canary.described()["calls"], canary.described()["phase"]

    assert asyncio.run(main()) == ({"new": 0, "others": 0}, "trial")


def test_a_call_counts_once():
    async def main():
        async with worker(config()) as (versions, time):
            sample = canary_of(versions).sample(is_new=True)
            sample.fail()
            sample.answer(0.1, None, None, None)  # another attempt mended it
            await swept(versions, time, INTERVAL)
            described = canary_of(versions).described()
            return described["calls"]["new"], described["failed"]["new"]

    assert asyncio.run(main()) == (1, 1)


def writable(versions, *, yes):
    """Whether SQLite takes what is to be written."""
    return versions._trials._database.read(
        lambda db: db.execute(f"PRAGMA query_only = {int(not yes)}").fetchall()
    )


def test_where_the_file_cannot_be_used_calls_go_on_and_what_was_counted_is_kept(caplog):
    async def main():
        async with worker(config()) as (versions, time):
            canary = canary_of(versions)
            count(canary, new=3, others=30)
            await writable(versions, yes=False)
            await swept(versions, time, INTERVAL)
            assert canary.trouble
            assert canary.gets(0.05)  # as before
            await swept(versions, time, INTERVAL)  # not so soon
            count(canary, others=60)
            count(canary, new=9, failed=True)  # what is plain needs no file
            assert canary.halted
            assert not canary.gets(0.05)
            await swept(versions, time, TROUBLED_INTERVAL)
            assert canary.halted
            await writable(versions, yes=True)
            await swept(versions, time, TROUBLED_INTERVAL)
            assert not canary.trouble
            described = canary.described()
            return described["calls"], described["phase"]

    assert asyncio.run(main()) == ({"new": 10, "others": 90}, "rolled_back")
    assert len([line for line in caplog.messages if "cannot be written down" in line]) == 1


def test_a_new_configuration_of_the_same_version_goes_on_and_another_version_begins():
    async def main():
        settings = config()
        async with worker(settings) as (versions, time):
            await versions.decide("m", "promote", "", wholly=False)
            versions.use(config(steps=[0.2, 0.3]))
            assert canary_of(versions).share == 0.3
            versions.use(config(upstream_model="c"))
            assert canary_of(versions).share == 0.0
            await swept(versions, time)
            return canary_of(versions).share

    assert asyncio.run(main()) == 0.1


def test_who_gets_the_new_version_at_one_share_gets_it_at_the_next():
    async def main():
        async with worker(config()) as (versions, _):
            canary = canary_of(versions)
            keys = [str(number).encode() for number in range(1_000)]
            few = {key for key in keys if canary.gets(canary.point(key))}
            await versions.decide("m", "promote", "", wholly=False)
            more = {key for key in keys if canary.gets(canary.point(key))}
            return few <= more, len(few), len(more)

    kept, few, more = asyncio.run(main())
    assert kept
    assert 60 < few < 140
    assert 430 < more < 570
