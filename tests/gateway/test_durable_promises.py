"""What is promised of an answer that runs already, and what is told of its end, where several processes share a store."""

import asyncio
import contextlib

import pytest
from continuing import RESPONSES, body_for, simulated
from durably import keeper_of, stored, two
from serving import DONE, PROMPT, STREAM_END, STREAM_HEAD, call, delta, on_uvloop, request, serving, until

from penstock.errors import HandedOver
from penstock.gateway import inheritance
from penstock.gateway.announce import event_of
from penstock.generation.entry import Entry
from penstock.generation.store import StoreUnavailable
from penstock.testing import Step

STREAM = {**PROMPT, "stream": True, "temperature": 0}
SCRIPT = [Step.REQUEST, STREAM_HEAD + delta("a"), delta("b"), delta("c", "stop") + DONE + STREAM_END]
KEY = ["idempotency-key: k"]
PROMISE = [*KEY, "prefer: respond-async"]
LATER = 3_600.0  # seconds: nobody who has left is waited for any more


async def asked(gateway, port, headers=KEY):
    """A caller who has two events of an answer that stands still: his connection, and the generation."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(STREAM, headers=headers))
    await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
    (generation,) = gateway.pipeline.registry
    return writer, generation


async def left(gateway, writer):
    writer.transport.abort()
    await until(lambda: not gateway.pipeline.readings)


async def passed(gateway):
    """So much time that nobody who has left is waited for."""
    gateway.pipeline.registry.sweep(gateway.clock.now() + LATER)
    await until(lambda: not gateway.pipeline.waiting)


def listening(gateway):
    """What its webhooks would tell."""
    told = []
    gateway.pipeline.on_background_end = lambda *what: told.append(event_of(*what))
    return told


def test_what_is_promised_of_an_answer_whose_caller_has_just_left_is_kept(durable):
    async def main():
        go_on = asyncio.Event()
        async with two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable) as ((gateway, here), _, _):
            told = listening(gateway)
            writer, generation = await asked(gateway, here)
            await left(gateway, writer)
            promised = await call(here, STREAM, headers=PROMISE)
            await passed(gateway)
            go_on.set()
            await gateway.pipeline.wait_idle()
            answer = await call(here, b"", promised.headers["location"] + "/answer", "GET")
            return promised, answer, told, generation.id

    promised, answer, told, generation = on_uvloop(main)
    assert (promised.status, promised.headers["penstock-status"]) == (202, "attached")
    assert answer.json()["choices"][0]["message"]["content"] == "abc"
    assert told == [("generation.completed", generation)]


def test_what_is_promised_of_anothers_answer_goes_on_in_the_process_that_takes_it_over(durable):
    async def main():
        go_on = asyncio.Event()
        scripts = [[*SCRIPT[:3], asyncio.Event()], [Step.REQUEST, go_on, *SCRIPT[1:]]]
        async with two(scripts, durable, lease=2.0) as ((gateway, here), (other, there), _):
            tellings = listening(gateway), listening(other)
            writer, generation = await asked(gateway, here)
            promised = await call(here, STREAM, headers=PROMISE)
            await until(lambda: not gateway.pipeline.waiting)
            await left(gateway, writer)
            await gateway.drain(0.0)
            await until(lambda: keeper_of(other).taken_over == 1)
            await passed(other)
            go_on.set()
            await other.pipeline.wait_idle()
            answer = await call(there, b"", promised.headers["location"] + "/answer", "GET")
            return answer, tellings, generation.id

    answer, (by_the_first, by_the_second), generation = on_uvloop(main)
    assert answer.json()["choices"][0]["message"]["content"] == "abc"
    assert by_the_first == [None], "it has not ended"
    assert by_the_second == [("generation.completed", generation)]


def test_what_another_process_promises_is_kept_by_the_one_that_produces_it(durable):
    async def main():
        go_on = asyncio.Event()
        async with two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable) as ((gateway, here), (other, there), _):
            writer, _ = await asked(gateway, here)
            promised = await call(there, STREAM, headers=PROMISE)
            await until(lambda: not other.pipeline.waiting)
            for one in list(
                other.pipeline.registry
            ):  # its process dies, say: it reads nothing there any more
                keeper_of(other).following.leave(one)
            keeper = keeper_of(gateway)
            now = keeper.now()
            await keeper.store.claim(
                "", f"readers of {promised.headers['penstock-generation']}", b"", "", now=now, until=now,
                instead_of=keeper_of(other).lease.owner,
            )  # fmt: skip
            await left(gateway, writer)
            await passed(gateway)
            running = len(gateway.pipeline.productions)
            go_on.set()
            await stored(gateway)
            answer = await call(here, b"", promised.headers["location"] + "/answer", "GET")
            return promised, running, answer

    promised, running, answer = on_uvloop(main)
    assert promised.status == 202
    assert running == 1
    assert answer.json()["choices"][0]["message"]["content"] == "abc"


@pytest.mark.parametrize(("headers", "told_of"), [(PROMISE, 1), (KEY, 0)], ids=["promised", "read"])
def test_what_another_process_promises_of_an_answer_that_is_read_here_is_told_here(durable, headers, told_of):
    async def main():
        go_on = asyncio.Event()
        async with two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable) as ((gateway, here), (other, there), _):
            tellings = listening(gateway), listening(other)
            writer, generation = await asked(gateway, here)
            asking = asyncio.create_task(call(there, STREAM, headers=headers))
            await until(lambda: len(other.pipeline.registry) and not other.pipeline.waiting)
            go_on.set()
            await asking
            await gateway.pipeline.wait_idle()
            writer.close()
            return tellings, generation.id

    (by_the_first, by_the_second), generation = on_uvloop(main)
    assert by_the_first == [("generation.completed", generation)] * told_of
    assert by_the_second == []


@pytest.mark.parametrize("completes", [True, False], ids=["which has completed it", "which makes it"])
def test_who_cancels_what_another_process_makes_tells_of_it_and_that_one_does_not(durable, completes):
    """Whether or not the other process hears of it before its own end."""

    async def main():
        go_on, written = asyncio.Event(), asyncio.Event()
        script = [*SCRIPT[:3], go_on, SCRIPT[3] if completes else delta("c")]
        async with two([[*script, asyncio.Event()]], durable) as ((gateway, here), (other, there), _):
            tellings = listening(gateway), listening(other)
            promised = await call(here, STREAM, headers=PROMISE)
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            store = keeper_of(gateway).store
            write = store.write

            async def later(writes):
                await written.wait()
                return await write(writes)

            store.write = later
            go_on.set()
            if completes:
                await until(lambda: not gateway.pipeline.productions)
            told = await call(there, b"", promised.headers["location"] + "/cancel", "POST")
            await other.pipeline.wait_idle()
            written.set()
            await gateway.pipeline.wait_idle()
            again = await call(here, b"", promised.headers["location"], "GET")
            return told.json()["status"], again.json()["status"], tellings, promised

    told, again, (by_the_first, by_the_second), promised = on_uvloop(main)
    assert (told, again) == ("cancelled", "cancelled")
    assert by_the_first == [None]
    assert by_the_second == [("generation.cancelled", promised.headers["penstock-generation"])]


@pytest.mark.parametrize("ends", ["completed", "cancelled"])
def test_a_response_is_told_of_under_the_id_that_its_caller_was_given(durable, ends):
    """Also by who takes it over, or cancels it elsewhere."""

    async def main():
        upstream = {"kinds": ["openai"], "upstream": {"responses": True}}
        body = body_for(RESPONSES, background=True, stream=False, temperature=0)
        async with (
            simulated("tps=50,stall-after=9,once", **upstream, generations=durable(2.0)) as (first, port, _),
            serving(first.pipeline.snapshot.config) as (second, there),
        ):
            told = listening(second)
            promised = (await call(port, body, RESPONSES)).json()["id"]
            await until(lambda: any(one.readable > 8 for one in first.pipeline.registry))
            (generation,) = first.pipeline.registry
            assert promised.encode() not in generation.events[0], "its upstream has another id for it"
            if ends == "cancelled":
                await call(there, b"", f"{RESPONSES}/{promised}/cancel", "POST")
            else:
                await first.drain(0.0)
            await until(lambda: told)
            await second.pipeline.wait_idle()
            return promised, told

    promised, told = on_uvloop(main)
    assert told == [(f"response.{ends}", promised)]


def test_who_was_taken_for_dead_and_lives_tells_nothing_of_what_another_has_gone_on_with(durable):
    """Also when it has had all of the answer by then."""

    async def main():
        go_on = asyncio.Event()
        scripts = [[*SCRIPT[:3], go_on, SCRIPT[3]], [Step.REQUEST, *SCRIPT[1:]]]
        async with two(scripts, durable) as ((gateway, here), (other, _), _):
            tellings = listening(gateway), listening(other)
            promised = await call(here, STREAM, headers=PROMISE)
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            generation = promised.headers["penstock-generation"]
            keeper = keeper_of(gateway)
            keeper.leaving = True
            await keeper.store.release(keeper.lease.owner, [generation])  # as when its lease has run out
            await until(lambda: tellings[1])
            go_on.set()
            await gateway.pipeline.wait_idle()
            return tellings, generation

    (by_the_first, by_the_second), generation = on_uvloop(main)
    assert by_the_first == [None]
    assert by_the_second == [("generation.completed", generation)]


def test_who_deletes_what_another_process_makes_tells_of_it_and_that_one_does_not(durable):
    async def main():
        upstream = {"kinds": ["openai"], "upstream": {"responses": True}}
        body = body_for(RESPONSES, background=True, stream=False, temperature=0)
        async with (
            simulated("tps=50,stall-after=9,once", **upstream, generations=durable(60.0)) as (first, port, _),
            serving(first.pipeline.snapshot.config) as (second, there),
        ):
            tellings = listening(first), listening(second)
            promised = (await call(port, body, RESPONSES)).json()["id"]
            await until(lambda: any(one.readable > 8 for one in first.pipeline.registry))
            await call(there, b"", f"{RESPONSES}/{promised}", "DELETE")
            await first.pipeline.wait_idle()
            await second.pipeline.wait_idle()
            return tellings, promised

    (by_the_first, by_the_second), promised = on_uvloop(main)
    assert by_the_first == []
    assert by_the_second == [("response.cancelled", promised)]


def test_who_cancels_what_has_just_ended_elsewhere_inherits_nothing_of_it(durable):
    """What it cost stands in its producer's row, also if that one stops a moment later."""

    async def main():
        go_on, inherited = asyncio.Event(), []
        async with two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable) as ((gateway, here), (other, there), _):
            writer, generation = await asked(gateway, here)
            await call(there, STREAM, headers=PROMISE)
            keeper = keeper_of(other)
            cut, bequeath = keeper.store.cut, keeper.bequeath

            async def later(*what):
                go_on.set()
                await until(lambda: generation.stored)
                return await cut(*what)

            async def noted(*what):
                inherited.append(what)
                await bequeath(*what)

            keeper.store.cut, keeper.bequeath = later, noted
            await call(there, b"", f"/v1/generations/{generation.id}/cancel")
            await other.pipeline.wait_idle()
            record = await keeper.load(generation.id)
            writer.close()
            return record.state.value, inherited

    assert on_uvloop(main) == ("finished", [])


