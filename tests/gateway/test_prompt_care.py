"""Marks and keys for providers' prompt caches, as the provider gets them."""

import pytest
from serving import COMPLETION, call, config, on_uvloop, plain, serving

from penstock.config.model import ModelConfig, PromptCacheConfig
from penstock.testing import ScriptedUpstream, Step

LONG = "You are a careful assistant. " * 200
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 490, "output_tokens": 2, "cache_read_input_tokens": 1_000},
}
TO_MESSAGES = {"model": "m", "max_tokens": 9, "system": LONG, "messages": [{"role": "user", "content": "hi"}]}
TO_CHAT = {"model": "m", "messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "hi"}]}


def asked_twice(kind, answer, path, body, care=PromptCacheConfig()):  # noqa: B008 - frozen
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(answer)] * 2]) as upstream:
            made = config(upstream.url, kind=kind)
            made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, prompt_cache=care)
            async with serving(made) as (gateway, port):
                for _ in range(2):
                    assert (await call(port, body, path)).status == 200
                return upstream.received[0].split(b"POST ")[1:], gateway.recorder

    return on_uvloop(main)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/messages", TO_MESSAGES), ("/v1/chat/completions", TO_CHAT)],
    ids=["native", "translated"],
)
def test_anthropic_gets_marks_for_what_comes_again(path, body):
    (first, second), recorder = asked_twice("anthropic", MESSAGE, path, body)
    assert b"cache_control" not in first
    assert b'"cache_control":{"type":"ephemeral"}' in second
    tokens = {
        kind: recorder.measures.prompt_tokens.labels("up0", kind).value
        for kind in ("input", "repeated", "cached")
    }
    assert tokens["input"] == 2 * 1_490
    assert tokens["cached"] == 2_000
    assert 1_470 < tokens["repeated"] <= 1_490  # as the provider counts


def test_openai_gets_one_key_for_one_beginning():
    (first, second), _ = asked_twice("openai", COMPLETION, "/v1/chat/completions", TO_CHAT)
    assert b'"prompt_cache_key":"' in first
    assert first[-60:] == second[-60:]


def test_without_configuration_a_prompt_goes_on_as_it_came():
    (first, second), recorder = asked_twice("anthropic", MESSAGE, "/v1/messages", TO_MESSAGES, None)
    assert first == second
    assert b"cache_control" not in first
    assert recorder.measures.prompt_tokens.labels("up0", "input").value == 0
