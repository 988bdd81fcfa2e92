"""Kept answers through the whole gateway: several workers and machines, real SDKs, a Redis in trouble."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import anthropic
import httpx2
import openai
import pytest
from gateway_books import wait_until

from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess

QUESTIONS = 40
HI = [{"role": "user", "content": "hi"}]


def configured(simulator, **cache):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "own"}], "cache": {}, "join": "never"}},
        "cache": cache,
        "log": {"requests": False},
    }


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess() as process:
        yield process


@pytest.fixture
def redis():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer() as server:
        yield server


def question(number):
    return {
        "model": "sim",
        "max_tokens": 4,
        "temperature": 0,
        "messages": [{"role": "user", "content": f"question {number}"}],
    }


class Load:
    """Callers who ask the same few questions again and again, until they are told to stop."""

    def __init__(self, *gateways):
        self.gateways = gateways
        self.status = []  # Penstock-Status, or the error, of each answer
        self._going = True
        self._tasks = []

    async def __aenter__(self):
        self._client = httpx2.AsyncClient(trust_env=False, timeout=60)
        self._tasks = [asyncio.ensure_future(self._ask(number)) for number in range(8)]
        return self

    async def __aexit__(self, *_):
        self._going = False
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def _ask(self, number):
        while self._going:
            gateway = self.gateways[number % len(self.gateways)]
            answer = await self._client.post(
                gateway.base_url + "/chat/completions", json=question(number % QUESTIONS)
            )
            self.status.append(
                answer.headers["penstock-status"] if answer.status_code == 200 else answer.text
            )
            number += 8 if number % 3 else 1

    async def until(self, reached):
        """Until the answers from now on are as they should be."""
        since = len(self.status)
        async with asyncio.timeout(60):
            while not reached(self.status[since:]):
                await asyncio.sleep(0.01)

    async def answers(self, count):
        await self.until(lambda status: len(status) >= count)

    async def hits(self, count):
        await self.until(lambda status: status.count("cached") >= count)


@pytest.mark.parametrize("budget", [{"redis_budget": 0.1}, {}], ids=["0.1 s", "by default"])
def test_a_redis_that_is_frozen_killed_and_started_anew_fails_no_call(simulator, redis, tmp_path, budget):
    """Memory keeps nothing here, so that each call asks Redis."""

    async def main(gateway):
        async with Load(gateway) as load:
            await load.hits(50)
            redis.freeze()
            await load.answers(150)
            redis.thaw()
            await load.hits(50)
            redis.kill()
            await load.answers(150)
            redis.start()
            await load.hits(50)
        assert set(load.status) == {"created", "cached"}

    settings = configured(simulator, memory_bytes=1, redis=redis.url, seal_key="s", **budget)
    with GatewayProcess(settings, tmp_path) as gateway:
        asyncio.run(main(gateway))


def test_machines_that_share_a_redis_share_answers_and_purges(simulator, redis, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    settings = configured(simulator, redis=redis.url, seal_key="s", redis_budget=5)
    with GatewayProcess(settings, folders[0]) as one, GatewayProcess(settings, folders[1]) as two:
        assert ask(one, 1) == "created"
        assert settled(lambda: ask(two, 1), "cached")
        assert settled(lambda: ask(two, 1), "cached")
        purge(one, {"model": "sim"})
        assert ask(one, 1) == "created"
        assert ask(two, 2) == "created"
        purge(one, {"everything": True})
        assert settled(lambda: ask(two, 2), "created")


def test_a_purge_says_whether_redis_has_noted_it(simulator, tmp_path):
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer() as server:
        settings = configured(simulator, redis=server.url, seal_key="s", redis_budget=5)
        with GatewayProcess(settings, tmp_path) as gateway:
            assert settled(lambda: purge(gateway, {"everything": True})["unheard"], [])
            server.kill()
            assert purge(gateway, {"tenant": "default"})["unheard"] == ["redis"]
            server.start()
            assert settled(lambda: state(gateway)["workers"][0]["tiers"][-1]["unheard"], 0)


def test_what_is_named_is_purged_and_nothing_else(simulator, tmp_path):
    """A version, a tag and a key, each of an answer of its own."""
    settings = configured(simulator)
    settings["models"] = {
        model: {"candidates": [{"upstream": "own", "model": "sim", "version": version}], "cache": {}}
        for model, version in (("sim", "1"), ("sim-next", "2"))
    }
    asked = {
        "version": ({"model": "sim-next"}, {}),
        "tag": ({}, {"penstock-cache-tags": "prices, of today"}),
        "key": ({"seed": 3}, {}),
        "none": ({"seed": 4}, {"penstock-cache-tags": "of yesterday"}),
    }

    with GatewayProcess(settings, tmp_path) as gateway, httpx2.Client(trust_env=False) as client:

        def statuses():
            answers = {
                name: client.post(
                    gateway.base_url + "/chat/completions", json=question(500) | more, headers=headers
                )
                for name, (more, headers) in asked.items()
            }
            keys.update((name, answer.headers.get("penstock-cache-key")) for name, answer in answers.items())
            return {name: answer.headers["penstock-status"] for name, answer in answers.items()}

        keys = {}
        assert statuses() == dict.fromkeys(asked, "created")
        assert statuses() == dict.fromkeys(asked, "cached")
        assert len(set(keys.values())) == len(asked)
        for named in ({"version": "3"}, {"tag": "prices of"}, {"key": "0" * 64}):
            assert purge(gateway, named)["unheard"] == []
        assert statuses() == dict.fromkeys(asked, "cached")
        for what, name in (("version", "2"), ("tag", "of today"), ("key", keys["key"])):
            told = purge(gateway, {what: name})
            assert told == {
                "tags": [] if what == "key" else [f"{what}:{name}"],
                "keys": [name] if what == "key" else [],
                "unheard": [],
            }
            assert statuses() == {**dict.fromkeys(asked, "cached"), what: "created"}


@pytest.mark.slow  # five workers start, twice
@pytest.mark.parametrize(
    ("shares", "budget"),
    [(True, {"redis_budget": 5}), (True, {}), (False, {})],
    ids=["with Redis", "by default", "without"],
)
def test_a_stampede_on_one_question_asks_once_or_once_for_each_worker(
    simulator, redis, tmp_path, shares, budget
):
    """Three workers on one machine, two replicas of it with a worker each; a busy machine may miss 5 ms."""
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    cache = {"redis": redis.url, "seal_key": "s", **budget} if shares else {}
    settings = configured(simulator, **cache)
    settings["models"]["*"].pop("join")
    number = 200 + shares + 2 * bool(budget)

    async def main(*gateways):
        async def one(gateway):  # each on a connection of its own, so to any worker
            async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
                slow = {"x-sim-ttft-ms": "7000" if shares else "400"}  # longer than a claim holds by itself
                stream = {**question(number), "stream": True}
                answer = await client.post(gateway.base_url + "/chat/completions", json=stream, headers=slow)
                assert answer.text.endswith("data: [DONE]\n\n")
                return answer.headers["penstock-status"], answer.status_code

        return await asyncio.gather(*(one(gateway) for gateway in gateways for _ in range(20)))

    with (
        GatewayProcess(settings | {"workers": 3}, folders[0]) as one,
        GatewayProcess(settings, folders[1]) as two,
        GatewayProcess(settings, folders[2]) as three,
    ):
        before = billed(simulator)
        answers = asyncio.run(main(one, two, three))
        asked = billed(simulator) - before
    assert {status for _, status in answers} == {200}
    assert [name for name, _ in answers].count("created") == asked
    assert asked == 1 if budget else 2 - shares <= asked <= 5


@pytest.mark.slow  # starts a gateway of two workers three times
def test_workers_share_answers_on_the_disk_and_a_restart_keeps_them(simulator, tmp_path):
    settings = configured(simulator, disk=str(tmp_path / "answers.sqlite"), disk_budget=5) | {"workers": 2}
    before = billed(simulator)
    with GatewayProcess(settings, tmp_path) as gateway:
        assert ask(gateway, 100) == "created"
        for _ in range(10):  # each on a connection of its own, so to either worker
            assert settled(lambda: ask(gateway, 100), "cached")
        assert state(gateway)["workers"][0]["tiers"][1]["name"] == "disk"
    with GatewayProcess(settings, tmp_path) as gateway:
        assert ask(gateway, 100) == "cached"
        purge(gateway, {"tenant": "default"})
        assert ask(gateway, 100) == "created"
        purge(gateway, {"tenant": "default"})
    with GatewayProcess(settings, tmp_path) as gateway:
        assert ask(gateway, 100) == "created"  # a purge outlives the process, too
    assert billed(simulator) - before in (3, 4)  # the other worker may have asked before the disk had it


@pytest.mark.parametrize("first", ["plain", "stream"])
def test_all_dialects_are_answered_in_both_forms(simulator, tmp_path, first):
    with GatewayProcess(configured(simulator), tmp_path) as gateway:
        before = billed(simulator)
        for kind in (chat, messages, responses):
            made = kind(gateway, stream=first == "stream")
            assert made
            assert kind(gateway, stream=first != "stream") == made
            assert kind(gateway, stream=first == "stream") == made
        assert billed(simulator) - before == 3


def chat(gateway, *, stream):
    with openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="sim", messages=HI, temperature=0, max_tokens=6, stream=stream
        )
        if not stream:
            return answer.choices[0].message.content
        return "".join(choice.delta.content or "" for chunk in answer for choice in chunk.choices)


def messages(gateway, *, stream):
    with anthropic.Anthropic(base_url=gateway.url, api_key="k", max_retries=0) as client:
        arguments = {"model": "sim", "messages": HI, "max_tokens": 6, "extra_body": {"temperature": 0}}
        if not stream:
            return client.messages.create(**arguments).content[0].text
        with client.messages.stream(**arguments) as events:
            return events.get_final_message().content[0].text


def responses(gateway, *, stream):
    with openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        arguments = {"model": "sim", "input": "hi", "temperature": 0, "max_output_tokens": 500}
        if not stream:
            return client.responses.create(**arguments).output_text
        with client.responses.stream(**arguments) as events:
            return events.get_final_response().output_text


@pytest.mark.parametrize("tells", ["cached", "original"])
def test_a_kept_answer_may_say_in_its_usage_that_the_prompt_came_from_a_cache(simulator, tmp_path, tells):
    """To SDKs of all three APIs, in both forms, each kept in either; and the ledger knows what was really used."""
    settings = configured(simulator)
    settings["models"]["*"]["cache"] = {"usage": tells}
    with GatewayProcess(settings, tmp_path) as gateway:
        for asked in (usage_of_chat, usage_of_message, usage_of_response):
            for number, first in enumerate((True, False)):
                text = f"usage {tells} {number}"
                made = asked(gateway, text, stream=first)
                prompt = sum(made)
                assert prompt > 0
                assert made[0] < prompt
                for stream in (first, not first, first, not first):
                    assert asked(gateway, text, stream=stream) == ((prompt, 0) if tells == "cached" else made)


def usage_of_chat(gateway, text, *, stream):
    """Tokens of the prompt: from a cache, and not."""
    with openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        messages = [{"role": "user", "content": text}]
        arguments = {"model": "sim", "messages": messages, "temperature": 0, "max_tokens": 6}
        answer = client.chat.completions.create(**arguments, **more)
        usage = [chunk.usage for chunk in answer][-1] if stream else answer.usage
        cached = usage.prompt_tokens_details.cached_tokens
        return cached, usage.prompt_tokens - cached


def usage_of_message(gateway, text, *, stream):
    with anthropic.Anthropic(base_url=gateway.url, api_key="k", max_retries=0) as client:
        messages = [{"role": "user", "content": text}]
        arguments = {"model": "sim", "messages": messages, "max_tokens": 6, "extra_body": {"temperature": 0}}
        if stream:
            with client.messages.stream(**arguments) as events:
                usage = events.get_final_message().usage
        else:
            usage = client.messages.create(**arguments).usage
        assert not usage.cache_creation_input_tokens
        return usage.cache_read_input_tokens or 0, usage.input_tokens


def usage_of_response(gateway, text, *, stream):
    with openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        arguments = {"model": "sim", "input": text, "temperature": 0, "max_output_tokens": 500}
        if stream:
            with client.responses.stream(**arguments) as events:
                usage = events.get_final_response().usage
        else:
            usage = client.responses.create(**arguments).usage
        cached = usage.input_tokens_details.cached_tokens
        return cached, usage.input_tokens - cached


# ---- asking ----


def ask(gateway, number):
    """``Penstock-Status`` of one call, on a connection of its own."""
    call = urllib.request.Request(
        gateway.base_url + "/chat/completions",
        json.dumps(question(number)).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=60) as answer:
        return answer.headers["penstock-status"]


def settled(ask_again, wanted):
    """Tiers and other machines are told behind the answer: what was done just now may be a moment in coming."""
    return wait_until(lambda: ask_again() == wanted)


def purge(gateway, what):
    call = urllib.request.Request(
        gateway.control_url + "/v1/cache/purge",
        json.dumps(what).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=60) as answer:
        return json.load(answer)


def state(gateway):
    with urllib.request.urlopen(gateway.control_url + "/v1/cache", timeout=60) as answer:
        return json.load(answer)


def billed(simulator):
    """How many calls the simulator was asked for."""
    return simulator.bill()["requests"]
