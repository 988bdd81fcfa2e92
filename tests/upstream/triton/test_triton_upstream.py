"""Callers of OpenAI's and Anthropic's APIs get answers from a real Triton server."""

from __future__ import annotations

import concurrent.futures
import json
import math
import time

import httpx2
import openai
import pytest
from triton_models import write_models
from triton_server import TritonServer

from penstock.config.keys import hash_key
from penstock.testing import GatewayProcess

BATCHES = 150  # a second and a half of work, if nobody else is at it
EMBED = {"model": "embed", "input": [[1, 2, 3], [4, 5]]}


def config(server, **more):
    return {
        "upstreams": {"triton": {"kind": "triton", "base_url": server.url, **more}},
        "models": {"*": {"candidates": [{"upstream": "triton"}]}},
        "retry": {"attempts": 1},
    }


@pytest.fixture(scope="module")
def gateway(triton, tmp_path_factory):
    with GatewayProcess(config(triton), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def client(gateway):
    with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as client:
        yield client


def failure(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_embeddings_are_padded_to_one_shape_and_come_back_in_order(client):
    answer = client.post("/v1/embeddings", json=EMBED).json()
    vectors = [each["embedding"] for each in answer["data"]]
    # Sum and number of tokens, the length that they were padded to, and how many were run together.
    assert vectors == [[6, 3, 16, 2], [9, 2, 16, 2]]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_the_sdk_gets_vectors_and_streams(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any") as sdk:
        (found,) = sdk.embeddings.create(model="embed", input=[7] * 20).data
        assert found.embedding == [140, 20, 32, 1]
        question = [{"role": "user", "content": "to be or"}]
        stream = sdk.chat.completions.create(model="words", messages=question, stream=True)
        chunks = [chunk for chunk in stream if chunk.choices]
        assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == [
            "user: ",
            "to ",
            "be ",
            "or ",
            "assistant: ",
        ]
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_plain_answer_is_put_together_of_all_pieces(client):
    answer = client.post(
        "/v1/completions", json={"model": "words", "prompt": "a b c d", "max_tokens": 3}
    ).json()
    assert answer["choices"][0]["text"] == "a b c "
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


def test_callers_of_anthropics_api_are_answered_as_well(client):
    body = {"model": "words", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    answer = client.post("/v1/messages", json=body).json()
    assert answer["content"][0]["text"] == "user: x assistant: "
    assert answer["stop_reason"] == "end_turn"


def test_calls_of_one_length_are_run_together(client, triton):
    before = triton.metrics()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda n: client.post(
                    "/v1/embeddings", json={"model": "embed", "input": [n + 1] * (n % 16 + 1)}
                ),
                range(64),
            )
        )
    assert [each.json()["data"][0]["embedding"][:2] for each in answers] == [
        [(n + 1) * (n % 16 + 1), n % 16 + 1] for n in range(64)
    ]
    after = triton.metrics()
    runs, calls = (
        after[name, "embed"] - before.get((name, "embed"), 0)
        for name in ("nv_inference_exec_count", "nv_inference_request_success")
    )
    assert calls == 64
    assert runs < 64


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"model": "nobody", "prompt": "a"}, (404, "upstream_refused")),
        ({"model": "words", "prompt": "a", "temperature": 0.5}, (400, "untranslatable")),
        ({"model": "words", "prompt": 7}, (400, "invalid_request")),
        ({"model": "words", "prompt": "a", "max_tokens": "many"}, (400, "invalid_type")),
        ({"model": "embed", "prompt": "a"}, (400, "untranslatable")),
        ({"model": "words", "prompt": "fail"}, (502, "upstream_failed")),
        ({"model": "words", "prompt": "a b fail"}, (502, "upstream_failed")),
    ],
    ids=["unknown", "parameter", "form", "type", "not-text", "failed-at-once", "failed-midway"],
)
def test_a_fault_is_told_with_whose_it_is(client, body, told):
    assert failure(client.post("/v1/completions", json=body)) == told


