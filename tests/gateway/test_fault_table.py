"""The table of faults in ``docs/continuation.md``, row by row: the manual says what happens, and here it is made to.

Each row is a failure of the simulator; each column a gateway and what becomes of a call there.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from continuing import CHAT, TOKENS, body_for, check_form, error_of, events_of, simulated, text_of, whole_text
from serving import call, on_uvloop

from penstock.config.model import CapabilitiesConfig, ContinuationConfig
from penstock.lab import scenario
from penstock.testing import FakeClock

PAGE = Path(__file__).parents[2] / "docs" / "continuation.md"
HEADING = "## What becomes of each fault"
PREFILL = CapabilitiesConfig(prefill="continue_final_message")
NONE = CapabilitiesConfig(prefill="none")
MOST_REQUESTS = 8  # three attempts, four continuations, and one that is refused: more would be a hammering
COLUMNS = {  # the fault alone, or before another upstream; whether the call streams
    "plain": ((), NONE, False),
    "stream": ((), NONE, True),
    "stream, a fallback that takes no prefill": (("tps=400,no-prefill",), NONE, True),
    "stream, a fallback that takes one": (("tps=400",), PREFILL, True),
}


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


def outcome_of(script, fallbacks, capabilities, *, stream):
    """What becomes of one call, in the words of the table."""

    async def main():
        clock = FakeClock()

        async def tick():  # minutes of silence pass in a moment; where none is meant, no time passes
            while "stall" in script or "no-answer" in script:
                await asyncio.sleep(0.02)
                clock.advance(1.0)

        scripts = [f"tps=100,no-prefill,{script}", *fallbacks]
        both = {"kinds": ["openai"] * len(scripts), "capabilities": [NONE, capabilities][: len(scripts)]}
        body = body_for(CHAT, stream=stream)
        async with simulated(*scripts, clock=clock, continuation=ContinuationConfig(), **both) as running:
            gateway, port, simulators = running
            ticking = asyncio.ensure_future(tick())
            try:
                async with asyncio.timeout(60):
                    answer = await call(port, body, CHAT)
                    await gateway.pipeline.wait_idle()
            finally:
                ticking.cancel()
            requests = [simulator.bill.report()["requests"] for simulator in simulators]
            rows = gateway.recorder.ledger.recent()
            return answer, requests, rows

    answer, requests, rows = on_uvloop(main)
    assert sum(requests) <= MOST_REQUESTS, "a hammering"
    assert all(row.outcome is not None for row in rows)
    assert sum(row.status == 400 for row in rows) <= len(requests), "a 400 is not tried again"
    if answer.status != 200:
        code = answer.json()["error"]["code"]
        assert code
        return f"{answer.status} `{code}`", requests
    if not stream:
        assert answer.json()["choices"][0]["message"]["content"] == whole_text(CHAT)
        return "whole", requests
    events = events_of(answer)
    error = error_of(events)
    text = text_of(CHAT, events)
    if error is None:
        assert text == whole_text(CHAT), "a truncated success"
        check_form(CHAT, events)
        return "whole", requests
    assert "[DONE]" not in events
    assert whole_text(CHAT).startswith(text)
    return f"error event `{error['code']}`", requests


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("script", table())
def test_what_the_page_says_is_what_happens(script, column):
    fallbacks, capabilities, stream = COLUMNS[column]
    outcome, requests = outcome_of(script, fallbacks, capabilities, stream=stream)
    assert outcome == table()[script][list(COLUMNS).index(column)], requests


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
        assert {(fault, "first"), (fault, "middle")} <= stages
    assert ("cut-after", "last") in stages
