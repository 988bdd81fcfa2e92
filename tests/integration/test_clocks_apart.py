"""Gateways that share a Redis server, on machines of which one takes the wrong hour for the right one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time

import httpx2
import pytest
from gateway_books import settled_bill, wait_until

from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess, expected_text

pytestmark = pytest.mark.skipif(
    not RedisServer.available(), reason="there is no redis-server on this machine"
)
HOUR = 3_600
LEASE = 3.0  # seconds: a gateway that a busy machine holds up must not be taken for dead
PATIENCE = 60.0  # seconds: a lease, and a machine that has other things to do
TOKENS = 24
MODEL = f"sim:tokens={TOKENS},tps=4"  # six seconds: two leases


@contextlib.contextmanager
def gateway(folder, redis, simulator, *, wrong_by=0, kind="sim", limits=None, cache=None, **generations):
    """A gateway of a machine whose clock is so many seconds ahead."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import time\nright = time.time\ntime.time = lambda: right() + {wrong_by}\n"
    )
    prices = folder / "prices.toml"  # a dollar for each token of the answer
    prices.write_text('version = "1"\n[[price]]\nmodels = ["*"]\ninput = 0.0\noutput = 1e6\n')
    config = {
        "workers": 1,
        "drain_timeout": 0.1,
        "upstreams": {
            "own": {"kind": kind, "api_key": "k", "base_url": simulator.base_url, "running_usage": True}
        },
        "models": {"*": {"candidates": [{"upstream": "own"}], "grace": 60, "cache": cache}},
        "cache": {"redis": cache and redis.url, "seal_key": "s", "redis_budget": 5},
        "generations": {"durability": "shared", "redis": redis.url, "lease": LEASE, **generations},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "limits": limits and {**limits, "redis": redis.url},
        "prices": str(prices),
    }
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    running = GatewayProcess(config, folder, environ={"PYTHONPATH": os.pathsep.join(path)})
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def machines(tmp_path):
    """Makes a gateway and one whose clock is wrong, and gives the simulator behind them, too."""
    with RedisServer() as redis, SimulatorProcess() as simulator, contextlib.ExitStack() as stack:

        def make(wrong_by, **more):
            right = stack.enter_context(gateway(tmp_path / "right", redis, simulator, **more))
            wrong = gateway(tmp_path / "wrong", redis, simulator, wrong_by=wrong_by, **more)
            return right, stack.enter_context(wrong), simulator

        yield make


def asked(prompt, model=MODEL):
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}


def expected(body):
    return expected_text(body, "/v1/chat/completions", TOKENS)


class Reader:
    """What it read of one answer."""

    def __init__(self):
        self.text, self.last, self.done = "", -1, False

    def take(self, answer, events=10**6):
        """Read on, until so many events have come."""
        for line in answer.iter_lines():
            if line.startswith("id: "):
                self.last = int(line[4:])
            elif line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                choices = json.loads(line[6:])["choices"]
                self.text += "".join(choice["delta"].get("content") or "" for choice in choices)
            elif not line and self.last >= events:
                break


@pytest.fixture
def client():
    with httpx2.Client(trust_env=False, timeout=PATIENCE) as client:
        yield client


def posted(client, at, body):
    return client.stream("POST", at.base_url + "/chat/completions", json=body)


def come_back(client, at, generation, reader):
    """Ask another gateway for the rest, until there is no more."""

    def rest():
        headers = {"Last-Event-ID": str(reader.last)} if reader.last >= 0 else {}
        url = f"{at.url}/v1/generations/{generation}/events"
        with contextlib.suppress(httpx2.HTTPError), client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 200:
                reader.take(answer)
        return reader.done

    wait_until(rest, seconds=PATIENCE, what="the rest of the answer")
    return reader