@pytest.mark.parametrize("troubled", [False, True], ids=["at once", "after a store that was away"])
def test_of_two_who_cancel_it_in_one_moment_one_inherits_what_another_process_makes(
    durable, troubled, monkeypatch
):
    """Each would enter its cost, if its producer stops a moment later; whose try is in doubt must."""
    monkeypatch.setattr(inheritance, "_TRY_AGAIN", 0.0)

    async def main():
        go_on, both, inherited = asyncio.Event(), asyncio.Barrier(2), []
        async with (
            two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable, troubled=troubled) as (
                (gateway, here),
                second,
                _,
            ),
            serving(gateway.pipeline.snapshot.config) as third,
        ):
            writer, generation = await asked(gateway, here)
            for other, there in (second, third):
                await call(there, STREAM, headers=PROMISE)
                in_one_moment(other, both, inherited, troubled=troubled and other is third[0])
            cancel = f"/v1/generations/{generation.id}/cancel"
            await asyncio.gather(*(call(there, b"", cancel) for _, there in (second, third)))
            for other, _ in (second, third):
                await other.pipeline.wait_idle()
            writer.close()
            return inherited, third[0]

    inherited, third = on_uvloop(main)
    if troubled:
        assert third in inherited
    else:
        assert len(inherited) == 1


