"""Requests that come again in the same bytes, when their answers are in no memory: the tiers below are asked unread."""

import asyncio
import contextlib
import hashlib
import json
import sys
from collections import Counter

import msgspec
import pytest
from keeping import ASKED, KEPT, STREAM, STREAMED, answering, apart, gateway_of, line_to, thrice
from serving import COMPLETION, asked, on_uvloop, plain, read_answer, request, until
from serving import error as upstream_error

from penstock.cache.cache import EVERYTHING
from penstock.cache.guard import Guard
from penstock.cache.tiers.tier import TierStatistics
from penstock.config.model import CacheConfig, KeyConfig, LogConfig, ModelCacheConfig
from penstock.config.secret import Secret
from penstock.gateway import repeats as repeating
from penstock.messages import Call, Outcome
from penstock.metrics import render
from penstock.testing import RedisServer, Step

WITHOUT_MEMORY = CacheConfig(memory_bytes=1)


class Below:
    """A tier whose answers come when :meth:`tell` says so, or at once."""

    name = "below"
    by_use = False
    answered = 0

    def __init__(self):
        self.kept = {}
        self.asked = []
        self.waits = False
        self.resets = 0

    def start(self, learn):
        pass

    def get(self, key, then):
        self.asked.append((key, then))
        if not self.waits:
            self.tell()

    def tell(self):
        for key, then in self.asked:
            self.answered += 1
            then(self.kept.get(key))
        self.asked = []

    def put(self, key, sealed, kept_until):
        self.kept[key] = sealed

    def statistics(self):
        return TierStatistics()

    def remove(self, key):
        self.kept.pop(key, None)

    def purged(self, tag, at):
        pass

    def reset(self):
        self.resets += 1

    async def flush(self):
        pass

    close = flush


@contextlib.asynccontextmanager
async def above(scripts, *, budget=60.0, tiers=WITHOUT_MEMORY, **more):
    """``(gateway, port, upstream, wall, below)``"""
    async with gateway_of(scripts, tiers=tiers, **more) as (gateway, port, upstream, wall):
        below = Below()
        cache = gateway.cache
        cache.guards = (Guard(below, budget, gateway.clock.now),)
        cache.hits[below.name] = 0
        cache._unheard = [{}]
        yield gateway, port, upstream, wall, below


def keys(*names):
    return [
        KeyConfig(name=name, tenant=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
        for name in names
    ]


@pytest.mark.parametrize(
    ("asked_as", "kept_as"),
    [(ASKED, ASKED), (STREAM, ASKED), (ASKED, STREAM), (STREAM, STREAM)],
    ids=["plain of plain", "streamed of plain", "plain of streamed", "streamed of streamed"],
)
@pytest.mark.parametrize("stream_options", [{}, {"stream_options": {"include_usage": True}}])
def test_the_answer_is_the_one_that_reading_gives(asked_as, kept_as, stream_options):
    body = {**asked_as, **(stream_options if "stream" in asked_as else {})}

    async def main():
        script = [Step.REQUEST, *STREAMED] if "stream" in kept_as else answering()
        async with above([script]) as (gateway, port, upstream, wall, _), line_to(port) as ask:
            await ask(kept_as)
            if body != kept_as:
                await ask(body)  # what comes for the first time is not remembered
            wall.time += 3
            read, again, third = [await ask(body) for _ in range(3)]
            assert gateway.repeats.answered == 2
            assert apart(third) == apart(again) == apart(read)
            assert again.headers["age"] == "3"
            assert again.headers["penstock-status"] == "cached"
            assert again.headers["penstock-generation"] != read.headers["penstock-generation"]
            assert asked(upstream) == 1
            assert gateway.cache.hits == {"memory": 0, "below": 3 + (body != kept_as)}

    on_uvloop(main)


async def is_written(gateway):
    for guard in gateway.cache.guards:
        await guard.tier.flush()


@pytest.fixture
def redis():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer() as server:
        yield server


def test_real_disks_and_servers_answer(tmp_path, redis):
    async def main():
        for tiers in (
            CacheConfig(memory_bytes=1, disk=str(tmp_path / "answers"), disk_budget=60),
            CacheConfig(memory_bytes=1, redis=Secret(redis.url), seal_key=Secret("s"), redis_budget=60),
        ):
            async with gateway_of([answering()], tiers=tiers) as (gateway, port, upstream, _):
                await is_written(gateway)  # is connected
                async with line_to(port) as ask:
                    first = await ask({**ASKED, "seed": 7})
                    await is_written(gateway)
                    again = await thrice(ask, {**ASKED, "seed": 7})
                    assert [answer.body for answer in again] == [first.body] * 3
                    assert (asked(upstream), gateway.repeats.answered) == (1, 2)
                    assert sum(gateway.cache.hits.values()) == 3

    on_uvloop(main)


def test_ledger_metrics_and_log_know_it_as_any_other_hit(capfd):
    async def main():
        async with above([answering()], log=LogConfig(requests=True)) as (gateway, port, _, _, _):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
            new, old = [row for row in gateway.recorder.ledger.recent() if row.outcome is Outcome.CACHED]
            assert gateway.repeats.answered == 1
            assert (new.usage, new.saved, new.model, new.upstream, new.tenant) == (
                old.usage, old.saved, old.model, old.upstream, old.tenant,
            )  # fmt: skip
            assert gateway.recorder.saved_output.value == 2 * new.usage.output_tokens
            assert b'penstock_requests_total{endpoint="chat",status="200"} 3' in render(
                gateway.metrics.collect()
            )

    on_uvloop(main)
    read, again = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "cached" in line]
    varying = {"time", "generation", "duration_ms", "ttft_ms"}
    assert {name: again.get(name) for name in {*read, *again} - varying} == {
        name: read.get(name) for name in {*read, *again} - varying
    }


