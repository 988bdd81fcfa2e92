"""Streams that break after their first event: what the caller gets, what it costs, and what is never done."""

import asyncio
import json

import pytest
from continuing import (
    CHAT,
    COMPLETIONS,
    LIMIT,
    MESSAGES,
    RESPONSES,
    TOKENS,
    billed,
    body_for,
    booked,
    check_form,
    error_of,
    events_of,
    ids_of,
    simulated,
    text_of,
    whole_text,
)
from serving import call, on_uvloop, request, until

from penstock.config.model import CapabilitiesConfig, ConcurrencyConfig, ContinuationConfig, RetryConfig
from penstock.flow.gate import Asked
from penstock.flow.gate import Outcome as Settled
from penstock.messages import Outcome
from penstock.testing import FakeClock
from penstock.wire import usage

PREFILL = {
    "openai": CapabilitiesConfig(prefill="continue_final_message"),
    "anthropic": CapabilitiesConfig(prefill="trailing"),
    "sim": CapabilitiesConfig(),
}
PROMPTED = ContinuationConfig(prompt=True)


class Outcomes:
    """What became of one call."""

    def __init__(self, path, answer, gateway, simulators):
        self.answer = answer
        streamed = answer.headers["content-type"].startswith("text/event-stream")
        self.events = events_of(answer) if streamed else []
        self.text = text_of(path, self.events)
        self.error = error_of(self.events) if self.events else None
        self.rows = list(reversed(gateway.recorder.ledger.recent()))
        self.booked = booked(gateway)
        self.billed = billed(simulators)
        self.requests = [simulator.bill.report()["requests"] for simulator in simulators]
        self.asked = [[json.loads(seen[3]) for seen in one._seen] for one in simulators]

    @property
    def outcomes(self):
        return [row.outcome for row in self.rows]


def play(path, *scripts, body=None, stalls=None, **more):
    """Call a gateway whose upstreams play these scripts.

    :param stalls: tokens after which the first upstream falls silent; time stands still until it has
    """

    async def main():
        clock = FakeClock()
        async with simulated(*scripts, clock=clock, **more) as (gateway, port, simulators):
            async with asyncio.timeout(60):
                calling = asyncio.ensure_future(call(port, body or body_for(path), path))
                if stalls is not None:
                    first = simulators[0].bill
                    await until(lambda: first.report()["requests"] and _received(gateway, path) == stalls)
                    clock.advance(60.0)
                answer = await calling
                await gateway.pipeline.wait_idle()
            return Outcomes(path, answer, gateway, simulators)

    return on_uvloop(main)


def _received(gateway, path):
    (generation,) = gateway.pipeline.registry or [None]
    return usage.output_tokens_in(generation.endpoint, generation.events) if generation is not None else -1


def capable(*kinds):
    return {"kinds": kinds, "capabilities": [PREFILL[kind] for kind in kinds]}


def test_it_goes_on_where_there_is_room_before_it_waits():
    """Of three upstreams one breaks, and the next is full."""

    async def main():
        clock = FakeClock()
        one = ConcurrencyConfig(limit=1, adaptive=False)
        able = CapabilitiesConfig(prefill="continue_final_message")
        async with simulated(
            "cut-after=9",
            "",
            "",
            kinds=["openai"] * 3,
            capabilities=[CapabilitiesConfig(prefill="none"), able, able],
            clock=clock,
            concurrency=one,
        ) as (gateway, port, simulators):
            full = gateway.pipeline.snapshot.upstreams["up1"].gate
            occupied = full.ask(Asked("m", "someone", "standard", stream=True), clock.now())
            async with asyncio.timeout(60):
                answer = await call(port, body_for(CHAT), CHAT)
                await gateway.pipeline.wait_idle()
            occupied.settle(Settled("nobody"), clock.now())
            return Outcomes(CHAT, answer, gateway, simulators)

    done = on_uvloop(main)
    assert done.text == whole_text(CHAT)
    assert done.requests == [1, 0, 1]


# ---- every fault, at every stage, for every dialect ----------------------------------------------------

SILENT = {
    "before the head: silence": 0,
    "after the first event: silence": 1,
    "in the middle: silence": 9,
    "after the last token: silence": TOKENS,
}

