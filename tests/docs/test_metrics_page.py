"""The page about metrics has every metric of a running gateway, and no others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time

import httpx2
import pytest
import yaml
from doc_pages import ROOT, Page
from prometheus_client.parser import text_string_to_metric_families

from penstock.messages import Endpoint, Outcome
from penstock.testing import GatewayProcess, SimulatorProcess

PAGE = Page("docs/metrics.md")
RULES = ROOT / "deploy/prometheus/rules.yaml"
TABLE = {
    name: (kind, set(re.findall("`([a-z_]+)`", labels)))
    for name, kind, labels in re.findall(r"^\| `([a-z_]+)` \| (\w+) \| (.*?) ?\| ", PAGE.text, re.MULTILINE)
}
BODY = {"model": "sim", "max_tokens": 4, "stream": True, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def exposition(tmp_path_factory):
    """What a gateway with everything turned on shows after a few calls of every kind."""
    folder = tmp_path_factory.mktemp("metrics")
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {
                "sim": {
                    "kind": "sim",
                    "base_url": simulator.base_url,
                    "concurrency": {},
                    "breaker": {},
                    "hedge": {},
                    "batching": {},
                    "health": {"path": "/"},
                    "capabilities": {"usage_lookup": "generation"},
                }
            },
            "models": {
                "*": {
                    "candidates": [{"upstream": "sim"}],
                    "cache": {"semantic": {}, "prefetch": {}},
                    "prompt_cache": {},
                },
                "tried": {
                    "candidates": [
                        {"upstream": "sim", "model": "sim"},
                        {"upstream": "sim", "model": "sim", "version": "2"},
                    ],
                    "canary": {"version": "2"},
                    "shadow": {"version": "2", "share": 1},
                },
                "other": {"candidates": [{"upstream": "sim", "model": "spent"}]},
                "cascaded": {
                    "candidates": [{"upstream": "sim", "model": "sim"}],
                    "cascade": {"model": "sim"},
                },
                "doubted": {
                    "candidates": [{"upstream": "sim", "model": "sim"}],
                    "cascade": {"model": "sim", "judge": "sim"},
                },
            },
            "versions": {"path": str(folder / "versions.sqlite")},
            "cache": {"disk": str(folder / "answers.sqlite")},
            "ledger": {"path": str(folder / "ledger.sqlite")},
            "retry": {"attempts": 2, "first_delay": 0},
            "tiers": {"standard": {"degradation": {"refuse": 99}}},
            "limits": {"models": {"forbidden": {"concurrent": 0}, "spent": {"concurrent": 0}}},
            "files": {"directory": str(folder / "kept")},
            "generations": {"durability": "disk", "path": str(folder / "generations.sqlite")},
            "traces": {"endpoint": "http://127.0.0.1:9"},
            "webhooks": {"endpoints": [{"url": "http://127.0.0.1:9", "secret": "whsec_" + "A" * 32}]},
        }
        with GatewayProcess(config, folder) as gateway, httpx2.Client(trust_env=False) as client:
            for model in (
                "sim",
                "sim:500",
                "sim:cut-after=2",
                "forbidden",
                "other",
                "tried",
                "cascaded",
                "doubted",
            ):
                client.post(gateway.base_url + "/chat/completions", json=BODY | {"model": model})
            broken = BODY | {"model": "sim:cut-after=2", "stream": False}  # of which too much is estimated
            client.post(gateway.base_url + "/chat/completions", json=broken)
            a_late_call(client, gateway)
            client.post(gateway.base_url + "/embeddings", json={"model": "sim", "input": "text"})
            client.post(
                gateway.base_url + "/audio/speech", json={"model": "sim", "input": "text", "voice": "alloy"}
            )
            client.get(gateway.url + "/", headers={"expect": "nothing"})  # refused by the listener
            a_batch(client, gateway)
            client.post(
                gateway.control_url + "/v1/versions/promote", json={"model": "tried"}
            ).raise_for_status()
            for late in (
                "penstock_shadow_equal_total{",
                "penstock_overestimated_tokens_total{",
                "penstock_health_checks_total{",
            ):
                while late not in gateway.metrics():
                    time.sleep(0.05)
            yield gateway.metrics()


def a_late_call(client, gateway):
    """After enough that were not, so that it is known to be late and may be asked again."""
    for number in range(60):
        asked = {"model": "sim", "stream": True, "messages": [{"role": "user", "content": str(number)}]}
        late = {"x-sim-ttft-ms": "500"} if number == 59 else {}
        client.post(gateway.base_url + "/chat/completions", json=asked, headers=late).raise_for_status()


def a_batch(client, gateway):
    """One line, to its end, and to the first attempt to tell somebody of it."""
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": BODY | {"stream": False},
    }
    form = {"files": {"file": ("f", json.dumps(line).encode())}, "data": {"purpose": "batch"}}
    file = client.post(gateway.base_url + "/files", **form).json()
    asked = {"input_file_id": file["id"], "endpoint": line["url"], "completion_window": "24h"}
    client.post(gateway.base_url + "/batches", json=asked).raise_for_status()
    while 'penstock_webhook_attempts_total{outcome="failed"}' not in gateway.metrics():
        time.sleep(0.05)  # processes tell nobody; pytest's timeout ends it


@pytest.fixture(scope="module")
def shown(exposition):
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", exposition, re.MULTILINE))


def test_every_metric_is_there_with_its_kind(shown):
    assert {name: kind for name, (kind, _) in TABLE.items()} == shown


def test_labels_are_those_of_the_samples(exposition):
    seen = {}
    for family in text_string_to_metric_families(exposition):
        name = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            seen[name] = set(sample.labels) - {"le"}
    assert len(seen) > len(TABLE) - 2  # the overflow has none
    for name, labels in seen.items():
        assert TABLE[name][1] == labels, name


def test_labels_that_have_fixed_values_name_them():
    for value in (*(endpoint.label for endpoint in Endpoint), "other"):
        assert f"`{value}`" in PAGE.section("Requests")
    attempts = {Outcome.COMPLETED, Outcome.PARTIAL, Outcome.FAILED, Outcome.CANCELLED}
    for outcome in attempts:
        assert f"`{outcome.value}`" in PAGE.section("Attempts")


def test_the_queries_are_about_metrics_that_are_there(shown):
    queries = re.findall("`([^`]+)`", PAGE.section("What to watch"))
    names = re.findall(r"\b(?:penstock|process)_\w+", " ".join(queries))
    assert names
    assert {name.removesuffix("_bucket") for name in names} <= set(shown)


def test_the_scrape_configuration_is_yaml_and_names_the_rules():
    (scraped,) = [yaml.safe_load(block.text) for block in PAGE.blocks if block.language == "yaml"]
    assert scraped["scrape_configs"]
    assert scraped["rule_files"] == [RULES.name]


def test_the_rules_are_about_metrics_labels_and_values_that_there_are():
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "warning", "info"}
        selected = re.findall(r"(penstock_[a-z_]+?)(?:_bucket)?(?:\{(.*?)\})?(?![a-z_{])", rule["expr"])
        assert selected or rule["alert"] == "PenstockDown"
        for name, matchers in selected:
            kind, labels = TABLE[name]
            assert (kind == "counter") == bool(re.search(rf"(rate|increase)\({name}[{{\[]", rule["expr"]))
            for label, values in re.findall(r'(\w+)=~?"(.*?)"', matchers):
                assert label in labels
                if label != "status":
                    assert all(f"`{value}`" in meaning(name) for value in values.split("|"))
        grouped = re.findall(r"\b(?:by|on) \((.*?)\)", rule["expr"])
        known = set().union(*(TABLE[name][1] for name, _ in selected)) | {"le", "job", "instance"}
        assert {label for labels in grouped for label in labels.split(", ")} <= known


@pytest.mark.skipif(shutil.which("promtool") is None, reason="it is a part of Prometheus")
def test_prometheus_takes_the_rules():
    subprocess.run(["promtool", "check", "rules", str(RULES)], check=True)


def meaning(name):
    return re.search(rf"^\| `{name}` .*$", PAGE.text, re.MULTILINE)[0]
