import json
import subprocess
import sys

import pytest

from penstock.testing import GatewayProcess, SimulatorProcess

BODY = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}


def explain(*arguments, text=None):
    return subprocess.run(
        [sys.executable, "-m", "penstock", "explain", *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "limits": {"keys": {"anonymous": {"requests_per_minute": 9}}},
            "control_key": "ck",
            "log": {"requests": False},
        }
        with GatewayProcess(config, tmp_path_factory.mktemp("explain")) as process:
            yield process


def test_a_body_is_explained_for_people(gateway):
    ended = explain("-", "--control", gateway.control_url, "--control-key", "ck", text=json.dumps(BODY))
    assert ended.returncode == 0, ended.stderr
    first, *rest = ended.stdout.splitlines()
    assert first == "sent to sim as 'sim'"
    assert any("limit requests, of 9, left 9" in line for line in rest)


def test_a_whole_request_is_explained_as_json(gateway, tmp_path):
    file = tmp_path / "request.json"
    file.write_text(
        json.dumps({"path": "/v1/responses", "headers": {"X-A": "b"}, "body": {"model": "sim", "input": "x"}})
    )
    ended = explain(
        file,
        "--control",
        gateway.control_url,
        "--control-key",
        "ck",
        "--json",
        "--header",
        "Penstock-Deadline: 9",
    )
    found = json.loads(ended.stdout)
    assert found["explanation"]["call"]["endpoint"] == "responses"
    assert found["worker"] == 0


def test_a_body_that_is_no_json_is_explained_too(gateway, tmp_path):
    file = tmp_path / "request.json"
    file.write_text("{")
    ended = explain(file, "--control", gateway.control_url, "--control-key", "ck")
    assert (ended.returncode, ended.stderr.count("is not JSON")) == (1, 1)


def test_without_the_control_key_or_a_gateway_it_says_so(gateway, tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps(BODY))
    assert (
        "says 401: the control key is missing or wrong\n"
        in explain(file, "--control", gateway.control_url).stderr
    )
    assert "does not answer (Connection refused)" in explain(file, "--control", "http://127.0.0.1:1").stderr
    assert "takes 'Name: value'" in explain(file, "--header", "nonsense").stderr