def test_what_is_found_below_is_brought_up_with_its_answer():
    async def main():
        async with above([answering()], tiers=CacheConfig()) as (gateway, port, _, _, below):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                gateway.cache.memory.clear()
                await thrice(ask, ASKED)
            assert gateway.repeats.answered == 4
            assert gateway.cache.hits == {"memory": 4, "below": 1}
            assert len(below.kept) == 1

    on_uvloop(main)


# ---- whether it still counts ----


@pytest.mark.parametrize("policy", [KEPT, ModelCacheConfig(stale_while_revalidate=60)])
def test_it_lasts_no_longer_than_its_entry_is_fresh(policy):
    async def main():
        async with above([answering()], cache=policy) as (gateway, port, upstream, wall, _):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                assert gateway.repeats.answered == 1
                wall.time += policy.ttl
                late = await ask(ASKED)
            assert late.headers["penstock-status"] == (
                "stale" if policy.stale_while_revalidate else "created"
            )
            await until(lambda: asked(upstream) == 2)
            assert gateway.repeats.answered == 1

    on_uvloop(main)


def test_what_memory_has_is_looked_for_below_only_to_be_renewed():
    async def main():
        policy = ModelCacheConfig(stale_while_revalidate=60)
        async with above([answering()], cache=policy, tiers=CacheConfig()) as (
            _,
            port,
            upstream,
            wall,
            below,
        ):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                looks = below.answered
                wall.time += policy.ttl
                assert (await ask(ASKED)).headers["penstock-status"] == "stale"
            await until(lambda: asked(upstream) == 2)
            assert below.answered == looks + 1

    on_uvloop(main)


def test_an_old_answer_is_there_for_want_of_another():
    async def main():
        scripts = [
            [Step.REQUEST, plain(COMPLETION), Step.CLOSE],
            [Step.REQUEST, upstream_error("503 no"), Step.CLOSE],
        ]
        policy = ModelCacheConfig(stale_if_error=600, usage="original")
        async with above(scripts, cache=policy) as (gateway, port, _, wall, _):
            async with line_to(port) as ask:
                first = (await thrice(ask, ASKED))[0]
                wall.time += policy.ttl
                late = await ask(ASKED)
            assert (late.status, late.headers["penstock-status"]) == (200, "stale")
            assert late.body == first.body
            assert gateway.repeats.answered == 1

    on_uvloop(main)


