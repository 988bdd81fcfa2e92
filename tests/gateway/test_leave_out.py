"""An upstream is not told what the configuration leaves out, in any of its requests for an answer."""

from __future__ import annotations

import asyncio
import json

import pytest
from continuing import CHAT, body_for, error_of, events_of, simulated, text_of, whole_text
from serving import call, on_uvloop

from penstock.config.model import CandidateConfig, CapabilitiesConfig, ModelConfig

ASKED = {"seed": 1, "presence_penalty": 0.5}
LLAMA = "meta.llama3-3-70b-instruct-v1:0"  # asked by Converse


@pytest.mark.parametrize(
    ("kind", "prefill", "model"),
    [
        ("anthropic", "trailing", "m"),
        ("bedrock", "trailing", "m"),
        ("bedrock", "trailing", LLAMA),
        ("openai", "continue_final_message", "m"),
    ],
)
def test_nor_when_it_is_asked_for_the_rest(kind, prefill, model):
    async def main():
        more = {
            "kinds": [kind],
            "upstream": {"leave_out": [*ASKED]},
            "capabilities": [CapabilitiesConfig(prefill=prefill)],
            "models": {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0", model=model)])},
        }
        async with simulated("cut-after=9,once", **more) as (gateway, port, (sim,)):
            async with asyncio.timeout(60):
                answer = await call(port, body_for(CHAT, **ASKED), CHAT)
                await gateway.pipeline.wait_idle()
            return [json.loads(body) for _, _, _, body in sim._seen], events_of(answer)

    bodies, events = on_uvloop(main)
    assert len(bodies) == 2
    for body in bodies:
        assert "penalty" not in json.dumps(body)
        assert "seed" not in json.dumps(body)
    assert error_of(events) is None
    assert text_of(CHAT, events) == whole_text(CHAT)


def test_what_is_not_told_its_seed_is_not_asked_to_say_the_same_again():
    async def main():
        more = {"kinds": ["anthropic"], "upstream": {"leave_out": ["seed"]}}
        more["capabilities"] = [CapabilitiesConfig(prefill="trailing")]
        async with simulated("cut-after=9,once", **more) as (gateway, port, (sim,)):
            async with asyncio.timeout(60):
                answer = await call(port, body_for(CHAT, seed=1), CHAT)
                await gateway.pipeline.wait_idle()
            return [json.loads(body) for _, _, _, body in sim._seen], events_of(answer)

    (begun, rest), events = on_uvloop(main)
    assert rest["messages"][:-1] == begun["messages"]
    assert rest["messages"][-1]["role"] == "assistant"
    assert text_of(CHAT, events) == whole_text(CHAT)
