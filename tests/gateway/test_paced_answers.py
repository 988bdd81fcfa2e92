"""Kept answers that go out over time: as if they were being made, and the same bytes as at once."""

import asyncio

import pytest
from gateway_doubles import FakeExchange, a_call, a_generation
from keeping import ASKED, STREAM, STREAMED, answering, apart, gateway_of, line_to
from serving import (
    DONE,
    NOTHING,
    STREAM_END,
    STREAM_HEAD,
    call,
    delta,
    held,
    on_uvloop,
    request,
    until,
)

from penstock.cache.entry import Entry
from penstock.config.model import ModelCacheConfig, PaceConfig
from penstock.gateway.stages.pace import STEP, Pacing, span
from penstock.gateway.stages.read import CLIENT_GONE, Reading
from penstock.messages import Usage
from penstock.net.wheel import RESOLUTION
from penstock.testing import Step

BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
SLOWLY = PaceConfig(tokens_per_second=0.2)  # two tokens: ten seconds


def an_entry(**more):
    members = {
        "endpoint": "chat", "model": "m", "upstream": "u", "upstream_model": "um", "stream": True,
        "include_usage": False, "running_usage": False, "headers": (), "events": (b"data: 1\n\n",),
        "usage": Usage(7, 30), "cost": 5, "asked": 1.0, "stored": 2.0, "fresh_until": 3.0, "kept_until": 4.0,
        "tags": (), "took": 2.5,
    }  # fmt: skip
    return Entry(**{**members, **more})


