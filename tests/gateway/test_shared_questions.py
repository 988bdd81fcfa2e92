"""Identical calls at several gateways, which know each other only by their store: one upstream call for all of them."""

import asyncio
import contextlib
import json

import pytest
from durably import keeper_of, stored, two
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    on_uvloop,
    plain,
    request,
    rows,
    serving,
    until,
)

from penstock.config.keys import hash_key
from penstock.config.model import (
    CacheConfig,
    CandidateConfig,
    GenerationsConfig,
    KeyConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
)
from penstock.config.secret import Secret
from penstock.generation.store import StoreUnavailable
from penstock.messages import Outcome
from penstock.testing import RedisServer, ScriptedUpstream, Step

SAME = {**PROMPT, "temperature": 0}
STREAM = {**SAME, "stream": True}
KEY = ["idempotency-key: k"]
ENDED = delta("b", "stop") + DONE + STREAM_END


def told(answer):
    """Text of a stream or of a body."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json()["choices"][0]["message"]["content"]
    lines = [line[6:] for line in answer.body.decode().split("\n") if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def status(answers):
    return [answer.headers["penstock-status"] for answer in answers]


def streamed(go_on):
    return [Step.REQUEST, STREAM_HEAD + delta("a"), go_on, ENDED] * 3


def requests(upstream):
    return sum(received.count(b"POST /") for received in upstream.received)


async def asking(port, body=STREAM, **more):
    """The connection of a caller who may leave."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(body, **more))
    return writer


@contextlib.asynccontextmanager
async def asked(durable, body=STREAM, scripts=2, script=streamed, **more):
    """A call is under way at one of two gateways: it, what lets it go on, both gateways and the upstream."""
    go_on = asyncio.Event()
    async with two([script(go_on)] * scripts, durable, **more) as (here, there, upstream):
        calling = asyncio.create_task(call(here[1], body))
        await until(lambda: requests(upstream))
        yield calling, go_on, here, there, upstream


@pytest.mark.parametrize("plainly", [False, True], ids=["streamed log", "plain log"])
def test_callers_of_two_processes_share_one_answer_each_in_its_own_form(durable, plainly):
    def script(go_on):
        return [Step.REQUEST, go_on, plain(COMPLETION)] if plainly else streamed(go_on)

    async def main():
        async with asked(durable, SAME if plainly else STREAM, script=script) as (
            calling,
            go_on,
            here,
            there,
            upstream,
        ):
            bodies = [STREAM, SAME, STREAM, SAME]
            others = [asyncio.create_task(call(there[1], body)) for body in bodies]
            await until(lambda: len(there[0].pipeline.readings) == 4)
            others.append(asyncio.create_task(call(here[1], SAME)))
            await until(lambda: len(here[0].pipeline.readings) == 2)
            go_on.set()
            answers = [await calling, *await asyncio.gather(*others)]
            return answers, requests(upstream), rows(here[0]), rows(there[0])

    answers, requests_, here, there = on_uvloop(main)
    assert requests_ == 1
    assert [answer.status for answer in answers] == [200] * 6
    assert status(answers) == ["created"] + ["joined"] * 5
    assert {told(answer) for answer in answers} == {"hi" if plainly else "ab"}
    assert len({answer.headers["penstock-generation"] for answer in answers}) == 1
    assert sorted(row.outcome.value for row in here) == ["completed", "joined"]
    assert [(row.outcome, row.cost, row.usage.output_tokens) for row in there] == [
        (Outcome.JOINED, 0, here[0].usage.output_tokens)
    ] * 4


def test_of_many_at_once_at_two_processes_one_asks(durable):
    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 20, durable) as ((one, here), (other, there), upstream):
            calls = [asyncio.create_task(call(port, STREAM)) for port in (here, there) * 10]
            await until(lambda: len(one.pipeline.readings) + len(other.pipeline.readings) == 20)
            go_on.set()
            return await asyncio.gather(*calls), requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 1
    assert sorted(status(answers)) == ["created"] + ["joined"] * 19
    assert len({answer.body for answer in answers}) == 1


