"""Prompts that go where their beginning is: gateways before simulators that compute prompts, and keep them."""

import asyncio
import collections
import contextlib
import json
import time

import msgspec
import pytest
from serving import call, config, serving, until

from penstock.config.model import CandidateConfig, ConcurrencyConfig, ModelConfig, RetryConfig
from penstock.net.clock import Clock
from penstock.testing import SimulatorProcess

KEEPS = "prefix-cache=1000000,ttft=0,tps=0"


@contextlib.contextmanager
def replicas(count, scenario=KEEPS):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(SimulatorProcess("--scenario", scenario)) for _ in range(count)]


def pool(simulators, **of_upstream):
    whole = config(
        *(each.url for each in simulators), kind="sim", retry=RetryConfig(attempts=1, first_delay=0.0)
    )
    upstreams = {name: msgspec.structs.replace(each, **of_upstream) for name, each in whole.upstreams.items()}
    candidates = [CandidateConfig(upstream=name) for name in upstreams]
    model = ModelConfig(candidates=candidates, strategy="prefix")
    return msgspec.structs.replace(whole, upstreams=upstreams, models={"m": model})


def asked(name, turns=1, *, stream=True):
    """A conversation after so many turns, each of 3,000 characters."""
    messages = []
    for turn in range(turns):
        messages += [
            {"role": "user", "content": f"{name} {turn} " + "word " * 600},
            {"role": "assistant", "content": "yes"},
        ]
    return {"model": "m", "stream": stream, "max_tokens": 4, "messages": messages[:-1]}


async def ask(port, body):
    answer = await call(port, body)
    assert answer.status == 200
    return answer


def where(gateway):
    """Upstreams in the order in which they were asked last, of those that answered."""
    rows = gateway.recorder.ledger.recent()
    return [row.upstream for row in rows if row.outcome.value == "completed"]


async def went(gateway, port, body):
    """Make a call; who answered it."""
    before = collections.Counter(where(gateway))
    await ask(port, body)
    (name,) = collections.Counter(where(gateway)) - before
    return name


def test_two_gateways_send_all_turns_of_a_conversation_to_the_replica_that_has_it():
    async def main(simulators):
        async with serving(pool(simulators)) as (one, first), serving(pool(simulators)) as (other, second):
            seen = collections.defaultdict(set)
            for turns in range(1, 5):
                for number in range(8):
                    gateway, port = ((one, first), (other, second))[(turns + number) % 2]
                    body = asked(f"talk {number}", turns, stream=bool(number % 3))
                    seen[number].add(await went(gateway, port, body))
            return seen

    with replicas(3) as simulators:
        seen = asyncio.run(main(simulators))
        bills = [each.bill() for each in simulators]
    assert [len(upstreams) for upstreams in seen.values()] == [1] * 8
    assert len(set().union(*seen.values())) > 1
    # Of 1 + 2 + 3 + 4 turns of each conversation 1 + 1 + 1 + 1 were new.
    cached = sum(bill["cached_input_tokens"] for bill in bills)
    assert cached / sum(bill["input_tokens"] for bill in bills) > 0.55


def test_explain_tells_how_much_of_a_prompt_each_replica_is_taken_to_have():
    async def main(simulators):
        async with serving(pool(simulators)) as (gateway, port):
            name = await went(gateway, port, asked("talk", 2))
            text = json.dumps(asked("talk", 3)).encode()
            return name, gateway.explain("/v1/chat/completions", {}, text)["candidates"]

    with replicas(2) as simulators:
        name, told = asyncio.run(main(simulators))
    assert [each["upstream"] == name for each in told] == [True, False]
    assert [each["prefix_tokens"] for each in told] == [1_280, 0]


def test_a_hot_prefix_spills_when_the_line_is_longer_than_to_compute_it_elsewhere():
    async def main(simulators):
        async with serving(pool(simulators)) as (gateway, port):
            for number in range(6):  # one after the other: nobody waits
                await ask(port, asked("everybody's", 4) | {"seed": number})
            alone = set(where(gateway))
            await asyncio.gather(
                *(ask(port, asked("everybody's", 4) | {"seed": number}) for number in range(60))
            )
            return alone, set(where(gateway))

    with replicas(3, f"{KEEPS},prefill=20000") as simulators:
        alone, at_once = asyncio.run(main(simulators))
    assert len(alone) == 1
    assert len(at_once) == 3