class Time:
    """Stands still until it is told to go on."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class Paced:
    """What is read of replays, by callers without a socket."""

    def __init__(self):
        self.time = Time()
        self.pacing = Pacing(self.time)

    def read(self, count, seconds, *, room=1_000_000):
        """``(reading, exchange, generation)``"""
        made = a_call(body=BODY)
        generation = a_generation(made)
        exchange = FakeExchange(room=room)
        reading = Reading(made, generation, exchange, b"cached", generation.leave)
        self.pacing.begin(generation, [b"data: %d\n\n" % number for number in range(count)], seconds)
        generation.join(reading)
        exchange.watch(reading)
        return reading, exchange, generation

    def after(self, seconds):
        self.time.now += seconds
        self.pacing.wheel.turn()


def events(exchange):
    return exchange.body.count(b"data: ")


# ---- when what goes out ----


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        (PaceConfig(), 2.5),
        (PaceConfig(longest=2), 2.0),
        (PaceConfig(longest=0), 0.0),
        (PaceConfig(tokens_per_second=20), 1.5),
        (PaceConfig(tokens_per_second=0.1), 10.0),
        (PaceConfig(tokens_per_second=0.1, longest=60), 60.0),
    ],
)
def test_an_answer_takes_as_long_as_it_did_or_as_its_tokens_do_and_no_longer_than_the_longest(pace, seconds):
    assert span(pace, an_entry()) == seconds


def test_events_go_out_at_even_distances_the_first_at_once_and_the_last_at_the_end():
    async def main():
        paced = Paced()
        _, exchange, generation = paced.read(11, 5.0)
        seen = [events(exchange)]
        paced.time.now += RESOLUTION
        for _ in range(11):
            paced.after(0.5)
            seen.append(events(exchange))
        assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11]
        assert exchange.ended
        assert not generation.readers
        assert len(paced.pacing) == 0
        paced.pacing.close()

    on_uvloop(main)


def test_a_quick_stream_wakes_nobody_for_each_event():
    async def main():
        paced = Paced()
        _, exchange, _ = paced.read(10_001, 1.0)
        while not exchange.ended:
            paced.after(STEP)
        assert 40 <= len(exchange.writes) <= 2 + 10_001 // 256 + 1 / STEP
        assert events(exchange) == 10_001
        paced.pacing.close()

    on_uvloop(main)


@pytest.mark.parametrize(("count", "seconds"), [(1, 5.0), (7, 0.0), (7, STEP / 2)])
def test_what_takes_no_time_goes_out_at_once(count, seconds):
    async def main():
        paced = Paced()
        _, exchange, _ = paced.read(count, seconds)
        assert events(exchange) == count
        assert exchange.ended
        assert len(paced.pacing) == 0

    on_uvloop(main)


def test_the_loops_own_timer_drives_it():
    async def main():
        pacing = Pacing(asyncio.get_running_loop().time)
        made = a_call(body=BODY)
        generation, exchange = a_generation(made), FakeExchange()
        began = asyncio.get_running_loop().time()
        pacing.begin(generation, [b"data: 1\n\n"] * 5, 0.1)
        generation.join(Reading(made, generation, exchange, b"cached", generation.leave))
        await until(lambda: exchange.ended)
        assert asyncio.get_running_loop().time() - began >= 0.1
        assert len(exchange.writes) >= 2
        assert pacing.wheel._armed is None

    on_uvloop(main)


# ---- readers ----


def test_a_reader_who_leaves_leaves_nothing_behind():
    async def main():
        paced = Paced()
        reading, exchange, generation = paced.read(11, 5.0)
        paced.after(1.0)
        reading.on_gone()
        assert reading.status == CLIENT_GONE
        assert len(paced.pacing) == 0
        before = events(exchange)
        paced.after(10.0)
        assert (events(exchange), len(generation.events)) == (before, before)
        assert paced.pacing.wheel._slots == {}
        paced.pacing.close()

    on_uvloop(main)


def test_a_reader_who_is_slow_gets_all_when_it_has_room():
    async def main():
        paced = Paced()
        reading, exchange, _ = paced.read(11, 5.0, room=2)
        paced.after(10.0)
        assert not exchange.ended
        exchange.room = 1_000
        reading.on_writable()
        assert events(exchange) == 11
        assert exchange.ended
        paced.pacing.close()

    on_uvloop(main)


def test_many_at_once_have_one_timer_and_no_task():
    async def main():
        paced = Paced()
        tasks = len(asyncio.all_tasks())
        readers = [paced.read(50, 5.0 + number / 1_000) for number in range(1_000)]
        assert len(asyncio.all_tasks()) == tasks
        assert len(paced.pacing) == 1_000
        for reading, _, _ in readers[::2]:
            reading.on_gone()
        for _ in range(350):
            paced.after(STEP)
        assert all(exchange.ended for _, exchange, _ in readers[1::2])
        assert {events(exchange) for _, exchange, _ in readers[1::2]} == {50}
        assert {events(exchange) for _, exchange, _ in readers[::2]} == {1}
        assert len(paced.pacing) == 0
        assert paced.pacing.wheel._slots == {}
        paced.pacing.close()

    on_uvloop(main)


# ---- through the gateway ----

WORDS = [
    STREAM_HEAD,
    *(delta(str(number)) for number in range(8)),
    delta("", "stop", usage=(3, 8)),
    DONE,
    STREAM_END,
]


@pytest.mark.parametrize("kept_as", [ASKED, STREAM, {**STREAM, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("stream_options", [{}, {"stream_options": {"include_usage": True}}])
def test_the_bytes_are_those_that_come_at_once(kept_as, stream_options):
    body = {**STREAM, **stream_options}

    async def main(pace):
        script = [Step.REQUEST, *(STREAMED if "stream" in kept_as else [answering("a b c d e")[1]])]
        policy = ModelCacheConfig(pace=pace)
        async with gateway_of([script], cache=policy) as (gateway, port, _, _), line_to(port) as ask:
            time = Time()
            gateway.pipeline.lookup.pacing = pacing = Pacing(time)
            await ask(kept_as)
            asking = asyncio.ensure_future(ask(body))
            await until(lambda: asking.done() or len(pacing))
            assert bool(len(pacing)) == (pace is not None)
            while not asking.done():
                time.now += STEP
                pacing.wheel.turn()
                await asyncio.sleep(0)
            answer = await asking
            assert answer.headers["penstock-status"] == "cached"
            assert b"[DONE]" in answer.body
            return apart(
                answer, but=("penstock-generation", "date", "penstock-cache-key")
            )  # which has the port in it

    assert on_uvloop(lambda: main(SLOWLY)) == on_uvloop(lambda: main(None))


@pytest.mark.parametrize("form", [ASKED, STREAM])
def test_only_streams_have_a_pace_and_they_are_read_each_time(form):
    async def main():
        policy = ModelCacheConfig(pace=PaceConfig(tokens_per_second=1_000))
        script = [Step.REQUEST, *STREAMED] if "stream" in form else answering()
        async with gateway_of([script], cache=policy) as (gateway, port, _, _), line_to(port) as ask:
            for _ in range(4):
                assert (await ask(form)).status == 200
            assert gateway.repeats.answered == (0 if "stream" in form else 2)

    on_uvloop(main)


def test_who_would_rather_come_back_later_gets_at_once_what_is_there():
    async def main():
        async with gateway_of(
            [[Step.REQUEST, *WORDS]], cache=ModelCacheConfig(pace=SLOWLY, usage="original")
        ) as (
            gateway,
            port,
            _,
            _,
        ):
            whole = await call(port, STREAM)
            gateway.pipeline.lookup.pacing = pacing = Pacing(Time())  # which would never come to an end
            async with asyncio.timeout(10):
                answer = await call(port, STREAM, headers=["prefer: respond-async"])
            assert (answer.status, answer.headers["penstock-status"]) == (200, "cached")
            assert answer.body == whole.body
            assert len(pacing) == 0

    on_uvloop(main)


def test_it_takes_as_long_as_the_answer_did_when_it_was_made():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, *WORDS[:4], go_on, *WORDS[4:]]
        async with gateway_of([script], cache=ModelCacheConfig(pace=PaceConfig())) as (gateway, port, _, _):
            time = Time()
            gateway.clock.now = gateway.recorder.clock.now = time
            asking = asyncio.ensure_future(call(port, STREAM))
            await until(lambda: any(one.generation.events for one in gateway.pipeline.readings))
            time.now += 3.0
            go_on.set()
            await asking
            key = (await call(port, {**STREAM, "stream": False})).headers["penstock-cache-key"]
            assert gateway.cache.memory.peek(bytes.fromhex(key)).took == 3.0

    on_uvloop(main)


def test_a_caller_who_leaves_costs_nothing_more():
    async def main():
        policy = ModelCacheConfig(pace=SLOWLY, usage="original")
        async with gateway_of([[Step.REQUEST, *WORDS]], cache=policy) as (gateway, port, _, _):
            await call(port, STREAM)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(STREAM))
            pacing = gateway.pipeline.lookup.pacing
            await until(lambda: len(pacing))
            writer.close()
            await until(lambda: not len(pacing))
            await until(lambda: held(gateway) == NOTHING)

    on_uvloop(main)


def test_who_has_to_go_gives_the_rest_at_once():
    async def main():
        async with gateway_of(
            [[Step.REQUEST, *WORDS]], cache=ModelCacheConfig(pace=SLOWLY, usage="original")
        ) as (
            gateway,
            port,
            _,
            _,
        ):
            whole = await call(port, STREAM)
            gateway.pipeline.lookup.pacing = pacing = Pacing(Time())  # which would never come to an end
            asking = asyncio.ensure_future(call(port, STREAM))
            await until(lambda: len(pacing))
            await gateway.drain(0.0)
            async with asyncio.timeout(10):
                assert (await asking).body == whole.body

    on_uvloop(main)