def test_an_answer_that_somebody_else_has_renewed_counts_for_as_long_as_that_one():
    async def main():
        async with above([answering()]) as (gateway, port, upstream, wall, _):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                wall.time += KEPT.ttl - 1
                await ask(ASKED, headers=["cache-control: no-cache"])
                wall.time += KEPT.ttl - 1
                late = await ask(ASKED)
            assert (late.headers["penstock-status"], late.headers["age"]) == (
                "cached",
                str(int(KEPT.ttl - 1)),
            )
            assert (asked(upstream), gateway.repeats.answered) == (2, 2)

    on_uvloop(main)


@pytest.mark.parametrize(
    ("control", "told"),
    [
        ("max-age=10", ["created", "cached", "cached", "created"]),
        ("no-cache", ["created"] * 4),
        ("no-store", ["created"] * 4),
        ("only-if-cached", ["", "", "", ""]),
    ],
)
def test_what_a_caller_asks_holds_each_time(control, told):
    async def main():
        async with above([answering()]) as (_, port, _, wall, _), line_to(port) as ask:
            heard = []
            for seconds in (0, 0, 9, 1):
                wall.time += seconds
                answer = await ask(ASKED, headers=[f"cache-control: {control}"])
                assert answer.status == (200 if told[0] else 504)
                heard.append(answer.headers.get("penstock-status", ""))
            assert heard == told

    on_uvloop(main)


def test_who_wants_nothing_but_what_is_kept_is_told_that_it_is_not_any_more():
    async def main():
        async with above([answering()]) as (gateway, port, upstream, _, below), line_to(port) as ask:
            await ask(ASKED)
            only = ["cache-control: only-if-cached"]
            await ask(ASKED, headers=only)
            assert [answer.status for answer in await thrice(ask, ASKED, headers=only)] == [200] * 3
            assert gateway.repeats.answered == 2
            below.kept.clear()
            assert (await ask(ASKED, headers=only)).status == 504
            assert asked(upstream) == 1

    on_uvloop(main)


@pytest.mark.parametrize("purge", [EVERYTHING, "model:m", "tenant:default", "key"])
def test_what_is_purged_is_asked_anew(purge):
    async def main():
        async with above([answering()]) as (gateway, port, upstream, wall, below), line_to(port) as ask:
            answers = await thrice(ask, ASKED)
            kept = dict(below.kept)
            wall.time += 1
            key = bytes.fromhex(answers[2].headers["penstock-cache-key"])
            gateway.purge([] if purge == "key" else [purge], [key] if purge == "key" else [])
            below.kept = kept  # a tier may not have heard of it
            assert (await ask(ASKED)).headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


def test_what_is_damaged_below_is_no_answer():
    async def main():
        async with above([answering()]) as (gateway, port, _, _, below), line_to(port) as ask:
            await thrice(ask, ASKED)
            ((key, sealed),) = below.kept.items()
            below.kept[key] = sealed[:-1] + bytes([sealed[-1] ^ 1])
            assert (await ask(ASKED)).headers["penstock-status"] == "created"
            assert gateway.cache.unusable["tampered"] == 1

    on_uvloop(main)


def test_that_a_tier_had_nothing_is_forgotten_at_once():
    async def main():
        async with above([answering()]) as (_, port, upstream, _, below), line_to(port) as ask:
            await thrice(ask, ASKED)
            below.kept.clear()
            await ask(ASKED)
            below.waits = True
            asking = asyncio.create_task(ask(ASKED))
            await until(lambda: below.asked)
            kept, below.kept = below.kept, {}
            below.tell()
            assert (await asking).headers["penstock-status"] == "created"
            below.waits, below.kept = False, kept
            again = await ask(ASKED, headers=["x-other: bytes"])
            assert again.headers["penstock-status"] == "cached"
            assert asked(upstream) == 3

    on_uvloop(main)


# ---- whose answer it is ----