def test_one_of_a_process_asks_the_store_for_all_who_ask_the_same(durable, monkeypatch):
    async def main():
        async with asked(durable) as (calling, go_on, _, (other, there), _):
            store, taken = keeper_of(other).store, []

            async def take(naming, *args):
                taken.append(naming.name)
                return await type(store).take(store, naming, *args)

            monkeypatch.setattr(store, "take", take)
            others = [asyncio.create_task(call(there, STREAM)) for _ in range(10)]
            await until(lambda: len(other.pipeline.readings) == 10)
            others.append(asyncio.create_task(call(there, SAME)))
            await until(lambda: len(other.pipeline.readings) == 11)
            go_on.set()
            await asyncio.gather(calling, *others)
            return taken

    assert len(on_uvloop(main)) == 2, "whose it is, and whether it still is"


@pytest.mark.parametrize(
    ("body", "headers", "join"),
    [
        ({**PROMPT, "stream": True}, (), "auto"),
        (STREAM, ["penstock-join: never"], "auto"),
        (STREAM, (), "never"),
    ],
    ids=["any answer will do", "the caller does not want it", "the configuration does not"],
)
def test_what_is_not_to_be_joined_is_asked_by_each_process_and_nobody_asks_the_store(
    durable, monkeypatch, body, headers, join
):
    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 2, durable, join=join) as ((one, here), (other, there), upstream):
            for gateway in (one, other):
                monkeypatch.setattr(keeper_of(gateway).store, "take", None)
            calls = [asyncio.create_task(call(port, body, headers=headers)) for port in (here, there)]
            await until(lambda: one.pipeline.readings and other.pipeline.readings)
            go_on.set()
            return await asyncio.gather(*calls), requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 2
    assert status(answers) == ["created"] * 2


def test_who_asks_when_the_answer_has_ended_asks_anew(durable):
    async def main():
        go_on = asyncio.Event()
        go_on.set()
        async with two([streamed(go_on)] * 3, durable) as ((one, here), (other, there), upstream):
            first = await call(here, STREAM)
            await stored(one)
            second = await call(there, STREAM)
            await stored(other)
            return [first, second, await call(here, STREAM)], requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 3
    assert status(answers) == ["created"] * 3


def test_an_answer_that_failed_answers_who_was_waiting_for_it_and_nobody_else(durable):
    def script(go_on):
        return [Step.REQUEST, go_on, plain({"error": {"message": "no"}}, "400 Bad Request")]

    async def main():
        async with asked(durable, SAME, script=script) as (
            calling,
            go_on,
            (one, _),
            (other, there),
            upstream,
        ):
            waiting = asyncio.create_task(call(there, SAME))
            await until(lambda: other.pipeline.readings)
            go_on.set()
            failed = [await calling, await waiting]
            await stored(one)
            return [*failed, await call(there, SAME)], requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert [answer.status for answer in answers] == [400] * 3
    assert requests_ == 2


def test_tenants_of_two_processes_do_not_share_an_answer(durable):
    keys = [KeyConfig(name=name, hash=hash_key(name * 10), tenant=name) for name in ("abc", "xyz")]

    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 2, durable, keys=keys) as ((one, here), (other, there), upstream):
            calls = [
                asyncio.create_task(call(port, STREAM, headers=[f"authorization: Bearer {key.name * 10}"]))
                for port, key in zip((here, there), keys, strict=True)
            ]
            await until(lambda: one.pipeline.readings and other.pipeline.readings)
            go_on.set()
            return await asyncio.gather(*calls), requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 2
    assert status(answers) == ["created"] * 2


