import json
import re
import subprocess
import sys

import anthropic
import openai
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
    assert re.search(r"warming .*━ 8/8 ", first.stderr), "the bar tells how far it has come"
    assert warm("-", "--url", gateway.base_url, text=file.read_text()).stdout == "8 requests: 8 cached\n"


SPELLINGS = {
    "spaces and escapes": json.dumps,
    "spaces": lambda line: json.dumps(line, ensure_ascii=False),
    "escapes": lambda line: json.dumps(line, separators=(",", ":")),
    "compact": lambda line: json.dumps(line, ensure_ascii=False, separators=(",", ":")),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_was_warmed_is_there_for_the_sdks_however_the_file_is_spelt(gateway, tmp_path, spelling):
    text = f'“Größe” \u2028 \U0001f600 \\u00e9 \x01 " / in {spelling}'
    parts = [{"type": "text", "text": text}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    chat = {
        "model": "sim",
        "max_tokens": 3,
        "temperature": 1e-7,
        "seed": 1,
        "tools": [tool],
        "messages": [{"role": "user", "content": parts}],
    }
    messages = {"model": "sim", "max_tokens": 3, "messages": [{"role": "user", "content": parts}]}
    coldly = {"temperature": 0.0}  # which the SDK does not know for new models
    responses = {
        "model": "sim",
        "temperature": 0,
        "store": False,
        "input": [{"role": "user", "content": text}],
    }
    lines = [
        chat,
        {"custom_id": "x", "method": "POST", "url": "/v1/messages", "body": messages | coldly},
        {"custom_id": "y", "method": "POST", "url": "/v1/responses", "body": responses},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(SPELLINGS[spelling], lines)), "utf-8")
    version = anthropic.Anthropic(api_key="k").default_headers["anthropic-version"]
    done = warm(file, "--url", gateway.url, "--key", "k", "--anthropic-version", version)
    assert done.stdout == "3 requests: 3 created\n", done.stderr
    with openai.OpenAI(api_key="k", base_url=gateway.base_url, max_retries=0) as sdk:
        assert status(sdk.chat.completions.with_raw_response.create(**chat)) == "cached"
        assert status(sdk.chat.completions.with_raw_response.create(**chat, stream=True)) == "cached"
        assert status(sdk.responses.with_raw_response.create(**responses)) == "cached"
    with anthropic.Anthropic(api_key="k", base_url=gateway.url, max_retries=0) as sdk:
        assert status(sdk.messages.with_raw_response.create(**messages, extra_body=coldly)) == "cached"


def status(response):
    return response.headers["penstock-status"]


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
