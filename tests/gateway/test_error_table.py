"""The table in ``docs/routing.md`` of what is tried after which error, row by row: each is made to happen here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from serving import COMPLETION, PROMPT, call, config, plain, rows, serving, until

from penstock.config.model import CandidateConfig, ModelConfig, RetryConfig, TimeoutConfig
from penstock.testing import FakeClock, ScriptedUpstream, Step

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"
NUMBERS = {1: "no", 2: "once", 3: "twice"}
NOWHERE = "takes no connection"
SILENT = "sends nothing for `timeouts.first_token`"
WORDS = {"type": "t"}  # of an error that has no code


def says(status, message="no", headers=()):
    return [plain({"error": {"message": message, **WORDS}}, status, headers)]


# What the first candidate does, as the page has it: its answers, one after the other.
DOES = {
    NOWHERE: [],
    "breaks off, or answers something else than JSON": [plain(b"<p>")],
    "answers 500, 502 …": [*says("500 Oops"), *says("502 Bad")],
    "answers 503 or 529": [*says("503 Busy"), *says("529 Busy")],
    "answers 429": says("429 Slow"),
    "answers 429, and wants more than `retry.max_retry_after`": says(
        "429 Slow", headers=["retry-after: 3600"]
    ),
    SILENT: [],
    "answers 401 (the gateway's key)": says("401 Who"),
    "answers 402 (the account's credit)": says("402 Pay"),
    "answers 403": says("403 No"),
    "refuses a prompt that is too long": says("400 Long", "prompt is too long"),
    "refuses a prompt by a filter (400)": says("400 Bad", "Content Exists Risk"),
    "refuses a prompt by a filter (403)": says("403 Bad", "Content violates usage guidelines"),
    "answers another 4xx: 400, 404, 413, 422 …": [
        answer for status in ("400 Bad", "404 None", "413 Large", "422 Odd") for answer in says(status)
    ],
}


def table():
    section = PAGE.read_text().partition("## After an error")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[1:] for row in found}


def test_the_page_has_every_row_and_no_other():
    assert list(table()) == list(DOES)


@contextlib.asynccontextmanager
async def failing(does, answer):
    """The address of an upstream that does this."""
    if does == NOWHERE:
        with socket.socket() as sock:  # bound, and listens to nobody
            sock.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{sock.getsockname()[1]}", None
        return
    script = [Step.REQUEST] if answer is None else [Step.REQUEST, answer] * 3
    async with ScriptedUpstream([script]) as upstream:
        yield upstream.url, upstream


def answering(name):
    message = {"role": "assistant", "content": name}
    return [
        [Step.REQUEST, plain({**COMPLETION, "choices": [{**COMPLETION["choices"][0], "message": message}]})]
    ]


async def becomes(does, answer, others):
    """The call's answer, and how often the first candidate was asked.

    :param others: who stands behind it
    """
    clock = FakeClock()
    async with contextlib.AsyncExitStack() as stack:
        url, upstream = await stack.enter_async_context(failing(does, answer))
        good = [await stack.enter_async_context(ScriptedUpstream(answering(name))) for name in others]
        settings = config(
            url,
            *(each.url for each in good),
            retry=RetryConfig(first_delay=0.0),
            timeouts=TimeoutConfig(first_token=10),
        )
        named = {name: f"up{number}" for number, name in enumerate(others, 1)}
        candidates = [CandidateConfig("up0")]
        if "next candidate" in named:
            candidates.append(CandidateConfig(named["next candidate"], weight=0.0))
        keys = ("fallbacks", "context_length_fallbacks", "content_filter_fallbacks")
        lists = {key: [key] for key in keys if key in named}
        settings.models["m"] = ModelConfig(candidates, **lists)
        settings.models.update({key: ModelConfig([CandidateConfig(named[key])]) for key in lists})
        async with serving(settings, clock) as (gateway, port):
            asked = asyncio.ensure_future(call(port, PROMPT))
            if does == SILENT:
                await upstream.wait_received(b"POST")
                await until(lambda: any(one._transfer for one in gateway.pipeline.productions))
                clock.advance(11)
            answer = await asked
            await until(lambda: not gateway.pipeline.productions)
            return answer, sum(row.upstream == "up0" for row in rows(gateway))


ALL = ("next candidate", "fallbacks", "context_length_fallbacks", "content_filter_fallbacks")


@pytest.mark.parametrize("does", DOES)
def test_what_the_page_says_of_an_error_happens(does):
    again, then, told = table()[does]

    async def main():
        for answer in DOES[does] or [None]:
            order, left = [], list(ALL)
            while True:  # whoever answers is taken away, until nobody does
                reply, times = await becomes(does, answer, left)
                if reply.status != 200:
                    break
                order.append(reply.json()["choices"][0]["message"]["content"])
                left.remove(order[-1])
                if len(order) == 1:
                    first = times
            if not order:
                first = times
            code = reply.json()["error"]["code"]
            yield answer, NUMBERS[first], order, NUMBERS[times], reply.status, code

    async def all_of():
        return [each async for each in main()]

    for answer, first, order, last, status, code in asyncio.run(all_of()):
        assert again == (first if first == last else f"{first}; {last}, if it is the last of its model")
        assert then == _then(order)
        told_status = f"{status}"
        if told.startswith("as sent"):
            assert f" {status} ".encode() in answer
            told_status = "as sent"
        assert told == f"{told_status} `{code}`"


def _then(order):
    """In the words of the page."""
    if not order:
        return "nobody"
    words = [f"`{name}`" if name.endswith("_fallbacks") else name for name in order]
    if order[0].endswith("_fallbacks") and len(order) > 1:
        return f"{words[0]}, else {', '.join(words[1:])}"
    return ", ".join(words)