@pytest.mark.parametrize("plainly", [False, True], ids=["stream", "plain"])
def test_who_asked_first_may_leave_while_another_process_reads(durable, plainly):
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, go_on, plain(COMPLETION)] if plainly else streamed(go_on)
        body = SAME if plainly else STREAM
        async with two([script], durable) as ((one, here), (other, there), upstream):
            writer = await asking(here, body)
            await until(lambda: requests(upstream))
            reading = asyncio.create_task(call(there, STREAM))
            await until(lambda: other.pipeline.readings)
            writer.transport.abort()
            await until(lambda: not one.pipeline.readings and not one.pipeline.waiting)
            for _ in range(3):
                one.pipeline.registry.sweep(one.clock.now() + 60.0)
                await until(lambda: not one.pipeline.waiting)
            (generation,) = one.pipeline.registry
            keeper = keeper_of(other)
            claim = await keeper.names.claim(generation.journal.question, "gen_x")
            assert claim.generation == generation.id, "it is found by others, too"
            later = keeper.now() + one.pipeline.snapshot.config.generations.kept_for + 60.0
            claim = await keeper.store.claim(*generation.journal.question, "gen_x", now=later, until=later)
            assert claim.generation == generation.id, "for as long as one whose caller has not left"
            late = asyncio.create_task(call(there, {**SAME, "user": "late"}))
            await until(lambda: len(other.pipeline.readings) == 2)
            third = asyncio.create_task(call(here, SAME))
            await until(lambda: one.pipeline.readings)
            go_on.set()
            return [await reading, await late, await third], requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 1
    assert status(answers) == ["joined"] * 3
    assert {told(answer) for answer in answers} == {"hi" if plainly else "ab"}


def test_what_nobody_reads_any_more_is_given_up_and_then_asked_anew(durable):
    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 2, durable) as ((one, here), (other, there), upstream):
            writer = await asking(here)
            await until(lambda: requests(upstream))
            await until(lambda: one.pipeline.readings)
            writer.transport.abort()
            await until(lambda: not one.pipeline.productions)
            reading = asyncio.create_task(call(there, STREAM))
            await until(lambda: other.pipeline.readings)
            go_on.set()
            return await reading, requests(upstream), rows(one)

    answer, requests_, (row,) = on_uvloop(main)
    assert requests_ == 2
    assert answer.headers["penstock-status"] == "created"
    assert told(answer) == "ab"
    assert row.outcome is Outcome.CANCELLED


async def unread(port, generation):
    """Somebody says that he will not come back for it."""
    return await call(port, b"", f"/v1/generations/{generation.id}/cancel?unread=true", "POST")


@contextlib.asynccontextmanager
async def left(durable, scripts=2, headers=(), **more):
    """An answer whose only caller has left, and is waited for: it, what lets it go on, both gateways, the upstream."""
    go_on = asyncio.Event()
    async with two([streamed(go_on)] * scripts, durable, grace=3600.0, **more) as (here, there, upstream):
        writer = await asking(here[1], headers=headers)
        await until(lambda: any(one.readable for one in here[0].pipeline.registry))
        (generation,) = here[0].pipeline.registry
        writer.transport.abort()
        await until(lambda: not here[0].pipeline.readings)
        yield generation, go_on, here, there, upstream


def test_what_its_caller_will_not_come_back_for_is_joined_by_nobody_while_its_upstream_is_cancelled(
    durable, monkeypatch
):
    monkeypatch.setattr("penstock.generation.attention.ATTENDED", 0.2)

    async def main():
        async with left(durable) as (generation, go_on, _, (_, there), upstream):
            await unread(there, generation)
            await until(lambda: generation.abandoned)
            reading = asyncio.create_task(call(there, STREAM))
            await until(lambda: requests(upstream) == 2 or reading.done())
            go_on.set()
            return await reading

    answer = on_uvloop(main)
    assert (answer.headers["penstock-status"], told(answer)) == ("created", "ab")


