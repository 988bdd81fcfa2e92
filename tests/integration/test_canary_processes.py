"""A trial over several workers and a restart, as processes, with the command that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from penstock.testing import GatewayProcess, SimulatorProcess

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


def shown(gateway):
    """What the workers say of the trial, once both do."""
    wait_until(lambda: not gateway.ask("/v1/versions")["silent"])
    (model,) = gateway.ask("/v1/versions")["models"]
    return model


def wait_until(reached):
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
