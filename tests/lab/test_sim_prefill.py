"""Prompts that take time to be computed, and whose beginnings are kept."""

import asyncio
import json

import pytest
from lab_doubles import Stage

from penstock.lab.prefill import BLOCK_TOKENS, Prefill
from penstock.lab.scenario import parse
from penstock.lab.transcript import Request
from penstock.messages import Endpoint


def prompt(text):
    return Request(Endpoint.CHAT, "sim", text=text, input_tokens=len(text) // 4)


def taken(prefill, script, *texts, now=0.0):
    made = [prefill.take(prompt(text), parse(script), now) for text in texts]
    return [(round(one.ttft, 6), one.cached) for one in made]


def test_one_prompt_is_computed_after_the_other():
    prefill = Prefill()
    assert taken(prefill, "prefill=100,ttft=1000", b"a" * 400, b"b" * 800) == [(2.0, 0), (4.0, 0)]
    assert taken(prefill, "prefill=100", b"c" * 400, now=2.5) == [(1.5, 0)]
    assert taken(prefill, "prefill=100", b"d" * 400, now=60.0) == [(1.0, 0)]


def test_what_begins_as_an_earlier_prompt_is_not_computed_again():
    begin = b"".join(b"%063d." % i for i in range(10))
    found = taken(
        Prefill(), "prefix-cache=10000", begin, begin + b"x" * 64, begin[:320] + b"y" * 640, b"z" + begin
    )
    assert [cached for _, cached in found] == [0, 10 * BLOCK_TOKENS, 5 * BLOCK_TOKENS, 0]


def test_the_last_token_of_a_prompt_that_is_there_is_computed():
    assert taken(Prefill(), "prefix-cache=10000,prefill=1", b"a" * 64, b"a" * 64) == [(16.0, 0), (17.0, 15)]


def test_what_was_used_longest_ago_is_not_kept():
    one, other = b"a" * 640, b"b" * 640
    found = taken(Prefill(), f"prefix-cache={15 * BLOCK_TOKENS}", one, other, one, other)
    assert [cached for _, cached in found] == [0, 0, 5 * BLOCK_TOKENS, 5 * BLOCK_TOKENS]


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_second_turn_is_told_what_was_there_and_billed_so(endpoint):
    first = [{"role": "user", "content": "word " * 400}]
    second = [*first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    name = "input" if endpoint == "/v1/responses" else "messages"

    async def main():
        stage = Stage(parse("prefix-cache=100000"))
        try:
            for said in (first, second):
                body = {"model": "m", "max_tokens": 8, name: said}
                exchange = await stage.ask(endpoint, json.dumps(body).encode())
                usage = json.loads(exchange.answer)["usage"]
        finally:
            stage.close()
        return usage, stage.simulator.bill.report()

    usage, bill = asyncio.run(main())
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = details.get("cached_tokens") or usage.get("cache_read_input_tokens")
    assert 480 <= cached <= 500
    assert bill["cached_input_tokens"] == cached


def test_counting_and_refusals_compute_nothing():
    async def main():
        stage = Stage(parse("prefix-cache=100000,prefill=10"))
        try:
            body = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "word " * 400}]}
            asked = json.dumps(body).encode()
            await stage.ask("/v1/messages/count_tokens", asked)
            await stage.ask("/v1/messages", asked, headers=[(b"x-sim-scenario", b"503")])
            return repr(stage.simulator._prefill)
        finally:
            stage.close()

    assert asyncio.run(main()) == "<Prefill, 0 blocks kept>"