# Stages of a stream, and what breaks it there.  Tokens come one in 5 ms, so that what is cut off is known.
FAULTS = {
    "before the head: reset": "reset-before-headers",
    "before the head: silence": "no-answer",
    "after the head: reset": "early-head,ttft=20,cut-after=0",
    "after the first event: reset": "cut-after=1",
    "after the first event: end": "close-after=1",
    "after the first event: silence": "stall-after=1",
    "after the first event: malformed": "malformed-event=1",
    "after the first event: error": "error-event=1",
    "in the middle: reset": "cut-after=9",
    "in the middle: end": "close-after=9",
    "in the middle: silence": "stall-after=9",
    "in the middle: malformed": "malformed-event=9",
    "in the middle: error": "error-event=9",
    "after the last token: reset": f"cut-after={TOKENS}",
    "after the last token: end": "no-terminator",
    "after the last token: silence": f"stall-after={TOKENS}",
    "after the last token: malformed": f"malformed-event={TOKENS}",
    "after the last token: error": f"error-event={TOKENS}",
    "after the finish reason": "no-done",
}
UPSTREAMS = [
    (CHAT, "openai", "openai"),
    (CHAT, "openai", "anthropic"),
    (CHAT, "anthropic", "openai"),
    (MESSAGES, "anthropic", "anthropic"),
    (MESSAGES, "anthropic", "openai"),
    (MESSAGES, "openai", "anthropic"),
    (RESPONSES, "sim", "sim"),
    (RESPONSES, "openai", "anthropic"),
    (COMPLETIONS, "sim", "sim"),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("path", "first", "second"), UPSTREAMS)
def test_another_upstream_that_takes_a_prefill_rescues_the_answer_whole(path, first, second, fault):
    script = f"tps=200,no-prefill,{FAULTS[fault]}"
    done = play(path, script, "tps=200", stalls=SILENT.get(fault), **capable(first, second))
    assert done.error is None
    assert done.text == whole_text(path)
    check_form(path, done.events)
    ids = ids_of(done.answer)
    assert ids == list(range(len(ids)))
    _check_books(done, path, fault)
    assert sum(done.requests) <= 4
    assert all(row.outcome is not None for row in done.rows)


def _check_books(done, path, fault):
    if fault.endswith("malformed"):
        # The gateway hangs up on nonsense; what else was on its way is billed, and the row says that it is a guess.
        assert done.booked[0] == done.billed[0]
        assert done.billed[1] - TOKENS <= done.booked[1] <= done.billed[1]
        assert done.booked == done.billed or any(row.usage.estimated for row in done.rows)
    elif (path, fault) != (COMPLETIONS, "after the head: reset"):  # nothing had come, but the prompt was read
        assert done.booked == done.billed


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("path", "first", "second"), UPSTREAMS)
def test_where_none_does_it_is_whole_or_a_clean_error_never_a_truncated_success(path, first, second, fault):
    script = f"tps=200,no-prefill,{FAULTS[fault]}"
    done = play(path, script, "tps=200,no-prefill", stalls=SILENT.get(fault), **capable(first, second))
    unseen = fault.startswith(("before", "after the head"))
    relayed = (path, first) in {(CHAT, "openai"), (MESSAGES, "anthropic"), (COMPLETIONS, "sim")}
    closed = fault == "after the finish reason" and relayed
    # A piece with a fault in it that is the very first one is not delivered at all.
    unseen = unseen or (fault.startswith("after the first event") and done.error is None)
    if unseen or closed:
        assert done.error is None
        assert done.text == whole_text(path)
        check_form(path, done.events)
    else:
        assert done.error is not None
        assert done.events.count("[DONE]") == 0
        assert "prefill" not in json.dumps(done.error), "what was tried to mend it is nobody's business"
        assert whole_text(path).startswith(done.text)
    _check_books(done, path, fault)
    # A refused prefill is not asked for again.
    refused = [row for row in done.rows if row.status == 400]
    assert len(refused) == len({row.upstream for row in refused})
    assert sum(done.requests) <= 6


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_a_break_after_the_finish_reason_is_mended_without_asking_anybody(path):
    done = play(path, "no-done", "", **capable("sim", "sim"))
    assert done.text == whole_text(path)
    check_form(path, done.events)
    if path != RESPONSES:
        assert done.requests == [1, 0]


