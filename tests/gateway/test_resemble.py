"""Questions that mean the same, through a whole gateway with its own embedding model."""

import asyncio
import contextlib
import json
import time

import pytest
from resembling import ONE, OTHER, PATIENT, SAME, a_question, content, experienced, saying
from serving import asked, call, config, on_uvloop, plain, serving, until

from penstock.cache.guard import Guard
from penstock.cache.semantic.confidence import Confidence
from penstock.config.model import CacheConfig, EmbeddingConfig, ModelCacheConfig, ModelConfig, SemanticConfig
from penstock.errors import ConfigError
from penstock.gateway.compose import build
from penstock.messages import Outcome
from penstock.net.clock import Clock
from penstock.testing import ScriptedUpstream, Step


@contextlib.asynccontextmanager
async def comparing(*texts, verify=0.0, learned=500, embedding=PATIENT, **more):
    """``(gateway, port, upstream)``, which has seen so many similar questions answered rightly (``learned``)."""
    async with ScriptedUpstream([saying(*texts)]) as upstream:
        made = config(upstream.url, cache=CacheConfig(embedding=embedding), **more)
        policy = ModelCacheConfig(usage="original", semantic=SemanticConfig(verify=verify))
        made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, cache=policy)
        async with serving(made) as (gateway, port):
            if learned:
                experienced(gateway, learned)
            yield gateway, port, upstream


def outcomes(gateway):
    looked = gateway.pipeline.lookup.resemblance._looked
    return {name: cell.value for name, cell in looked.items() if cell.value}


def test_a_question_that_means_the_same_gets_the_answer():
    async def main():
        async with comparing("by mail") as (gateway, port, upstream):
            first = await call(port, a_question(ONE))
            second = await call(port, a_question(SAME))
            assert second.headers["penstock-status"] == "similar"
            assert 0.75 < float(second.headers["penstock-similarity"]) < 1
            assert second.headers["age"] == "0"
            assert second.body == first.body
            assert asked(upstream) == 1
            assert gateway.recorder.ledger.totals()[Outcome.CACHED].attempts == 1
            stream = await call(port, a_question(SAME, stream=True))
            assert stream.headers["penstock-status"] == "similar"
            assert b"by mail" in stream.body
            assert b"[DONE]" in stream.body

    on_uvloop(main)


@pytest.mark.parametrize(
    "question",
    [
        a_question(OTHER),
        a_question(SAME, max_tokens=7),
        a_question(SAME, tools=[{"type": "function", "function": {"name": "f"}}]),
        a_question(SAME, response_format={"type": "json_object"}),
        a_question(SAME, n=2),
        a_question(SAME, logprobs=True),
        {**a_question(SAME), "messages": [{"role": "system", "content": "x"}, *a_question(SAME)["messages"]]},
        {
            **a_question(SAME),
            "messages": [*a_question(SAME)["messages"], {"role": "assistant", "content": "B"}],
        },
        {**a_question(SAME), "messages": [{"role": "user", "content": SAME, "name": "eve"}]},
    ],
    ids=["words", "limit", "tools", "schema", "n", "logprobs", "system", "prefill", "name"],
)
def test_all_but_the_words_of_the_last_turn_must_be_the_same(question):
    async def main():
        async with comparing("one", "other") as (_, port, upstream):
            await call(port, a_question(ONE))
            answer = await call(port, question)
            assert answer.headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


def test_a_body_that_two_readers_may_read_differently_is_not_compared():
    async def main():
        async with comparing("one", "other") as (_, port, upstream):
            crafted = json.dumps(a_question("EVIL")).replace(
                '"EVIL"', f'"evil", "content": {json.dumps(ONE)}'
            )
            await call(port, crafted.encode())
            assert (await call(port, a_question(SAME))).headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


def test_what_the_caller_says_of_the_cache_holds():
    async def main():
        async with comparing("one", "two", "three") as (_, port, upstream):
            await call(port, a_question(ONE))
            fresh = await call(port, a_question(SAME), headers=["cache-control: no-cache"])
            assert fresh.headers["penstock-status"] == "created"
            secret = await call(port, a_question(SAME + " Thanks"), headers=["cache-control: no-store"])
            assert secret.headers["penstock-status"] == "created"
            only = await call(port, a_question("Thanks! " + ONE), headers=["cache-control: only-if-cached"])
            assert only.headers["penstock-status"] == "similar"
            nothing = await call(port, a_question("What is this?"), headers=["cache-control: only-if-cached"])
            assert nothing.status == 504
            assert asked(upstream) == 3

    on_uvloop(main)


def test_without_experience_it_asks_anew_and_learns():
    async def main():
        async with comparing("same", "same", "else", learned=0) as (gateway, port, _):
            resemblance = gateway.pipeline.lookup.resemblance
            await call(port, a_question(ONE))
            for text in (SAME, "Please: " + ONE):
                assert (await call(port, a_question(text))).headers["penstock-status"] == "created"
            await resemblance.wait_idle()
            assert (resemblance._would.value, resemblance._would_not.value) == (1, 1)
            assert outcomes(gateway) == {"none": 1, "unsure": 2}

    on_uvloop(main)


def test_an_answer_that_was_given_and_was_wrong_is_not_given_again():
    async def main():
        async with comparing("by mail", "by phone", "by letter", verify=1.0) as (gateway, port, upstream):
            resemblance = gateway.pipeline.lookup.resemblance
            await call(port, a_question(ONE))
            given = await call(port, a_question(SAME))
            assert (given.headers["penstock-status"], content(given)) == ("similar", "by mail")
            await until(lambda: resemblance._wrong.value == 1)
            assert asked(upstream) == 2
            again = await call(port, a_question(SAME))
            assert (again.headers["penstock-status"], content(again)) == ("cached", "by phone")
            (kind,) = resemblance._kinds.values()
            assert (kind.verified, kind.wrong) == (1, 1)

    on_uvloop(main)


