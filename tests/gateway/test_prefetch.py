"""What is asked before a caller asks it."""

import asyncio
import contextlib
import sys
import types

import pytest
from cached_messages import a_message, answers
from serving import asked, call, config, error, on_uvloop, serving, until

from penstock.batches.batch import TIER
from penstock.config.model import ModelCacheConfig, ModelConfig, PrefetchConfig, RetryConfig
from penstock.gateway.stages import prefetch as prefetching
from penstock.messages import Call, Endpoint, Outcome, Tenant
from penstock.metrics import Registry, render
from penstock.testing import ScriptedUpstream, Step

ALWAYS = PrefetchConfig(calls_per_minute=600)


@contextlib.asynccontextmanager
async def foreseeing(policy=ALWAYS, script=None):
    """``(gateway, port, upstream)``, in which b has followed a twice, and all that was kept is stale now."""
    async with ScriptedUpstream([script or answers(2_000)]) as upstream:
        made = config(upstream.url, retry=RetryConfig(attempts=1))
        cache = ModelCacheConfig(ttl=60.0, prefetch=policy)
        made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, cache=cache)
        async with serving(made) as (gateway, port):
            wall = Wall(gateway)
            for _ in range(2):
                for text in "ab":
                    await call(port, a_message(text))
                wall.time += 100
            yield gateway, port, upstream, wall


class Wall:
    def __init__(self, gateway):
        self.time = 1_700_000_000.0
        lookup = gateway.pipeline.lookup
        lookup.cache.now = lookup.cache.memory._now = lookup.prefetch._now = lambda: self.time


def counted(gateway):
    cells = gateway.pipeline.lookup.prefetch._outcomes
    return {name: cell.value for name, cell in cells.items() if cell.value}


def metric(gateway, name):
    (line,) = (
        line
        for line in render(gateway.metrics.collect()).decode().splitlines()
        if line.startswith(name + " ")
    )
    return float(line.split()[1])


async def settled(gateway):
    await asyncio.sleep(0)
    await until(lambda: not gateway.pipeline.productions and not gateway.pipeline.waiting)


def test_what_follows_is_there_when_it_is_asked():
    async def main():
        async with foreseeing() as (gateway, port, upstream, _):
            before = asked(upstream)
            await call(port, a_message("a"))
            await until(lambda: counted(gateway).get("fetched") == 1)
            assert asked(upstream) == before + 2
            assert (await call(port, a_message("b"))).headers["penstock-status"] == "cached"
            assert counted(gateway) == {"fetched": 1, "used": 1}
            rows = gateway.recorder.ledger.totals()
            assert rows[Outcome.COMPLETED].attempts == asked(upstream)
            # It was asked in the tier behind all others, and nothing else was.
            made = [row for row in gateway.recorder.ledger.recent() if row.outcome is Outcome.COMPLETED]
            assert [row.tier for row in made].count(TIER) == 1
            (fetched,) = (row for row in made if row.tier == TIER)
            assert fetched is made[0]
            assert metric(gateway, "penstock_prefetch_saved_seconds_total") > 0
            assert metric(gateway, "penstock_prefetch_paused") == 0

    on_uvloop(main)


def test_what_is_there_already_is_not_asked_again():
    async def main():
        async with foreseeing() as (gateway, port, upstream, _):
            await call(port, a_message("b"))
            before = asked(upstream)
            await call(port, a_message("a"))
            await settled(gateway)
            assert asked(upstream) == before + 1

    on_uvloop(main)


@pytest.mark.parametrize(
    "policy", [PrefetchConfig(usd_per_day=0.0), PrefetchConfig(calls_per_minute=0.001), None], ids=str
)
def test_nothing_is_fetched_beyond_the_budget(policy):
    async def main():
        async with foreseeing(ALWAYS) as (gateway, port, upstream, _):
            before = asked(upstream)
            router = gateway.pipeline.snapshot.router
            model = router._config.models["m"]
            limited = ModelCacheConfig(ttl=60.0, prefetch=policy)
            router._exact["m"] = ModelConfig(candidates=model.candidates, cache=limited)
            gateway.pipeline.lookup.prefetch._allowance("m")._calls = 0.0
            await call(port, a_message("a"))
            await settled(gateway)
            assert asked(upstream) == before + 1
            assert counted(gateway) == ({} if policy is None else {"budget": 1})

    on_uvloop(main)


def test_where_it_does_not_pay_it_rests_and_tries_again():
    async def main():
        async with foreseeing(PrefetchConfig(calls_per_minute=600, min_probability=0.0)) as made:
            gateway, port, _, wall = made
            rounds = 0
            while not metric(gateway, "penstock_prefetch_paused"):
                await call(port, a_message("a"))
                await settled(gateway)
                wall.time += 100  # and nobody asks b
                rounds += 1
                assert rounds < 100
            assert rounds >= prefetching.LEAST_JUDGED
            assert metric(gateway, "penstock_prefetch_paused") == 1
            assert metric(gateway, "penstock_prefetch_saved_seconds_total") == 0
            fetched = counted(gateway)["fetched"]
            await call(port, a_message("a"))
            await settled(gateway)
            assert counted(gateway)["fetched"] == fetched
            wall.time += prefetching.PAUSE
            assert metric(gateway, "penstock_prefetch_paused") == 0
            for _ in range(3):  # by now b is no habit any more
                for text in "ab":
                    await call(port, a_message(text))
                wall.time += 100
            for _ in range(15):
                for text in "ab":
                    await call(port, a_message(text))
                    await settled(gateway)
                wall.time += 100
            assert counted(gateway)["used"] > 5

    on_uvloop(main)