# ---- the same upstream again ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_a_deterministic_call_is_run_again_and_only_what_is_new_delivered(path):
    done = play(path, "no-prefill,cut-after=9,once", body=body_for(path, temperature=0))
    assert (done.error, done.text) == (None, whole_text(path))
    check_form(path, done.events)
    assert done.outcomes == [Outcome.PARTIAL, Outcome.CONTINUED]
    assert done.booked == done.billed
    assert done.billed[1] == 9 + TOKENS


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("after", [1, 4, 7])
def test_so_is_one_that_broke_inside_of_a_tool_call(path, after):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = {
        CHAT: [{"type": "function", "function": {"name": "weather", "parameters": schema}}],
        MESSAGES: [{"name": "weather", "input_schema": schema}],
        RESPONSES: [{"type": "function", "name": "weather", "parameters": schema}],
    }[path]
    body = body_for(path, temperature=0, tools=tools)
    once = play(path, "tool", body=body)
    done = play(path, f"tool,no-prefill,cut-after={after},once", body=body)
    assert done.error is None
    assert _arguments(path, done.events) == _arguments(path, once.events) != ""
    check_form(path, done.events)


def _arguments(path, events):
    text = ""
    for event in events:
        if path == CHAT and event != "[DONE]":
            for choice in event["choices"]:
                for one in choice["delta"].get("tool_calls") or ():
                    text += one["function"]["arguments"]
        elif path == MESSAGES and event["type"] == "content_block_delta":
            text += event["delta"]["partial_json"]
        elif path == RESPONSES and event["type"] == "response.function_call_arguments.delta":
            text += event["delta"]
    return text


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("after", [5, 16, 18])
def test_so_is_one_that_broke_in_a_thought_or_after_it(path, after):
    body = {
        CHAT: body_for(path, temperature=0, reasoning_effort="low"),
        MESSAGES: body_for(path, temperature=0, thinking={"type": "adaptive"}),
        RESPONSES: body_for(path, temperature=0, reasoning={"effort": "low", "summary": "auto"}),
    }[path]
    body[
        "max_completion_tokens"
        if path == CHAT
        else "max_output_tokens"
        if path == RESPONSES
        else "max_tokens"
    ] = 40
    body.pop("max_tokens", None) if path == CHAT else None
    once = play(path, "", body=body)
    done = play(path, f"no-prefill,cut-after={after},once", body=body)
    assert done.error is None
    assert done.text == once.text != ""
    check_form(path, done.events)
    assert done.booked == done.billed


def test_a_rerun_that_says_something_else_goes_down_the_ladder():
    # A cut that the prompt's digest decides: the second upstream's answer to it is another one.
    body = body_for(CHAT, temperature=0)
    done = play(CHAT, "no-prefill,cut-after=9", "", "", body=body, **capable("openai", "openai", "openai"))
    assert (done.error, done.text) == (None, whole_text(CHAT))