@pytest.mark.parametrize("scope", ["tenant", "shared"])
def test_each_tenant_gets_what_its_scope_has(scope):
    async def main():
        policy = ModelCacheConfig(scope=scope)
        async with above([answering()], cache=policy, keys=keys("amy", "bob")) as (
            gateway,
            port,
            upstream,
            _,
            _,
        ):
            async with line_to(port) as ask:
                heard = {
                    name: [
                        answer.headers["penstock-status"]
                        for answer in await thrice(ask, ASKED, headers=[f"authorization: Bearer {name}"])
                    ]
                    for name in ("amy", "bob")
                }
            assert heard["amy"] == ["created", "cached", "cached"]
            assert heard["bob"] == ["created" if scope == "tenant" else "cached", "cached", "cached"]
            assert asked(upstream) == (2 if scope == "tenant" else 1)
            rows = [row for row in gateway.recorder.ledger.recent() if row.outcome is Outcome.CACHED]
            counted = Counter(row.tenant for row in rows)
            assert counted == {"amy": 2, "bob": 2 if scope == "tenant" else 3}

    on_uvloop(main)


def test_an_entry_that_was_put_in_anothers_place_is_no_answer():
    async def main():
        async with above([answering()], keys=keys("amy", "bob")) as (_, port, upstream, _, below):
            async with line_to(port) as ask:
                for name in ("amy", "bob"):
                    await thrice(ask, ASKED, headers=[f"authorization: Bearer {name}"])
                of_amy, of_bob = below.kept
                below.kept[of_bob] = below.kept[of_amy]
                stolen = await ask(ASKED, headers=["authorization: Bearer bob"])
            assert stolen.headers["penstock-status"] == "created"
            assert asked(upstream) == 3

    on_uvloop(main)


def test_a_reload_ends_what_the_old_configuration_would_have_answered_also_under_way():
    async def main():
        async with above([answering()], keys=keys("amy", "bob")) as (gateway, port, _, _, below):
            async with line_to(port) as ask:
                as_amy = ["authorization: Bearer amy"]
                await thrice(ask, ASKED, headers=as_amy)
                below.waits = True
                asking = asyncio.create_task(ask(ASKED, headers=as_amy))
                await until(lambda: below.asked)
                gateway.reload(msgspec.structs.replace(gateway.pipeline.snapshot.config, keys=keys("bob")))
                below.tell()
                assert (await asking).status == 401
                assert gateway.repeats.answered == 1

    on_uvloop(main)


def test_a_reload_ends_it_also_for_whom_the_tiers_were_asked_meanwhile():
    """The request is read, finds its answer below, and is not remembered: its key is none any more."""

    async def main():
        async with above([answering()], keys=keys("amy", "bob")) as (gateway, port, _, _, below):
            async with line_to(port) as ask:
                as_amy = ["authorization: Bearer amy"]
                await ask(ASKED, headers=as_amy)
                below.waits = True
                asking = asyncio.create_task(ask(ASKED, headers=as_amy))
                await until(lambda: below.asked)
                gateway.reload(msgspec.structs.replace(gateway.pipeline.snapshot.config, keys=keys("bob")))
                below.tell()
                assert (await asking).status == 200, "it had begun"
                assert not gateway.repeats.lengths
                assert (await ask(ASKED, headers=as_amy)).status == 401

    on_uvloop(main)


# ---- what is not there ----


def test_equal_requests_that_find_nothing_make_one_call_and_ask_each_tier_once():
    async def main():
        async with above([answering()]) as (_, port, upstream, _, below):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
            below.kept.clear()
            below.waits = True
            async with line_to(port) as one, line_to(port) as other:
                both = [asyncio.create_task(ask(ASKED)) for ask in (one, other)]
                await until(lambda: len(below.asked) == 2)
                below.tell()
                answers = await asyncio.gather(*both)
                assert [answer.headers["penstock-status"] for answer in answers] == ["created", "joined"]
                assert below.asked == []
            assert asked(upstream) == 2

    on_uvloop(main)


