"""What the owner of a key is told of it: all that concerns it, and nothing that concerns others."""

import asyncio
import hashlib
import time

import pytest
from serving import (
    COMPLETION,
    PROMPT,
    STREAM_HEAD,
    call,
    config,
    delta,
    on_uvloop,
    plain,
    request,
    serving,
    until,
)

from penstock.config.expiry import moment
from penstock.config.model import KeyConfig, LimitConfig, LimitsConfig, TierConfig
from penstock.flow.budget import Calendar
from penstock.metrics import render
from penstock.testing import FakeClock, ScriptedUpstream, Step

AMY, BOB = ["authorization: Bearer amy"], ["x-api-key: bob"]
PRICED = {**PROMPT, "model": "gpt-4o", "max_tokens": 100}
SCRIPT = [Step.REQUEST, plain(COMPLETION)] * 9


def key(name, **more):
    hashed = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    return KeyConfig(name=name, hash=hashed, **more)


KEYS = [
    key("amy", tenant="physics", tier="gold", models=["m", "gpt-*"], expires="2100-01-01T01:00:00+01:00"),
    key("bob", tenant="botany", tier="gold"),
    key("cat", tenant="physics", tier="gold"),
]
LIMITS = LimitsConfig(
    keys={"amy": LimitConfig(requests_per_minute=60, concurrent=4, usd_per_day=5)},
    tenants={"physics": LimitConfig(tokens_per_minute=10_000, usd_per_month=100)},
    tiers={"gold": LimitConfig(requests_per_minute=1_000, usd_per_day=500)},
    models={"m": LimitConfig(requests_per_minute=7)},
)


def limited(url, **more):
    settings = {"keys": KEYS, "limits": LIMITS, "tiers": {"gold": TierConfig()}, **more}
    made = config(url, **settings)
    made.models["gpt-4o"] = made.models["m"]
    return made


async def told(port, headers):
    answer = await call(port, b"", "/v1/key", "GET", headers=headers)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    return answer.json()


def by_name(rows):
    return {(row["scope"], row["of"]): row for row in rows}


def test_who_it_is_what_it_may_and_what_is_left_of_that():
    async def main():
        clock = FakeClock()
        async with ScriptedUpstream([SCRIPT]) as upstream:
            async with serving(limited(upstream.url), clock) as (_, port):
                for _ in range(3):
                    assert (await call(port, PROMPT, headers=AMY)).status == 200
                found = await told(port, AMY)
        limits, budgets = by_name(found.pop("limits")), by_name(found.pop("budgets"))
        assert found == {
            "object": "key",
            "name": "amy",
            "tenant": "physics",
            "tier": "gold",
            "models": ["m", "gpt-*"],
            "expires_at": "2100-01-01T00:00:00Z",
            "shared": "none",
        }
        mine = {"scope": "key", "of": "requests_per_minute", "limit": 60, "remaining": 57, "reset": 3.0}
        assert limits.pop(("key", "requests_per_minute")) == mine
        places = {"scope": "key", "of": "concurrent", "limit": 4, "remaining": 4, "reset": None}
        assert limits.pop(("key", "concurrent")) == places
        tokens = limits.pop(("tenant", "tokens_per_minute"))
        assert (tokens["limit"], tokens["remaining"]) == (10_000, 10_000 - 3 * 5)
        assert tokens["reset"] == pytest.approx(60 * 15 / 10_000, abs=0.001)
        of_tier = {"scope": "tier", "of": "requests_per_minute", "limit": 1_000}
        assert limits == {("tier", "requests_per_minute"): {**of_tier, "remaining": None, "reset": None}}, (
            "others use that up as well, and models' limits are everybody's"
        )
        assert set(budgets) == {("key", "usd_per_day"), ("tenant", "usd_per_month"), ("tier", "usd_per_day")}

    on_uvloop(main)


def test_money_is_told_exactly_and_when_it_begins_anew():
    async def main():
        async with ScriptedUpstream([[*SCRIPT[:2], Step.REQUEST]]) as upstream:
            async with serving(limited(upstream.url)) as (gateway, port):
                assert (await call(port, PRICED, headers=AMY)).status == 200
                spent = gateway.recorder.ledger.recent()[0].cost
                assert spent > 0
                pending = asyncio.create_task(call(port, PRICED, headers=AMY))
                await until(lambda: gateway.pipeline.productions)
                found = await told(port, AMY)
                calendar = Calendar(time.time())
                pending.cancel()
        budgets = by_name(found["budgets"])
        day, month = budgets["key", "usd_per_day"], budgets["tenant", "usd_per_month"]
        assert day["limit"] == "5"
        assert round(float(day["spent"]) * 1e12) == round(float(month["spent"]) * 1e12) == spent
        assert float(day["reserved"]) > 0
        amounts = [float(day[name]) for name in ("spent", "reserved", "left")]
        assert sum(amounts) == pytest.approx(5, abs=1e-12)
        assert (day["resets_at"], month["resets_at"]) == (
            moment(calendar.day_ends),
            moment(calendar.month_ends),
        )
        tier = budgets["tier", "usd_per_day"]
        assert (tier["limit"], tier["spent"], tier["reserved"], tier["left"]) == ("500", None, None, None)
        assert by_name(found["limits"])["key", "concurrent"]["remaining"] == 3

    on_uvloop(main)


