"""vLLM behind a gateway, configured as ``examples/own-servers.yaml`` has it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
import yaml

from penstock.lab.faults import Break, FaultProxy, Kind
from penstock.testing import GatewayProcess

ROOT = Path(__file__).parents[3]
TOKENS = 24
ASKED = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "the water in the penstock"}],
    "max_tokens": TOKENS,
    "temperature": 0,
    "ignore_eos": True,
}
STREAMED = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}


def configured(url, **capabilities):
    """The example's upstream at another address."""
    upstream = yaml.safe_load((ROOT / "examples" / "own-servers.yaml").read_text())["upstreams"]["vllm"]
    upstream["base_url"] = f"{url}/v1"
    upstream["capabilities"] |= capabilities
    return {
        "upstreams": {"vllm": upstream},
        "models": {"*": {"candidates": [{"upstream": "vllm"}], "join": "never"}},
        "retry": {"first_delay": 0},
    }


def events_of(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def text_of(events):
    return "".join(
        choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())
    )


def ids_of(events):
    return [
        token
        for event in events
        for choice in event.get("choices", ())
        for token in choice.get("token_ids") or ()
    ]


def usage_of(text):
    usage = events_of(text)[-1]["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


@pytest.fixture(scope="module")
def client(vllm, tmp_path_factory):
    config = configured(f"http://127.0.0.1:{vllm.port}")
    with GatewayProcess(config, tmp_path_factory.mktemp("gateway")) as gateway:
        with httpx2.Client(base_url=gateway.url, timeout=300, trust_env=False) as client:
            yield client


@pytest.fixture(scope="module")
def whole(client):
    """The stream that nothing has cut: its bytes, and its events."""
    answer = client.post("/v1/chat/completions", json=STREAMED)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_stream_tells_tokens_and_exact_usage(whole):
    events = events_of(whole)
    assert len(ids_of(events)) == TOKENS
    assert events[-1]["usage"]["completion_tokens"] == TOKENS
    # Asked for by us; the caller has not.
    assert [bool(event.get("usage")) for event in events].count(True) == 1


def test_a_plain_answer_says_the_same(client, whole):
    answer = client.post("/v1/chat/completions", json=ASKED).json()
    assert answer["choices"][0]["message"]["content"] == text_of(events_of(whole))
    assert answer["usage"]["completion_tokens"] == TOKENS


def cut(vllm, tmp_path, after, config):
    """The answer through a link that breaks once; and the gateway's count of how it went on."""
    with FaultProxy(
        "127.0.0.1", vllm.port, breaks=[Break(Kind.RESET, after, "down"), None, None, None, None]
    ) as link:
        with GatewayProcess(config(link.url), tmp_path) as gateway:
            answer = httpx2.post(
                f"{gateway.url}/v1/chat/completions", json=STREAMED, timeout=300, trust_env=False
            )
            counted = {
                line.partition('how="')[2].partition('"')[0]
                for line in gateway.metrics().splitlines()
                if line.startswith("penstock_continuations_total{") and not line.endswith(" 0")
            }
            outcomes = gateway.ask("/v1/ledger/summary")["outcomes"]
        assert link.figures.broken == 1
    return answer.text, counted, outcomes


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_is_cut_is_gone_on_with_by_its_tokens(vllm, whole, tmp_path, share):
    text, counted, outcomes = cut(vllm, tmp_path, int(share * len(whole)), configured)
    assert counted == {"tokens"}
    assert text_of(events_of(text)) == text_of(events_of(whole))
    # Those of what came before the cut; the rest is told without.
    ids = ids_of(events_of(text))
    assert ids
    assert ids == ids_of(events_of(whole))[: len(ids)]
    assert text.rstrip().endswith("data: [DONE]")
    assert usage_of(text) == usage_of(whole)
    made = {outcome: row["usage"]["output_tokens"] for outcome, row in outcomes.items()}
    assert set(made) == {"partial", "continued"}
    # What vLLM computes beyond the cut before it hears of it nobody is told.
    assert sum(made.values()) == TOKENS


def test_where_tokens_are_not_to_be_had_the_text_is_gone_on_with(vllm, whole, tmp_path):
    """``deterministic`` is left out as well: asking again would do for a greedy call."""
    text, counted, _ = cut(
        vllm,
        tmp_path,
        len(whole) // 2,
        lambda url: configured(url, token_ids=False, deterministic=False),
    )
    assert counted == {"prefill"}
    assert text.rstrip().endswith("data: [DONE]")
    events = events_of(text)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == TOKENS
    # The model is one of letters at random, which has no reason to go on with them as it did with tokens.
    shown = text_of(events_of(whole))
    assert text_of(events)[: len(shown) // 4] == shown[: len(shown) // 4]


def test_a_model_that_it_has_not(client):
    answer = client.post("/v1/chat/completions", json={**ASKED, "model": "nothing"})
    assert answer.status_code == 404
    assert "`nothing` does not exist" in answer.json()["error"]["message"]


def test_a_prompt_that_is_too_long(client):
    messages = [{"role": "user", "content": "the water " * 800}]
    answer = client.post("/v1/chat/completions", json={**ASKED, "messages": messages})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_more_tokens_than_it_takes_is_the_callers_to_mend(client):
    answer = client.post("/v1/chat/completions", json={**ASKED, "max_tokens": 6_000})
    assert answer.status_code == 400
    assert "max_tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "tiny", "input": "the water", "max_output_tokens": 4, "temperature": 0}),
        (
            "/v1/messages",
            {
                "model": "tiny",
                "max_tokens": 4,
                "temperature": 0,
                "messages": [{"role": "user", "content": "the"}],
            },
        ),
    ],
)
def test_the_other_apis_are_translated(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["output_tokens"] == 4
