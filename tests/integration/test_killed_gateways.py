"""``kill -9`` of a gateway in the middle of its answers: callers come back and get the rest, and only the rest.

One kill ends many streams at once, each of which has come to another event: the simulator stops after so many
tokens, the first time.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter

import pytest
from gateway_books import billed, ledger_rows, settled_bill, tokens
from killing import PAIRS, TOKENS, Caller, expected, killed_and_read

from penstock.testing import ScriptedUpstream, SimulatorProcess, Step

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


@pytest.fixture(params=PAIRS)
def pair_of(request, tmp_path):
    """Makes the gateway that will be killed, and the one that callers find then: itself restarted, or a replica."""
    return functools.partial(PAIRS[request.param], folder=tmp_path)


def chunked(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def frame(content):
    return chunked(b"data: " + json.dumps(content).encode() + b"\n\n")


def delta(text, finish=None):
    return frame({**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


DONE = chunked(b"data: [DONE]\n\n")


def hand_over(gateway, *, whole):
    """Tell it to go; its answers do not end in the time that it is given."""
    assert whole, "with one machine's file, nobody else would be there"
    gateway.terminate()


@pytest.mark.slow  # a lease has to run out, and a worker to start
@pytest.mark.parametrize("more", [{"temperature": 0}, {}], ids=["deterministic", "prefilled"])
def test_a_gateway_that_is_killed_at_any_token_loses_none(pair_of, more, tmp_path):
    with SimulatorProcess() as simulator:
        callers = [Caller(f"question {n}", f"sim:stall-after={n},once", **more) for n in range(1, TOKENS)]
        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(
                killed_and_read(
                    pair,
                    callers,
                    lambda: all(caller.text == expected(caller, n) for n, caller in enumerate(callers, 1)),
                )
            )
            bill = settled_bill(simulator)
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == 1
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames
    survivor = tmp_path / "there" if (tmp_path / "there").exists() else tmp_path
    rows = ledger_rows(survivor / "ledger.sqlite")
    assert tokens(rows) == billed(bill)
    assert Counter(row.outcome for row in rows if row.output_tokens) == {
        "partial": len(callers),
        "continued": len(callers),
    }


@pytest.mark.slow  # two gateways start, and one of them ends
@pytest.mark.parametrize("pair_of", ["shared"], indirect=True)
def test_a_gateway_that_must_go_leaves_its_answers_to_another(pair_of):
    with SimulatorProcess() as simulator:
        callers = [Caller(f"question {n}", f"sim:stall-after={n},once") for n in (2, 5)]
        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(
                killed_and_read(
                    pair,
                    callers,
                    lambda: all(
                        caller.text == expected(caller, n) for caller, n in zip(callers, (2, 5), strict=True)
                    ),
                    hand_over,
                )
            )
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames


@pytest.mark.slow  # the same
def test_a_gateway_that_is_killed_at_any_event_sends_each_once(pair_of, tmp_path):
    """Also between the finish reason, the usage and the terminator."""
    pieces = [
        delta("a"),
        delta("b"),
        delta("c", "stop"),
        frame(
            {**CHUNK, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}}
        ),
        DONE,
    ]
    never = asyncio.Event()
    cut = [[Step.REQUEST, STREAM_HEAD, *pieces[:n], never] for n in range(1, len(pieces))]
    callers = [Caller(f"question {n}", "m", temperature=0) for n in range(len(cut))]

    async def main():
        async with ScriptedUpstream(
            [*cut, [Step.REQUEST, STREAM_HEAD, *pieces, STREAM_END, Step.CLOSE]]
        ) as upstream:
            with pair_of(upstream.url) as pair:
                counts = list(range(1, len(pieces)))
                whole = await killed_and_read(
                    pair, callers, lambda: sorted(len(caller.frames) for caller in callers) == counts
                )
                return whole, upstream.connections

    whole, connections = asyncio.run(main())
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == 1
        assert caller.text == "abc"
        assert caller.frames == uncut.frames
        assert [reason for reason in caller.reasons if reason] == ["stop"]
    rows = ledger_rows((tmp_path / "there" if (tmp_path / "there").exists() else tmp_path) / "ledger.sqlite")
    outputs = {
        outcome: [row.output_tokens for row in rows if row.outcome == outcome]
        for outcome in ("partial", "continued")
    }
    assert sorted(outputs["partial"]) == [1, 2, 3, 3]  # what had come of each call that was cut
    assert outputs["continued"] == [3] * (connections - len(cut))  # and each call that was made anew
