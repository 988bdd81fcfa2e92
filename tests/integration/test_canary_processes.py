"""A trial over several workers and a restart, as processes, with the command that shows it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from needing import needs_redis
from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess
from waiting import wait_until

PATIENCE = 60.0  # seconds after which the test has failed


def ask(gateway, number):
    body = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": str(number)}]}
    request = urllib.request.Request(
        gateway.base_url + "/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        answer.read()
        return answer.status


def versions(gateway, *words):
    command = [sys.executable, "-m", "penstock", "versions", *words, "--control", gateway.control_url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def decide(gateway, action, **more):
    request = urllib.request.Request(
        f"{gateway.control_url}/v1/versions/{action}",
        json.dumps({"model": "chat", **more}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def shown(gateway):
    """What the workers say of the trial, once both do."""
    wait_until(lambda: not gateway.ask("/v1/versions")["silent"])
    (model,) = gateway.ask("/v1/versions")["models"]
    return model


def ask_until(gateway, reached):
    """One call after the other, of which some get the new version."""
    number = 0
    while not reached():
        assert ask(gateway, number) == 200
        number += 1
        assert number < 200


def test_workers_decide_together_and_a_restart_forgets_nothing(tmp_path):
    with SimulatorProcess() as old, SimulatorProcess("--scenario", "500") as new:
        config = {
            "workers": 2,
            "upstreams": {
                "old": {"kind": "sim", "base_url": old.url},
                "new": {"kind": "sim", "base_url": new.url},
            },
            "retry": {"attempts": 1},
            "log": {"requests": False},
            "versions": {"path": str(tmp_path / "versions.sqlite")},
            "models": {
                "chat": {
                    "candidates": [{"upstream": "old"}, {"upstream": "new", "version": "2"}],
                    "canary": {"version": "2", "steps": [0.3]},
                }
            },
        }
        with GatewayProcess(config, tmp_path) as gateway:
            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(lambda number: ask(gateway, number), range(200))) == {200}
            wait_until(lambda: [each["share"] for each in shown(gateway)["workers"]] == [0.0, 0.0])
            assert shown(gateway)["phase"] == "rolled_back"
            assert gateway.metrics().count('decision="rollback"} 1') == 1
        failed = new.bill()["failed"]
        assert 10 <= failed <= 40  # ten for each worker, and what was under way then
        with GatewayProcess(config, tmp_path) as gateway:
            assert {ask(gateway, number) for number in range(20)} == {200}
            assert new.bill()["failed"] == failed
            assert "version 2 rolled back, 0 % of the calls" in versions(gateway, "list")
            found = json.loads(
                versions(gateway, "promote", "chat", "--wholly", "--reason", "mended", "--json")
            )
            assert (found["phase"], found["reason"]) == ("promoted", "mended")
            wait_until(lambda: [each["share"] for each in shown(gateway)["workers"]] == [1.0, 1.0])
            assert "version 2 trial, 30 % of the calls" in versions(gateway, "restart", "chat")


@needs_redis
def test_gateways_with_files_of_their_own_decide_together_through_redis(tmp_path):
    """One sees six failures and the other four; then one is without Redis, and goes on."""
    with (
        SimulatorProcess() as old,
        SimulatorProcess("--scenario", "500") as new,
        RedisServer() as redis,
        contextlib.ExitStack() as stack,
    ):
        gateways = []
        for name in ("one", "other"):
            folder = tmp_path / name
            folder.mkdir()
            config = {
                "upstreams": {
                    "old": {"kind": "sim", "base_url": old.url},
                    "new": {"kind": "sim", "base_url": new.url},
                },
                "retry": {"attempts": 1},
                "log": {"requests": False},
                "limits": {"redis": redis.url},
                "versions": {"path": str(folder / "versions.sqlite"), "shared": "machines"},
                "models": {
                    "chat": {
                        "candidates": [{"upstream": "old"}, {"upstream": "new", "version": "2"}],
                        # What a busy machine does to the times of few calls is none of the version's fault.
                        "canary": {"version": "2", "steps": [0.3], "slower": None},
                    }
                },
            }
            gateways.append(stack.enter_context(GatewayProcess(config, folder)))
        one, other = gateways
        ask_until(one, lambda: new.bill()["failed"] == 6)
        wait_until(lambda: shown(other)["calls"]["new"] == 6)
        ask_until(other, lambda: not shown(other)["share"])
        assert new.bill()["failed"] == 10
        wait_until(lambda: {shown(each)["phase"] for each in gateways} == {"rolled_back"})
        decided = [each.metrics().count('decision="rollback"} 1') for each in gateways]
        assert sorted(decided) == [0, 1]
        decide(other, "promote", wholly=True)
        wait_until(lambda: shown(one)["phase"] == "promoted")
        assert 'penstock_canary_alone{model="chat",version="2"} 0' in one.metrics()
        redis.kill()
        decide(one, "rollback")
        assert shown(one)["phase"] == "rolled_back"
        wait_until(lambda: 'penstock_canary_alone{model="chat",version="2"} 1' in one.metrics())
        assert ask(one, 0) == 200
        redis.start()  # with nothing in it
        wait_until(lambda: shown(other)["phase"] == "rolled_back")
        assert 'penstock_canary_alone{model="chat",version="2"} 0' in one.metrics()
