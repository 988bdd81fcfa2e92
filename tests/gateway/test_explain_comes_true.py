"""What ``penstock explain`` says is what then happens, whatever the configuration and the load are."""

import asyncio
import json
import re

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from serving import COMPLETION, call, config, on_uvloop, plain, serving, until

from penstock.config.keys import hash_key
from penstock.config.model import (
    BreakerConfig,
    CandidateConfig,
    ConcurrencyConfig,
    DegradationConfig,
    KeyConfig,
    LimitConfig,
    LimitsConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    TierConfig,
    UpstreamConfig,
)
from penstock.flow.gate import Asked, Outcome
from penstock.testing import FakeClock

PATH = "/v1/chat/completions"
UPSTREAMS = ("up0", "up1", "up2")
ASKED = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "the question"}]}
KEYS = ("one", "two")


class Upstreams:
    """Answer at once, but for those whose prompt says that they are busy: these when they are let go."""

    def __init__(self):
        self.asked = []  # (upstream, model, prompt)
        self.go_on = asyncio.Event()
        self.holding = 0

    async def start(self):
        self.servers = {
            name: await asyncio.start_server(self._serves(name), "127.0.0.1", 0) for name in UPSTREAMS
        }
        return {name: server.sockets[0].getsockname()[1] for name, server in self.servers.items()}

    def close(self):
        for server in self.servers.values():
            server.close()

    def _serves(self, name):
        async def serve(reader, writer):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
                    body = json.loads(await reader.readexactly(length))
                    prompt = body["messages"][0]["content"]
                    self.asked.append((name, body["model"], prompt))
                    if prompt.startswith("busy"):
                        self.holding += 1
                        await self.go_on.wait()
                        self.holding -= 1
                    writer.write(plain(COMPLETION))
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        return serve


LIMIT = st.one_of(
    st.none(),
    st.builds(
        LimitConfig,
        requests_per_minute=st.sampled_from([None, None, 0, 1, 3]),
        tokens_per_minute=st.sampled_from([None, None, 100, 5_000]),
        concurrent=st.sampled_from([None, None, 0, 1, 3]),
    ),
)
TIER = st.builds(
    TierConfig,
    priority=st.integers(0, 2),
    deadline=st.sampled_from([0.0, 0.0, 30.0]),
    queue_share=st.sampled_from([1.0, 0.5]),
    degradation=st.one_of(
        st.none(),
        st.builds(
            DegradationConfig,
            smaller=st.sampled_from([None, 0.5, 1.0]),
            shorter=st.sampled_from([None, 0.5, 1.0]),
            refuse=st.sampled_from([None, 1.0, 2.0]),
        ),
    ),
)
GATE = st.fixed_dictionaries(
    {
        "concurrency": st.one_of(
            st.none(),
            st.builds(
                ConcurrencyConfig,
                limit=st.integers(1, 2),
                adaptive=st.just(False),
                max_waiting=st.sampled_from([0, 1, 2]),
            ),
        ),
        "breaker": st.one_of(st.none(), st.just(BreakerConfig())),
        "ill": st.booleans(),
    }
)
WORLD = st.fixed_dictionaries(
    {
        "gates": st.tuples(GATE, GATE, GATE),
        "candidates": st.lists(st.sampled_from(UPSTREAMS), min_size=1, max_size=2, unique=True),
        "fallback": st.booleans(),
        "smaller": st.booleans(),
        "cache": st.booleans(),
        "tiers": st.tuples(TIER, TIER),
        "limits": st.fixed_dictionaries(
            {
                "keys": st.fixed_dictionaries({}, optional={"one": LIMIT}),
                "models": st.fixed_dictionaries({}, optional={"m": LIMIT, "s": LIMIT, "f": LIMIT}),
                "upstreams": st.fixed_dictionaries({}, optional={"up0": LIMIT, "up1": LIMIT}),
            }
        ),
        "permitted": st.sampled_from([True, True, True, True, False]),
        # Calls that were made before: by whom, whether they last, and for which model.
        "before": st.lists(
            st.tuples(st.sampled_from(KEYS), st.booleans(), st.sampled_from(["m", "s"])), max_size=4
        ),
        "asked_before": st.sampled_from(["", "", "the same", "with the same key"]),
        # After the breakers have opened: how long ago that was, and who has asked since.
        "passed": st.sampled_from([0.0, 0.0, 6.0]),
        "since": st.integers(0, 4),
        "deadline": st.sampled_from([*[""] * 6, "20", "20", "-1", "soon"]),
        "key": st.sampled_from([*KEYS * 5, "nobody"]),
    }
)


