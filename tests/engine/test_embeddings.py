"""Embeddings of a local model: a real listener, and OpenVINO behind it."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
from embedding_models import CONTEXT, SIZE, VOCABULARY, vector, write_embedder
from engine_doubles import LetterBackend
from test_server import play, serving

from penstock.config.model import LocalConfig
from penstock.engine.serve import load
from penstock.errors import ModelUnusable
from penstock.testing import GatewayProcess

pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is not installed")

TEXTS = ["What is json.dumps?", "os", "漢字 🙂 and what else there is to say of asyncio.run"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_embedder(tmp_path_factory.mktemp("models") / "table")


@pytest.fixture(scope="module")
def backend(directory):
    return load(LocalConfig(model=str(directory), threads=1, exact=True))


def ask(backend, body, path="/v1/embeddings"):
    answers = []

    async def test():
        async with serving(backend) as (client, _):
            answers.append(await client.post(path, content=json.dumps({"model": "m", **body})))

    close, backend.close = backend.close, lambda: None  # it serves the next test as well
    try:
        play(test())
    finally:
        backend.close = close
    return answers[0]


def ids_of(backend, texts=TEXTS):
    return [backend.tokenizer.encode(text, special=True) for text in texts]


def test_each_text_gets_the_mean_of_its_tokens_at_length_one(backend):
    answer = ask(backend, {"input": TEXTS}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    for ids, one in zip(ids_of(backend), answer["data"], strict=True):
        assert one["embedding"] == pytest.approx(vector(ids), abs=1e-6)
    tokens = sum(map(len, ids_of(backend)))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer["object"], answer["model"]) == ("list", "m")


def test_base64_says_the_same_as_floats(backend):
    floats = ask(backend, {"input": TEXTS[0]}).json()["data"][0]["embedding"]
    coded = ask(backend, {"input": TEXTS[0], "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == floats


def test_token_ids_are_taken_as_they_are(backend):
    (ids,) = ids_of(backend, TEXTS[:1])
    for given in (ids, [ids]):
        answer = ask(backend, {"input": given}).json()
        assert answer["data"][0]["embedding"] == pytest.approx(vector(ids), abs=1e-6)
        assert answer["usage"]["total_tokens"] == len(ids)


def test_a_list_that_is_longer_than_the_places_is_answered_whole_and_in_its_order(backend):
    given = [[token, token + 1] for token in range(1_500)]
    data = ask(backend, {"input": given}).json()["data"]
    assert [one["index"] for one in data] == list(range(1_500))
    found = np.array([one["embedding"] for one in data])
    assert np.allclose(found, [vector(ids) for ids in given], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", 3]}, "input"),
        ({"input": [VOCABULARY]}, "input"),
        ({"input": [[-1]]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[1]] * 2_049}, "input"),
        ({"input": 3}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
    ids=lambda case: str(case)[:40],
)
def test_what_cannot_be_embedded_is_refused(backend, body, param):
    answer = ask(backend, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_text_that_is_too_long_is_told_so(backend):
    answer = ask(backend, {"input": ["a", [5] * (CONTEXT + 1)]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert ask(backend, {"input": [[5] * CONTEXT]}).status_code == 200


def test_who_makes_embeddings_writes_no_text_and_the_other_way_round(backend):
    chat = {"messages": [{"role": "user", "content": "?"}]}
    answer = ask(backend, chat, "/v1/chat/completions")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    answers = []

    async def test():
        async with serving(LetterBackend()) as (client, _):
            answers.append(await client.post("/v1/embeddings", json={"model": "m", "input": "?"}))

    play(test())
    assert (answers[0].status_code, answers[0].json()["error"]["param"]) == (400, "model")


def test_a_model_whose_beginnings_are_embeddings_gives_shorter_ones(tmp_path):
    backend = load(LocalConfig(model=str(write_embedder(tmp_path / "m", is_matryoshka=True)), exact=True))
    for dimensions in (1, 3, SIZE):
        answer = ask(backend, {"input": TEXTS[0], "dimensions": dimensions}).json()
        first = vector(ids_of(backend)[0])[:dimensions]
        assert answer["data"][0]["embedding"] == pytest.approx(first / np.linalg.norm(first), abs=1e-6)
    assert ask(backend, {"input": "a", "dimensions": SIZE + 1}).status_code == 400


@pytest.mark.parametrize("pooling", ["first", "lasttoken"])
def test_models_are_made_for_one_kind_of_pooling(pooling, tmp_path):
    backend = load(LocalConfig(model=str(write_embedder(tmp_path / "m", pooling=pooling)), exact=True))
    data = ask(backend, {"input": TEXTS}).json()["data"]
    for ids, one in zip(ids_of(backend), data, strict=True):
        assert one["embedding"] == pytest.approx(vector(ids, pooling), abs=1e-6)


def test_another_kind_of_pooling_is_refused_when_it_is_loaded(tmp_path):
    directory = write_embedder(tmp_path / "m", pooling="max_tokens")
    with pytest.raises(ModelUnusable, match="1_Pooling"):
        load(LocalConfig(model=str(directory)))


def test_a_client_that_leaves_gives_its_texts_up(backend):
    async def test():
        async with serving(backend) as (client, service):
            request = asyncio.ensure_future(
                client.post("/v1/embeddings", json={"model": "m", "input": [[7]] * 2_000})
            )
            while not service.engine.statistics().steps:
                await asyncio.sleep(0)
            request.cancel()
            while (state := service.engine.statistics()).running or state.waiting:
                await asyncio.sleep(0)
            assert state.read < 2_000

    close, backend.close = backend.close, lambda: None
    try:
        play(test())
    finally:
        backend.close = close


def test_they_are_called_through_a_gateway(directory, backend, tmp_path):
    """With OpenAI's own SDK, which asks for base64 by itself."""
    openai = pytest.importorskip("openai")
    config = {
        "upstreams": {
            "own": {"kind": "local", "local": {"model": str(directory), "threads": 1, "exact": True}}
        },
        "models": {"embed": {"candidates": [{"upstream": "own"}]}},
    }
    with (
        GatewayProcess(config, tmp_path) as gateway,
        openai.OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client,
    ):
        answer = client.embeddings.create(model="embed", input=TEXTS)
        refused = client.embeddings.with_raw_response
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            refused.create(model="embed", input="a", dimensions=3)
    for ids, one in zip(ids_of(backend), answer.data, strict=True):
        assert one.embedding == pytest.approx(vector(ids), abs=1e-6)
    assert answer.usage.prompt_tokens == sum(map(len, ids_of(backend)))
