"""A gateway before simulators that break off, in the test's own event loop; what its caller then has."""

import contextlib
import json

from serving import config, serving

from penstock.config.model import CapabilitiesConfig, RetryConfig, TimeoutConfig, UpstreamConfig
from penstock.config.secret import Secret
from penstock.lab.scenario import parse
from penstock.lab.serve import Service, bind
from penstock.lab.simulator import Simulator
from penstock.testing import expected_text
from penstock.wire.sse import Splitter, fields

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
TOKENS = 20  # of an answer
LIMIT = 100  # of the caller
QUICK = RetryConfig(first_delay=0.0, budget_floor=1_000)
BASES = {"anthropic": "", "bedrock": "", "vertex": "/v1/projects/p/locations/us-east5"}
CLOCKS = TimeoutConfig(connect=5, first_token=50, between_tokens=50, total=500)


def body_for(path, **more):
    """A streaming request whose answer is :data:`TOKENS` tokens long."""
    body = {"model": "m", "stream": True, **more}
    if path == RESPONSES:
        return {"input": "Tell me of penstocks.", "max_output_tokens": LIMIT, **body}
    if path == COMPLETIONS:
        return {"prompt": "Tell me of penstocks.", "max_tokens": LIMIT, **body}
    return {"messages": [{"role": "user", "content": "Tell me of penstocks."}], "max_tokens": LIMIT, **body}


def whole_text(path, tokens=TOKENS, **more):
    body = {name: value for name, value in body_for(path, **more).items() if name != "stream"}
    return expected_text(body, path, tokens)


@contextlib.asynccontextmanager
async def simulated(*scripts, kinds=(), capabilities=(), clock=None, concurrency=None, upstream=None, **more):
    """``(gateway, port, simulators)``: one model whose candidates play these scripts."""
    services = []
    try:
        for script in scripts:
            simulator = Simulator(parse(f"tokens={TOKENS},{script}"))
            service = Service(simulator)
            sock = bind("127.0.0.1", 0)
            await service.start(sock)
            services.append((service, simulator, f"http://127.0.0.1:{sock.getsockname()[1]}"))
        settings = config(*(url for _, _, url in services), **{"retry": QUICK, "timeouts": CLOCKS, **more})
        for number, (_, _, url) in enumerate(services):
            kind = kinds[number] if kinds else "sim"
            settings.upstreams[f"up{number}"] = UpstreamConfig(
                kind=kind,
                base_url=url + BASES.get(kind, "/v1"),
                api_key=Secret("key") if kind in {"bedrock", "vertex"} else None,
                running_usage=kind == "openai",
                capabilities=capabilities[number] if capabilities else CapabilitiesConfig(),
                concurrency=concurrency,
                **upstream or {},
            )
        async with serving(settings, clock) as (gateway, port):
            yield gateway, port, [simulator for _, simulator, _ in services]
    finally:
        for service, _, _ in services:
            await service.close()


def events_of(answer):
    """The data of each event, decoded; the terminator as ``"[DONE]"``."""
    found = []
    for frame in Splitter().feed(answer.body):
        data = fields(frame).data
        if data:
            found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return found


def ids_of(answer):
    return [int(fields(frame).id) for frame in Splitter().feed(answer.body) if fields(frame).id]


def text_of(path, events):
    """The text of an answer's events."""
    text = ""
    for event in events:
        if event == "[DONE]":
            continue
        if path == CHAT:
            text += "".join((choice["delta"].get("content") or "") for choice in event.get("choices", ()))
        elif path == COMPLETIONS:
            text += "".join(choice["text"] for choice in event.get("choices", ()))
        elif path == MESSAGES and event["type"] == "content_block_delta":
            text += event["delta"].get("text", "")
        elif path == RESPONSES and event["type"] == "response.output_text.delta":
            text += event["delta"]
    return text


def error_of(events):
    """The error that ends an answer, if one does."""
    last = events[-1]
    return last.get("error") if isinstance(last, dict) else None


def check_form(path, events):
    """One beginning, one end, numbers that go on: whatever seams there are."""
    if path in {CHAT, COMPLETIONS}:
        assert events.count("[DONE]") == 1
        assert events[-1] == "[DONE]"
        chunks = events[:-1]
        assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks}) == 1
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert [reason for reason in reasons if reason] == reasons[-1:]
        if path == CHAT:
            roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]]
            assert [role for role in roles if role] == ["assistant"]
        return
    kinds = [event["type"] for event in events]
    if path == MESSAGES:
        kinds = [kind for kind in kinds if kind != "ping"]
        assert kinds.count("message_start") == 1
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]
        begun = [event["index"] for event in events if event["type"] == "content_block_start"]
        ended = [event["index"] for event in events if event["type"] == "content_block_stop"]
        assert begun == ended == list(range(len(begun)))
        return
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds.count("response.created") == 1
    assert kinds[-1] in {"response.completed", "response.incomplete"}
    items = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    assert items == [item["id"] for item in events[-1]["response"]["output"]]
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]


def booked(gateway):
    """Input and output tokens of all attempts in the ledger."""
    rows = gateway.recorder.ledger.recent()
    return sum(row.usage.input_tokens for row in rows), sum(row.usage.output_tokens for row in rows)


def billed(simulators):
    reports = [simulator.bill.report() for simulator in simulators]
    return (
        sum(report["input_tokens"] for report in reports),
        sum(report["output_tokens"] for report in reports),
    )
