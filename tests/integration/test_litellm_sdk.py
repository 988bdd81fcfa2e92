"""litellm as a client, which takes the gateway for OpenAI or for Anthropic, before upstreams of either dialect."""

import json
import subprocess
from pathlib import Path

import pytest

from penstock.messages import Endpoint
from penstock.testing.simulator import expected_text

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a penstock?"},
]

pytestmark = pytest.mark.timeout(600)  # litellm is installed where it is not yet


@pytest.fixture(scope="module")
def results(gateway, key, litellm_python, tmp_path_factory):
    """Everything at once: litellm takes seconds to import."""
    done = subprocess.run(
        [litellm_python, Path(__file__).with_name("litellm_client.py"), gateway.url, key, PNG],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path_factory.mktemp("litellm"),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=["openai", "anthropic"])
def outcome(request, results, upstream):
    """What came of a case, with litellm speaking this dialect."""

    def find(name):
        found = results[f"{request.param} {upstream} {name}"]
        assert "failed" not in found, found["failed"]
        return found

    return find


def expected(messages, tokens=64):
    return expected_text({"model": "m", "messages": messages}, Endpoint.CHAT, tokens)


def test_an_answer_is_whole(outcome):
    assert outcome("plain") == {"text": expected(CONVERSATION), "output": 64}


def test_a_stream_adds_up(outcome):
    found = outcome("stream")
    assert found["text"] == expected(CONVERSATION)
    assert found["chunks"] > 10


def test_a_tool_is_called_and_answered(outcome):
    found = outcome("tool")
    assert found["name"] == "forecast"
    assert set(json.loads(found["arguments"])) == {"town", "days"}
    assert found["text"]


def test_reasoning_goes_back_as_it_came(outcome, upstream, simulators):
    """To Anthropic's API with its signature; without one it would have been refused."""
    found = outcome("thinking_tool")
    assert found["reasoning"]
    assert found["text"]
    if upstream == "anthropic":
        bodies = [json.loads(request["body"]) for request in simulators[upstream].requests()]
        said = [
            message["content"][0]
            for body in bodies
            if "Please call the tool, thinking." in json.dumps(body)
            for message in body["messages"]
            if message["role"] == "assistant"
        ]
        assert said
        assert all(block["thinking"] == found["reasoning"] and block["signature"] for block in said)


def test_streamed_arguments_add_up(outcome):
    found = outcome("streamed_tool")
    assert found["name"] == "forecast"
    assert set(json.loads(found["arguments"])) == {"town", "days"}


def test_structured_output_has_its_form(outcome):
    assert set(json.loads(outcome("structured")["text"])) == {"town", "days"}


def test_an_image_is_seen(outcome):
    url = f"data:image/png;base64,{PNG}"
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    assert outcome("image")["text"] == expected([{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("context-length", {"ContextWindowExceededError", "BadRequestError"}),
        ("429", {"RateLimitError"}),
        ("500", {"InternalServerError", "BadGatewayError", "APIError"}),
        ("unknown", {"NotFoundError"}),
    ],
)
def test_errors_have_their_class(outcome, name, errors):
    assert outcome(name)["error"] in errors


def test_a_stream_that_breaks_raises(outcome):
    found = outcome("broken_stream")
    assert found["error"] is not None
    assert found["text"] == expected(CONVERSATION, 5)