@pytest.mark.slow  # two leases have to run out
@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR])
def test_nobody_is_taken_for_dead_by_a_machine_whose_clock_is_wrong_nor_is_that(wrong_by, machines, client):
    right, wrong, simulator = machines(wrong_by)
    bodies = {at: asked(f"by way of {at.url}") for at in (right, wrong)}
    readers = {at: Reader() for at in bodies}
    with contextlib.ExitStack() as stack:
        answers = {at: stack.enter_context(posted(client, at, body)) for at, body in bodies.items()}
        for at, answer in answers.items():
            readers[at].take(answer)
    for at, reader in readers.items():
        assert (reader.done, reader.text) == (True, expected(bodies[at]))
        assert "taking over" not in at.log
    assert settled_bill(simulator)["requests"] == 2


@pytest.mark.slow  # a lease has to run out
@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR])
def test_what_such_a_machine_leaves_is_gone_on_with_within_a_lease(wrong_by, machines, client):
    right, wrong, _ = machines(wrong_by)
    body = asked("Who goes on?", f"sim:tokens={TOKENS},stall-after=5,once")
    reader = Reader()
    with posted(client, wrong, body) as answer:
        generation = answer.headers["penstock-generation"]
        reader.take(answer, events=4)
        began = time.monotonic()
        for pid in (wrong.pid, *wrong.worker_pids()):
            os.kill(pid, signal.SIGKILL)
    come_back(client, right, generation, reader)
    assert reader.text == expected(body)
    assert "taking over" in right.log
    assert time.monotonic() - began < PATIENCE / 2  # and not an hour


def test_what_such_a_machine_has_answered_stays_for_its_time(machines, client):
    right, wrong, _ = machines(-HOUR, kept_for=600)
    body = asked("How long?", f"sim:tokens={TOKENS}")
    with posted(client, wrong, body) as answer:
        generation = answer.headers["penstock-generation"]
        Reader().take(answer)
    third = come_back(client, right, generation, Reader())
    assert third.text == expected(body)
    index = ["ZRANGE", "penstock:generations:{ended}:expiry", "0", "-1", "WITHSCORES"]
    port = right.config_path.read_text().partition("redis://127.0.0.1:")[2].partition('"')[0]
    told = subprocess.check_output(["redis-cli", "-p", port, *index], text=True).split()
    assert told[0] == generation
    assert abs(float(told[1]) - time.time() - 600) < PATIENCE


@pytest.mark.parametrize("wrong_by", [24 * HOUR, -24 * HOUR])
def test_a_day_begins_for_all_at_once_and_has_one_budget(wrong_by, machines, client):
    right, wrong, _ = machines(wrong_by, kind="openai", limits={"keys": {"*": {"usd_per_day": 40}}})
    answered = {right: 0, wrong: 0}
    body = {**asked("hello", "sim:tokens=2"), "max_tokens": 2}
    for at in (wrong, right, wrong, right, *40 * [wrong, right]):
        with posted(client, at, body) as answer:
            assert answer.status_code in {200, 429}, answer.read()
            answer.read()
            answered[at] += answer.status_code == 200
    assert sum(answered.values()) == 20
    assert min(answered.values()) > 5


@pytest.mark.parametrize("ttl", [2, 300])
@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR])
def test_a_kept_answer_is_as_old_everywhere_and_purged_by_whoever_is_told(wrong_by, ttl, machines, client):
    right, wrong, _ = machines(wrong_by, cache={"ttl": ttl, "stale_while_revalidate": 2_000, "calls": "all"})
    body = asked("hello", "sim:tokens=2")

    def answered(at):
        return client.post(at.base_url + "/chat/completions", json=body)

    def is_told(at, status):
        return lambda: answered(at).headers["penstock-status"] == status

    for one, other in ((wrong, right), (right, wrong)):
        assert is_told(one, "created")()
        found = answered(other).headers
        assert found["penstock-status"] in {"cached", "stale"}
        assert int(found["age"]) < PATIENCE
        if ttl < PATIENCE:
            wait_until(is_told(other, "stale"), seconds=PATIENCE, what="the end of its freshness")
        else:
            purged = client.post(other.control_url + "/v1/cache/purge", json={"model": body["model"]})
            assert purged.status_code == 200, purged.text
            wait_until(is_told(one, "created"), seconds=PATIENCE, what="word of the purge")
        body["seed"] = 1  # another question