def test_a_tier_that_is_late_is_a_miss_after_one_budget():
    async def main():
        async with above([answering()], budget=0.005) as (gateway, port, upstream, _, below):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                below.waits = True
                late = await ask(ASKED)
                assert late.headers["penstock-status"] == "created"
                (guard,) = gateway.cache.guards
                assert (guard.late, len(below.asked)) == (1, 1)
                below.tell()  # to nobody
                await until(lambda: below.answered)
            assert asked(upstream) == 2

    on_uvloop(main)


def test_a_tier_that_is_left_alone_holds_nobody_up():
    async def main():
        async with above([answering()]) as (gateway, port, upstream, _, below):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                (guard,) = gateway.cache.guards
                guard._open()
                below.waits = True
                assert (await ask(ASKED)).headers["penstock-status"] == "created"
                assert below.asked == []
            assert asked(upstream) == 2

    on_uvloop(main)


@pytest.mark.parametrize("is_there", [True, False])
def test_who_leaves_while_a_tier_is_asked_costs_no_call(is_there, capfd):
    async def main():
        async with above([answering()], log=LogConfig(requests=True)) as (gateway, port, upstream, _, below):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
            for kind in gateway.repeats._kinds.values():
                kind.received -= 1e6  # whoever has asked before, did so long ago
            below.waits = True
            if not is_there:
                below.kept.clear()
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(ASKED))
            await until(lambda: below.asked)
            asker = asker_of(below)
            writer.close()
            await until(lambda: asker.gone)
            below.tell()
            assert (asked(upstream), gateway.repeats.answered) == (1, 1)
            assert len(gateway.recorder.ledger.recent()) == 3

    on_uvloop(main)
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"status":499' in line]
    assert 0 <= line["duration_ms"] < 60_000


def asker_of(below):
    """The connection whose request this tier has been asked for."""
    (_, asked_by_guard), *_ = below.asked
    return asked_by_guard.then.args[-1].__self__.asker


# ---- what is held ----


def test_what_is_remembered_is_bounded_and_holds_no_prompt(monkeypatch):
    monkeypatch.setattr(repeating, "MOST_MEANINGS", 5)

    async def main():
        async with above([answering()]) as (gateway, port, _, _, _), line_to(port) as ask:
            for number in range(12):
                await thrice(ask, {**ASKED, "seed": number})
            known = gateway.repeats
            assert len(known._meanings) == 5
            assert sum(known.lengths.values()) == 5
            assert len(known._kinds) == 1
            (kind,) = known._kinds.values()
            assert isinstance(kind, Call)
            assert (kind.body, kind.fields, kind.headers) == (b"", {}, {})
            before = known.answered
            await ask({**ASKED, "seed": 11})
            await ask({**ASKED, "seed": 0})
            assert known.answered == before + 1, "the last one is known yet, the first one is not"
            meaning = next(iter(known._meanings.values()))
            assert sum(map(sys.getsizeof, (meaning, meaning.key, meaning.max_age))) < 400
            known.clear()
            assert (known._meanings, known.lengths, known._kinds) == ({}, {}, {})

    on_uvloop(main)


def test_without_a_tier_below_nothing_is_known_of_what_memory_has_not():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, _), line_to(port) as ask:
            await thrice(ask, ASKED)
            gateway.cache.memory.clear()
            await ask(ASKED)
            assert gateway.repeats.lengths == {}

    on_uvloop(main)


async def read_all(port, *raws):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for raw in raws:
        writer.write(raw)
    answers = [await read_answer(reader) for _ in raws]
    writer.close()
    return answers


def test_answers_to_pipelined_requests_keep_their_order():
    async def main():
        async with above([answering("one")], tiers=CacheConfig()) as (gateway, port, _, _, below):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                await thrice(ask, {**ASKED, "seed": 3})
            gateway.cache.memory.clear()
            below.waits = True
            asking = asyncio.create_task(
                read_all(port, request(ASKED), request({**ASKED, "seed": 3}), request(ASKED))
            )
            while not asking.done():
                below.tell()
                await asyncio.sleep(0)
            first, second, third = await asking
            names = [each.headers["penstock-cache-key"] for each in (first, second, third)]
            assert names[0] == names[2] != names[1]

    on_uvloop(main)