def configured(world, ports):
    upstreams = {
        name: UpstreamConfig(
            kind="openai",
            base_url=f"http://127.0.0.1:{ports[name]}/v1",
            concurrency=gate["concurrency"],
            breaker=gate["breaker"],
        )
        for name, gate in zip(UPSTREAMS, world["gates"], strict=True)
    }
    cache = ModelCacheConfig() if world["cache"] else None
    first = world["candidates"][0]
    limits = {
        scope: {name: limit for name, limit in each.items() if limit is not None}
        for scope, each in world["limits"].items()
    }
    return config(
        upstreams=upstreams,
        models={
            "m": ModelConfig(
                candidates=[
                    CandidateConfig(upstream=name, weight=float(name == first))
                    for name in world["candidates"]
                ],
                fallbacks=["f"] if world["fallback"] else [],
                smaller="s" if world["smaller"] else None,
                cache=cache,
            ),
            "s": ModelConfig(candidates=[CandidateConfig(upstream="up2", model="small")]),
            "f": ModelConfig(candidates=[CandidateConfig(upstream="up1", model="other")]),
        },
        tiers={"high": world["tiers"][0], "low": world["tiers"][1]},
        keys=[
            KeyConfig(
                name=name,
                tenant=name,
                tier=tier,
                hash=hash_key(f"sk-{name}"),
                models=["*"] if name == "two" or world["permitted"] else ["s"],
            )
            for name, tier in zip(KEYS, ("high", "low"), strict=True)
        ],
        limits=LimitsConfig(**limits),
        retry=RetryConfig(attempts=1),
    )


def break_(gate, model, now):
    """Open its breaker for that model."""
    asked = Asked(model, "nobody", "none", stream=True)
    while not gate.open_for(model, now):
        gate.ask(asked, now).settle(Outcome("upstream"), now)


def gates_of(gateway):
    upstreams = gateway.pipeline.snapshot.upstreams
    return {name: upstreams[name].gate for name in UPSTREAMS if upstreams[name].gate is not None}


async def settled(gateway, calling, upstreams):
    """Until each of these calls has been answered, or waits at an upstream or for one."""
    pipeline = gateway.pipeline

    def waits():
        queued = sum(gate.waiting for gate in gates_of(gateway).values())
        under_way = sum(not task.done() for task in calling)
        return len(pipeline.readings) == under_way and len(pipeline.productions) == upstreams.holding + queued

    await until(waits)


async def told_and_done(world):
    """What was explained, then the answer, what upstreams were asked, and whether it was waited for."""
    upstreams, clock = Upstreams(), FakeClock(1_000.0)
    ports = await upstreams.start()
    try:
        async with serving(configured(world, ports), clock) as (gateway, port):
            calling = []
            gates = gates_of(gateway)
            try:

                async def goes_before(key, model, prompt, *headers):
                    body = {**ASKED, "model": model, "messages": [{"role": "user", "content": prompt}]}
                    asking = call(port, body, headers=[f"authorization: Bearer sk-{key}", *headers])
                    calling.append(asyncio.ensure_future(asking))
                    await settled(gateway, calling, upstreams)

                for number, (key, lasts, model) in enumerate(world["before"]):
                    await goes_before(key, model, f"{'busy' if lasts else 'quick'} {number}")
                if world["asked_before"]:
                    name = ["idempotency-key: k"] if "key" in world["asked_before"] else []
                    await goes_before("two", "m", "the question", *name)
                    # One that waits in a queue is asked later, and could not be told from the one that is explained.
                    assume(calling[-1].done() or any(asked[2] == "the question" for asked in upstreams.asked))
                for name, gate in zip(UPSTREAMS, world["gates"], strict=True):
                    if gate["ill"] and gate["breaker"] is not None and not gates[name].in_progress:
                        for model in ("m", "small", "other"):
                            break_(gates[name], model, clock.now())
                clock.advance(world["passed"])
                for number in range(world["since"]):
                    await goes_before("two", "m", f"busy since {number}")
                headers = {"authorization": f"Bearer sk-{world['key']}"}
                if "key" in world["asked_before"]:
                    headers["idempotency-key"] = "k"
                if world["deadline"]:
                    headers["penstock-deadline"] = world["deadline"]
                told = gateway.explain(PATH, headers, json.dumps(ASKED).encode())
                before = len(upstreams.asked)
                done = asyncio.ensure_future(
                    call(port, ASKED, headers=[f"{name}: {value}" for name, value in headers.items()])
                )
                calling.append(done)
                await settled(gateway, calling, upstreams)
                waits = not done.done()
                upstreams.go_on.set()
                return told, await done, upstreams.asked[before:], waits
            finally:
                upstreams.go_on.set()
                if calling:
                    await asyncio.wait(calling)
    finally:
        upstreams.close()


def assert_true(told, answer, asked, waits):
    """What was explained is what was done."""
    outcome = told["outcome"]
    where = f"{outcome!r}, but {answer.status}, {answer.body}, asked {asked}, {waits=}: {told}"
    asked = [(upstream, model) for upstream, model, prompt in asked if prompt == "the question"]
    if match := re.fullmatch(r"sent to (\w+) as '(\w+)'( after about .*)?", outcome):
        assert (answer.status, asked, waits) == (200, [match.group(1, 2)], match[3] is not None), where
    elif match := re.match(r"refused with (\d+)(?: (\w+))?: ", outcome):
        assert (answer.status, asked, waits) == (int(match[1]), [], False), where
        assert match[2] in {None, answer.json()["error"]["code"]}, where
    elif match := re.fullmatch(r"answered by the cache: (\w+)", outcome):
        assert (answer.headers["penstock-status"], asked) == (match[1], []), where
    else:
        match = re.match(r"answered from (gen_\w+), ", outcome)
        assert match, where
        assert answer.headers["penstock-generation"] == match[1], where


@settings(max_examples=150, deadline=None)
@given(WORLD)
def test_what_is_explained_is_what_happens(world):
    assert_true(*on_uvloop(lambda: told_and_done(world)))
