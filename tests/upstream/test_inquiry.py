import json

import msgspec
import pytest

from penstock.config.model import CapabilitiesConfig, UpstreamConfig
from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.upstream import inquiry
from penstock.upstream.capabilities import capabilities
from penstock.upstream.inquiry import Told


def generation(**changes):
    data = {
        "id": "gen-1",
        "native_tokens_prompt": 10,
        "native_tokens_completion": 7,
        "native_tokens_cached": None,
        "native_tokens_reasoning": 3,
        "total_cost": 0.000024,
        "provider_name": "somebody",
    }
    return json.dumps({"data": {**data, **changes}}).encode()


def call(endpoint, **fields):
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
    return Call("gen_1", endpoint, "m", False, raw, b"", {}, 0.0, Tenant())


def test_who_can_tell_stands_in_the_table_and_the_configuration_goes_before():
    def lookup(url, **said):
        config = UpstreamConfig(kind="openai", base_url=url, capabilities=CapabilitiesConfig(**said))
        return capabilities(config, url.split("/")[2], "").usage_lookup

    assert lookup("https://openrouter.ai/api/v1") == "generation"
    assert lookup("https://api.openai.com/v1") == "stored"
    assert lookup("https://api.openai.com/v1", usage_lookup="none") == "none"
    assert lookup("https://api.deepseek.com/v1") == "none"
    assert lookup("http://10.0.0.1/v1", usage_lookup="generation") == "generation"


def test_the_id_is_in_the_head_or_in_what_the_answer_begins_with():
    assert inquiry.id_in_head("generation", {b"x-generation-id": b"gen-1"}) == "gen-1"
    assert inquiry.id_in_head("generation", {b"x-generation-id": b"x" * 300}) == ""
    assert inquiry.id_in_head("stored", {b"x-generation-id": b"gen-1"}) == ""
    kept = call(Endpoint.CHAT, store=True)
    assert inquiry.id_in("stored", kept, b'data: {"id":"chatcmpl-1","object":"chat') == "chatcmpl-1"
    created = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1","object'
    assert inquiry.id_in("stored", call(Endpoint.RESPONSES), created) == "resp_1"
    assert inquiry.id_in("generation", kept, b'{"id":"chatcmpl-1"}') == ""


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (Endpoint.CHAT, {}),
        (Endpoint.CHAT, {"store": False}),
        (Endpoint.RESPONSES, {"store": False}),
        (Endpoint.COMPLETIONS, {"store": True}),
    ],
)
def test_what_is_not_stored_cannot_be_asked_for(endpoint, fields):
    assert inquiry.id_in("stored", call(endpoint, **fields), b'{"id":"x-1"}') == ""


@pytest.mark.parametrize(
    "first", [b"", b'{"object":"x"}', b'{"id":""}', b'{"id":"a\\u0000"}', b'{"id":1}', b'{"id":"cut']
)
def test_a_beginning_without_an_id(first):
    assert inquiry.id_in("stored", call(Endpoint.CHAT, store=True), first) == ""


def test_where_it_is_asked():
    assert inquiry.target("generation", "chat", "gen-1") == "/generation?id=gen-1"
    assert inquiry.target("generation", "messages", "a&b=c/d\r\n") == "/generation?id=a%26b%3Dc%2Fd%0D%0A"
    assert inquiry.target("stored", "chat", "chatcmpl-1") == "/chat/completions/chatcmpl-1"
    assert inquiry.target("stored", "responses", "resp/1") == "/responses/resp%2F1"
    assert inquiry.target("stored", "embeddings", "x") == ""


def test_what_is_told():
    usage = Usage(10, 7, cached_input_tokens=0, reasoning_tokens=3)
    assert inquiry.read("generation", "chat", 200, generation()) == Told(usage, 24_000_000)
    assert inquiry.read("generation", "chat", 200, generation(total_cost=None)) == Told(usage)
    stored = {
        "id": "c",
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    assert inquiry.read("stored", "chat", 200, json.dumps(stored).encode()) == Told(Usage(5, 2))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"data":null}',
        b'{"data":{}}',
        b"[" * 100_000,
        b"\xff\xfe",
        generation(native_tokens_prompt=-1),
        generation(native_tokens_completion="many"),
        generation(native_tokens_completion=2**70),
        generation(native_tokens_completion=None),
        generation(total_cost=-1.0),
        generation(total_cost=1e300),
    ],
)
def test_nonsense_tells_nothing(body):
    assert inquiry.read("generation", "chat", 200, body) is None
    assert inquiry.read("stored", "chat", 200, body) is None
    assert inquiry.read("stored", "responses", 200, body) is None


@pytest.mark.parametrize("status", [404, 401, 429, 500, 204])
def test_another_status_tells_nothing(status):
    assert inquiry.read("generation", "chat", status, generation()) is None
