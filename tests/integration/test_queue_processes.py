"""More calls than an upstream may have at once, through real processes: all answered, none of them twice."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import openai

from penstock.testing import GatewayProcess, SimulatorProcess

CALLS = 60
AT_ONCE = 6


def metric(gateway, name):
    found = re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", gateway.metrics(), re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_calls_of_two_tiers_wait_for_an_upstream_and_the_books_are_right(tmp_path):
    keys = [
        {
            "name": tier,
            "tier": tier,
            "tenant": tier,
            "hash": "sha256:" + hashlib.sha256(tier.encode()).hexdigest(),
        }
        for tier in ("high", "low")
    ]
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {
                "sim": {
                    "kind": "sim",
                    "base_url": simulator.base_url,
                    "concurrency": {"limit": AT_ONCE, "adaptive": False},
                    "breaker": {},
                }
            },
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
            "tiers": {"high": {"priority": 1}, "low": {}},
            "keys": keys,
            "limits": {"tenants": {"*": {"requests_per_minute": 100, "concurrent": 100}}},
        }
        with GatewayProcess(config, tmp_path) as gateway:

            def call(number):
                client = openai.OpenAI(
                    base_url=gateway.base_url, api_key="high" if number % 3 == 0 else "low", max_retries=0
                )
                with client:
                    answer = client.chat.completions.with_raw_response.create(
                        model="sim:ttft=50,tps=400,tokens=8",
                        messages=[{"role": "user", "content": f"call {number}"}],
                    )
                return answer.status_code, int(answer.headers["x-ratelimit-remaining-requests"])

            with ThreadPoolExecutor(24) as pool:
                answers = list(pool.map(call, range(CALLS)))
            turns = metric(gateway, "penstock_turns_total")
            in_progress = metric(gateway, "penstock_upstream_in_progress")
            waiting = metric(gateway, "penstock_queue_waiting")
        bill = simulator.bill()
    assert {status for status, _ in answers} == {200}
    assert min(left for _, left in answers) < 90
    assert sum(turns.values()) == CALLS
    assert sum(value for labels, value in turns.items() if "waited" in labels) > 0
    assert set(in_progress.values()) == set(waiting.values()) == {0.0}
    assert bill["requests"] == CALLS
