"""What lies beside a question is asked ahead, and kept when the application comes for it."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx2
import openai
import pytest

import penstock
from penstock.client import CacheOptions
from penstock.client._ahead import WAITING, Ahead

PATIENCE = 60.0  # seconds


def page(number):
    return {
        "model": "sim",
        "messages": [{"role": "user", "content": f"Tell page {number}."}],
        "max_tokens": 8,
        "temperature": 0,
    }


def billed(provider):
    return provider.bill()["requests"]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_in_steps_finds_the_next_page_here(provider, stream):
    with penstock.http_client(trust_env=False, cache=CacheOptions(neighbours=("numbers",))) as http:
        client = openai.OpenAI(base_url=provider.base_url, api_key="any", http_client=http)

        def ask(number):
            answer = client.chat.completions.create(**page(number), stream=stream)
            return [chunk.choices[0].delta.content for chunk in answer] if stream else answer

        for number in (1, 2, 3):
            ask(number)
        for number in (4, 5, 6):
            until(lambda wanted=number: http.statistics().asked_ahead == wanted - 3)
            assert ask(number)
        until(lambda: http.statistics().asked_ahead == 4)
        figures = http.statistics()
        assert (figures.calls, figures.cached) == (6, 3)
        assert billed(provider) == 7  # the last one was in vain


def test_an_own_function_names_what_comes_next_also_for_an_asynchronous_client(provider):
    def next_ones(body):
        yield {**body, "messages": page(7)["messages"]}
        yield {**body, "messages": page(8)["messages"]}

    async def main():
        options = CacheOptions(neighbours=(next_ones,))
        async with penstock.async_http_client(trust_env=False, cache=options) as http:
            client = openai.AsyncOpenAI(base_url=provider.base_url, api_key="any", http_client=http)
            await client.chat.completions.create(**page(1))
            while http.statistics().asked_ahead < 2:
                await asyncio.sleep(0.005)
            for number in (7, 8):
                await client.chat.completions.create(**page(number))
            assert http.statistics().cached == 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert billed(provider) == 3


def test_nothing_is_asked_ahead_of_what_is_not_kept(provider):
    with penstock.http_client(trust_env=False, cache=CacheOptions(neighbours=("numbers",))) as http:
        client = openai.OpenAI(base_url=provider.base_url, api_key="any", http_client=http)
        for number in range(6):
            client.chat.completions.create(**{**page(number), "temperature": 1})
    assert billed(provider) == 6
    assert http.statistics().asked_ahead == 0


def test_a_transport_of_ones_own_is_not_asked_from_another_thread():
    with pytest.raises(ValueError, match="of your own"):
        penstock.http_client(
            cache=CacheOptions(neighbours=("numbers",)), transport=httpx2.HTTPTransport(trust_env=False)
        )


class Asked:
    """What ``Ahead`` asks, as a test lets it."""

    def __init__(self, **options):
        self.gate = threading.Event()
        self.questions = []
        self.answered = 0
        self.time = 0.0
        self.ahead = Ahead(
            CacheOptions(neighbours=(self.beside,), **options),
            self.ask,
            self.count,
            self.gate.set,
            lambda: self.time,
        )
        self.beside_each = 1

    def beside(self, body):
        return [{"n": body["n"] + number + 1} for number in range(self.beside_each)]

    def ask(self, question):
        self.questions.append(question)
        assert self.gate.wait(PATIENCE)
        if b"13" in question.body:
            raise httpx2.ConnectError("gone")

    def count(self):
        self.answered += 1

    def saw(self, number, **headers):
        self.ahead.saw("http://a/v1/chat/completions", headers, b'{"n":%d}' % number)


def test_it_neither_waits_nor_piles_up_and_ends_with_its_client():
    asked = Asked()
    for number in range(20, 60):
        asked.saw(number)
    until(lambda: asked.questions)
    asked.ahead.close()
    assert asked.gate.is_set()
    assert len(asked.questions) <= WAITING + 1
    asked.saw(99)
    assert not any(b"100" in question.body for question in asked.questions)


def test_what_fails_ahead_is_nobodys_trouble():
    asked = Asked()
    asked.gate.set()
    asked.saw(12)
    asked.saw(20)
    until(lambda: len(asked.questions) == 2 and asked.answered == 1)
    asked.ahead.close()


def test_there_are_not_more_than_the_allowance_in_a_minute():
    asked = Asked(neighbours_per_minute=3)
    asked.gate.set()
    asked.beside_each = 8
    asked.saw(20)
    until(lambda: asked.answered == 3)
    asked.time = 59.0
    asked.saw(40)
    asked.time = 61.0
    asked.saw(60)
    until(lambda: asked.answered == 6)
    asked.ahead.close()
    assert not any(b"4" in question.body for question in asked.questions)


def test_what_belongs_to_one_request_is_not_sent_with_another():
    asked = Asked()
    asked.gate.set()
    asked.saw(20, **{"authorization": "k", "Idempotency-Key": "x", "content-length": "8", "host": "a"})
    until(lambda: asked.answered == 1)
    asked.ahead.close()
    (question,) = asked.questions
    assert (question.headers, question.body) == ({"authorization": "k"}, b'{"n":21}')
