"""A LiteLLM proxy's configuration, converted, and asked by the official SDKs: it does what it did there."""

import json

import anthropic
import openai
import yaml

from penstock.config.litellm import convert
from penstock.testing import GatewayProcess, SimulatorProcess

SAID = [{"role": "user", "content": "hi"}]


def test_a_converted_proxy_answers_as_it_did(tmp_path):
    with SimulatorProcess("--output-tokens", "6") as simulator:
        address = f"api_base: '{simulator.base_url}', api_key: k"
        source = f"""
model_list:
  - model_name: chat
    litellm_params: {{model: openai/spare, {address}, order: 2, temperature: 0, max_tokens: 4}}
  - model_name: chat
    litellm_params:
      model: openai/first
      api_base: '{simulator.base_url}'
      api_key: k
      order: 1
      temperature: 0
      max_tokens: 4
      extra_body: {{top_k: 7}}
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
router_settings: {{cooldown_time: 5, num_retries: 0, model_group_alias: {{talk: chat}}}}
litellm_settings: {{cache: true, cache_params: {{type: local, ttl: 60}}}}
"""
        prices = tmp_path / "prices.toml"
        conversion = convert(source, "config.yaml", {}, str(prices))
        prices.write_text(conversion.prices)
        configured = {**yaml.safe_load(conversion.text), "show_upstream": True}
        with GatewayProcess(configured, tmp_path) as gateway:
            with openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0) as client:
                raw = client.chat.completions.with_raw_response.create(model="talk", messages=SAID)
                assert raw.headers["penstock-model"] == "first"
                usage = raw.parse().usage
                assert usage.completion_tokens == 4
                cost = usage.prompt_tokens / 1e6 + usage.completion_tokens / 5e5
                assert float(raw.headers["penstock-cost"]) == cost
                again = client.chat.completions.with_raw_response.create(model="talk", messages=SAID)
                assert again.headers["penstock-status"] == "cached"
            with anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0) as client:
                client.messages.create(
                    model="chat", messages=SAID, max_tokens=9, extra_body={"temperature": 1}
                )
        asked = [json.loads(request["body"]) for request in simulator.requests()]
        assert [(body["model"], body["temperature"], body["top_k"]) for body in asked] == [
            ("first", 0, 7),
            ("first", 1, 7),
        ]
        assert [body["max_tokens"] for body in asked] == [4, 9]
