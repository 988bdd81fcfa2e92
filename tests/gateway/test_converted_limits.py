"""Limits that were a LiteLLM proxy's hold in a gateway as they did there."""

import asyncio
from contextlib import chdir
from tempfile import TemporaryDirectory

import yaml
from serving import COMPLETION, PROMPT, call, plain, serving, until

from penstock.config.litellm import convert
from penstock.config.load import parse
from penstock.config.remarks import remarks
from penstock.testing import FakeClock, ScriptedUpstream, Step


def answering(text):
    message = {"role": "assistant", "content": text}
    answer = {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "message": message}]}
    return ScriptedUpstream([[Step.REQUEST, plain(answer)] * 9])


def asked(models, first, second=None, **sections):
    """Who answers calls for these models, at two deployments of ``m`` with these parameters, or at one.

    The configuration is checked as ``penstock check`` does it.
    """

    async def main():
        async with answering("one") as one, answering("two") as two:
            listed = [
                {
                    "model_name": "m",
                    "litellm_params": {
                        "model": "openai/gpt-4o",
                        "api_base": f"{upstream.url}/v1",
                        "api_key": "k",
                        **limits,
                    },
                }
                for upstream, limits in ((one, first), (two, second))
                if limits is not None
            ]
            text = convert(yaml.safe_dump({"model_list": listed, **sections}), "config.yaml", {}).text
            settings = parse(text, "out.yaml", {})
            assert [remark for remark in remarks(settings) if "ledger" not in remark] == []
            # In a folder of its own each time: what was spent is read from the ledger that is there.
            with TemporaryDirectory() as folder, chdir(folder):
                return await heard(settings, models)

    return asyncio.run(main())


async def heard(settings, models):
    async with serving(settings, FakeClock()) as (gateway, port):
        found = []
        for model in models:
            answer = await call(port, {**PROMPT, "model": model})
            await until(lambda: not gateway.pipeline.productions)
            said = answer.json()
            found.append(said["choices"][0]["message"]["content"] if answer.status == 200 else answer.status)
        return found


CHECK = {"router_settings": {"optional_pre_call_checks": ["enforce_model_rate_limits"]}}


def test_a_deployment_that_is_over_its_rate_is_passed_over_and_callers_are_refused_where_none_is_left():
    found = asked("mmmm", {"rpm": 1, "weight": 1}, {"rpm": 2, "weight": 0}, **CHECK)
    assert found == ["one", "two", "two", 429]


def test_a_rate_that_litellm_does_not_keep_to_is_no_limit():
    assert asked("mmm", {"rpm": 1, "weight": 1}, {"rpm": 2, "weight": 0}) == ["one", "one", "one"]


def test_a_deployment_whose_budget_is_spent_is_passed_over():
    """An answer of COMPLETION's usage costs more than what is left then."""
    budget = {"max_budget": 0.00052, "budget_duration": "30d"}
    found = asked("mmm", {**budget, "weight": 1}, {"weight": 0})
    assert (found[0], found[-1]) == ("one", "two")


def test_the_proxys_budget_holds_for_all_models_together():
    aliased = {"router_settings": {"model_group_alias": {"n": "m"}}}
    spent = {"litellm_settings": {"max_budget": 0.000001, "budget_duration": "1d"}}
    assert asked("mn", {}, **aliased) == ["one", "one"]
    assert asked("mn", {}, **aliased, **spent) == ["one", 429]