def test_a_fetch_that_fails_harms_nobody():
    async def main():
        script = [*answers(5), Step.REQUEST, error("500 Broken"), *answers(5)]
        async with foreseeing(script=script) as (gateway, port, _, _wall):
            await call(port, a_message("a"))
            await until(lambda: counted(gateway) == {"failed": 1})
            assert (await call(port, a_message("b"))).headers["penstock-status"] == "created"

    on_uvloop(main)


BESIDE = PrefetchConfig(calls_per_minute=600, neighbours=["numbers"])


def test_the_next_page_is_there_although_nobody_has_ever_asked_it():
    async def main():
        async with foreseeing(BESIDE) as (gateway, port, upstream, wall):
            for page in (1, 2, 3):
                await call(port, a_message(f"page {page}"))
            await until(lambda: counted(gateway).get("fetched") == 1)
            for page in (4, 5):
                wall.time += 1  # the budget is one of time
                before = asked(upstream)
                assert (await call(port, a_message(f"page {page}"))).headers["penstock-status"] == "cached"
                await until(lambda expected=page - 2: counted(gateway)["fetched"] == expected)
                assert asked(upstream) == before + 1  # for the page after it
            assert counted(gateway) == {"fetched": 3, "used": 2}

    on_uvloop(main)


def test_what_lies_beside_is_fetched_within_the_budget_and_once():
    async def main():
        limited = PrefetchConfig(calls_per_minute=1, neighbours=["numbers"])
        async with foreseeing(limited) as (gateway, port, _upstream, _):
            for page in (1, 2, 3, 4, 5):
                await call(port, a_message(f"page {page}"))
            await until(lambda: counted(gateway) == {"fetched": 1, "used": 1, "budget": 2})

    on_uvloop(main)


def test_an_own_function_names_no_other_model_and_nonsense_harms_nobody(monkeypatch):
    made = types.ModuleType("own_neighbours")
    monkeypatch.setitem(sys.modules, "own_neighbours", made)
    named = [
        {**a_message("z"), "model": "other"},
        {"model": "m"},
        {},
        a_message("near"),
        a_message("near"),
        {**a_message("warm"), "temperature": 1},  # is not kept, and so not asked
    ]
    near = []
    made.near = lambda body: near

    async def main():
        policy = PrefetchConfig(calls_per_minute=600, neighbours=["own_neighbours:near"])
        async with foreseeing(policy) as (gateway, port, upstream, wall):
            wall.time += 100
            near.extend(named)
            before = asked(upstream)
            await call(port, a_message("alone"))
            await until(lambda: counted(gateway).get("fetched") == 1)
            await settled(gateway)
            assert asked(upstream) == before + 2
            assert (await call(port, a_message("near"))).headers["penstock-status"] == "cached"

    on_uvloop(main)


def prefetch_of(wall):
    cache = types.SimpleNamespace(memory=types.SimpleNamespace(peek=lambda key: None))
    return prefetching.Prefetch(cache, Registry(), lambda: wall[0])


def a_call(tenant, model):
    return Call("gen_x", Endpoint.CHAT, model, False, {}, b"{}", {}, 0.0, Tenant(tenant))


def test_a_models_budget_is_its_own():
    wall = [1_700_000_000.0]
    prefetch = prefetch_of(wall)
    little, much = PrefetchConfig(calls_per_minute=1), PrefetchConfig(calls_per_minute=600)
    wall[0] += 60
    for prefix in ("little", "much"):
        prefetch.permits(little if prefix == "little" else much, prefix)
    wall[0] += 60
    taken = 0
    for _ in range(700):
        prefetch.permits(little, "little")
        taken += prefetch.permits(much, "much")
    assert taken == 600
    dear = PrefetchConfig(calls_per_minute=600, usd_per_day=1.0)
    prefetch.fetched(a_call("t", "m"), b"k", "dear", dear, 10**12, 1.0, 0.0)
    wall[0] += 60
    assert not prefetch.permits(dear, "dear")
    assert prefetch.permits(dear, "much")


def test_a_tenant_whose_calls_cannot_be_foreseen_stops_nobody_else_nor_its_own_other_models():
    wall = [1_700_000_000.0]
    prefetch = prefetch_of(wall)
    for number in range(40):
        prefetch.fetched(a_call("random", "m"), b"%d" % number, "m", ALWAYS, 0, 1.0, wall[0] + 1)
        wall[0] += 10
        prefetch._expire()
    assert prefetch.rests(a_call("random", "m"))
    assert not prefetch.rests(a_call("random", "n"))
    assert not prefetch.rests(a_call("other", "m"))


def test_those_that_are_judged_are_bounded():
    wall = [1_700_000_000.0]
    prefetch = prefetch_of(wall)
    for number in range(prefetching.MAX_JUDGED + 10):
        prefetch.fetched(a_call(str(number), "m"), b"%d" % number, "m", ALWAYS, 0, 1.0, wall[0])
    prefetch._expire()
    assert len(prefetch._judgements) == prefetching.MAX_JUDGED
