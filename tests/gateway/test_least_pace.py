"""``timeouts.min_token_rate`` through a whole gateway: who trickles is left, and nobody is taken for somebody who does."""

import asyncio
import json

import pytest
from continuing import (
    CHAT,
    MESSAGES,
    RESPONSES,
    TOKENS,
    billed,
    body_for,
    booked,
    check_form,
    error_of,
    events_of,
    simulated,
    text_of,
    whole_text,
)
from serving import (
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    chunk,
    config,
    delta,
    on_uvloop,
    read_answer,
    request,
    serving,
    until,
)

from penstock.config.model import CapabilitiesConfig, ContinuationConfig, TimeoutConfig
from penstock.messages import Outcome
from penstock.testing import FakeClock, ScriptedUpstream, Step
from penstock.wire import usage

PACED = TimeoutConfig(connect=5, first_token=1_000, between_tokens=1_000, total=0, min_token_rate=2)
SILENT = {"openai": CapabilitiesConfig(prefill="none"), "sim": CapabilitiesConfig()}
ABLE = CapabilitiesConfig(prefill="continue_final_message")


def tokens_of(gateway):
    """How many output tokens there are of the answer under way, as the log has them."""
    return sum(
        usage.output_tokens_in(generation.endpoint, generation.events)
        for generation in gateway.pipeline.registry
    )


def trickled(path, *scripts, seconds, clocks=PACED, **more):
    """A call whose every token takes so many seconds, by the gateway's clock: answer, rows, what the bill says."""

    async def main():
        clock = FakeClock()
        kinds = ["openai", "openai"] if path == CHAT else ["sim", "sim"]
        given = {"kinds": kinds[: len(scripts)], "capabilities": [SILENT[kinds[0]], ABLE][: len(scripts)]}
        async with simulated(*scripts, clock=clock, timeouts=clocks, **given, **more) as running:
            gateway, port, simulators = running
            calling = asyncio.ensure_future(call(port, body_for(path), path))
            seen = 0
            async with asyncio.timeout(60):
                while not calling.done():
                    came = tokens_of(gateway)
                    for _ in range(came - seen):
                        clock.advance(seconds)
                    seen = came
                    await asyncio.sleep(0.001)
                await gateway.pipeline.wait_idle()
            rows = list(reversed(gateway.recorder.ledger.recent()))
            return await calling, rows, (booked(gateway), billed(simulators))

    return on_uvloop(main)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("trickle", ["tps=100", "slow-trickle=0.02"])
def test_who_trickles_below_the_least_pace_is_left_and_another_goes_on(path, trickle):
    answer, rows, books = trickled(path, f"no-prefill,{trickle}", "", seconds=1.0)
    events = events_of(answer)
    assert (error_of(events), text_of(path, events)) == (None, whole_text(path))
    check_form(path, events)
    first, *others = rows
    assert (first.upstream, first.outcome) == ("up0", Outcome.PARTIAL)
    assert first.usage.output_tokens < TOKENS, "it was not waited for"
    assert others[-1].outcome is Outcome.CONTINUED
    assert all(row.upstream == "up1" for row in others)
    assert books[0][0] == books[1][0]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_where_nobody_goes_on_with_it_the_caller_is_told(path):
    answer, rows, _ = trickled(
        path, "no-prefill,tps=100", seconds=1.0, continuation=ContinuationConfig(attempts=0)
    )
    events = events_of(answer)
    error = error_of(events)
    assert "slower than the least pace" in json.dumps(error)
    assert len(rows) == 1
    assert whole_text(path).startswith(text_of(path, events))


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_who_keeps_to_it_is_read_to_the_end(path):
    answer, rows, books = trickled(path, "tps=100", "", seconds=0.4)
    events = events_of(answer)
    assert (error_of(events), text_of(path, events)) == (None, whole_text(path))
    assert [row.outcome for row in rows] == [Outcome.COMPLETED]
    assert books[0] == books[1]


ROLE = chunk(b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n')
COMMENT = chunk(b": OPENROUTER PROCESSING\n\n")


def told(*script, clocks=PACED, seconds=40):
    """What a caller gets of an upstream that begins like this, says something five times a second, and then the rest."""

    async def main():
        clock = FakeClock()
        *before, again, rest = script
        passed = [asyncio.Event() for _ in range(seconds)]
        each = [step for second in passed for step in (again * 5, second)]
        steps = [Step.REQUEST, STREAM_HEAD, *before, *each, *rest]
        async with ScriptedUpstream([steps]) as upstream:
            settings = config(upstream.url, timeouts=clocks, continuation=ContinuationConfig(attempts=0))
            async with serving(settings, clock) as (gateway, port):
                calling = asyncio.ensure_future(call(port, {**PROMPT, "stream": True}))
                await until(
                    lambda: any(p._transfer and p._transfer.seen for p in gateway.pipeline.productions)
                )
                for second in passed:
                    second.set()
                    await asyncio.sleep(0.001)
                    clock.advance(1.0)
                return await calling

    return events_of(on_uvloop(main))


@pytest.mark.parametrize("empty", [COMMENT, ROLE], ids=["comments", "empty deltas"])
def test_what_says_nothing_is_no_token(empty):
    events = told(delta("a"), empty, [delta("b", "stop") + DONE + STREAM_END])
    assert "slower than the least pace" in json.dumps(error_of(events))


@pytest.mark.parametrize("meanwhile", [b"", COMMENT, ROLE], ids=["silence", "comments", "empty deltas"])
def test_a_model_that_thinks_before_its_first_token_is_not_slow(meanwhile):
    """Its stream begins at once, and is silent for longer than any answer may be that has begun to speak."""
    silent = TimeoutConfig(connect=5, first_token=100, between_tokens=10, total=0, min_token_rate=2)
    end = [delta("b", "stop") + DONE + STREAM_END]
    assert error_of(told(ROLE, meanwhile, end, clocks=silent, seconds=90)) is None


def test_but_it_does_not_think_for_ever():
    silent = TimeoutConfig(connect=5, first_token=30, between_tokens=10, total=0)
    events = told(ROLE, b"", [delta("b", "stop") + DONE + STREAM_END], clocks=silent)
    assert error_of(events)["code"] == "upstream_timeout"


def test_a_slow_reader_is_never_taken_for_a_slow_upstream():
    async def main():
        clock = FakeClock()
        word = delta("w" * 1_000)
        script = [Step.REQUEST, STREAM_HEAD, *[word] * 20_000, delta("", "stop") + DONE + STREAM_END]
        clocks = TimeoutConfig(between_tokens=3, total=0, min_token_rate=1_000)
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url, timeouts=clocks), clock) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4_096)
                writer.write(request({**PROMPT, "stream": True}))
                await until(
                    lambda: any(p._transfer and p._transfer._paused for p in gateway.pipeline.productions)
                )
                for _ in range(25):  # not so long that it would be cut itself
                    clock.advance(1.0)
                    await asyncio.sleep(0)
                answer = await read_answer(reader)
                writer.close()
                return answer, gateway.recorder.ledger.recent()

    answer, (row,) = on_uvloop(main)
    assert answer.body.count(b'"www') == 20_000
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert row.outcome is Outcome.COMPLETED