@pytest.mark.parametrize("has", ["reader", "promise"])
def test_what_has_a_reader_or_a_promise_elsewhere_goes_on_when_a_caller_says_here_that_he_is_gone(
    durable, has
):
    async def main():
        async with left(durable, headers=KEY) as (generation, go_on, (one, here), (other, there), upstream):
            later = [*KEY, "prefer: respond-async"] if has == "promise" else ()
            reading = asyncio.create_task(call(there, STREAM, headers=later))
            await until(lambda: other.pipeline.readings or reading.done())
            await until(lambda: not other.pipeline.waiting)
            state = (await unread(here, generation)).json()["status"]
            await until(lambda: not one.pipeline.waiting)
            go_on.set()
            await reading
            await until(lambda: not one.pipeline.productions)
            whole = await call(here, b"", f"/v1/generations/{generation.id}/answer", "GET")
            return state, told(whole), requests(upstream)

    assert on_uvloop(main) == ("running", "ab", 1)


def test_what_nobody_reads_is_ended_when_its_caller_says_here_that_he_is_gone(durable):
    async def main():
        async with left(durable) as (generation, _, (one, here), _, _):
            await unread(here, generation)
            await until(lambda: not one.pipeline.productions)
            return (await unread(here, generation)).json()["status"]

    assert on_uvloop(main) == "cancelled"


def test_who_finds_an_answer_that_is_given_up_just_then_makes_his_own(durable, monkeypatch):
    """It is given up between his finding it and his saying that he reads it."""

    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 2, durable) as ((one, here), (other, there), upstream):
            writer = await asking(here)
            await until(lambda: one.pipeline.readings)
            (generation,) = one.pipeline.registry
            keeper = keeper_of(other)
            load = keeper.store.load

            async def given_up_then(generation_id):
                record = await load(generation_id)
                if record is not None and not generation.abandoned:
                    writer.transport.abort()
                    await until(lambda: generation.abandoned)
                return record

            monkeypatch.setattr(keeper.store, "load", given_up_then)
            reading = asyncio.create_task(call(there, STREAM))
            await until(lambda: other.pipeline.readings)
            go_on.set()
            return await reading, requests(upstream)

    answer, requests_ = on_uvloop(main)
    assert requests_ == 2
    assert answer.headers["penstock-status"] == "created"
    assert told(answer) == "ab"


def test_what_somebody_has_found_and_said_to_read_is_not_given_up(durable, monkeypatch):
    """Its first caller leaves as soon as the other has made sure that it runs."""

    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 2, durable) as ((one, here), (other, there), upstream):
            writer = await asking(here)
            await until(lambda: one.pipeline.readings)
            store, taken = keeper_of(other).store, []

            async def left_then(*args):
                claim = await type(store).take(store, *args)
                taken.append(claim)
                if len(taken) == 2:
                    writer.transport.abort()
                    await until(lambda: not one.pipeline.readings and not one.pipeline.waiting)
                return claim

            monkeypatch.setattr(store, "take", left_then)
            reading = asyncio.create_task(call(there, STREAM))
            await until(lambda: other.pipeline.readings)
            go_on.set()
            return await reading, requests(upstream)

    answer, requests_ = on_uvloop(main)
    assert requests_ == 1
    assert (answer.headers["penstock-status"], told(answer)) == ("joined", "ab")


def test_who_leaves_before_his_question_is_his_has_nothing_asked_and_holds_nobody_up(durable, monkeypatch):
    async def main():
        go_on = asyncio.Event()
        go_on.set()
        async with two([streamed(go_on)], durable) as ((one, here), (other, there), upstream):
            store, make, seen = keeper_of(one).store, one.pipeline._make, []

            def making(exchange, *args):
                seen.append(exchange)
                make(exchange, *args)

            async def late(*args):
                writer.transport.abort()
                await until(lambda: seen[0].gone)
                return await type(store).take(store, *args)

            monkeypatch.setattr(one.pipeline, "_make", making)
            monkeypatch.setattr(store, "take", late)
            writer = await asking(here)
            await until(lambda: seen and not one.pipeline.waiting)
            monkeypatch.setattr(keeper_of(other), "load", None)  # it would wait there
            nothing = requests(upstream)
            return nothing, await call(there, STREAM)

    nothing, answer = on_uvloop(main)
    assert nothing == 0
    assert (answer.headers["penstock-status"], told(answer)) == ("created", "ab")


