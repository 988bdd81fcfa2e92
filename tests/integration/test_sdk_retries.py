"""SDKs that lose patience while the model thinks: their retries read the answer that is being made."""

from __future__ import annotations

import asyncio

import anthropic
import httpx2
import openai
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens

from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

TOKENS = 40
PATIENCE = 3.0  # seconds that each SDK waits before it retries: twice, by default
THINKING = 7.2  # longer than two of its tries with the pause between them
MODEL = f"sim:ttft={THINKING * 1000:g},tokens={TOKENS}"


def configured(simulator, ledger):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(ledger)},
    }


class Callers:
    """The SDKs as they are, but for their patience; and what they sent."""

    def __init__(self, gateway):
        self.requests = []
        self.statuses = {}
        self.http = httpx2.AsyncClient(
            trust_env=False,
            timeout=PATIENCE,
            event_hooks={"request": [self._sent], "response": [self._answered]},
        )
        shared = {"api_key": "any", "timeout": PATIENCE, "http_client": self.http}
        self.openai = openai.AsyncOpenAI(base_url=gateway.base_url, **shared)
        self.anthropic = anthropic.AsyncAnthropic(base_url=gateway.url, **shared)

    async def _sent(self, request):
        self.requests.append((request.url.path, request.content))

    async def _answered(self, response):
        request = response.request
        self.statuses[request.url.path, request.content] = response.headers["penstock-status"]

    async def chat(self, messages):
        answer = await self.openai.chat.completions.create(model=MODEL, messages=messages)
        return answer.choices[0].message.content

    async def streamed_chat(self, messages):
        stream = await self.openai.chat.completions.create(model=MODEL, messages=messages, stream=True)
        return "".join([one.delta.content or "" async for chunk in stream for one in chunk.choices])

    async def response(self, messages):
        answer = await self.openai.responses.create(model=MODEL, input=messages)
        return answer.output_text

    async def streamed_response(self, messages):
        stream = await self.openai.responses.create(model=MODEL, input=messages, stream=True)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    async def message(self, messages):
        answer = await self.anthropic.messages.create(model=MODEL, messages=messages, max_tokens=999)
        return answer.content[0].text

    async def streamed_message(self, messages):
        async with self.anthropic.messages.stream(model=MODEL, messages=messages, max_tokens=999) as stream:
            return "".join([text async for text in stream.text_stream])


PATHS = {
    "chat": "/v1/chat/completions",
    "streamed_chat": "/v1/chat/completions",
    "response": "/v1/responses",
    "streamed_response": "/v1/responses",
    "message": "/v1/messages",
    "streamed_message": "/v1/messages",
}


def test_a_model_that_thinks_longer_than_the_sdk_waits_is_asked_and_paid_for_once(tmp_path):
    prompts = {name: [{"role": "user", "content": f"Think well: {name}"}] for name in PATHS}

    async def main(gateway):
        callers = Callers(gateway)
        async with callers.http:
            texts = await asyncio.gather(*(getattr(callers, name)(prompts[name]) for name in PATHS))
        return dict(zip(PATHS, texts, strict=True)), callers

    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path / "ledger.sqlite"), tmp_path) as gateway:
            texts, callers = asyncio.run(main(gateway))
            bill = settled_bill(simulator)
    for name, path in PATHS.items():
        body = {"model": MODEL, "max_tokens": 999, "messages": prompts[name]}
        if path == "/v1/responses":
            body = {"model": MODEL, "input": prompts[name]}
        assert texts[name] == expected_text(body, path, TOKENS), name

    # Each lost patience, some of them twice: and came back to what was there.
    tries = [callers.requests.count(request) for request in callers.statuses]
    assert len(tries) == len(PATHS)
    assert min(tries) >= 2
    assert max(tries) == 3
    assert set(callers.statuses.values()) <= {"attached", "replayed"}

    assert bill["requests"] == len(PATHS)
    assert bill["cancelled"] == 0
    assert bill["output_tokens"] == TOKENS * len(PATHS)
    rows = ledger_rows(tmp_path / "ledger.sqlite")
    assert [row.outcome for row in asked(rows)] == ["completed"] * len(PATHS)
    assert tokens(asked(rows)) == billed(bill)
    # What each saved: the second call that it did not make.
    saved = [row for row in rows if row.outcome == "attached" and not row.error]
    assert tokens(saved) == billed(bill)
