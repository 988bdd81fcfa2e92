"""``kill -9`` where no other text can be joined on: in a thought, in a tool call, in JSON that a schema rules.

What is deterministic is asked for anew and comes to the same; of anything else the caller is told that it broke.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter

import pytest
from gateway_books import asked, ledger_rows, settled_bill, tokens
from killing import PAIRS, Caller, killed_and_read

from penstock.testing import SimulatorProcess

STOP = 2  # tokens, all of them of that part
TOOL = {"name": "look_up", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}
SCHEMA = {"name": "found", "schema": {"type": "object", "properties": {"what": {"type": "string"}}}}
PLACES = {
    "thought": ("sim:thinking,", {"max_tokens": 40}),
    "tool call": (
        "sim:tool,",
        {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required", "max_tokens": 40},
    ),
    "schema": ("sim:", {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}),
}


class ToldCaller(Caller):
    """Takes an error for an answer."""

    error = ""

    async def come_back(self, client, url):
        headers = {"last-event-id": str(self.last)} if self.frames else {}
        where = f"{url}/v1/generations/{self.generation}/events"
        async with client.stream("GET", where, headers=headers) as answer:
            if answer.status_code >= 400:
                await answer.aread()
                self.error = answer.json()["error"]["code"]
                self.done = True
            elif answer.status_code == 204:
                self.done = True
            else:
                await self._read(answer)

    @property
    def said(self):
        """All that was said in any way, and whether it is whole."""
        deltas = [choice["delta"] for choice in self._choices()]
        texts = [delta.get("reasoning_content") or delta.get("content") or "" for delta in deltas]
        arguments = [
            call["function"].get("arguments", "") for one in deltas for call in one.get("tool_calls", [])
        ]
        return "".join(texts), "".join(arguments), any(self.reasons)


@pytest.fixture(params=PAIRS)
def pair_of(request, tmp_path):
    return functools.partial(PAIRS[request.param], folder=tmp_path)


@pytest.mark.slow  # a lease has to run out, and a worker to start
def test_it_is_asked_for_anew_where_that_comes_to_the_same_and_else_the_caller_is_told(pair_of, tmp_path):
    with SimulatorProcess() as simulator:
        callers = {
            (place, sure): ToldCaller(
                f"{place}, {sure}",
                f"{model}stall-after={STOP},once",
                **more,
                **({"temperature": 0} if sure else {}),
            )
            for place, (model, more) in PLACES.items()
            for sure in (True, False)
        }

        def begun():
            return all(len(caller.frames) > STOP for caller in callers.values())

        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(killed_and_read(pair, list(callers.values()), begun))
            bill = settled_bill(simulator)
    for ((place, sure), caller), uncut in zip(callers.items(), whole, strict=True):
        text, arguments, ended = caller.said
        assert caller.frames == uncut.frames, place
        assert ended == sure, place
        assert caller.error == ("" if sure else "upstream_broken"), place
        assert bool(arguments) == (place == "tool call")
        assert text or arguments
    survivor = tmp_path / "there" if (tmp_path / "there").exists() else tmp_path
    rows = asked(ledger_rows(survivor / "ledger.sqlite"))
    # Of the prompt of an attempt that died only an estimate is known, which takes tools and schemas for nothing.
    assert sum(row.output_tokens for row in rows) == bill["output_tokens"]
    told = [one for one in bill["by_request"] if one["state"] == "completed"]
    assert tokens([row for row in rows if not row.estimated]) == (
        sum(one["input_tokens"] for one in told),
        sum(one["output_tokens"] for one in told),
    )
    assert Counter(row.outcome for row in rows) == {"partial": len(callers), "continued": len(PLACES)}