@pytest.mark.parametrize("step", ["found", "read"])
def test_who_finds_an_answer_that_ends_just_then_shares_it_with_all_who_ask_with_him(
    durable, monkeypatch, step
):
    """It ends before he has found it, or before he has said that he reads it."""

    async def main():
        async with asked(durable) as (calling, go_on, (one, _), (other, there), upstream):
            keeper, came = keeper_of(other), []
            where, name = (keeper.store, "load") if step == "found" else (keeper.attention, "say")
            do = getattr(where, name)

            async def ended_first(what):
                if not came:
                    came.append(what)
                    await until(lambda: len(other.pipeline.waiting) == 5)
                    go_on.set()
                    await calling
                    await stored(one)
                return await do(what)

            monkeypatch.setattr(where, name, ended_first)
            answers = await asyncio.gather(*(call(there, STREAM) for _ in range(5)))
            first = requests(upstream)
            monkeypatch.setattr(keeper.store, "load", None)  # nobody holds the question any more
            return answers, first, await call(there, STREAM), requests(upstream)

    answers, requests_, anew, then = on_uvloop(main)
    assert requests_ == 1
    assert status(answers) == ["joined"] * 5
    assert {told(answer) for answer in answers} == {"ab"}
    assert (anew.headers["penstock-status"], told(anew), then) == ("created", "ab", 2)


def test_a_question_that_was_taken_and_never_asked_holds_nobody_up(durable):
    """Nor is the store, which is well, left alone for it: who comes then is joined by all."""

    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)], durable) as ((one, here), (other, there), upstream):
            store, begun = keeper_of(one).store, []

            async def taken_by_the_dead(naming, generation_id, instead_of=""):
                if not begun:
                    begun.append(await type(store).take(store, naming, "gen_dead"))
                return await type(store).take(store, naming, generation_id, instead_of)

            store.take = taken_by_the_dead
            calls = [asyncio.create_task(call(here, STREAM))]
            async with asyncio.timeout(20):
                await until(lambda: requests(upstream))
            calls.append(asyncio.create_task(call(there, STREAM)))
            await until(lambda: other.pipeline.readings)
            go_on.set()
            return await asyncio.gather(*calls), requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 1
    assert status(answers) == ["created", "joined"]
    assert {told(answer) for answer in answers} == {"ab"}


def test_a_store_that_cannot_be_asked_is_left_alone_and_each_answers_by_itself(durable, monkeypatch):
    async def main():
        go_on = asyncio.Event()
        async with two([streamed(go_on)] * 3, durable, troubled=True) as (
            (one, here),
            (other, there),
            upstream,
        ):
            asked = []

            async def unavailable(*_, **__):
                asked.append(1)
                raise StoreUnavailable("gone")

            for gateway in (one, other):
                monkeypatch.setattr(keeper_of(gateway).store, "take", unavailable)
            calls = [asyncio.create_task(call(port, STREAM)) for port in (here, there)]
            await until(lambda: one.pipeline.readings and other.pipeline.readings)
            go_on.set()
            answers = await asyncio.gather(*calls)
            return [*answers, await call(here, STREAM)], requests(upstream), len(asked)

    answers, requests_, asked = on_uvloop(main)
    assert requests_ == 3
    assert status(answers) == ["created"] * 3
    assert asked == 2, "the third call did not ask: the store had just been away"


