"""What a local model's own line is told of a call: its tier's priority, and when its first token is due."""

import asyncio
import hashlib
import json
import time

import msgspec
import pytest
from serving import COMPLETION, PROMPT, call, config, plain, serving

from penstock.config.model import CapabilitiesConfig, KeyConfig, TierConfig, UpstreamConfig
from penstock.testing import ScriptedUpstream, Step

TIERS = {
    "standard": TierConfig(),
    "realtime": TierConfig(priority=10),
    "batch": TierConfig(priority=-10),
    "hurried": TierConfig(deadline=600.0),
    "both": TierConfig(priority=3, deadline=600.0),
}
KEYS = [
    KeyConfig(name=tier, hash="sha256:" + hashlib.sha256(tier.encode()).hexdigest(), tier=tier)
    for tier in (*TIERS, "unheard-of")
]
MESSAGE = {
    "id": "a",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


def told(tier, *headers, kind="local"):
    """``(priority, due)`` as an upstream of that kind gets them, ``None`` for what it does not.

    ``due`` is in seconds after the call was sent.
    """

    async def main():
        answer = plain(json.dumps(MESSAGE).encode() if kind == "anthropic" else COMPLETION)
        async with ScriptedUpstream([[Step.REQUEST, answer]]) as upstream:
            own = UpstreamConfig(
                kind=kind, base_url=upstream.url + "/v1", capabilities=CapabilitiesConfig(token_ids=False)
            )
            settings = msgspec.structs.replace(
                config(upstream.url), upstreams={"up0": own}, keys=KEYS, tiers=TIERS
            )
            async with serving(settings) as (_, port):
                began = time.time()
                answer = await call(port, PROMPT, headers=[f"authorization: Bearer {tier}", *headers])
                assert answer.status == 200, answer.body
            head = upstream.received[0].partition(b"\r\n\r\n")[0].lower()
            lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
            fields = dict(lines)
            assert len(fields) == len(lines), "a field stands there twice"
            due = fields.get(b"penstock-deadline")
            return fields.get(b"penstock-priority"), None if due is None else float(due) - began

    return asyncio.run(main())


NEAR = 30.0  # seconds, which a call may take here


@pytest.mark.parametrize(("tier", "priority"), [("realtime", b"10"), ("batch", b"-10")])
def test_a_tiers_priority_is_told(tier, priority):
    assert told(tier) == (priority, None)


def test_a_tiers_deadline_is_told_as_a_moment():
    assert told("hurried") == (None, pytest.approx(600, abs=NEAR))
    assert told("both") == (b"3", pytest.approx(600, abs=NEAR))


@pytest.mark.parametrize("tier", ["standard", "unheard-of"])
def test_of_a_tier_with_neither_nothing_is_told(tier):
    assert told(tier) == (None, None)


def test_a_callers_own_deadline_is_told_and_goes_before_its_tiers():
    assert told("both", "penstock-deadline: 200") == (b"3", pytest.approx(200, abs=NEAR))
    moment = time.time() + 400
    assert told("standard", f"penstock-deadline: {moment}") == (None, pytest.approx(400, abs=NEAR))


def test_an_sdks_patience_is_told():
    assert told("both", "x-stainless-read-timeout: 100") == (b"3", pytest.approx(100, abs=NEAR))


def test_a_caller_gives_itself_no_priority():
    assert told("standard", "penstock-priority: 99") == (None, None)


@pytest.mark.parametrize("kind", ["openai", "anthropic", "sim"])
def test_who_is_no_engine_of_ours_is_told_nothing(kind):
    assert told("both", "penstock-deadline: 200", "penstock-priority: 99", kind=kind) == (None, None)
