"""Whatever is wrong with a configuration is said in lines, never by a traceback."""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutated_yaml import mutated

from penstock.cli import main

ROOT = Path(__file__).parents[2]

FEW = settings(max_examples=int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "150")))
SNIPPET = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
EXAMPLES = [path.read_text() for path in sorted((ROOT / "examples").glob("*.yaml"))]
EXAMPLES += [
    text
    for page in ("caching", "configuration", "durability", "flow", "providers", "routing", "versions")
    for text in SNIPPET.findall((ROOT / "docs" / f"{page}.md").read_text())
]
LITELLM = """\
model_list:
  - model_name: gpt
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 10
      timeout: 30
      weight: 2
      max_parallel_requests: 3
      input_cost_per_token: 0.00001
    model_info:
      mode: chat
  - model_name: claude
    litellm_params:
      model: bedrock/anthropic.claude-3
      aws_region_name: us-east-1
      stream_timeout: 5
router_settings:
  routing_strategy: least-busy
  num_retries: 2
  cooldown_time: 30
  model_group_alias: {a: gpt}
  fallbacks: [{gpt: [claude]}]
litellm_settings:
  cache: true
  cache_params: {type: redis, host: h, ttl: 600}
  request_timeout: 60
  default_fallbacks: [claude]
  success_callback: [langfuse, otel]
  max_budget: 10
  budget_duration: 30d
general_settings:
  master_key: sk-1
  database_url: os.environ/X
environment_variables: {A: b}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "config.yaml"


def check_ended(*words):
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(io.StringIO()) as said:
        with pytest.raises(SystemExit) as end:
            main([*map(str, words)])
    assert end.value.code in {0, 1}
    assert bool(said.getvalue()) >= (end.value.code == 1)


@FEW
@given(mutated(EXAMPLES), st.sampled_from([(), ("--show",)]))
def test_check_names_the_mistakes(file, text, words):
    file.write_text(text, "utf-8", errors="surrogatepass")
    check_ended("check", file, *words)


@FEW
@given(mutated([LITELLM]))
def test_a_litellm_configuration_is_converted_or_refused(file, text):
    file.write_text(text, "utf-8", errors="surrogatepass")
    check_ended("import-litellm", file)