def in_one_moment(gateway, both, inherited, *, troubled):
    """It cancels when the other does; `troubled`: its store is away just after the first try."""
    keeper = keeper_of(gateway)
    cut, bequeath, tries = keeper.store.cut, keeper.bequeath, []

    async def together(*what):
        if not tries:
            tries.append(await both.wait())
        done = await cut(*what)
        if troubled and len(tries) == 1:
            tries.append(done)
            raise StoreUnavailable("away")
        return done

    async def noted(*what):
        inherited.append(gateway)
        await bequeath(*what)

    keeper.store.cut, keeper.bequeath = together, noted


def test_who_stands_still_until_an_answer_is_not_kept_any_more_tells_nothing_of_it(durable):
    """Another process may have told that it is complete, however long ago."""

    async def main():
        go_on, written = asyncio.Event(), asyncio.Event()
        async with two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable) as ((gateway, here), (other, _), _):
            told = listening(gateway)
            promised = await call(here, STREAM, headers=PROMISE)
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            store = keeper_of(gateway).store
            write = store.write

            async def later(writes):
                await written.wait()
                return await write(writes)

            store.write = later  # it is asleep
            await keeper_of(other).store.delete(promised.headers["penstock-generation"])  # its time is over
            go_on.set()
            await until(lambda: not gateway.pipeline.productions)
            written.set()
            await gateway.pipeline.wait_idle()
            return told

    assert on_uvloop(main) == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", RESPONSES])
