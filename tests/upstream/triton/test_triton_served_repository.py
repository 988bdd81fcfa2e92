"""What ``penstock triton-repo`` writes is loaded and served by a real Triton server, behind a gateway."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import httpx2
import pytest
from google.protobuf import text_format
from triton_server import TritonServer
from tritonclient.grpc import model_config_pb2

from penstock.optimize.model_directory import open_model
from penstock.optimize.numerics import onnx
from penstock.optimize.progress import nobody
from penstock.optimize.steps import Form
from penstock.optimize.triton_repository import TUNED, Batching, configuration, write_repository
from penstock.testing import GatewayProcess

PROMPTS = ["the water in the penstock", "the", "turns the turbine the water turns"]
TOKENS = 12


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """With weights at random; halves of characters every runtime writes in its way, so it writes none."""
    sys.path.append(str(Path(__file__).parents[2] / "engine"))
    from torch_models import write_readable_model

    return write_readable_model(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def served(plain, tmp_path_factory):
    """``graph`` and ``plain``, both in streams, for ONNX Runtime and for transformers; ``whole`` answers in one piece,
    and so do ``usual`` and ``tuned``, which differ in how they wait for others.
    """
    folder = tmp_path_factory.mktemp("served")
    (folder / "graph").mkdir()
    onnx.build(open_model(plain), folder / "graph", Form.FP32, nobody)
    repository = folder / "repository"
    write_repository({"graph": folder / "graph", "plain": plain}, repository, TUNED)
    whole = Batching(max_queue_delay_us=2_000, priority_levels=2, max_queue_size=50)
    write_repository({"whole": folder / "graph"}, folder / "other", whole, decoupled=False)
    (folder / "other" / "whole").rename(repository / "whole")
    for name, batching in (("usual", Batching()), ("tuned", TUNED)):
        write_repository({name: folder / "graph"}, folder / name, batching, decoupled=False)
        (folder / name / name).rename(repository / name)
    with TritonServer(repository, folder) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(served, tmp_path_factory):
    config = {
        "upstreams": {"triton": {"kind": "triton", "base_url": served.url}},
        "models": {"*": {"candidates": [{"upstream": "triton"}]}},
        "retry": {"attempts": 1},
    }
    with GatewayProcess(config, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def wanted(plain):
    """What transformers makes of each prompt, alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (each.from_pretrained(plain) for each in (AutoModelForCausalLM, AutoTokenizer))
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        found.append((tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True), ids.shape[1]))
    return found


@pytest.mark.parametrize("name", ["graph", "plain", "whole"])
def test_each_answers_as_its_model_does_whatever_it_is_run_with(name, gateway, wanted):
    with httpx2.Client(base_url=gateway.url, timeout=120, trust_env=False) as client:
        body = {"model": name, "prompt": PROMPTS, "max_tokens": TOKENS, "temperature": 0}
        answers = [
            client.post("/v1/completions", json={**body, "prompt": prompt}).json() for prompt in PROMPTS
        ]
    for answer, (text, read) in zip(answers, wanted, strict=True):
        assert answer["choices"][0]["text"] == text
        assert answer["usage"]["prompt_tokens"] == read
        assert answer["usage"]["completion_tokens"] <= TOKENS


@pytest.mark.parametrize("name", ["graph", "plain"])
def test_a_stream_brings_the_same_in_pieces(name, gateway, wanted):
    body = {"model": name, "prompt": PROMPTS[0], "max_tokens": TOKENS, "temperature": 0, "stream": True}
    with httpx2.Client(base_url=gateway.url, timeout=120, trust_env=False) as client:
        lines = client.post("/v1/completions", json=body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    pieces = [choice["text"] for event in events for choice in event["choices"] if choice["text"]]
    assert "".join(pieces) == wanted[0][0]
    assert len(pieces) > 1


@pytest.mark.parametrize("name", ["graph", "plain", "whole"])
def test_a_temperature_is_refused(name, gateway):
    body = {"model": name, "prompt": "the", "max_tokens": 3, "temperature": 0.7}
    answer = httpx2.post(f"{gateway.url}/v1/completions", json=body, timeout=120, trust_env=False)
    assert answer.status_code >= 400
    assert "only temperature 0 is served" in answer.json()["error"]["message"]


def test_a_lone_call_waits_for_others_as_long_as_is_said(served, gateway):
    """By Triton's own count; the shortest of some waits, as whatever else runs on the machine only adds to them."""
    waits = {"usual": [], "tuned": []}
    body = {"prompt": "the", "max_tokens": 1, "temperature": 0}
    with httpx2.Client(base_url=gateway.url, timeout=120, trust_env=False) as client:
        for name, found in waits.items():
            for _ in range(5):
                before = served.metrics()["nv_inference_queue_duration_us", name]
                assert client.post("/v1/completions", json={"model": name, **body}).status_code == 200
                found.append(served.metrics()["nv_inference_queue_duration_us", name] - before)
    assert 100_000 <= min(waits["usual"]) < 200_000
    assert 2_000 <= min(waits["tuned"]) < 100_000


def test_the_server_understands_what_the_configuration_means(served):
    def of(name):
        address = f"http://127.0.0.1:{served.http}/v2/models/{name}/config"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)

    assert of("graph")["dynamic_batching"]["preferred_batch_size"] == [8, 16, 32]
    assert of("graph")["model_transaction_policy"] == {"decoupled": True}
    whole = of("whole")
    assert whole["max_batch_size"] == 32
    assert whole["dynamic_batching"]["priority_levels"] == 2
    assert whole["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 50
    assert whole["model_transaction_policy"] == {"decoupled": False}


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize(
    "batching", [Batching(), TUNED, Batching(1, 0, (), 3, 1_000, 50)], ids=["usual", "tuned", "small"]
)
def test_each_field_is_one_that_triton_knows(batching, decoupled):
    """By its own protocol buffers, which refuse any other."""
    text = configuration("chat", "onnx", batching, decoupled=decoupled)
    read = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (read.name, read.backend, read.max_batch_size) == ("chat", "python", batching.max_batch_size)
    assert read.dynamic_batching.max_queue_delay_microseconds == batching.max_queue_delay_us
    assert list(read.dynamic_batching.preferred_batch_size) == list(batching.preferred)
    assert read.model_transaction_policy.decoupled == decoupled
    assert [each.name for each in read.output][:2] == ["text_output", "finish_reason"]
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text.replace("max_queue_delay_microseconds", "max_queue_delay"), type(read)())