def test_answers_that_say_the_same_in_other_words_are_right():
    texts = (
        "You can reset it on the settings page of your account.",
        "On your account's settings page you can reset it.",
    )

    async def main():
        async with comparing(*texts, verify=1.0) as (gateway, port, _):
            resemblance = gateway.pipeline.lookup.resemblance
            await call(port, a_question(ONE))
            await call(port, a_question(SAME))
            await until(lambda: resemblance._right.value == 1)

    on_uvloop(main)


def test_an_entry_that_is_purged_answers_nobody():
    async def main():
        async with comparing("one", "two") as (gateway, port, _):
            await call(port, a_question(ONE))
            gateway.purge(["model:m"], [])
            assert (await call(port, a_question(SAME))).headers["penstock-status"] == "created"

    on_uvloop(main)


class Away:
    """A tier whose server is away."""

    def __init__(self):
        self.asked = []

    def get(self, key, then):
        self.asked.append(key)
        then(ConnectionError("away"))

    def __getattr__(self, name):
        return lambda *_: None


def test_what_lies_in_a_tier_that_is_away_is_neither_waited_for_nor_forgotten():
    async def main():
        async with comparing("one", "two") as (gateway, port, _):
            await call(port, a_question(ONE))
            index, cache = gateway.pipeline.lookup.resemblance.index, gateway.cache
            assert len(index) == 1
            away = Away()
            cache.guards = [Guard(away, 1.0, time.monotonic)]
            cache.memory.clear()
            there = cache.get_nowait
            cache.get_nowait = lambda key: None  # memory had room for others only
            assert (await call(port, a_question(SAME))).headers["penstock-status"] == "created"
            assert len(index) == 2
            assert len(set(away.asked)) == 1, "the question itself"
            cache.guards, cache.get_nowait = [], there

    on_uvloop(main)


def test_a_model_that_makes_no_vectors_in_time_costs_a_hit_and_nothing_else():
    async def main():
        async with comparing("one", "two", embedding=EmbeddingConfig(budget=0.0)) as (gateway, port, _):
            for text in (ONE, SAME):
                assert (await call(port, a_question(text))).status == 200
            assert outcomes(gateway) == {"late": 2}

    on_uvloop(main)


def test_a_caller_who_leaves_while_a_vector_is_made_leaves_nothing_behind():
    async def main():
        async with comparing("one", "two") as (gateway, port, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps(a_question(ONE)).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await until(lambda: gateway.pipeline.waiting)
            writer.close()
            await until(lambda: not gateway.pipeline.waiting and not gateway.pipeline.productions)

    on_uvloop(main)


def test_vectors_may_come_from_a_model_behind_the_gateway():
    async def main():
        vector = {"object": "embedding", "index": 0, "embedding": [3.0, 4.0]}
        embedded = [
            Step.REQUEST,
            plain({"object": "list", "data": [vector], "usage": {"prompt_tokens": 5}}),
        ] * 9
        async with ScriptedUpstream([embedded]) as vectors, ScriptedUpstream([saying("hi")]) as upstream:
            made = config(
                upstream.url,
                vectors.url,
                cache=CacheConfig(embedding=EmbeddingConfig(model="e", budget=60.0)),
            )
            first, second = made.models["m"].candidates
            made.models["m"] = ModelConfig(
                candidates=[first], cache=ModelCacheConfig(semantic=SemanticConfig(verify=0.0))
            )
            made.models["e"] = ModelConfig(candidates=[second])
            async with serving(made) as (gateway, port):
                experienced(gateway)
                await call(port, a_question(ONE))
                answer = await call(port, a_question(SAME))
                assert answer.headers["penstock-status"] == "similar"
                assert b'"model":"e"' in vectors.received[0]

    on_uvloop(main)


def test_a_folder_without_a_model_is_a_mistake_of_the_configuration(tmp_path):
    made = config("http://127.0.0.1:1", cache=CacheConfig(embedding=EmbeddingConfig(folder=str(tmp_path))))
    policy = ModelCacheConfig(semantic=SemanticConfig())
    made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, cache=policy)
    with pytest.raises(ConfigError, match=r"config\.json"):
        build(made, clock=Clock())


@pytest.mark.parametrize(("verified_as", "then"), [("by mail", "similar"), ("by phone", "created")])
def test_an_answer_that_was_wrong_makes_all_of_its_kind_more_careful(verified_as, then):
    """An error that had been allowed is not when more answers were wrong than it allows."""

    async def main():
        answers = ("by mail", verified_as, "at once", "at once")
        async with comparing(*answers, verify=1.0, learned=100) as (gateway, port, _):
            resemblance = gateway.pipeline.lookup.resemblance
            await call(port, a_question(ONE))
            await call(port, a_question(SAME))
            await until(lambda: resemblance._right.value + resemblance._wrong.value == 1)
            await call(port, a_question("How do I cancel my order?"))
            again = await call(port, a_question("Hi, what is the way to cancel my order?"))
            assert again.headers["penstock-status"] == then
            similarity = again.headers.get("penstock-similarity", 0.97)
            (kind,) = resemblance._kinds.values()
            assert Confidence().error(float(similarity), kind.pooled) <= SemanticConfig().max_error

    on_uvloop(main)
