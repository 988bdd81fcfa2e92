import asyncio
import hashlib

import pytest
from serving import call, config, on_uvloop, serving

from penstock import __version__
from penstock.config.model import CandidateConfig, KeyConfig, ModelConfig
from penstock.gateway import routes

ANTHROPIC = ["anthropic-version: 2023-06-01"]
SECRET = "s"


def asked(*requests, keys=(), models=("m", "org/large", "gpt-*")):
    """The answers of a gateway with these models, whose upstream nobody calls."""
    if not isinstance(models, dict):
        models = {name: ModelConfig(candidates=[CandidateConfig(upstream="up0")]) for name in models}

    async def main():
        settings = config(
            "http://127.0.0.1:9",
            models=models,
            keys=[
                KeyConfig(
                    name="k", hash="sha256:" + hashlib.sha256(SECRET.encode()).hexdigest(), models=list(keys)
                )
            ]
            if keys
            else [],
        )
        async with serving(settings) as (_, port):
            return [await call(port, b"", *request[:2], headers=request[2:]) for request in requests]

    answers = on_uvloop(main)
    return answers[0] if len(answers) == 1 else answers


def test_models_are_listed_in_openais_form():
    answer = asked(("/v1/models", "GET"))
    body = answer.json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["m", "org/large"]
    assert all(set(model) == {"id", "object", "created", "owned_by"} for model in body["data"])


def test_and_in_anthropics():
    body = asked(("/v1/models", "GET", *ANTHROPIC)).json()
    assert set(body) == {"data", "has_more", "first_id", "last_id"}
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("m", "org/large", False)
    assert all(set(model) == {"type", "id", "display_name", "created_at"} for model in body["data"])


def test_an_empty_list_is_a_list():
    body = asked(("/v1/models", "GET", *ANTHROPIC), models=["gpt-*"]).json()
    assert (body["data"], body["first_id"]) == ([], None)


@pytest.mark.parametrize(
    "path", ["/v1/models/m", "/v1/models/org/large", "/v1/models/org%2Flarge", "/v1/models/gpt-9"]
)
@pytest.mark.parametrize("headers", [[], ANTHROPIC])
def test_a_model_can_be_looked_up_by_name(path, headers):
    answer = asked((path, "GET", *headers))
    assert answer.status == 200
    assert answer.json()["id"] == path.removeprefix("/v1/models/").replace("%2F", "/")


def test_a_version_can_be_looked_up_by_name():
    versions = ModelConfig(candidates=[CandidateConfig(upstream="up0", version="2025")])
    names = ["m@2025", "m@2024", "m@", "gpt-9@2025", "m"]
    key = f"authorization: Bearer {SECRET}"
    requests = [(f"/v1/models/{name}", "GET") for name in names]
    answers = asked(*requests, models={"m": versions, "gpt-*": versions})
    assert [answer.status for answer in answers] == [200, 404, 404, 200, 200]
    assert answers[0].json()["id"] == "m@2025"
    answers = asked(
        *((*one, key) for one in requests), models={"m": versions, "gpt-*": versions}, keys=["m@*"]
    )
    assert [answer.status for answer in answers] == [200, 404, 404, 404, 404]


@pytest.mark.parametrize("name", ["x", "", "M", "org", "m%00", "%ff"])
def test_a_model_that_is_not_there_is_not_found(name):
    openai, anthropic = asked((f"/v1/models/{name}", "GET"), (f"/v1/models/{name}", "GET", *ANTHROPIC))
    assert (openai.status, openai.json()["error"]["code"]) == (404, "model_not_found")
    assert (anthropic.status, anthropic.json()["error"]["type"]) == (404, "not_found_error")


def test_a_key_sees_the_models_that_it_may_use():
    key = f"authorization: Bearer {SECRET}"
    listed, mine, other = asked(
        ("/v1/models", "GET", key),
        ("/v1/models/gpt-1", "GET", key),
        ("/v1/models/m", "GET", key),
        keys=["org/*", "gpt-*"],
    )
    assert [model["id"] for model in listed.json()["data"]] == ["org/large"]
    assert (mine.status, other.status) == (200, 404)