def test_a_stream_that_fails_midway_is_not_passed_off_as_whole(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as sdk:
        stream = sdk.completions.create(model="words", prompt="a b fail c", stream=True)
        said = []
        with pytest.raises(openai.APIError, match="the model failed at 2"):
            said.extend(chunk.choices[0].text for chunk in stream)
        assert said == ["a ", "b "]


def test_a_caller_who_leaves_stops_the_model(client, triton):
    def succeeded():
        return triton.metrics().get(("nv_inference_request_success", "words"), 0)

    body = {"model": "words", "prompt": " ".join(["slow"] * 200), "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    # The model takes one call at a time: what follows is answered only because the first has stopped.
    answer = client.post("/v1/completions", json={"model": "words", "prompt": "next"})
    assert answer.json()["choices"][0]["text"] == "next "
    assert succeeded() >= 1


def test_what_waits_too_long_in_tritons_queue_is_refused_there(triton, tmp_path):
    with GatewayProcess(config(triton, triton={"queue_timeout": 0.001}), tmp_path) as gateway:
        with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as client:
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                codes = [
                    each.status_code
                    for each in pool.map(
                        lambda n: client.post(
                            "/v1/embeddings", json={"model": "embed", "input": [1] * (16 * n + 1)}
                        ),
                        range(64),
                    )
                ]
    assert set(codes) <= {200, 504}
    assert 504 in codes


def test_a_tier_has_its_priority(triton, tmp_path):
    """A call of the first tier comes behind hundreds of batches of the second, and does not wait for them."""
    keys = [
        {"name": tier, "tier": tier, "hash": hash_key(f"pk_{tier}_{'0' * 32}")} for tier in ("gold", "bulk")
    ]
    whole = config(triton, triton={"priorities": {"gold": 1, "bulk": 2}})
    whole |= {"keys": keys, "tiers": {"gold": {}, "bulk": {}}}
    with GatewayProcess(whole, tmp_path) as gateway:
        with httpx2.Client(base_url=gateway.url, timeout=200, trust_env=False) as client:

            def call(tier, inputs):
                headers = {"authorization": f"Bearer pk_{tier}_{'0' * 32}"}
                body = {"model": "embed", "input": [[1]] * inputs}
                return client.post("/v1/embeddings", json=body, headers=headers)

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                many = pool.submit(call, "bulk", 16 * BATCHES)
                end = time.monotonic() + 60
                while triton.metrics().get(("nv_inference_pending_request_count", "embed"), 0) < BATCHES / 2:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                assert call("gold", 16).status_code == 200
                assert not many.done()
                assert len(many.result().json()["data"]) == 16 * BATCHES


def test_texts_are_cut_into_tokens_where_a_tokenizer_is_configured(triton, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"to": 5, "be": 7, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    more = {"tokenizer": str(tmp_path / "tokenizer.json"), "buckets": [4], "pad": 9}
    with GatewayProcess(config(triton, triton=more), tmp_path) as gateway:
        with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as client:
            answer = client.post("/v1/embeddings", json={"model": "embed", "input": ["to be", "be"]}).json()
    assert [each["embedding"] for each in answer["data"]] == [[12, 2, 4, 2], [7, 1, 4, 2]]


def test_a_server_that_dies_is_unreachable_and_one_that_comes_back_answers(tmp_path):
    write_models(tmp_path / "models")
    with TritonServer(tmp_path / "models", tmp_path) as server:
        with GatewayProcess(config(server), tmp_path) as gateway:
            with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as client:
                assert client.post("/v1/embeddings", json=EMBED).status_code == 200
                body = {"model": "words", "prompt": " ".join(["slow"] * 100), "stream": True}
                with client.stream("POST", "/v1/completions", json=body) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    server.kill()
                    told = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
                assert told[-1]["error"]["code"] in {
                    "upstream_unreachable",
                    "upstream_failed",
                    "upstream_broken",
                }
                assert failure(client.post("/v1/embeddings", json=EMBED))[0] in {502, 503}
                with server:
                    end = time.monotonic() + 60
                    while client.post("/v1/embeddings", json=EMBED).status_code != 200:
                        assert time.monotonic() < end
                        time.sleep(0.1)


def test_a_vector_may_be_any_number(client):
    (found,) = client.post("/v1/embeddings", json={"model": "embed", "input": [2**31]}).json()["data"]
    assert math.isclose(found["embedding"][0], 2**31)