@pytest.mark.parametrize("script", ["no-prefill,cut-after=9", "cut-after=9"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_an_answer_that_broke_with_its_last_token_gets_no_further_one(path, script):
    body = body_for(path)
    body["max_output_tokens" if path == RESPONSES else "max_tokens"] = 9
    done = play(path, f"{script},tokens=max,once", "tokens=max", body=body)
    assert (done.error, done.text) == (None, whole_text(path, 9))
    check_form(path, done.events)
    assert done.requests == [1, 0]
    assert done.booked == done.billed


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_nor_does_one_whose_continuation_broke_with_its_last_token(path):
    body = body_for(path)
    body["max_output_tokens" if path == RESPONSES else "max_tokens"] = 10
    done = play(path, "tokens=max,cut-after=5", "tokens=max,cut-after=5", body=body)
    assert (done.error, done.text) == (None, whole_text(path, 10))
    check_form(path, done.events)
    assert sum(done.requests) == 2
    assert done.booked == done.billed


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_an_answer_that_breaks_again_and_again_is_gone_on_with_as_often_as_is_allowed(path):
    done = play(path, "cut-after=5")
    assert (done.error, done.text) == (None, whole_text(path))
    check_form(path, done.events)
    assert done.outcomes == [Outcome.PARTIAL] * 4 + [Outcome.CONTINUED]
    assert done.booked == done.billed
    few = play(path, "cut-after=5", continuation=ContinuationConfig(attempts=2))
    assert few.error is not None
    assert whole_text(path).startswith(few.text)
    assert few.requests == [3]
    none = play(path, "cut-after=5", continuation=ContinuationConfig(attempts=0))
    assert none.error is not None
    assert none.requests == [1]


@pytest.mark.parametrize(("script", "seams"), [("", None), ("cut-after=9,once", "1"), ("cut-after=5", "4")])
def test_who_reads_an_answer_again_is_told_how_many_seams_it_has(script, seams):
    async def main():
        async with simulated(script) as (_, port, _):
            first = await call(port, body_for(CHAT), CHAT)
            path = f"/v1/generations/{first.headers['penstock-generation']}/events"
            again = await call(port, b"", path, "GET")
            rest = await call(port, b"", path, "GET", ["last-event-id: 2"])
            return first, again, rest

    first, again, rest = on_uvloop(main)
    assert again.body == first.body
    assert [one.headers.get("penstock-continued") for one in (first, again, rest)] == [None, seams, seams]


def test_a_plain_answer_of_a_stream_that_broke_says_so_too():
    async def main():
        async with simulated("tps=50,no-prefill,cut-after=9,once") as (gateway, port, simulators):
            body = body_for(CHAT, temperature=0)
            streamed = asyncio.ensure_future(call(port, body, CHAT))
            await until(lambda: any(one.readable > 3 for one in gateway.pipeline.registry))
            joined = await call(port, {**body, "stream": False}, CHAT)
            return joined, await streamed, simulators[0].bill.report()["requests"]

    joined, streamed, requests = on_uvloop(main)
    assert joined.headers["penstock-status"] == "joined"
    assert joined.headers["penstock-continued"] == "1"
    assert joined.json()["choices"][0]["message"]["content"] == whole_text(CHAT)
    assert "penstock-continued" not in streamed.headers
    assert requests == 2


def test_the_retry_budget_holds_for_continuations_too():
    none = RetryConfig(first_delay=0.0, budget_floor=0, budget_ratio=0)
    done = play(CHAT, "cut-after=5", "", retry=none)
    assert done.error["code"] == "upstream_broken"
    assert done.requests == [1, 0]


# ---- prefill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["trailing", "prefix", "partial", "continue_final_message"])
def test_each_provider_is_told_in_its_own_form(form):
    done = play(
        CHAT,
        "no-prefill,cut-after=9",
        "",
        kinds=("openai", "openai"),
        capabilities=[CapabilitiesConfig(prefill="none"), CapabilitiesConfig(prefill=form)],
    )
    (asked,) = done.asked[1]
    last = asked["messages"][-1]
    assert (last["role"], last["content"]) == ("assistant", whole_text(CHAT, 9))
    assert last.get("prefix", False) is (form == "prefix")
    assert last.get("partial", False) is (form == "partial")
    assert asked.get("continue_final_message", False) is (form == "continue_final_message")
    assert asked["max_tokens"] == LIMIT - 9
    if form != "trailing":  # by its place alone the simulator takes none
        assert (done.error, done.text) == (None, whole_text(CHAT))


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_what_the_other_model_repeats_is_trimmed(path):
    done = play(path, "no-prefill,cut-after=9", "overlap=5,tokens=40")
    assert done.error is None
    assert whole_text(path, 15).startswith(done.text[: len(whole_text(path, 15))])
    assert done.text.count(whole_text(path, 9)[-20:]) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"logprobs": True},
        {"guided_regex": "a+"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_a_second_stream_cannot_take_up_is_not_gone_on_with(more):
    done = play(CHAT, "cut-after=2", "", body=body_for(CHAT, **more))
    assert done.error["code"] == "upstream_broken"
    assert done.requests == [1, 0]


def test_a_tool_call_is_never_gone_on_with_in_the_middle():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    done = play(CHAT, "tool,cut-after=2", "tool", body=body_for(CHAT, tools=tools))
    assert done.error["code"] == "upstream_broken"
    assert done.requests == [1, 0]


def test_nor_is_a_thought():
    body = body_for(CHAT, reasoning_effort="low")
    done = play(CHAT, "cut-after=5", "", body=body)
    assert done.error["code"] == "upstream_broken"
    assert done.requests == [1, 0]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_usage_adds_up_to_the_prompt_once_and_the_whole_output(path):
    asked = body_for(path)
    if path == CHAT:
        asked["stream_options"] = {"include_usage": True}
    once = play(path, "", body=asked)
    done = play(path, "cut-after=9,no-prefill", "", body=asked)
    assert done.error is None
    expected = _usage(path, once.events)
    if path == RESPONSES:  # it tells nothing before its end: what the second prompt had more is an estimate
        assert _usage(path, done.events)[1] == expected[1]
        assert abs(_usage(path, done.events)[0] - expected[0]) < 9
    else:
        assert _usage(path, done.events) == expected


def _usage(path, events):
    if path == CHAT:
        (told,) = [event["usage"] for event in events[:-1] if event.get("usage")]
        return told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]
    if path == MESSAGES:
        told = next(event["usage"] for event in events if event["type"] == "message_delta")
    else:
        told = events[-1]["response"]["usage"]
    return told["input_tokens"], told["output_tokens"]


# ---- in words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("script", ["", "preamble", "thinking"])
def test_where_it_is_allowed_a_model_is_asked_in_words(path, script):
    done = play(path, "no-prefill,cut-after=9", f"no-prefill,tokens=60,{script}", continuation=PROMPTED)
    assert done.error is None
    whole = whole_text(path, 60)
    assert whole.startswith(done.text)
    assert len(done.text) > len(whole_text(path, 9))
    check_form(path, done.events)
    assert done.booked == done.billed


def test_elsewhere_nobody_is():
    done = play(CHAT, "no-prefill,cut-after=9", "no-prefill")
    assert done.error["code"] == "upstream_broken"
    assert not any("interrupted" in json.dumps(asked) for asked in done.asked[1])


def test_a_model_that_does_not_begin_where_it_was_asked_to_is_not_believed():
    done = play(CHAT, "no-prefill,cut-after=9", "no-prefill,deaf,preamble", continuation=PROMPTED)
    assert done.error["code"] == "upstream_broken"
    assert done.text == whole_text(CHAT, 9)
    assert done.booked == done.billed


# ---- tokens --------------------------------------------------------------------------------------------

EXACT = CapabilitiesConfig(prefill="none", token_ids=True)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_with_token_ids_the_answer_goes_on_from_the_very_next_token(path):
    done = play(path, "cut-after=9,once,no-prefill", kinds=("openai",), capabilities=[EXACT])
    assert (done.error, done.text) == (None, whole_text(path))
    check_form(path, done.events)
    asked = done.asked[0][1]
    assert asked["max_tokens"] == LIMIT - 9
    assert all(isinstance(one, int) for one in asked["prompt"])
    assert done.booked == done.billed
    assert done.billed[1] == TOKENS


def test_an_upstream_that_is_not_asked_for_ids_shows_none():
    done = play(CHAT, "", kinds=("openai",))
    assert b"token_ids" not in done.answer.body


# ---- held back -----------------------------------------------------------------------------------------


def test_a_break_while_the_first_events_wait_is_repaired_unseen():
    held = ContinuationConfig(hold_back=0.5, attempts=0)
    done = play(CHAT, "no-prefill,cut-after=3", "no-prefill", continuation=held)
    assert done.outcomes[-1] is Outcome.COMPLETED
    assert (done.error, done.text) == (None, whole_text(CHAT))
    assert done.booked == done.billed


def test_what_waited_goes_out_in_time():
    held = ContinuationConfig(hold_back=0.05, attempts=0)
    done = play(CHAT, "tps=100", continuation=held)
    assert (done.error, done.text) == (None, whole_text(CHAT))


# ---- plain answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("fault", ["cut-after=9", "close-after=9", "stall-after=9", "malformed-event"])
def test_a_plain_answer_that_breaks_is_asked_for_again(path, fault):
    body = {**body_for(path), "stream": False}
    done = play(path, f"{fault},once", "", body=body, stalls=0 if fault.startswith("stall") else None)
    assert done.answer.status == 200
    assert done.answer.headers.get("penstock-continued") is None
    assert len(done.rows) == 2


# ---- the caller ----------------------------------------------------------------------------------------


def test_a_caller_that_leaves_while_an_answer_is_gone_on_with_ends_it():
    async def main():
        async with simulated("cut-after=3", "tps=50,ttft=100") as (gateway, port, simulators):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(body_for(CHAT)))
            await reader.readuntil(b"id: 3\n")
            await until(
                lambda: (
                    len(gateway.recorder.ledger.recent()) + len(gateway.recorder.ledger.open_attempts()) > 1
                )
            )
            writer.close()
            await writer.wait_closed()
            await gateway.pipeline.wait_idle()
            return booked(gateway), billed(simulators)

    got, charged = on_uvloop(main)
    assert got == charged