def test_without_a_key_nothing_is_shown_but_a_sign_of_life():
    health, *rest = asked(
        ("/healthz", "GET"),
        ("/", "GET"),
        ("/v1/models", "GET"),
        ("/v1/models/m", "GET"),
        ("/x", "GET"),
        keys=["m"],
    )
    assert (health.status, health.body) == (200, b"ok\n")
    assert [answer.status for answer in rest] == [401] * 4


@pytest.mark.parametrize("path", ["/healthz", "/", "/v1/models", "/v1/models/m"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_what_can_be_read_cannot_be_written(path, method):
    answer = asked((path, method))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/v1/ledger/summary", "/v1/keys", "/v1/keys/alice"])
def test_who_asks_the_wrong_port_is_told(path):
    answer = asked((path, "GET"))
    assert answer.status == 404
    assert answer.json()["error"]["message"] == f"there is no {path} here; it is on the control port"


@pytest.mark.parametrize("path", ["/health", "/health/liveliness", "/livez", "/ping"])
def test_who_asks_how_it_is_as_other_gateways_are_asked_is_told_where(path):
    answer = asked((path, "GET"))
    assert answer.json()["error"]["message"] == f"there is no {path} here; /healthz is, without a key"


def test_paths_are_there_without_their_version_too():
    listed, one, wrong, slash, file, key, message = asked(
        ("/models", "GET"),
        ("/models/org/large", "GET"),
        ("/chat/completion", "POST"),
        ("/embeddings/", "POST"),
        ("/files", "GET"),
        ("/modelsx", "GET"),
        ("/messages", "POST"),
    )
    assert [model["id"] for model in listed.json()["data"]] == ["m", "org/large"]
    assert one.json()["id"] == "org/large"
    refused = [answer.json()["error"]["message"] for answer in (wrong, slash, file, key)]
    assert refused == [
        "there is no /v1/chat/completion here",
        "there is no /v1/embeddings/ here; /v1/embeddings is, with no more slashes than that",
        "there is no /v1/files here: the configuration has no files.directory",
        "there is no /modelsx here",
    ]
    assert message.json()["error"]["details"]["error_code"] == "invalid_json"  # it is there, and wants a body
    assert asked(("/models", "GET"), keys=["m"]).status == 401


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/messages/", "; /v1/messages is, with no more slashes than that"),
        ("/v1/chat/completions/", "; /v1/chat/completions is, with no more slashes than that"),
        ("//v1//embeddings", "; /v1/embeddings is, with no more slashes than that"),
        (
            "/v1/v1/messages",
            "; /v1/messages is: the SDK adds the /v1 itself, so the base URL must end before it",
        ),
        ("/v1/v1/messages/count_tokens/", "; /v1/messages/count_tokens is: the SDK adds the /v1 itself"),
        ("/v1", ""),
        ("/v2/chat/completions", ""),
        ("/v1/chat", ""),
        ("/v1/files", ": the configuration has no files.directory"),
        ("/v1/batches/batch_1/cancel", ": the configuration has no files.directory"),
        ("/v1/filesystem", ""),
    ],
)
def test_a_path_that_is_nearly_right_is_told_the_right_one(path, hint):
    answer = asked((path, "POST"))
    assert answer.status == 404
    message = answer.json()["error"]["message"]
    assert message.startswith(f"there is no {path} here{hint}")
    assert hint or message.endswith("here")


def test_the_gateway_says_what_it_is():
    assert asked(("/", "GET")).json() == {"name": "penstock", "version": __version__}


@pytest.mark.parametrize("path", ["/healthz", "/", "/v1/models", "/v1/models/m"])
def test_head_is_get_without_a_body(path):
    async def main():
        async with serving(config("http://127.0.0.1:9")) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"HEAD {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".encode())
            raw = await reader.read()
            writer.close()
            return raw, await call(port, b"", path, "GET")

    raw, got = on_uvloop(main)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d" % len(got.body) in head
    assert body == b""


def test_what_a_path_is_called_is_bounded():
    assert routes.label_of("/v1/messages") == "messages"
    assert routes.label_of("/v1/messages/batches") == "other"
    assert {routes.label_of(f"/{number}") for number in range(100)} == {"other"}
