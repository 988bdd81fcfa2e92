"""The table of faults in ``docs/continuation.md``, row by row: the manual says what happens, and here it is made to.

Each row is a failure of the simulator; each column a gateway and what becomes of a call there.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from continuing import (
    CHAT,
    CLOCKS,
    MESSAGES,
    RESPONSES,
    TOKENS,
    body_for,
    check_form,
    error_of,
    events_of,
    simulated,
    text_of,
    whole_text,
)
from serving import call, on_uvloop

from penstock.config.model import CapabilitiesConfig, ContinuationConfig
from penstock.lab import scenario
from penstock.testing import FakeClock

PAGE = Path(__file__).parents[2] / "docs" / "continuation.md"
HEADING = "## What becomes of each fault"
PREFILL = CapabilitiesConfig(prefill="continue_final_message")
NONE = CapabilitiesConfig(prefill="none")
MOST_REQUESTS = 8  # three attempts, four continuations, and one that is refused: more would be a hammering
KINDS = {CHAT: "openai", MESSAGES: "anthropic", RESPONSES: "sim"}
ENDS = {"[DONE]", "message_stop", "response.completed", "response.incomplete"}
COLUMNS = {  # the fault alone, or before another upstream; whether the call streams
    "plain": ((), NONE, False),
    "stream": ((), NONE, True),
    "stream, a fallback that takes no prefill": (("tps=400,no-prefill",), NONE, True),
    "stream, a fallback that takes one": (("tps=400",), PREFILL, True),
}


def code_of(told):
    """What an error is called, whichever the dialect."""
    error = told["error"]
    code = error.get("code") or error["type"]
    assert code
    return code


def plain_text(path, answer):
    if path == CHAT:
        return answer["choices"][0]["message"]["content"]
    parts = answer["content"] if path == MESSAGES else answer["output"][-1]["content"]
    return "".join(part["text"] for part in parts)


def table():
    """The page's rows: the simulator's script, and what its columns say."""
    section = PAGE.read_text().partition(HEADING)[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]
    heading, _, *rows = rows
    assert heading[1:] == list(COLUMNS), heading
    return {re.fullmatch(r".*`(.+)`", row[0])[1]: row[1:] for row in rows}


def outcome_of(script, fallbacks, capabilities, *, stream, path=CHAT):
    """What becomes of one call, in the words of the table, and how often each upstream was asked."""

    async def main():
        clock = FakeClock()

        async def tick():  # minutes of silence pass in a moment; where none is meant, no time passes
            while "stall" in script or "no-answer" in script:
                await asyncio.sleep(0.02)
                clock.advance(1.0)

        scripts = [f"tps=100,no-prefill,{script}", *fallbacks]
        kinds = [KINDS[path]] * len(scripts)
        both = {"kinds": kinds, "capabilities": [NONE, capabilities][: len(scripts)]}
        body = body_for(path, stream=stream)
        async with simulated(*scripts, clock=clock, continuation=ContinuationConfig(), **both) as running:
            gateway, port, simulators = running
            began = clock.now()
            ticking = asyncio.ensure_future(tick())
            try:
                async with asyncio.timeout(60):
                    answer = await call(port, body, path)
                    took = clock.now() - began
                    await gateway.pipeline.wait_idle()
            finally:
                ticking.cancel()
            requests = [simulator.bill.report()["requests"] for simulator in simulators]
            rows = gateway.recorder.ledger.recent()
            return answer, requests, rows, took

    answer, requests, rows, took = on_uvloop(main)
    assert sum(requests) <= MOST_REQUESTS, "a hammering"
    assert took <= 1.5 * CLOCKS.first_token * sum(requests), (
        "each attempt has its clocks, and none waits for ever"
    )
    assert all(row.outcome is not None for row in rows)
    assert sum(row.status == 400 for row in rows) <= len(requests), "a 400 is not tried again"
    asked = "+".join(str(number) for number in requests)
    if answer.status != 200:
        return f"{answer.status} `{code_of(answer.json())}` · {asked}"
    if not stream:
        assert plain_text(path, answer.json()) == whole_text(path)
        return f"whole · {asked}"
    events = events_of(answer)
    error = error_of(events)
    text = text_of(path, events)
    if error is None:
        assert text == whole_text(path), "a truncated success"
        check_form(path, events)
        return f"whole · {asked}"
    assert ENDS.isdisjoint(event if isinstance(event, str) else event.get("type") for event in events)
    assert whole_text(path).startswith(text)
    return f"error event `{code_of(events[-1])}` · {asked}"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("script", table())
def test_what_the_page_says_is_what_happens(script, column):
    fallbacks, capabilities, stream = COLUMNS[column]
    outcome = outcome_of(script, fallbacks, capabilities, stream=stream)
    assert outcome == table()[script][list(COLUMNS).index(column)]


TAKES_ONE = {MESSAGES: CapabilitiesConfig(prefill="trailing"), RESPONSES: CapabilitiesConfig()}
# Where the other APIs differ from the page by more than what an error is called.
ELSEWHERE = {
    (RESPONSES, "no-done", "stream"): "error event 1",
    (RESPONSES, "no-done", "stream, a fallback that takes no prefill"): "error event 1+0",
    (RESPONSES, "no-done", "stream, a fallback that takes one"): "whole 1+1",
    (MESSAGES, "error-event=1", "stream"): "503 3",  # as the simulator's own error has it in this API
}


def without_code(outcome):
    return re.sub(r" (`.+` )?· ", " ", outcome)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("script", table())
@pytest.mark.parametrize("path", TAKES_ONE)
def test_the_same_happens_in_the_other_apis(path, script, column):
    fallbacks, capabilities, stream = COLUMNS[column]
    capabilities = TAKES_ONE[path] if capabilities is PREFILL else capabilities
    outcome = outcome_of(script, fallbacks, capabilities, stream=stream, path=path)
    told = table()[script][list(COLUMNS).index(column)]
    assert without_code(outcome) == ELSEWHERE.get((path, script, column), without_code(told)), outcome


def test_every_fault_of_the_simulator_has_its_row():
    faults = {
        *scenario._PLAIN_FAILURES,
        *scenario._AFTER,
        "500-once",
        "503-for",
        "slow-first-token",
        "slow-trickle",
    }
    shown = {option.partition("=")[0] for script in table() for option in script.split(",")}
    assert faults <= shown, faults - shown


def test_every_stage_of_a_stream_is_cut():
    cuts = {
        script
        for script in table()
        if re.match("cut-after|close-after|stall-after|malformed-event|error-event", script)
    }
    stages = {
        (name, {"1": "first", str(TOKENS): "last"}.get(at, "middle"))
        for name, _, at in (one.partition("=") for one in cuts)
    }
    for fault in scenario._AFTER:
        assert {(fault, "first"), (fault, "middle"), (fault, "last")} <= stages
