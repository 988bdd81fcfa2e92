"""The same over HTTP, for where gRPC does not get through."""

from __future__ import annotations

import httpx2
import pytest
from test_triton_upstream import EMBED, failure
from triton_server import free_ports

from penstock.testing import GatewayProcess


def over_http(port):
    upstream = {"kind": "triton", "base_url": f"http://127.0.0.1:{port}", "triton": {"protocol": "http"}}
    return {
        "upstreams": {"triton": upstream},
        "models": {"*": {"candidates": [{"upstream": "triton"}]}},
        "retry": {"attempts": 1},
    }


@pytest.fixture(scope="module")
def client(triton, tmp_path_factory):
    with GatewayProcess(over_http(triton.http), tmp_path_factory.mktemp("gateway")) as gateway:
        with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as client:
            yield client


def test_embeddings_come_back_as_over_grpc(client):
    answer = client.post("/v1/embeddings", json=EMBED).json()
    assert [each["embedding"] for each in answer["data"]] == [[6, 3, 16, 2], [9, 2, 16, 2]]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_a_model_that_is_not_there(client):
    answer = client.post("/v1/embeddings", json={**EMBED, "model": "nothing"})
    assert answer.status_code == 404


def test_a_model_that_answers_in_pieces_is_refused_with_the_remedy(client):
    answer = client.post("/v1/completions", json={"model": "words", "prompt": "a b"})
    assert answer.status_code == 400
    assert "triton.protocol" in answer.text


def test_nobody_at_the_port_is_unreachable(tmp_path):
    (port,) = free_ports(1)
    with GatewayProcess(over_http(port), tmp_path) as gateway:
        answer = httpx2.post(gateway.url + "/v1/embeddings", json=EMBED, timeout=60, trust_env=False)
    assert failure(answer) == (502, "upstream_unreachable")
