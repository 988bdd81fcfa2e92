"""A stream that breaks behind its finish reason has said all: it is ended here, and nobody is asked for more."""

import asyncio
import json

import pytest
from continuing import CHAT, CLOCKS, MESSAGES, QUICK, check_form, error_of, events_of, text_of
from serving import DONE, STREAM_HEAD, call, chunk, config, frame, on_uvloop, rows, serving, until

from penstock.config.model import UpstreamConfig
from penstock.testing import FakeClock, ScriptedUpstream, Step

BODY = {
    "model": "m",
    "max_tokens": 9,
    "stream": True,
    "messages": [{"role": "user", "content": "hello"}],
}
MADE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chat(delta, finish=None):
    return frame({**MADE, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def named(kind, **more):
    return chunk(b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **more}).encode()))


USED = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STREAMS = {  # what says all, and what follows that
    CHAT: (
        [chat({"role": "assistant", "content": "a"}), chat({"content": "b"}), chat({}, "stop")],
        [frame({**MADE, "choices": [], "usage": USED}), DONE],
    ),
    MESSAGES: (
        [
            named(
                "message_start",
                message={
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "model": "m",
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": {"input_tokens": 3, "output_tokens": 1},
                },
            ),
            named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"}),
            named("content_block_delta", index=0, delta={"type": "text_delta", "text": "b"}),
            named("content_block_stop", index=0),
            named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        ],
        [named("message_stop")],
    ),
}
ERRORS = {
    CHAT: frame({"error": {"message": "no", "type": "server_error", "code": None}}),
    MESSAGES: named("error", error={"type": "overloaded_error", "message": "no"}),
}
FAULTS = {
    "reset": lambda _: [Step.RESET],
    "end": lambda _: [Step.CLOSE],
    "silence": lambda _: [],
    "nonsense": lambda _: [frame(b"{")],
    "error": lambda path: [ERRORS[path]],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("path", "came"), [(CHAT, 0), (CHAT, 1), (MESSAGES, 0)])
def test_a_break_behind_the_finish_reason_is_mended_without_asking_anybody(path, came, fault):
    """Before the usage, and between that and the terminator."""
    said, rest = STREAMS[path]

    async def main():
        clock, delivered = FakeClock(), asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD, *said, *rest[:came], delivered, *FAULTS[fault](path)]
        async with ScriptedUpstream([script]) as upstream:
            settings = config(upstream.url, retry=QUICK, timeouts=CLOCKS)
            kind = "openai" if path == CHAT else "anthropic"
            base = upstream.url + ("/v1" if path == CHAT else "")
            settings.upstreams["up0"] = UpstreamConfig(kind=kind, base_url=base)
            body = {**BODY, "stream_options": {"include_usage": True}} if path == CHAT else BODY
            async with serving(settings, clock) as (gateway, port):
                calling = asyncio.ensure_future(call(port, body, path))
                many = len(said) + came
                await until(lambda: any(one.readable == many for one in gateway.pipeline.registry))
                delivered.set()
                if fault == "silence":
                    clock.advance(CLOCKS.between_tokens + 1.0)
                return await calling, rows(gateway), upstream.connections

    answer, booked, connections = on_uvloop(main)
    events = events_of(answer)
    assert (error_of(events), text_of(path, events)) == (None, "ab")
    check_form(path, events)
    if path == CHAT:
        (used,) = [event["usage"] for event in events[:-1] if event.get("usage")]
        assert used == USED or not came, used
    assert connections == 1
    (row,) = booked
    assert row.usage.output_tokens == 2
