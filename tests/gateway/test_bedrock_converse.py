"""Models at Bedrock that are not Anthropic's, by Converse, through a gateway, by the SDKs that callers have already."""

import base64
import json

import anthropic
import openai
import pytest
from continuing import MESSAGES, TOKENS, body_for, events_of, simulated, text_of, whole_text
from serving import call, on_uvloop, until

from penstock.config.model import CandidateConfig, CapabilitiesConfig, ModelConfig, PromptCacheConfig
from penstock.testing import expected_text

LLAMA, NOVA = "meta.llama3-3-70b-instruct-v1:0", "us.amazon.nova-lite-v1:0"
PREFILL = [CapabilitiesConfig(prefill="trailing")] * 2
SAID = [{"role": "user", "content": "Hello, what is this?"}]
TEXT = expected_text({"model": "m", "messages": SAID, "max_tokens": 64}, MESSAGES, TOKENS)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "weather", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


def models(count, name, **more):
    candidates = [
        CandidateConfig(upstream=f"up{number}", model=name, weight=1.0 if number == 0 else 0.0)
        for number in range(count)
    ]
    return {"m": ModelConfig(candidates=candidates, **more)}


def asked(use, *scripts, model=LLAMA, prompt_cache=None, **more):
    """What ``use`` makes of both clients before such an upstream; the ledger has what was billed."""

    async def main():
        chosen = scripts or ("",)
        kinds = ["bedrock"] * len(chosen)
        named = models(len(chosen), model, prompt_cache=prompt_cache)
        async with simulated(*chosen, kinds=kinds, models=named, **more) as (gateway, port, simulators):
            url = f"http://127.0.0.1:{port}"
            async with (
                anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude,
                openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as gpt,
            ):
                found = await use(claude, gpt)
            await until(lambda: not gateway.pipeline.productions)
            rows = gateway.recorder.ledger.recent()
            for figure in ("input_tokens", "output_tokens", "cached_input_tokens"):
                billed = sum(simulator.bill.report()[figure] for simulator in simulators)
                assert sum(getattr(row.usage, figure) for row in rows) == billed, figure
            return found, simulators

    return on_uvloop(main)


def sent(simulator):
    """Path, header fields and body of the only request."""
    [(path, _, headers, body)] = simulator._seen
    return path, headers, json.loads(body)


def test_messages_plain_and_streamed():
    async def use(claude, gpt):
        plain = await claude.messages.create(model="m", max_tokens=64, messages=SAID)
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
            return plain, await stream.get_final_message()

    (plain, streamed), _ = asked(use)
    assert plain.content[0].text == streamed.content[0].text == TEXT
    for answer in (plain, streamed):
        assert (answer.model, answer.stop_reason) == ("m", "end_turn")
        assert answer.id.startswith("msg_")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, TOKENS)


def test_chats_plain_and_streamed():
    async def use(claude, gpt):
        plain = await gpt.chat.completions.create(model="m", max_tokens=64, messages=SAID)
        stream = await gpt.chat.completions.create(
            model="m", max_tokens=64, messages=SAID, stream=True, stream_options={"include_usage": True}
        )
        return plain, [chunk async for chunk in stream]

    (plain, chunks), _ = asked(use)
    assert plain.choices[0].message.content == TEXT
    assert plain.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert plain.usage.completion_tokens == chunks[-1].usage.completion_tokens == TOKENS
    assert chunks[-1].usage.prompt_tokens == 5


def test_responses_plain_and_streamed():
    async def use(claude, gpt):
        plain = await gpt.responses.create(model="m", max_output_tokens=64, input=SAID[0]["content"])
        async with gpt.responses.stream(model="m", max_output_tokens=64, input=SAID[0]["content"]) as stream:
            return plain, await stream.get_final_response()

    (plain, streamed), _ = asked(use)
    assert plain.output_text == streamed.output_text == TEXT
    assert plain.usage.output_tokens == streamed.usage.output_tokens == TOKENS


def test_tools_and_their_results():
    async def use(claude, gpt):
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID, tools=[TOOL]) as stream:
            message = await stream.get_final_message()
        async with gpt.chat.completions.stream(model="m", messages=SAID, tools=[FUNCTION]) as stream:
            chat = (await stream.get_final_completion()).choices[0]
        plain = (await gpt.chat.completions.create(model="m", messages=SAID, tools=[FUNCTION])).choices[0]
        result = {"role": "tool", "tool_call_id": plain.message.tool_calls[0].id, "content": "rain"}
        history = [*SAID, plain.message.model_dump(exclude_none=True), result]
        await gpt.chat.completions.create(model="m", messages=history, tools=[FUNCTION])
        return message, chat, plain

    (message, chat, plain), [simulator] = asked(use, "tool")
    assert message.stop_reason == "tool_use"
    [called] = message.content
    assert called.name == "weather"
    for choice in (chat, plain):
        assert choice.finish_reason == "tool_calls"
        [tool] = choice.message.tool_calls
        assert tool.function.name == "weather"
        assert json.loads(tool.function.arguments) == called.input
    _, calls, results = json.loads(simulator._seen[-1][3])["messages"]
    assert calls["content"][0]["toolUse"]["input"] == called.input
    assert results["content"][0]["toolResult"]["content"] == [{"text": "rain"}]


