"""Anthropic's models at Bedrock and at Vertex AI, through a gateway, by the SDKs that callers have already."""

import json

import anthropic
import openai
import pytest
from continuing import MESSAGES, TOKENS, body_for, events_of, simulated, text_of, whole_text
from serving import call, on_uvloop, until

from penstock.config.model import CandidateConfig, CapabilitiesConfig, ModelConfig, PromptCacheConfig
from penstock.testing import expected_text

KINDS = ["bedrock", "vertex"]
PREFILL = [CapabilitiesConfig(prefill="trailing")] * 2
SAID = [{"role": "user", "content": "Hello, what is this?"}]
TEXT = expected_text({"model": "m", "messages": SAID, "max_tokens": 64}, "/v1/messages", TOKENS)
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def asked(use, kind, *scripts, **more):
    """What ``use`` makes of an Anthropic client before such an upstream; the ledger has what was billed."""

    async def main():
        kinds = [kind] * (len(scripts) or 1)
        async with simulated(*(scripts or ("",)), kinds=kinds, **more) as (gateway, port, simulators):
            url = f"http://127.0.0.1:{port}"
            async with (
                anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude,
                openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as gpt,
            ):
                found = await use(claude, gpt)
            await until(lambda: not gateway.pipeline.productions)
            rows = gateway.recorder.ledger.recent()
            for figure in ("input_tokens", "output_tokens"):
                billed = sum(simulator.bill.report()[figure] for simulator in simulators)
                assert sum(getattr(row.usage, figure) for row in rows) == billed, figure
            return found, simulators

    return on_uvloop(main)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_plain_and_streamed(kind):
    async def use(claude, gpt):
        plain = await claude.messages.create(model="m", max_tokens=64, messages=SAID)
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
            return plain, await stream.get_final_message()

    (plain, streamed), _ = asked(use, kind)
    assert plain.content[0].text == streamed.content[0].text == TEXT
    assert plain.usage.output_tokens == streamed.usage.output_tokens == TOKENS


@pytest.mark.parametrize("kind", KINDS)
def test_chats_are_translated(kind):
    async def use(claude, gpt):
        plain = await gpt.chat.completions.create(model="m", max_tokens=64, messages=SAID)
        stream = await gpt.chat.completions.create(model="m", max_tokens=64, messages=SAID, stream=True)
        return plain, [chunk async for chunk in stream]

    (plain, chunks), _ = asked(use, kind)
    assert plain.choices[0].message.content == TEXT
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_a_tool_call_comes_through_a_cloud(kind):
    async def use(claude, gpt):
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID, tools=[TOOL]) as stream:
            return await stream.get_final_message()

    answer, _ = asked(use, kind, "tool")
    assert answer.stop_reason == "tool_use"
    assert answer.content[-1].name == "weather"


def test_what_bedrock_is_sent():
    async def use(claude, gpt):
        await claude.messages.create(
            model="m", max_tokens=64, messages=SAID, extra_headers={"anthropic-beta": "one-2025, two-2026"}
        )

    _, [simulator] = asked(use, "bedrock")
    [(path, _, headers, body)] = simulator._seen
    body = json.loads(body)
    assert path == "/model/m/invoke"
    assert body["anthropic_version"] == "bedrock-2023-05-31"
    assert body["anthropic_beta"] == ["one-2025", "two-2026"]
    assert "model" not in body
    assert "stream" not in body
    assert b"anthropic-beta" not in headers
    assert headers[b"authorization"] == b"Bearer key"


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("anthropic.claude-sonnet-4-20250514-v1:0", True),
        ("arn:aws:bedrock:eu-west-1:1:application-inference-profile/x", True),  # whose it is, nobody can tell
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", False),
    ],
)
def test_bedrock_is_sent_marks_for_models_that_keep_prompts(name, marked):
    async def use(claude, gpt):
        for text in ("one", "two"):
            said = [{"role": "user", "content": text}]
            await claude.messages.create(model="m", max_tokens=64, system="Be kind. " * 800, messages=said)

    candidate = CandidateConfig(upstream="up0", model=name)
    models = {"m": ModelConfig(candidates=[candidate], prompt_cache=PromptCacheConfig())}
    _, [simulator] = asked(use, "bedrock", models=models)
    assert ["cache_control" in str(json.loads(body)["system"]) for *_, body in simulator._seen] == [
        False,
        marked,
    ]


def test_what_vertex_is_sent():
    async def use(claude, gpt):
        async with claude.messages.stream(
            model="m", max_tokens=64, messages=SAID, extra_headers={"anthropic-beta": "one-2025"}
        ) as stream:
            await stream.get_final_message()

    _, [simulator] = asked(use, "vertex")
    [(path, _, headers, body)] = simulator._seen
    body = json.loads(body)
    assert path == "/v1/projects/p/locations/us-east5/publishers/anthropic/models/m:streamRawPredict"
    assert body["anthropic_version"] == "vertex-2023-10-16"
    assert body["stream"] is True
    assert "model" not in body
    assert headers[b"anthropic-beta"] == b"one-2025"


def test_tokens_are_counted_at_vertex_and_before_bedrock():
    async def use(claude, gpt):
        return await claude.messages.count_tokens(model="m", messages=SAID)

    counted, [simulator] = asked(use, "vertex")
    assert counted.input_tokens == 5
    assert simulator._seen[0][0].endswith("/models/count-tokens:rawPredict")
    counted, [simulator] = asked(use, "bedrock")
    assert counted.input_tokens > 0
    assert not simulator._seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", ["429", "529", "error-event=0", "reset-before-headers"])
def test_another_answers_where_one_fails(kind, failure):
    async def use(claude, gpt):
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
            return await stream.get_final_message()

    answer, _ = asked(use, kind, failure, "")
    assert answer.content[0].text == TEXT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", ["error-event=3", "malformed-event=3", "cut-after=3", "no-terminator"])
def test_half_an_answer_is_never_a_whole_one(kind, failure):
    async def use(claude, gpt):
        with pytest.raises(anthropic.APIError):
            async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
                await stream.get_final_message()

    # Slowly, so that nothing more is sent, and billed, until the gateway has hung up.
    asked(use, kind, f"{failure},tps=10")


@pytest.mark.parametrize("kind", KINDS)
def test_a_break_is_gone_on_with(kind):
    async def main():
        scripts = ("cut-after=5,once,tps=500", "cut-after=5,once,tps=500")
        async with simulated(*scripts, kinds=[kind, kind], capabilities=PREFILL) as (_, port, _):
            answer = await call(port, body_for(MESSAGES), MESSAGES)
            return text_of(MESSAGES, events_of(answer))

    assert on_uvloop(main) == whole_text(MESSAGES)
