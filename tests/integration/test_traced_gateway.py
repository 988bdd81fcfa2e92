"""A gateway of several processes tells a collector of its calls, and another one after a reload."""

import os
import signal
import time

import httpx2
import yaml

from collector import Collector
from penstock.testing import GatewayProcess, SimulatorProcess
from waiting import wait_until

PATIENCE = 60.0
BODY = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}


def config_of(simulator, traces):
    return {
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        "traces": traces,
    }


def ask(gateway, count):
    for _ in range(count):
        with httpx2.Client(
            trust_env=False
        ) as client:  # each on a connection of its own, so that each worker gets some
            client.post(gateway.base_url + "/chat/completions", json=BODY).raise_for_status()


def test_every_worker_sends_and_after_a_reload_to_where_the_new_configuration_says(tmp_path):
    with SimulatorProcess() as simulator, Collector() as first, Collector() as second:
        config = config_of(simulator, {"endpoint": first.endpoint, "headers": {"x-key": "${TRACES_KEY}"}}) | {
            "workers": 2
        }
        with GatewayProcess(config, tmp_path, environ={"TRACES_KEY": "secret-of-traces"}) as gateway:
            workers = set()
            while len(workers) < 2:
                ask(gateway, 10)
                before = len(first.spans)
                first.wait_spans(before + 1)
                workers = {span.resource["service.instance.id"] for span in first.spans}
            assert {fields["x-key"] for _, fields in first.requests} == {"secret-of-traces"}
            asked = len(first.spans)
            wait_until(lambda: 'penstock_spans_total{outcome="sent"}' in gateway.metrics())
            written = yaml.safe_load(gateway.config_path.read_text())
            written["traces"] = {"endpoint": second.endpoint}
            gateway.config_path.write_text(yaml.safe_dump(written))
            os.kill(gateway.pid, signal.SIGHUP)
            wait_until(lambda: "configuration 2 is in use" in gateway.log)
            asked = len(first.spans)
            ask(gateway, 4)
        assert len([span for span in second.spans if span.kind == 2]) == 4
        assert len(first.spans) - asked <= 20  # what had ended before
        traces = second.traces()
        assert len(traces) == 4
        for spans in traces.values():
            client, server = sorted(spans, key=lambda span: -span.kind)
            assert client.parent_id == server.span_id
        assert "secret-of-traces" not in gateway.log


def test_while_the_collector_stalls_calls_are_answered_and_the_end_is_not_held_up(tmp_path):
    with SimulatorProcess() as simulator, Collector("stalls") as collector:
        with GatewayProcess(config_of(simulator, {"endpoint": collector.endpoint}), tmp_path) as gateway:
            ask(gateway, 1)
            collector.wait(lambda here: here.requests)
            ask(gateway, 20)
            began = time.monotonic()
        assert time.monotonic() - began < PATIENCE / 2
        assert collector.spans == []
