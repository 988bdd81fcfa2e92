"""A caller who closes as soon as it has the terminator, as SDKs do, has its whole answer.

The upstream's message has not ended then: its last chunk comes later, or never.
"""

import asyncio
import contextlib
import socket
import struct

import pytest
from gateway_doubles import Lines
from serving import (
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    config,
    delta,
    on_uvloop,
    request,
    serving,
    until,
)

from penstock.config.model import CandidateConfig, LogConfig, ModelConfig
from penstock.logs import RequestLog
from penstock.messages import Outcome, Usage
from penstock.testing import FakeClock, ScriptedUpstream, Step
from penstock.upstream.transfer import LAST_BYTES

ASKED = PROMPT | {"stream": True}
ANSWER = [Step.REQUEST, STREAM_HEAD + delta("hello", "stop", usage=(3, 2)) + DONE]


async def read_and_leave(port, last, *, headers=(), reset=False):
    """Ask, read as far as these bytes, and close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(ASKED, headers=headers))
    await reader.readuntil(last)
    if reset:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def told(gateway, lines):
    """The row of the ledger, the log line, and the metric of the one call."""
    (row,) = gateway.recorder.ledger.recent(10)
    (line,) = lines.seen
    requests = gateway.recorder.measures.requests
    return (
        (row.outcome, row.usage),
        (line["status"], line["outcome"], line.get("error", ""), line.get("output_tokens", 0)),
        {status: requests.labels("chat", str(status)).value for status in (200, 499)},
    )


WHOLE = (
    (Outcome.COMPLETED, Usage(input_tokens=3, output_tokens=2)),
    (200, "finished", "", 2),
    {200: 1, 499: 0},
)


def left(script, *, reads=b"[DONE]", grace=None, clock=None, reset=False, then=None):
    """What is told of a caller who leaves when it has read so far; ``then`` something happens."""

    async def main():
        async with ScriptedUpstream([script]) as upstream:
            model = ModelConfig(candidates=[CandidateConfig(upstream="up0")], grace=grace)
            async with serving(config(upstream.url, models={"m": model}), clock) as (gateway, port):
                lines = Lines()
                gateway.recorder.log = RequestLog(LogConfig(), buffer=lines)
                await read_and_leave(port, reads, reset=reset)
                if then is not None:
                    await then(gateway)
                await until(lambda: lines.seen and not gateway.pipeline.productions)
                return told(gateway, lines)

    return on_uvloop(main)


@pytest.mark.parametrize("grace", [None, 0.0, 30.0])
@pytest.mark.parametrize("rest", [[STREAM_END], [Step.CLOSE], [Step.RESET]], ids=["end", "close", "reset"])
def test_who_closes_on_the_terminator_has_its_whole_answer(rest, grace):
    go_on = asyncio.Event()

    async def and_then(gateway):
        await until(lambda: all(one.exchange.gone for one in gateway.pipeline.readings))
        go_on.set()

    assert left([*ANSWER, go_on, *rest], grace=grace, then=and_then) == WHOLE


def test_an_upstream_that_never_ends_its_message_holds_up_no_caller_that_has_gone():
    clock = FakeClock()

    async def and_then(gateway):
        await until(lambda: all(one.exchange.gone for one in gateway.pipeline.readings))
        clock.advance(LAST_BYTES + 0.1)

    assert left(ANSWER, clock=clock, then=and_then) == WHOLE


def test_who_closes_before_the_terminator_has_not():
    script = [
        ANSWER[0],
        STREAM_HEAD + delta("hello", usage=(3, 2)),
        Step.GONE,
        delta("", "stop") + DONE,
        Step.CLOSE,
    ]
    row, line, requests = left(script, reads=b"hello")
    assert row[0] is Outcome.CANCELLED
    assert line[0] == 499
    assert requests == {200: 0, 499: 1}


def test_who_resets_its_connection_may_have_missed_what_was_sent():
    go_on = asyncio.Event()

    async def and_then(gateway):
        await until(lambda: not gateway.pipeline.readings)
        go_on.set()

    row, line, _ = left([*ANSWER, go_on, STREAM_END], reset=True, then=and_then)
    assert line[0] == 499
    assert row == WHOLE[0]  # it was made and is paid for
