"""A gateway with a local model beside it: real processes, and what becomes of answers when one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from penstock.engine import demo
from penstock.testing import GatewayProcess
from penstock.upstream.local import in_large_pages
from waiting import wait_until

pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is not installed")

PATIENCE = 60.0
LOCAL = {"threads": 1, "exact": True, "slots": 4, "cache_bytes": 16_000_000}
ASKED = [{"role": "user", "content": "What is json.dumps?"}]
LONG = {"model": "own", "messages": ASKED, "max_tokens": 700, "temperature": 0, "ignore_eos": True}


def config(**local):
    return {
        "upstreams": {"own": {"kind": "local", "local": {**LOCAL, **local}}, "sim": {"kind": "sim"}},
        "models": {
            "own": {"candidates": [{"upstream": "own"}]},
            "sim": {"candidates": [{"upstream": "sim"}]},
        },
        "retry": {"first_delay": 0.05},
        "tiers": {"standard": {"priority": 3}},
    }


@pytest.fixture
def client():
    with httpx2.Client(timeout=PATIENCE, trust_env=False) as made:
        yield made


@pytest.fixture(scope="module")
def gateway_of_one(tmp_path_factory):
    with GatewayProcess(config(), tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def engine_pid(gateway):
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    (pid,) = [
        int(pid)
        for pid in children
        if b"penstock.engine.embedded" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


def whole(client, gateway, body):
    answer = client.post(gateway.base_url + "/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def streamed(client, gateway, body, on_first=lambda: None):
    """The text of a stream, whether it ended as it should, and its usage."""
    text, usage, done, told = "", None, False, False
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", gateway.base_url + "/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            done = done or line == "data: [DONE]"
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            usage = chunk.get("usage") or usage
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if text and not told:
                told = True
                on_first()
    return text, done, usage


def metric(client, gateway, name):
    lines = client.get(gateway.control_url + "/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_an_engine_that_is_killed_loses_no_answer(client, tmp_path):
    with GatewayProcess(config(), tmp_path) as gateway:
        uncut = whole(client, gateway, LONG)
        first = engine_pid(gateway)
        beside = []

        def kill():
            os.kill(first, signal.SIGKILL)
            beside.append(whole(client, gateway, {"model": "sim", "messages": ASKED, "max_tokens": 3}))

        text, done, usage = streamed(client, gateway, LONG, kill)
        assert (text, done) == (uncut, True)
        assert beside[0], "another model has to answer meanwhile"
        assert usage["completion_tokens"] == 700
        assert metric(client, gateway, 'penstock_continuations_total{how="tokens",outcome="rescued"}') == 1
        assert engine_pid(gateway) != first
        assert metric(client, gateway, "penstock_local_restarts_total") == 1


def test_its_process_asks_for_large_pages(gateway_of_one):
    environment = Path(f"/proc/{engine_pid(gateway_of_one)}/environ").read_bytes().split(b"\0")
    assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environment


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
    ],
)
def test_what_was_chosen_of_the_c_library_stays(chosen, told):
    assert in_large_pages({"GLIBC_TUNABLES": chosen, "A": "b"}) == {"GLIBC_TUNABLES": told, "A": "b"}


def test_other_apis_and_prefills_reach_it(client, tmp_path):
    with GatewayProcess(config(), tmp_path) as gateway:
        body = {"model": "own", "messages": ASKED, "max_tokens": 6, "temperature": 0}
        text = whole(client, gateway, body)
        message = client.post(gateway.base_url + "/messages", json=body)
        assert message.json()["content"][0]["text"] == text
        asked = {"model": "own", "input": ASKED[0]["content"], "max_output_tokens": 6, "temperature": 0}
        response = client.post(gateway.base_url + "/responses", json=asked).json()
        assert response["output"][-1]["content"][0]["text"] == text
        too_long = {**body, "messages": [{"role": "user", "content": "x " * 5_000}]}
        refused = client.post(gateway.base_url + "/chat/completions", json=too_long)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        hot = client.post(gateway.base_url + "/chat/completions", json={**body, "temperature": 9})
        assert (hot.status_code, hot.json()["error"]["param"]) == (400, "temperature")


def test_a_model_that_cannot_be_loaded_leaves_the_others_alone_and_is_there_once_it_is_mended(
    client, tmp_path
):
    directory = tmp_path / "model"
    shutil.copytree(demo.path(), directory)
    weights = directory / "openvino_model.bin"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1000])
    (directory / "README.md").unlink(missing_ok=True)
    (directory / "README.md").symlink_to("nowhere")  # what nobody needs keeps nobody from seeing the rest
    with GatewayProcess(config(model=str(directory)), tmp_path) as gateway:
        asked = {"model": "own", "messages": ASKED, "max_tokens": 3}
        refused = client.post(gateway.base_url + "/chat/completions", json=asked)
        assert refused.status_code == 503
        assert "openvino_model.bin is cut off" in refused.text
        assert whole(client, gateway, {**asked, "model": "sim"})
        assert "openvino_model.bin is cut off" in gateway.log
        weights.write_bytes(data)
        url = gateway.base_url + "/chat/completions"
        wait_until(lambda: client.post(url, json=asked).status_code == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_is_told_of_an_ambiguous_rule_and_nobody_else_is_disturbed(
    client, gateway_of_one, stream
):
    rule = {"grammar": "root ::= root root | [a-z ]"}
    uncut = whole(client, gateway_of_one, LONG)
    asked = {"model": "own", "messages": ASKED, "max_tokens": 700, "temperature": 0, "stream": stream}
    with (
        openai.OpenAI(base_url=gateway_of_one.base_url, api_key="none", max_retries=0) as sdk,
        ThreadPoolExecutor(1) as beside,
    ):
        other = beside.submit(streamed, client, gateway_of_one, LONG)
        with pytest.raises(openai.APIError, match="is ambiguous") as caught:
            list(sdk.chat.completions.create(**asked, extra_body=rule))
    assert (caught.value.code, caught.value.type) == ("ambiguous_grammar", "invalid_request_error")
    if not stream:  # a stream is told of it so too, where none of its events was on the way yet
        assert isinstance(caught.value, openai.BadRequestError)
    text, done, usage = other.result()
    assert (text, done, usage["completion_tokens"]) == (uncut, True, 700)
    assert metric(client, gateway_of_one, "penstock_local_restarts_total") == 0
    assert metric(client, gateway_of_one, "penstock_continuations_total") == 0
