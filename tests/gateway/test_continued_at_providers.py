"""A stream that broke is gone on with at each provider of the package's table, in the form that it takes."""

from __future__ import annotations

import asyncio
import json

import pytest
from continuing import CHAT, LIMIT, MESSAGES, body_for, error_of, events_of, simulated, text_of, whole_text
from serving import call, on_uvloop

from penstock.messages import BY_PATH, Endpoint
from penstock.upstream import encoder
from penstock.upstream.capabilities import capabilities

BROKE_AFTER = 9  # tokens
BETA = "/beta/chat/completions"


@pytest.fixture
def broken_at(monkeypatch):
    """Calls a gateway whose only upstream is taken for one at this host, and breaks its first answer off."""

    def broken(host, model, path=CHAT, kind="openai"):
        monkeypatch.setattr(encoder, "capabilities", lambda config, *_: capabilities(config, host, model))
        monkeypatch.setitem(BY_PATH, BETA, Endpoint.CHAT)

        async def main():
            async with simulated(f"cut-after={BROKE_AFTER},once", kinds=(kind,)) as (gateway, port, (sim,)):
                async with asyncio.timeout(60):
                    answer = await call(port, body_for(path), path)
                    await gateway.pipeline.wait_idle()
                asked = [(where, json.loads(body)) for where, _, _, body in sim._seen]
            return asked, events_of(answer)

        return on_uvloop(main)

    return broken


@pytest.mark.parametrize(
    ("host", "model", "path", "flag"),
    [
        ("api.deepseek.com", "deepseek-chat", BETA, "prefix"),
        ("api.mistral.ai", "mistral-large-latest", CHAT, "prefix"),
        ("dashscope-intl.aliyuncs.com", "qwen-plus", CHAT, "partial"),
        ("api.moonshot.ai", "kimi-k2-turbo-preview", CHAT, "partial"),
        ("api.moonshot.cn", "kimi-k2-turbo-preview", CHAT, "partial"),
    ],
)
def test_it_is_asked_for_the_rest_at_its_own_path_and_with_its_own_flag(broken_at, host, model, path, flag):
    ((first, _), (second, body)), events = broken_at(host, model)
    assert (first, second) == (CHAT, path)
    assert body["messages"][1:] == [
        {"role": "assistant", "content": whole_text(CHAT, BROKE_AFTER), flag: True}
    ]
    assert body["max_tokens"] == LIMIT - BROKE_AFTER
    assert not {"continue_final_message", "add_generation_prompt"} & body.keys()
    assert error_of(events) is None
    assert text_of(CHAT, events) == whole_text(CHAT)


@pytest.mark.parametrize(
    ("host", "model"),
    [
        ("api.openai.com", "gpt-4o"),
        ("eu-resource.openai.azure.com", "gpt-4o"),
        ("generativelanguage.googleapis.com", "gemini-2.5-flash"),
        ("dashscope-intl.aliyuncs.com", "deepseek-v3"),  # of its models, only its own
    ],
)
def test_who_takes_no_beginning_of_an_answer_is_not_asked_for_the_rest(broken_at, host, model):
    asked, events = broken_at(host, model)
    assert [path for path, _ in asked] == [CHAT]
    assert error_of(events)["code"] == "upstream_broken"


def test_the_base_path_of_a_prefill_is_that_of_openais_api_alone(broken_at):
    """DeepSeek has Anthropic's API as well, elsewhere."""
    asked, _ = broken_at("api.deepseek.com", "deepseek-chat", MESSAGES, "anthropic")
    assert [path for path, _ in asked] == [MESSAGES, MESSAGES]