def test_nothing_of_it_is_about_others():
    async def main():
        async with ScriptedUpstream([SCRIPT]) as upstream:
            async with serving(limited(upstream.url), FakeClock()) as (_, port):
                before = [await told(port, headers) for headers in (AMY, BOB)]
                for name in ("bob", "cat"):
                    await call(port, PRICED, headers=[f"authorization: Bearer {name}"])
                after = [await told(port, headers) for headers in (AMY, BOB)]
                assert after[1] == before[1]
                changed = [
                    row["scope"]
                    for part in ("limits", "budgets")
                    for row, was in zip(after[0][part], before[0][part], strict=True)
                    if row != was
                ]
                assert changed == ["tenant", "tenant"], "which has used it up together"
                text = str(after[0])
                assert not [name for name in ("bob", "cat", "botany", "sha256") if name in text]
                assert after[1]["expires_at"] is None
                assert after[1]["models"] == []

    on_uvloop(main)


def test_to_look_costs_nothing_of_what_is_left():
    async def main():
        async with serving(limited("http://127.0.0.1:9"), FakeClock()) as (gateway, port):
            looks = [await told(port, AMY) for _ in range(3)]
            assert looks[0] == looks[2]
            assert by_name(looks[2]["limits"])["key", "requests_per_minute"]["remaining"] == 60
            assert b'penstock_requests_total{endpoint="other",status="200"} 3' in render(
                gateway.metrics.collect()
            )

    on_uvloop(main)


def test_whoever_is_limited_to_nothing_may_look():
    async def main():
        none = LimitsConfig(keys={"amy": LimitConfig(requests_per_minute=0, concurrent=0, usd_per_day=0)})
        async with serving(limited("http://127.0.0.1:9", limits=none)) as (_, port):
            found = await told(port, AMY)
            assert [row["remaining"] for row in found["limits"]] == [0, 0]
            assert [row["left"] for row in found["budgets"]] == ["0"]

    on_uvloop(main)


def test_without_limits_or_without_keys_there_is_less_to_tell():
    async def main():
        async with serving(limited("http://127.0.0.1:9", limits=LimitsConfig())) as (_, port):
            found = await told(port, BOB)
            assert (found["limits"], found["budgets"], found["shared"]) == ([], [], "none")
        async with serving(config("http://127.0.0.1:9")) as (_, port):
            found = await told(port, [])
            assert (found["name"], found["tenant"], found["expires_at"]) == ("anonymous", "default", None)

    on_uvloop(main)


def test_who_has_no_key_is_refused_and_nothing_can_be_changed():
    async def main():
        async with serving(limited("http://127.0.0.1:9")) as (_, port):
            unknown = await call(port, b"", "/v1/key", "GET", headers=["authorization: Bearer no"])
            assert (unknown.status, unknown.json()["error"]["code"]) == (401, "invalid_api_key")
            assert (await call(port, b"", "/v1/key", "GET")).json()["error"]["code"] == "missing_api_key"
            changed = await call(port, {"limits": []}, "/v1/key", "POST", headers=AMY)
            assert (changed.status, changed.headers["allow"]) == (405, "GET, HEAD")

    on_uvloop(main)


def test_a_call_that_runs_takes_a_place():
    async def main():
        script = [Step.REQUEST, STREAM_HEAD, delta("h")]
        async with ScriptedUpstream([script, script]) as upstream:
            async with serving(limited(upstream.url)) as (gateway, port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request({**PROMPT, "stream": True}, headers=AMY))
                await until(lambda: any(each.events for each in gateway.pipeline.in_flight()))
                assert by_name((await told(port, AMY))["limits"])["key", "concurrent"]["remaining"] == 3
                writer.close()
                await until(lambda: not gateway.pipeline.productions)
                assert by_name((await told(port, AMY))["limits"])["key", "concurrent"]["remaining"] == 4

    on_uvloop(main)
