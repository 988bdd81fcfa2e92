"""Ray Serve on two cores, and a gateway before it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
import ray
import yaml
from embedding_models import vector, write_embedder
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from penstock.testing import GatewayProcess
from penstock.testing._ports import free_port

FOLDER = Path(__file__).parent.parent.parent.parent / "deploy" / "ray"
PATIENCE = 120.0


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    """Of the application in ``deploy/ray/embeddings.py``, with a small model."""
    import embeddings

    model = write_embedder(tmp_path_factory.mktemp("models") / "table")
    paths = ":".join(map(str, (FOLDER, Path(__file__).parent.parent.parent / "engine")))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(embeddings.build({"model": str(model)}), name="embeddings")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow  # a cluster is started
def test_calls_at_the_same_time_are_answered_each_with_its_own(base_url):
    async def ask(client, place):
        answer = await client.post("/embeddings", json={"model": "m", "input": [[place, place + 1], [place]]})
        assert answer.status_code == 200, answer.text
        return [one["embedding"] for one in answer.json()["data"]]

    async def all_of_them():
        async with httpx2.AsyncClient(base_url=base_url, timeout=PATIENCE, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, place) for place in range(200)))

    for place, found in enumerate(asyncio.run(all_of_them())):
        assert np.allclose(found, [vector([place, place + 1]), vector([place])], atol=1e-3)


def test_what_cannot_be_embedded_is_refused_as_openai_does(base_url):
    answer = httpx2.post(
        base_url + "/embeddings", json={"model": "m", "input": []}, timeout=PATIENCE, trust_env=False
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


@pytest.mark.slow  # a gateway beside the cluster
def test_a_gateway_counts_and_bills_it_like_any_other_upstream(base_url, tmp_path):
    config = {
        "upstreams": {"cluster": {"kind": "openai", "base_url": base_url, "api_key": "none"}},
        "models": {"embed": {"candidates": [{"upstream": "cluster"}]}},
    }
    with GatewayProcess(config, tmp_path) as gateway:
        body = {"model": "embed", "input": ["What is json.dumps?", "os"]}
        answer = httpx2.post(
            gateway.base_url + "/embeddings", json=body, timeout=PATIENCE, trust_env=False
        ).json()
    assert [len(one["embedding"]) for one in answer["data"]] == [8, 8]
    assert answer["usage"]["prompt_tokens"] > 2


@pytest.mark.slow  # replicas come after seconds of load
def test_under_load_there_are_more_replicas(base_url):
    async def ask(client, done):
        while not done.is_set():
            await client.post("/embeddings", json={"model": "m", "input": [[1, 2, 3]] * 16})

    async def until_there_are_two():
        done = asyncio.Event()
        limits = httpx2.Limits(max_connections=64)
        async with httpx2.AsyncClient(
            base_url=base_url, timeout=PATIENCE, trust_env=False, limits=limits
        ) as client:
            asking = [asyncio.ensure_future(ask(client, done)) for _ in range(64)]
            end = time.monotonic() + PATIENCE
            while _running() < 2:
                assert time.monotonic() < end, serve.status()
                await asyncio.sleep(0.2)  # a cluster tells nobody
            done.set()
            await asyncio.gather(*asking)

    asyncio.run(until_there_are_two())


def _running():
    (deployment,) = serve.status().applications["embeddings"].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


def test_the_configuration_for_vllm_is_one_that_ray_takes():
    """In its form; ``test_llm.py`` has what Ray Serve LLM and vLLM make of the rest."""
    read = ServeDeploySchema.model_validate(yaml.safe_load((FOLDER / "llm.yaml").read_text()))
    (application,) = read.applications
    (config,) = application.args["llm_configs"]
    AutoscalingConfig(**config["deployment_config"]["autoscaling_config"])