def test_a_promise_is_made_once_a_kill_would_not_break_it(durable, monkeypatch, path):
    monkeypatch.setattr("penstock.gateway.durable.CLAIM_BUDGET", 60.0)

    async def main():
        written = asyncio.Event()
        upstream = {"kinds": ["openai"], "upstream": {"responses": True}}
        async with simulated("ttft=60000", **upstream, generations=durable(60.0)) as (gateway, port, _):
            store = keeper_of(gateway).store
            write = store.write

            async def later(writes):
                await written.wait()
                return await write(writes)

            store.write = later
            body = body_for(path, stream=False, **({"background": True} if path == RESPONSES else {}))
            headers = [] if path == RESPONSES else ["prefer: respond-async"]
            asking = asyncio.create_task(call(port, body, path, headers=headers))
            await until(lambda: len(gateway.pipeline.registry))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 1.0)
            early = asking.done()
            written.set()
            answer = await asking
            known = await keeper_of(gateway).store.load(answer.headers["penstock-generation"])
            await call(port, b"", f"/v1/generations/{answer.headers['penstock-generation']}/cancel", "POST")
            return early, answer.status, known

    early, status, known = on_uvloop(main)
    assert not early
    assert status == (200 if path == RESPONSES else 202)
    assert known is not None


def test_what_is_promised_of_an_answer_that_runs_already_is_told_once_a_kill_would_not_break_it(
    durable, monkeypatch
):
    monkeypatch.setattr("penstock.gateway.durable.CLAIM_BUDGET", 60.0)

    async def main():
        go_on, heard = asyncio.Event(), asyncio.Event()
        async with two([[*SCRIPT[:3], go_on, SCRIPT[3]]], durable) as ((gateway, here), _, _):
            writer, generation = await asked(gateway, here)
            attention = keeper_of(gateway).attention
            promise = attention.promise

            async def later(generation_id):
                await heard.wait()
                await promise(generation_id)

            attention.promise = later
            asking = asyncio.create_task(call(here, STREAM, headers=PROMISE))
            await until(lambda: generation.background)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 0.5)
            early = asking.done()
            heard.set()
            status = (await asking).status
            known = await attention.is_promised(generation.id)
            writer.close()
            go_on.set()
            await gateway.pipeline.wait_idle()
            return early, status, known

    early, status, known = on_uvloop(main)
    assert not early
    assert status == 202
    assert known


@pytest.mark.parametrize("path", ["/v1/chat/completions", RESPONSES])
def test_what_was_handed_over_before_its_caller_was_told_is_told_as_running(durable, monkeypatch, path):
    handed_over = asyncio.Event()
    wait_begun = Entry.wait_begun

    async def later(entry):
        await wait_begun(entry)
        await handed_over.wait()

    monkeypatch.setattr(Entry, "wait_begun", later)

    async def main():
        upstream = {"kinds": ["openai"], "upstream": {"responses": True}}
        async with simulated("ttft=60000", **upstream, generations=durable(60.0)) as (gateway, port, _):
            body = body_for(path, stream=False, **({"background": True} if path == RESPONSES else {}))
            asking = asyncio.create_task(call(port, body, path, headers=["prefer: respond-async"]))
            await until(lambda: len(gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            entry = generation.journal.entry
            await until(lambda: entry.begun)
            await gateway.drain(0.0)
            assert isinstance(generation.error, HandedOver)
            assert not asking.done()
            handed_over.set()
            return (await asking).json()

    told = on_uvloop(main)
    assert told["status"] == ("in_progress" if path == RESPONSES else "running")
    assert told["error"] is None
