import json
import subprocess
import sys

import pytest

from penstock.testing import GatewayProcess, SimulatorProcess

QUESTIONS = [
    {
        "model": "sim",
        "max_tokens": 3,
        "temperature": 0,
        "messages": [{"role": "user", "content": f"question {n}"}],
    }
    for n in range(6)
]


def warm(*arguments, text=None):
    return subprocess.run(
        [sys.executable, "-m", "penstock", "cache", "warm", *map(str, arguments)],
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
            "models": {"sim*": {"candidates": [{"upstream": "sim"}], "cache": {}}},
            "log": {"requests": False},
        }
        with GatewayProcess(config, tmp_path_factory.mktemp("warm")) as process:
            yield process


def test_what_is_in_the_file_is_there_afterwards(gateway, tmp_path):
    file = tmp_path / "questions.jsonl"
    line = {"custom_id": "x", "method": "POST", "url": "/v1/messages", "body": QUESTIONS[0]}
    lines = [*QUESTIONS, QUESTIONS[0] | {"stream": True}, line]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first = warm(file, "--url", gateway.url, "--concurrency", 1)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "8 requests: 1 cached, 7 created\n"
    assert warm("-", "--url", gateway.base_url, text=file.read_text()).stdout == "8 requests: 8 cached\n"


def test_failures_are_told(gateway, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(QUESTIONS[0] | {"model": "unknown"}))
    done = warm(file, "--url", gateway.url)
    assert done.returncode == 1
    assert done.stdout == "1 requests: 1 failed\n"
    assert "404" in done.stderr
    assert warm(file, "--url", "http://127.0.0.1:9").returncode == 1


@pytest.mark.parametrize("line", ["{", "3", '{"url": "/v1/files", "body": {}}'])
def test_a_line_that_is_no_request_is_named_before_anything_is_asked(tmp_path, line):
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(QUESTIONS[0]) + "\n" + line)
    done = warm(file, "--url", "http://127.0.0.1:9")
    assert done.returncode != 0
    assert "line 2" in done.stderr
