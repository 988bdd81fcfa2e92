"""``deploy/ray/llm.yaml`` on this machine: as it is, by Ray's and vLLM's own classes; and served, with a small model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import httpx2
import pytest
import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve.llm import LLMServingArgs, build_openai_app
from torch_models import write_readable_model
from vllm.engine.arg_utils import AsyncEngineArgs

from penstock.testing import GatewayProcess
from penstock.testing._ports import free_port

FILE = Path(__file__).parents[3] / "deploy" / "ray" / "llm.yaml"
PATIENCE = 600.0
ON_A_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
pytestmark = pytest.mark.timeout(1_200)


def written():
    """What the file gives to Ray's builder."""
    (application,) = yaml.safe_load(FILE.read_text())["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    return application["args"]


def test_ray_and_vllm_know_each_setting():
    (config,) = LLMServingArgs.model_validate(written()).llm_configs
    engine = config.get_engine_config()
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert set(engine.engine_kwargs) <= known
    assert engine.frontend_kwargs == {}  # what the engine does not know Ray takes for its server's
    assert engine.num_devices == 8
    assert engine.hf_model_id == "Qwen/Qwen2.5-72B-Instruct"


@pytest.mark.parametrize(
    "wrong",
    [
        {"accelerator_type": "H1000"},
        {"deployment_config": {"autoscaling_config": {"max_replicas": "ten"}}},
        {"model_loading_config": {}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_is_wrong_they_refuse(wrong):
    (config,) = written()["llm_configs"]
    with pytest.raises(ValidationError):
        LLMServingArgs.model_validate({"llm_configs": [config | wrong]})


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    """Of the file's application, with a small model and without GPUs; the rest is as it stands there."""
    args = written()
    (config,) = args["llm_configs"]
    model = write_readable_model(tmp_path_factory.mktemp("models") / "tiny", hidden_size=128, head_dim=32)
    config["model_loading_config"]["model_source"] = str(model)
    del config["accelerator_type"]
    config["accelerator_config"] = {"kind": "cpu"}
    config["engine_kwargs"] |= {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "max_model_len": 512}
    config["engine_kwargs"] |= {"enforce_eager": True, "dtype": "float32", "max_num_seqs": 8}
    config["deployment_config"]["autoscaling_config"]["max_replicas"] = 1
    config["runtime_env"] = {"env_vars": ON_A_CPU}
    # More than there are: they are only numbers by which Ray places what it starts.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_openai_app(args), name="llm")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        serve.shutdown()
        ray.shutdown()


def remark():
    """The gateway's side, as the file's head has it."""
    lines = [line.removeprefix("#")[1:] for line in FILE.read_text().splitlines() if line.startswith("#")]
    begin = lines.index("  upstreams:")
    end = next(place for place in range(begin, len(lines)) if not lines[place].strip())
    return yaml.safe_load("\n".join(lines[begin:end]))


@pytest.mark.slow  # a cluster and vLLM are started
def test_a_gateway_streams_from_it_with_tokens_and_exact_usage(base_url, tmp_path):
    config = remark()
    config["upstreams"]["cluster"]["base_url"] = base_url
    config["models"] = {"large": {"candidates": [{"upstream": "cluster", "model": "qwen2.5-72b"}]}}
    asked = {
        "model": "large",
        "messages": [{"role": "user", "content": "the water in the penstock"}],
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
    }
    with GatewayProcess(config, tmp_path) as gateway:
        with httpx2.Client(base_url=gateway.base_url, timeout=PATIENCE, trust_env=False) as client:
            plain = client.post("/chat/completions", json=asked).json()
            body = {**asked, "stream": True, "stream_options": {"include_usage": True}}
            streamed = client.post("/chat/completions", json=body).text
    assert plain["usage"]["completion_tokens"] == 12
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert text == plain["choices"][0]["message"]["content"]
    assert sum(len(choice.get("token_ids") or ()) for choice in choices) == 12
    assert events[-1]["usage"]["completion_tokens"] == 12
    assert streamed.rstrip().endswith("data: [DONE]")
