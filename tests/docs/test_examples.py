"""Every example runs, against a real gateway with the simulator behind it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx2
import pytest
import yaml
from doc_pages import PATIENCE, ROOT, run

from penstock.config.load import load
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

EXAMPLES = ROOT / "examples"
SAID = expected_text(
    {"model": "sim", "messages": [{"role": "user", "content": "What is a penstock?"}]},
    "/v1/chat/completions",
    8,
)


@pytest.fixture
def example(gateway):
    def run_it(name):
        environ = {**os.environ, "PENSTOCK_URL": gateway.url}
        return run(sys.executable, str(EXAMPLES / name), environ=environ)

    return run_it


def test_openai(example):
    text, tokens, tool, generation = example("openai_sdk.py").splitlines()
    assert text == f"text: {SAID}"
    assert tokens == "tokens: 5 in, 8 out"
    assert re.fullmatch(r'tool: get_weather \{"city":".+"\}', tool)
    assert re.fullmatch("generation: gen_[0-9a-f]{32} created", generation)


def test_anthropic(example):
    assert example("anthropic_sdk.py").splitlines() == [
        f"text: {SAID}",
        "tokens: 5 in, 8 out",
        f"streamed: {SAID}",
    ]


def test_half_price(tmp_path, monkeypatch):
    """The provider runs the batch in one of its own, and its bill says so."""
    config = yaml.safe_load((EXAMPLES / "half_price.yaml").read_text())
    monkeypatch.chdir(tmp_path)  # where its files go
    with SimulatorProcess() as simulator:
        config["upstreams"]["sim"]["base_url"] = simulator.base_url
        with GatewayProcess(config, tmp_path) as gateway:
            environ = {**os.environ, "PENSTOCK_URL": gateway.url}
            printed = run(sys.executable, str(EXAMPLES / "half_price.py"), environ=environ)
        assert printed.splitlines()[0] == "completed 3"
        assert printed.splitlines()[1] == f"What is a penstock? {SAID}"
        assert simulator.bill()["batched"] == 3


def test_streaming(example):
    whole, mended, broken = example("streaming.py").splitlines()
    assert whole == f"sim:tps=100: {SAID} (whole)"
    assert mended == f"sim:cut-after=3,once: {SAID} (whole)"
    assert re.fullmatch(r'sim:cut-after=2,once response_format: \{"ans.* \(broke: upstream_broken\)', broken)


def test_come_back(example):
    promised, answer = example("come_back.py").splitlines()
    assert re.fullmatch("promised: 202 /v1/generations/gen_[0-9a-f]{32}", promised)
    assert answer == f"answer: {SAID}"


def test_client(example):
    assert example("client.py").splitlines() == [f"text: {SAID}", "2 breaks, 2 resumed, 0 failed"]


def test_mounted_in_fastapi():
    """With the command that it names, on a socket of ours."""
    command = ["uvicorn", "--app-dir", "examples", "mounted_in_fastapi:app"]
    assert " ".join(command) in (EXAMPLES / "mounted_in_fastapi.py").read_text()
    with socket.create_server(("127.0.0.1", 0)) as sock:  # from here on it waits for whoever connects
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--fd", str(sock.fileno())],
            cwd=ROOT,
            pass_fds=(sock.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        with httpx2.Client(timeout=PATIENCE, trust_env=False) as client:
            assert "/llm/v1" in client.get(url).json()["llm"]
            models = client.get(url + "/llm/v1/models").json()
            assert models["data"][0]["id"] == "sim"
    finally:
        process.terminate()
        status = process.wait(PATIENCE)
    assert status in (0, -signal.SIGTERM)  # uvicorn ends in order, then by the signal that told it to


def test_every_example_is_run_and_every_configuration_is_right():
    here = (ROOT / "tests" / "docs" / "test_examples.py").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix == ".py":
            assert path.stem in here
        elif path.suffix == ".yaml":
            load(path, {})