def test_thoughts_reach_callers_of_both_apis():
    async def use(claude, gpt):
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
            message = await stream.get_final_message()
        return message, (await gpt.chat.completions.create(model="m", messages=SAID)).choices[0].message

    (message, chat), _ = asked(use, "thinking")
    thought, text = message.content
    assert thought.thinking == chat.reasoning_content
    assert thought.signature
    assert text.text == chat.content


def test_what_is_sent():
    async def use(claude, gpt):
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        said = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look."}, image]},
        ]
        guard = {"guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"}}
        stream = await gpt.chat.completions.create(
            model="m", messages=said, temperature=0.5, stop=["x"], stream=True, extra_body=guard
        )
        return [chunk async for chunk in stream]

    _, [simulator] = asked(use)
    path, headers, body = sent(simulator)
    assert path == f"/model/{LLAMA}/converse-stream"
    assert headers[b"authorization"] == b"Bearer key"
    assert body == {
        "system": [{"text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [{"text": "Look."}, {"image": {"format": "png", "source": {"bytes": PNG}}}],
            }
        ],
        "inferenceConfig": {"temperature": 0.5, "stopSequences": ["x"]},
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
    }


def test_what_was_read_from_the_cache_is_billed_as_that():
    async def use(claude, gpt):
        plain = await claude.messages.create(model="m", max_tokens=64, messages=SAID)
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
            return plain, await stream.get_final_message()

    answers, _ = asked(use, "cached=3", model=NOVA)
    for answer in answers:
        assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (2, 3)


@pytest.mark.parametrize(("model", "marked"), [(NOVA, {"system"}), (LLAMA, set())])
def test_a_beginning_that_comes_again_is_marked_where_the_model_keeps_it(model, marked):
    async def use(claude, gpt):
        for text in ("one", "two"):
            await claude.messages.create(
                model="m",
                max_tokens=64,
                system="Be careful. " * 500,
                messages=[{"role": "user", "content": text}],
                tools=[TOOL],
            )

    _, [simulator] = asked(use, model=model, prompt_cache=PromptCacheConfig())
    bodies = [json.loads(body) for _, _, _, body in simulator._seen]
    assert "cachePoint" not in str(bodies[0])
    point = {"cachePoint": {"type": "default"}}
    assert {part for part in bodies[1] if "cachePoint" in str(bodies[1][part])} == marked
    if marked:
        assert bodies[1]["system"] == [*bodies[0]["system"], point]


def test_what_converse_cannot_say_is_refused_by_name():
    async def use(claude, gpt):
        with pytest.raises(openai.BadRequestError) as raised:
            await gpt.chat.completions.create(model="m", messages=SAID, seed=1)
        return raised.value

    error, [simulator] = asked(use)
    assert error.param == "seed"
    assert not simulator._seen


def test_the_upstreams_own_refusal_reaches_the_caller():
    async def use(claude, gpt):
        with pytest.raises(openai.BadRequestError, match="must start with a user message"):
            await gpt.chat.completions.create(model="m", messages=[{"role": "assistant", "content": "a"}])

    asked(use)


@pytest.mark.parametrize("failure", ["429", "503", "error-event=0", "reset-before-headers", "html"])
def test_another_answers_where_one_fails(failure):
    async def use(claude, gpt):
        async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
            streamed = await stream.get_final_message()
        return streamed, await claude.messages.create(model="m", max_tokens=64, messages=SAID)

    answers, _ = asked(use, failure, "")
    assert [answer.content[0].text for answer in answers] == [TEXT, TEXT]


@pytest.mark.parametrize(
    "failure", ["error-event=3,tps=10", "malformed-event=3,tps=10", "cut-after=3,tps=10", "no-terminator"]
)
def test_half_an_answer_is_never_a_whole_one(failure):
    async def use(claude, gpt):
        with pytest.raises(anthropic.APIError):
            async with claude.messages.stream(model="m", max_tokens=64, messages=SAID) as stream:
                await stream.get_final_message()
        stream = await gpt.chat.completions.create(model="m", messages=SAID, stream=True)
        with pytest.raises(openai.APIError):
            [chunk async for chunk in stream]

    # Slowly, so that nothing more is sent, and billed, until the gateway has hung up.
    asked(use, failure)


@pytest.mark.parametrize("failure", ["malformed-event", "cut-after=3"])
def test_half_a_plain_answer_is_none(failure):
    async def main():
        kinds, named = ["bedrock", "bedrock"], models(2, LLAMA)
        async with simulated(failure, "", kinds=kinds, models=named) as (_, port, _):
            body = {"model": "m", "max_tokens": 64, "messages": SAID}
            return json.loads((await call(port, body, MESSAGES)).body)

    assert on_uvloop(main)["content"][0]["text"] == TEXT


@pytest.mark.parametrize("path", [MESSAGES, "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("more", [{}, {"temperature": 0}], ids=["prefill", "rerun"])
def test_a_break_is_gone_on_with(path, more):
    async def main():
        scripts = ("cut-after=5,once,tps=500", "cut-after=5,once,tps=500")
        kinds, named = ["bedrock", "bedrock"], models(2, NOVA)
        capable = [CapabilitiesConfig()] * 2 if more else PREFILL
        async with simulated(*scripts, kinds=kinds, models=named, capabilities=capable) as (_, port, _):
            return text_of(path, events_of(await call(port, body_for(path, **more), path)))

    assert on_uvloop(main) == whole_text(path, **more)