@pytest.mark.parametrize("late", ["load", "events", "say", "say once more"])
def test_all_that_is_asked_of_a_store_for_one_call_has_one_budget(durable, monkeypatch, late):
    async def main():
        async with asked(durable) as (calling, go_on, _, (other, there), upstream):
            monkeypatch.setattr("penstock.gateway.questions.BUDGET", 0.3)
            keeper, asleep = keeper_of(other), asyncio.Event()
            where, what = (keeper.attention, "say") if late.startswith("say") else (keeper.store, late)
            do = getattr(where, what)

            async def sleeps(*which):
                if late == "say once more" and not keeper.following:
                    return await do(*which)
                asleep.set()
                return await asyncio.Event().wait()

            with monkeypatch.context() as trouble:
                trouble.setattr(where, what, sleeps)
                alone = asyncio.create_task(call(there, STREAM))
                await until(lambda: requests(upstream) == 2)
            assert asleep.is_set()
            assert not keeper.following, "what was read only in part is forgotten"
            go_on.set()
            return [await calling, await alone]

    answers = on_uvloop(main)
    assert status(answers) == ["created"] * 2
    assert {told(answer) for answer in answers} == {"ab"}


def test_who_cannot_read_in_time_what_another_process_produces_leaves_it_its_question(durable, monkeypatch):
    async def main():
        async with asked(durable) as (calling, go_on, (one, _), (other, there), upstream):
            await until(lambda: any(log.readable for log in one.pipeline.registry))
            (generation,) = one.pipeline.registry
            await keeper_of(one).journal.flush(60.0)
            keeper = keeper_of(other)

            async def away(*_):
                raise StoreUnavailable("it does not answer just now")

            with monkeypatch.context() as trouble:
                trouble.setattr(keeper.store, "events", away)
                alone = asyncio.create_task(call(there, STREAM))
                await until(lambda: requests(upstream) == 2)
            claim = await keeper.names.claim(generation.journal.question, "gen_x")
            go_on.set()
            await asyncio.gather(calling, alone)
            return claim.generation == generation.id

    assert on_uvloop(main)


def test_while_redis_hangs_each_answers_by_itself():
    async def main():
        go_on = asyncio.Event()
        go_on.set()
        with RedisServer() as redis:
            generations = GenerationsConfig(durability="shared", redis=Secret(redis.url))
            models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
            async with ScriptedUpstream([streamed(go_on)] * 2) as upstream:
                settings = config(upstream.url, generations=generations, models=models, retry=RetryConfig())
                async with (
                    serving(settings, troubled=True) as (_, here),
                    serving(settings, troubled=True) as (_, there),
                ):
                    redis.freeze()
                    answers = await asyncio.gather(call(here, STREAM), call(there, STREAM))
                    redis.thaw()
                    return answers, requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 2
    assert status(answers) == ["created"] * 2
    assert {told(answer) for answer in answers} == {"ab"}


def test_who_can_join_does_not_wait_until_the_answer_is_in_the_cache():
    async def main():
        go_on = asyncio.Event()
        with RedisServer() as redis:
            generations = GenerationsConfig(durability="shared", redis=Secret(redis.url))
            candidates = [CandidateConfig(upstream="up0")]
            models = {"m": ModelConfig(candidates=candidates, cache=ModelCacheConfig())}
            cache = CacheConfig(redis=Secret(f"{redis.url}/1"), seal_key=Secret("s"), redis_budget=5.0)
            async with ScriptedUpstream([streamed(go_on)] * 2) as upstream:
                settings = config(upstream.url, generations=generations, models=models, cache=cache)
                async with serving(settings) as (_, here), serving(settings) as (_, there):
                    first = asyncio.create_task(call(here, STREAM))
                    await until(lambda: requests(upstream))
                    reader, writer = await asyncio.open_connection("127.0.0.1", there)
                    writer.write(request(STREAM))
                    head = await reader.readuntil(b"id: 0")  # before the answer has ended
                    go_on.set()
                    await first
                    writer.close()
                    return head, requests(upstream)

    head, asked = on_uvloop(main)
    assert b"penstock-status: joined" in head.lower()
    assert asked == 1


