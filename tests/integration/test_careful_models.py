"""The official SDKs call a model that has parameters, and a batch does."""

import json

import anthropic
import openai
from test_batches import created, ended, line

from penstock.testing import GatewayProcess, SimulatorProcess

SAID = [{"role": "user", "content": "hi"}]


def test_the_official_sdks_call_a_careful_model(tmp_path):
    with SimulatorProcess("--output-tokens", "5") as simulator:
        made = {
            "show_upstream": True,
            "files": {"directory": str(tmp_path / "kept")},
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {
                "careful": {
                    "candidates": [{"upstream": "sim", "model": "m", "extra_body": {"top_k": 40}}],
                    "parameters": {"temperature": 0, "max_tokens": 3, "reasoning_effort": "high"},
                    "max_output_tokens": 4,
                }
            },
        }
        with GatewayProcess(made, tmp_path) as gateway:
            with openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
                raw = client.chat.completions.with_raw_response.create(model="careful", messages=SAID)
                assert (raw.headers["penstock-upstream"], raw.headers["penstock-model"]) == ("sim", "m")
                whole = raw.parse()
                assert whole.usage.completion_tokens == 3
                stream = client.chat.completions.create(
                    model="careful", messages=SAID, stream=True, temperature=1
                )
                assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "length"
                response = client.responses.create(model="careful", input="hi")
                assert response.max_output_tokens == 3
                batch = ended(client, created(client, [line("a", {"model": "careful", "messages": SAID})]))
                assert batch.request_counts.completed == 1
            with anthropic.Anthropic(base_url=gateway.url, api_key="k", max_retries=0) as client:
                message = client.messages.create(model="careful", messages=SAID, max_tokens=900)
                assert message.usage.output_tokens == 4
        sent = [json.loads(request["body"]) for request in simulator.requests()]
        assert [body["temperature"] for body in sent] == [0, 1, 0, 0, 0]
        assert [body["top_k"] for body in sent] == [40] * 5
        assert sent[2]["reasoning"] == {"effort": "high"}
        assert sent[4]["output_config"] == {"effort": "high"}
