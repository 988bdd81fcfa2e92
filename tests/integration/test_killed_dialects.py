"""What ``test_killed_gateways.py`` shows of chats, of messages and responses: ``kill -9`` at any event."""

from __future__ import annotations

import asyncio
import functools
import json

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens
from killing import PAIRS, TOKENS, MessagesCaller, ResponsesCaller, expected, killed_and_read

from penstock.testing import ScriptedUpstream, SimulatorProcess, Step

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"
TOKEN = (b"event: content_block_delta", b"event: response.output_text.delta")


@pytest.fixture(params=PAIRS)
def pair_of(request, tmp_path):
    return functools.partial(PAIRS[request.param], folder=tmp_path)


def booked(folder):
    """What the gateway has booked that is there in the end, for itself and for the dead one."""
    survivor = folder / "there" if (folder / "there").exists() else folder
    return asked(ledger_rows(survivor / "ledger.sqlite"))


dialects = pytest.mark.parametrize("dialect", [MessagesCaller, ResponsesCaller])


@dialects
@pytest.mark.slow  # a lease has to run out, and a worker to start
@pytest.mark.parametrize("more", [{"temperature": 0}, {}], ids=["deterministic", "prefilled"])
def test_a_gateway_that_is_killed_loses_no_token_and_books_each_once(pair_of, dialect, more, tmp_path):
    """The last one falls silent behind its last token."""
    stops = [1, 5, TOKENS - 1, TOKENS]
    with SimulatorProcess() as simulator:
        callers = [dialect(f"question {n}", f"sim:stall-after={n},once", **more) for n in stops]

        def begun():
            return all(caller.text == expected(caller, n) for n, caller in zip(stops, callers, strict=True))

        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(killed_and_read(pair, callers, begun))
            bill = settled_bill(simulator)
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == 1
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames
    assert tokens(booked(tmp_path)) == billed(bill)


def streamed(dialect):
    """The events of an answer, as an upstream sends them."""
    with SimulatorProcess() as simulator, httpx2.Client(trust_env=False, timeout=30) as client:
        body = dialect("a question", "sim:tokens=3", temperature=0).body
        answer = client.post(simulator.url + dialect.path, json=body)
    return [
        event + b"\n\n" for event in answer.content.split(b"\n\n") if event and b"event: ping" not in event
    ]


def output_tokens(events):
    """As the last event that has any tells them."""
    usages = (event.get("response", event).get("usage") for event in events)
    return [usage for usage in usages if usage][-1]["output_tokens"]


@dialects
@pytest.mark.slow  # the same
def test_a_gateway_that_is_killed_at_any_event_sends_each_once(pair_of, dialect, tmp_path):
    """Also between the last token and the end."""
    events = streamed(dialect)
    pieces = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    never = asyncio.Event()
    counts = range(1, len(pieces))
    cut = [[Step.REQUEST, STREAM_HEAD, *pieces[:n], never] for n in counts]
    callers = [dialect(f"question {n}", "m", temperature=0) for n in counts]

    async def main():
        whole_answer = [Step.REQUEST, STREAM_HEAD, *pieces, STREAM_END, Step.CLOSE]
        async with ScriptedUpstream([*cut, whole_answer]) as upstream:
            with pair_of(upstream.url) as pair:
                whole = await killed_and_read(
                    pair, callers, lambda: sorted(len(caller.frames) for caller in callers) == list(counts)
                )
                return whole, upstream.connections

    whole, connections = asyncio.run(main())
    sent = [json.loads(event.split(b"data: ", 1)[1]) for event in events]
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == 1
        assert caller.frames == uncut.frames
        assert caller.text == expected(dialect("a question", "sim"), 3)
        assert output_tokens(caller.events()) == output_tokens(sent) == 3
    rows = booked(tmp_path)
    anew = [row for row in rows if row.outcome == "continued"]
    # What was cut is a row for each call, with what had come of it; and each call that was made anew has a row.
    assert sum(row.output_tokens for row in rows if row.outcome == "partial") == sum(
        sum(any(kind in event for kind in TOKEN) for event in events[:n]) for n in counts
    )
    assert len(anew) == connections - len(cut)
    assert all((row.output_tokens, row.estimated) == (3, False) for row in anew)