def test_who_asks_once_more_by_his_own_key_finds_what_he_joined_in_every_process(durable):
    async def main():
        async with asked(durable) as (calling, go_on, (one, here), (other, there), upstream):
            joining = asyncio.create_task(call(there, SAME, headers=KEY))
            await until(lambda: other.pipeline.readings)
            go_on.set()
            first, second = await calling, await joining
            await stored(one)
            await until(lambda: not other.pipeline.waiting)
            again = await call(here, SAME, headers=KEY)
            return [first, second, again], requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 1
    assert status(answers) == ["created", "joined", "replayed"]
    assert len({answer.headers["penstock-generation"] for answer in answers}) == 1
    assert answers[2].body == answers[1].body


@pytest.mark.parametrize(("tries", "callers"), [("0", 3), ("1", 1)], ids=["first calls", "a retry"])
def test_an_sdk_that_has_lost_what_it_joined_gets_that_from_every_process(durable, tries, callers):
    """Also when the answer has ended, and by what it asks itself: the other asked for a stream."""

    async def main():
        async with asked(durable) as (calling, go_on, (one, here), (other, there), upstream):
            sdk = [[f"x-stainless-retry-count: {count}"] for count in (tries, "2")]
            joining = [asyncio.create_task(call(there, SAME, headers=sdk[0])) for _ in range(callers)]
            await until(lambda: len(other.pipeline.readings) == callers)
            await until(lambda: not other.pipeline.waiting)
            go_on.set()
            answers = [await calling, *await asyncio.gather(*joining)]
            await stored(one)
            return [*answers, await call(here, SAME, headers=sdk[1])], requests(upstream)

    answers, requests_ = on_uvloop(main)
    assert requests_ == 1
    assert status(answers) == ["created", *["joined"] * callers, "replayed"]
    assert len({answer.headers["penstock-generation"] for answer in answers}) == 1
    assert answers[-1].body == answers[1].body


def test_a_process_that_goes_hands_over_what_others_have_joined(durable):
    async def main():
        go_on = asyncio.Event()
        go_on.set()
        stays = [Step.REQUEST, STREAM_HEAD + delta("a"), asyncio.Event()]
        async with two([stays, streamed(go_on)], durable, grace=0.0) as (
            (one, here),
            (other, there),
            upstream,
        ):
            writer = await asking(here)
            await until(lambda: any(log.readable for log in one.pipeline.registry))
            joining = asyncio.create_task(call(there, STREAM))
            await until(lambda: any(log.readable for log in other.pipeline.registry))
            writer.transport.abort()
            await until(one.pipeline.registry.waiting)
            await one.drain(0.1)
            return await joining, requests(upstream)

    answer, requests_ = on_uvloop(main)
    assert answer.headers["penstock-status"] == "joined"
    assert told(answer) == "ab"
    assert requests_ == 2


def test_what_was_taken_over_is_still_joined_and_who_has_it_knows_its_question(durable, monkeypatch):
    async def main():
        go_on = asyncio.Event()
        stays = [Step.REQUEST, STREAM_HEAD + delta("a"), asyncio.Event()]
        async with two([stays, streamed(go_on)], durable, grace=60.0) as (
            (one, here),
            (other, there),
            upstream,
        ):
            writer = await asking(here)
            await until(lambda: any(log.readable for log in one.pipeline.registry))
            await one.drain(0.1)
            await until(lambda: requests(upstream) == 2)
            monkeypatch.setattr(keeper_of(other).store, "take", None)  # it need not be asked
            joining = asyncio.create_task(call(there, STREAM))
            await until(lambda: other.pipeline.readings)
            (generation,) = other.pipeline.registry
            claim = await keeper_of(other).names.claim(generation.journal.question, "gen_x")
            assert claim.generation == generation.id
            go_on.set()
            writer.transport.abort()
            return await joining, requests(upstream)

    answer, requests_ = on_uvloop(main)
    assert answer.headers["penstock-status"] == "joined"
    assert told(answer) == "ab"
    assert requests_ == 2
