"""What docs/providers.md tells to configure, and what its upstreams then get."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from serving import COMPLETION, call, on_uvloop, plain, serving

from penstock.config.load import parse
from penstock.config.model import CredentialsConfig
from penstock.config.remarks import remarks
from penstock.config.secret import Secret
from penstock.testing import ScriptedUpstream, Step

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}

CONVERSED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    "metrics": {"latencyMs": 1},
}


class Named(Mapping):
    """Each variable holds its own name."""

    def __getitem__(self, name):
        return name

    def __iter__(self):
        return iter(())

    def __len__(self):
        return 0


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_are_right_and_leave_nothing_to_remark(example):
    assert remarks(parse(example, environ=Named())) == []


def test_every_upstream_of_the_examples_is_asked_below():
    upstreams = {name for example in EXAMPLES for name in parse(example, environ=Named()).upstreams}
    assert upstreams == {case[0] for case in CASES} | {case[0] for case in FETCHED}


CASES = [
    ("openai", "gpt-4o", "/v1", "gpt-4o", "OPENAI_API_KEY"),
    ("anthropic", "claude-x", "", "claude-x", "ANTHROPIC_API_KEY"),
    ("deepseek", "deepseek-chat", "/v1", "deepseek-chat", "DEEPSEEK_API_KEY"),
    ("gemini", "gemini-2.5-flash", "/v1beta/openai", "gemini-2.5-flash", "GEMINI_API_KEY"),
    ("groq", "groq/llama", "/openai/v1", "llama", "GROQ_API_KEY"),
    ("mistral", "mistral-large", "/v1", "mistral-large", "MISTRAL_API_KEY"),
    ("openrouter", "openrouter/a/b", "/api/v1", "a/b", "OPENROUTER_API_KEY"),
    ("azure-eu", "gpt-4o", "/openai/v1", "gpt-4o-eu", "AZURE_EU_KEY"),
    ("azure-us", "gpt-4o", "/openai/v1", "gpt-4o-us", "AZURE_US_KEY"),
    ("gpt-oss", "openai.gpt-oss-20b", "/openai/v1", "openai.gpt-oss-20b", "AWS_BEARER_TOKEN_BEDROCK"),
    ("litellm", "bedrock/x", "/v1", "bedrock/x", "LITELLM_KEY"),
    ("vllm", "llama", "/v1", "meta-llama/Llama-3.1-8B-Instruct", None),
    ("ollama", "ollama/qwen2.5:7b", "/v1", "qwen2.5:7b", None),
    ("studio", "gpt-image-1", "/v1", "gpt-image-1", "OPENAI_API_KEY"),
    ("cohere", "rerank-v3.5", "/v2", "rerank-v3.5", "COHERE_API_KEY"),
    ("speaches", "whisper-1", "/v1", "Systran/faster-whisper-large-v3", None),
]


def asked(config, name, model):
    """The status of a call's answer, and what the upstream of this name was sent for it."""
    answer = COMPLETION if config.upstreams[name].kind == "openai" else MESSAGE
    if model.startswith("nova"):
        answer = CONVERSED

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(answer)]]) as stand_in:
            async with serving(_only(config, name, stand_in.url)) as (_, port):
                body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
                answered = await call(port, body)
            return answered.status, stand_in.received[0]

    return on_uvloop(main)


@pytest.mark.parametrize(("name", "model", "path", "there", "key"), CASES, ids=[case[0] for case in CASES])
def test_what_an_upstream_gets(name, model, path, there, key):
    (example,) = (text for text in EXAMPLES if name in parse(text, environ=Named()).upstreams)
    config = parse(example, environ=Named())
    anthropic = config.upstreams[name].kind == "anthropic"

    status, received = asked(config, name, model)
    assert status == 200
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {field.lower(): value for field, _, value in (line.partition(": ") for line in lines)}
    assert first == f"POST {path}{'/v1/messages' if anthropic else '/chat/completions'} HTTP/1.1"
    assert json.loads(body)["model"] == there
    keys = {field: headers[field] for field in ("authorization", "x-api-key", "api-key") if field in headers}
    if key is None:
        assert keys == {}
    elif anthropic:
        assert keys == {"x-api-key": key}
    else:
        beside = {"api-key": key} if name == "azure-us" else {}
        assert keys == {"authorization": f"Bearer {key}"} | beside
    assert headers.get("x-title") == ("Our application" if name == "openrouter" else None)


AT_GOOGLE = "/v1/projects/my-project/locations/"
CLAUDE = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/invoke"
NOVA = "/model/us.amazon.nova-lite-v1:0/converse"
SONNET = "us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict"
FETCHED = [
    ("bedrock", "claude-sonnet-4-5", CLAUDE, None, "AWS4-HMAC-SHA256 Credential=AKIA/"),
    ("bedrock", "nova-lite", NOVA, None, "AWS4-HMAC-SHA256 Credential=AKIA/"),
    ("vertex", "claude-sonnet-4-5", AT_GOOGLE + SONNET, None, "Bearer token"),
    (
        "gemini-vertex",
        "gemini-2.5-pro",
        AT_GOOGLE + "us-central1/endpoints/openapi/chat/completions",
        "google/gemini-2.5-pro",
        "Bearer token",
    ),
    ("internal", "team/mine", "/v1/chat/completions", "mine", "Bearer token"),
]
KEYS = {"region": "us-west-2", "access_key": "AKIA", "secret_key": Secret("secret")}
PRINTS = CredentialsConfig(source="command", command=[sys.executable, "-c", "print('token')"])


@pytest.mark.parametrize(
    ("name", "model", "path", "there", "key"), FETCHED, ids=[case[0] for case in FETCHED]
)
def test_what_an_upstream_gets_whose_credentials_are_fetched(name, model, path, there, key):
    (example,) = (text for text in EXAMPLES if name in parse(text, environ=Named()).upstreams)
    config = parse(example, environ=Named())
    upstream = config.upstreams[name]
    signs = upstream.credentials.source == "aws"
    stand_ins = replace(upstream.credentials, **KEYS) if signs else PRINTS
    config = replace(config, upstreams={name: replace(upstream, credentials=stand_ins)})
    status, received = asked(config, name, model)
    assert status == 200
    head, _, body = received.decode().partition("\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1\r\n")
    assert json.loads(body).get("model") == there
    assert f"authorization: {key}" in head.replace("Authorization", "authorization")


def _only(config, name, stand_in):
    """What of a configuration leads to one upstream, with somebody else at its address."""
    upstream = config.upstreams[name]
    base_url = re.sub(r"^https?://[^/]+", stand_in, upstream.base_url)
    models = {
        model: replace(entry, candidates=[one for one in entry.candidates if one.upstream == name])
        for model, entry in config.models.items()
        if any(one.upstream == name for one in entry.candidates)
    }
    return replace(config, upstreams={name: replace(upstream, base_url=base_url)}, models=models)