def test_a_replica_with_a_queue_before_it_is_left_for_one_that_has_to_compute_the_prompt():
    async def main(simulators):
        one_at_a_time = ConcurrencyConfig(limit=1, adaptive=False)
        async with serving(pool(simulators, concurrency=one_at_a_time)) as (gateway, port):
            home = {await went(gateway, port, asked("talk", 2) | {"seed": number}) for number in range(3)}
            await asyncio.gather(*(ask(port, asked("talk", 2) | {"seed": number}) for number in (3, 4)))
            return home, set(where(gateway))

    with replicas(2, f"{KEEPS},ttft=400") as simulators:
        home, at_once = asyncio.run(main(simulators))
    assert len(home) == 1
    assert len(at_once) == 2


def test_who_waits_before_a_replica_is_counted_in_its_queue_and_not_as_sent_too():
    async def main(simulators):
        one_at_a_time = ConcurrencyConfig(limit=1, adaptive=False)
        async with serving(pool(simulators, concurrency=one_at_a_time)) as (gateway, port):
            calls = [asyncio.create_task(ask(port, asked(f"talk {number}"))) for number in range(6)]
            upstreams = list(gateway.pipeline.snapshot.upstreams.values())
            await until(lambda: sum(each.gate.queue.length for each in upstreams) == 4)
            sent = [each.standings.of("m").in_progress for each in upstreams]
            await asyncio.gather(*calls)
            return sent, [each.standings.of("m").in_progress for each in upstreams]

    with replicas(2, f"{KEEPS},ttft=400") as simulators:
        sent, left = asyncio.run(main(simulators))
    assert sent == [1, 1]
    assert left == [0, 0]


def test_a_queue_is_left_also_where_nobody_knows_yet_how_long_calls_take():
    async def main(simulators):
        one_at_a_time = ConcurrencyConfig(limit=1, adaptive=False)
        async with serving(pool(simulators, concurrency=one_at_a_time)) as (gateway, port):
            await asyncio.gather(*(ask(port, asked("talk") | {"seed": number}) for number in range(16)))
            return collections.Counter(where(gateway))

    with replicas(2, f"{KEEPS},ttft=100") as simulators:
        went = asyncio.run(main(simulators))
    assert min(went["up0"], went["up1"]) > 4


def test_a_replica_that_leaves_is_done_without_and_gets_its_share_when_it_is_back():
    async def main(simulators, port_of_last, stack):
        later = [0.0]
        clock = Clock(lambda: time.monotonic() + later[0])
        async with serving(pool(simulators), clock, troubled=True) as (gateway, port):
            for number in range(24):
                await ask(port, asked(f"first {number}"))
            before = collections.Counter(where(gateway))
            simulators[2].stop()
            meanwhile = [await went(gateway, port, asked(f"first {number}", 2)) for number in range(24)]
            stack.enter_context(SimulatorProcess("--scenario", KEEPS, "--port", str(port_of_last)))
            later[0] = 240.0
            after = [await went(gateway, port, asked(f"first {number}", 3)) for number in range(24)]
            new = {await went(gateway, port, asked(f"second {number}")) for number in range(24)}
            return before, meanwhile, after, new

    with replicas(3) as simulators, contextlib.ExitStack() as stack:
        port = int(simulators[2].url.rpartition(":")[2])
        before, meanwhile, after, new = asyncio.run(main(simulators, port, stack))
    assert min(before.get(name, 0) for name in ("up0", "up1", "up2")) > 0
    assert set(meanwhile) == {"up0", "up1"}
    assert after == meanwhile  # whoever moved is now where its prompt is
    assert new == {"up0", "up1", "up2"}


@pytest.mark.parametrize("salt", ["", "another"])
def test_prompts_with_different_salts_have_nothing_in_common(salt):
    async def main(simulators):
        async with serving(pool(simulators)) as (gateway, port):
            for number in range(12):
                body = asked("same", 3)
                await ask(port, body | {"cache_salt": f"{salt}{number if salt else ''}"})
            return set(where(gateway))

    with replicas(3) as simulators:
        upstreams = asyncio.run(main(simulators))
    assert len(upstreams) == (3 if salt else 1)
