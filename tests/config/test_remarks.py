"""What is not wrong, but probably not meant."""

import os

import pytest

from penstock.config.load import parse
from penstock.config.remarks import remarks

GOOD = "upstreams: {sim: {kind: sim}}\nmodels: {a: {candidates: [{upstream: sim}]}, 'b-*': {candidates: [{upstream: sim}]}}\n"
KEY = "sha256:" + "0" * 64
HOOK = (
    f"webhooks: {{path: w.sqlite, endpoints: [{{url: 'https://h.example/', secret: whsec_{'AAAA' * 10}}}]}}"
)


def test_nothing_is_said_about_what_is_fine():
    assert remarks(parse(GOOD)) == []
    assert (
        remarks(
            parse(
                GOOD + f"listen: :80\nkeys: [{{name: k, hash: '{KEY}', models: [a, b-1, 'b-1*', '*', 'a*']}}]"
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstreams: {sim: {kind: sim}}", "models is empty"),
        (
            GOOD.replace("{sim: {kind: sim}}", "{sim: {kind: sim}, x: {kind: sim}}"),
            "upstreams.x is used by no model",
        ),
        (GOOD.replace("kind: sim", "kind: sim, verify: false"), "upstreams.sim.verify"),
        (GOOD.replace("kind: sim", "kind: openai"), "has no api_key"),
        (GOOD.replace("kind: sim", "kind: sim, batches: provider"), "upstreams.sim.batches is not used"),
        (
            GOOD.replace("kind: sim", "kind: local, local: {model: /nowhere}"),
            "there is no directory /nowhere; its calls get 503",
        ),
        (GOOD.replace("kind: sim", "kind: sim, local: {slots: 2}"), "upstreams.sim.local is not used"),
        (GOOD + "transcripts: {tenants: [a]}", "because transcripts.directory is empty"),
        (GOOD + "transcripts: {directory: kept}", "because transcripts.tenants is empty"),
        (
            GOOD + "transcripts: {directory: kept, tenants: [default, a]}",
            "transcripts.tenants: no key is a's",
        ),
        (
            GOOD + f"keys: [{{name: k, hash: '{KEY}', tenant: acme}}]\n{HOOK}",
            "webhooks.endpoints[0].tenant: no key is default's, so https://h.example/ will be told nothing",
        ),
        (GOOD.replace("kind: sim", "kind: openai, api_key: k, base_url: 'http://h/v1'"), "unencrypted"),
        (
            GOOD + "ledger: {path: l.sqlite, keep_days: 7}\nlimits: {tenants: {'*': {usd_per_month: 5}}}",
            "ledger.keep_days is 7: what was spent earlier in a month is forgotten",
        ),
        (
            GOOD.replace("kind: sim", "kind: openai, base_url: 'http://127.0.0.1:8000'"),
            "has no path: calls go to http://127.0.0.1:8000/chat/completions, and most servers want a /v1",
        ),
        (
            GOOD.replace("kind: sim", "kind: openai, base_url: 'http://127.0.0.1:8000/v1/chat/completions'"),
            "upstreams.sim.base_url ends in completions",
        ),
        (
            GOOD.replace("kind: sim", "kind: anthropic, base_url: 'http://127.0.0.1:8000/v1/messages/'"),
            "upstreams.sim.base_url ends in messages",
        ),
        (
            GOOD + "limits: {upstreams: {sim: {usd_per_day: 5}}}",
            "limits has budgets, but there is no ledger.path",
        ),
        (
            GOOD + "limits: {models: {b: {concurrent: 5}}}",
            'limits.models."b": nothing in models is called so',
        ),
        (GOOD + "listen: :80", "can spend your money"),
        (GOOD + "workers: 2", "only the worker that made an answer can resume it"),
        (GOOD + "control: 0.0.0.0:80", "control_key is missing"),
        (
            GOOD + f"keys: [{{name: k, hash: '{KEY}', models: [c]}}]",
            "keys[0].models: nothing in models is called c",
        ),
        (GOOD + f"keys: [{{name: k, hash: '{KEY}', models: ['c*']}}]", "nothing in models is called c*"),
    ],
)
def test_each_oddity_is_said_once(text, said):
    (remark,) = remarks(parse(text))
    assert said in remark


@pytest.mark.parametrize("more", [HOOK, "transcripts: {directory: kept, tenants: [acme]}"])
def test_tenants_of_keys_that_come_and_go_are_nobody_to_wonder_about(tmp_path, more):
    keys = tmp_path / "keys.jsonl"
    keys.touch()
    assert remarks(parse(f"{GOOD}keys_file: {keys}\n{more}")) == []


def test_a_key_over_http_to_this_machine_is_fine():
    for host in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
        assert (
            remarks(
                parse(GOOD.replace("kind: sim", f"kind: openai, api_key: k, base_url: 'http://{host}/v1'"))
            )
            == []
        )


def test_addresses_that_need_no_version_are_fine():
    for kind, url in (("openai", "https://api.perplexity.ai/"), ("anthropic", "http://127.0.0.1:1")):
        assert remarks(parse(GOOD.replace("kind: sim", f"kind: {kind}, api_key: k, base_url: '{url}'"))) == []


@pytest.mark.parametrize("unwritable", ["folder", "file"])
def test_a_ledger_that_cannot_be_written_is_told(tmp_path, monkeypatch, unwritable):
    ledger = tmp_path / "ledger.sqlite"
    config = parse(f"{GOOD}ledger: {{path: '{ledger}'}}")
    assert remarks(config) == []
    if unwritable == "file":
        ledger.touch()
    refused = tmp_path if unwritable == "folder" else ledger
    # As the system would answer anybody but root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda path, mode: path != refused)
    (said,) = remarks(config)
    assert said == f"ledger.path: {ledger} cannot be written: what is recorded will be lost"


@pytest.mark.parametrize(
    "chosen",
    [
        "",
        "workers: 2\ngenerations: {durability: disk}",
        "workers: 2\ngenerations: {kept_for: 0}",
        "workers: 1\ngenerations: {durability: memory}",
    ],
)
def test_where_every_worker_can_resume_or_none_shall_nothing_is_said(chosen):
    assert remarks(parse(f"{GOOD}{chosen}")) == []


def test_what_is_no_ledger_is_told(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    config = parse(f"{GOOD}ledger: {{path: '{file}'}}")
    said = f"ledger.path: {file} is no SQLite file: nothing can be recorded; name another"
    assert remarks(config) == [said]
    file.write_text("")
    assert remarks(config) == []
    file.write_bytes(b"SQLite format 3\0 and so on")
    assert remarks(config) == []


def test_places_that_cannot_be_written_are_told_where_something_is_to_be_kept_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    answers = f"generations.path: {tmp_path}/g cannot be written: answers will not outlive their process"
    for more, said in (
        (f"generations: {{path: '{tmp_path}/g'}}", []),
        (f"generations: {{path: '{tmp_path}/g', durability: disk}}", [answers]),
        (
            f"cache: {{disk: '{tmp_path}/c'}}",
            [f"cache.disk: {tmp_path}/c cannot be written: nothing will be kept there"],
        ),
    ):
        assert remarks(parse(GOOD + more)) == said
