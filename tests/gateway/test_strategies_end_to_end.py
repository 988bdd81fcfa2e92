"""Who is asked first, by strategy, with real simulators behind the gateway."""

import asyncio
import collections
import contextlib

import msgspec
import pytest
from serving import call, config, serving

from penstock.config.model import CandidateConfig, ModelConfig, RetryConfig
from penstock.testing import SimulatorProcess

SLOW = "ttft=1500"  # so much slower that no stall of the machine makes up for it
PRICES = """
version = "test"

[[price]]
models = ["m"]
upstream = "up0"
input = 10
output = 30

[[price]]
models = ["m"]
upstream = "up1"
input = 1
output = 2

[[price]]
models = ["m"]
upstream = "up2"
input = 2
output = 1
"""


@pytest.fixture(scope="module")
def simulators():
    """Finds one for each scenario of a list.  They are started once: a gateway that begins knows nothing of them."""
    with contextlib.ExitStack() as stack:
        started = collections.defaultdict(list)

        def find(scenarios):
            wanted = collections.Counter(scenarios)
            for each, count in wanted.items():
                while len(started[each]) < count:
                    started[each].append(stack.enter_context(SimulatorProcess("--scenario", each)))
            left = {each: iter(started[each]) for each in wanted}
            return [next(left[each]) for each in scenarios]

        yield find


@pytest.fixture
def went(simulators):
    """How many calls each upstream answered."""

    def went(strategy, scenarios, bodies, *, weights=None, at_once=1, prices="", reload=False):
        async def main():
            found = simulators(scenarios)
            retry = RetryConfig(attempts=1, first_delay=0.0)
            whole = config(*(each.url for each in found), kind="sim", retry=retry, prices=prices)
            candidates = [
                CandidateConfig(upstream=f"up{i}", weight=weights[i] if weights else 1.0)
                for i in range(len(scenarios))
            ]
            weighted = msgspec.structs.replace(whole, models={"m": ModelConfig(candidates=candidates)})
            model = ModelConfig(candidates=candidates, strategy=strategy)
            chosen = msgspec.structs.replace(whole, models={"m": model})
            async with serving(weighted if reload else chosen) as (gateway, port):
                if reload:
                    gateway.reload(chosen)
                answers = []
                for start in range(0, len(bodies), at_once):
                    answers += await asyncio.gather(
                        *(call(port, body) for body in bodies[start : start + at_once])
                    )
                assert {answer.status for answer in answers} == {200}
                rows = gateway.recorder.ledger.recent()
                standings = [each.standings for each in gateway.pipeline.snapshot.upstreams.values()]
                if strategy != "cheapest":
                    assert all(each.of("m").in_progress == 0 for each in standings)
                return collections.Counter(row.upstream for row in rows if row.outcome.value == "completed")

        return asyncio.run(main())

    return went


def asked(number, *, stream=True, words=""):
    content = f"{words} question {number}"
    return {
        "model": "m",
        "stream": stream,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": content}],
    }


@pytest.mark.parametrize(("words", "tokens", "cheapest"), [("", 50, "up2"), ("word " * 500, 5, "up1")])
def test_the_cheapest_for_this_call_is_asked(went, tmp_path, words, tokens, cheapest):
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    bodies = [asked(i, words=words) | {"max_tokens": tokens} for i in range(10)]
    assert went("cheapest", ["ttft=0"] * 3, bodies, prices=str(path)) == {cheapest: 10}


@pytest.mark.parametrize("stream", [True, False])
def test_the_fastest_is_asked_once_it_is_known(went, stream):
    bodies = [asked(i, stream=stream) for i in range(20)]
    counts = went("fastest", [SLOW, "ttft=1", SLOW], bodies)
    assert counts["up1"] == 18  # the others once each, to find out


def test_one_that_fails_is_left_alone(went):
    counts = went("fastest", ["500", "ttft=30"], [asked(i) for i in range(10)])
    assert counts == {"up1": 10}


def test_calls_at_once_are_shared_out(went):
    bodies = [asked(i) for i in range(8)]
    counts = went("least_busy", [SLOW] * 2, bodies, at_once=8)
    assert counts == {"up0": 4, "up1": 4}


def test_questions_to_the_same_text_go_to_the_same_upstream(went):
    for words in ("one text " * 600, "another text " * 600):
        counts = went("prefix", ["ttft=0"] * 3, [asked(i, words=words) for i in range(8)])
        assert list(counts.values()) == [8]


def test_who_is_there_for_failures_is_not_chosen(went):
    counts = went("fastest", ["ttft=60", "ttft=0"], [asked(i) for i in range(4)], weights=[1.0, 0.0])
    assert counts == {"up0": 4}


def test_a_strategy_can_be_turned_on_while_the_gateway_runs(went):
    counts = went("fastest", [SLOW, "ttft=1"], [asked(i) for i in range(8)], reload=True)
    assert counts["up1"] == 7
